"""`kosmos data`: shards from piles of pages and pictures; hands over to the module of the second word.

A verb is one line in `DATA_VERBS` and one module with `add_arguments(parser)` and `run(arguments) -> int`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib import import_module
from typing import cast

from kosmos.cli.main import DEBUG_HELP, Verb, VerbModule

__all__ = ["DATA_VERBS", "add_arguments", "run"]

DATA_VERBS: Mapping[str, Verb] = {
    "create": Verb("kosmos.cli.data.create", "make shards from captions, pages, chats, parallel text and more"),
    "index": Verb("kosmos.cli.data.index", "write the index beside every shard"),
    "info": Verb("kosmos.cli.data.info", "count what is in shards, and show a document"),
    "lint": Verb("kosmos.cli.data.lint", "find everything that is wrong with shards"),
    "repair": Verb("kosmos.cli.data.repair", "write what is good of shards anew, and quarantine the rest"),
    "filter": Verb("kosmos.cli.data.filter", "drop what rules say, and count it"),
    "dedup": Verb("kosmos.cli.data.dedup", "drop duplicates and what evaluation sets hold"),
    "stats": Verb("kosmos.cli.data.stats", "count what is in shards, and plot it"),
    "mix": Verb("kosmos.cli.data.mix", "say what a mixture gives, and write it out"),
    "batches": Verb("kosmos.cli.data.batches", "read what training would read, packed"),
    "preview": Verb("kosmos.cli.data.preview", "look at documents in a page"),
    "convert": Verb("kosmos.cli.data.convert", "write documents in formats of others"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A parser for each verb; their modules import nothing heavy, so that help answers at once."""
    table = parser.add_subparsers(metavar="VERB", title="verbs", required=True)
    for name, verb in DATA_VERBS.items():
        description = verb.help[0].upper() + verb.help[1:] + "."
        own = table.add_parser(name, help=verb.help, description=description, allow_abbrev=False)
        own.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=DEBUG_HELP)
        module = cast(VerbModule, import_module(verb.module))
        module.add_arguments(own)
        own.set_defaults(run_verb=module.run, verb_parser=own)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb. Raises: what the verb raises; wrong usage ends with the verb's own usage line."""
    parser: argparse.ArgumentParser = arguments.verb_parser
    try:
        code: int = arguments.run_verb(arguments)
    except argparse.ArgumentTypeError as error:
        parser.error(str(error))
    return code
