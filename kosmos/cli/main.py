"""The command `kosmos`: finds the verb, imports that verb's module alone, runs it, turns errors into one sentence.

A verb is one line in `VERBS` and one module with `add_arguments(parser)` and `run(arguments) -> int`. Nothing heavy is
imported here or by a verb's `add_arguments`, so help answers at once. Knows nothing of models.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import NamedTuple, Protocol, cast

from kosmos import __version__

__all__ = ["VERBS", "Verb", "VerbModule", "main"]

FAILED, WRONG_USAGE, INTERRUPTED, READER_GONE = 1, 2, 130, 141
DEBUG_HELP = "show a traceback when something fails"


class Verb(NamedTuple):
    """Where a verb lives and what it does, in one line."""

    module: str
    help: str


VERBS: Mapping[str, Verb] = {
    "chat": Verb("kosmos.cli.chat", "ask about pictures: one answer, or a conversation"),
    "caption": Verb("kosmos.cli.caption", "describe every picture of a folder"),
    "serve": Verb("kosmos.cli.serve", "answer over HTTP, with a page to try it"),
    "train": Verb("kosmos.cli.train", "train a model"),
    "plan": Verb("kosmos.cli.plan", "say what training takes: parameters, FLOPs, memory, days"),
    "data": Verb("kosmos.cli.data.verbs", "make, check, clean, mix and look at shards of documents"),
    "convert": Verb("kosmos.cli.convert", "turn a Kosmos-2 checkpoint into ours, or ours into one"),
    "bench": Verb("kosmos.cli.bench", "measure speed against peers and the machine's limit"),
    "science": Verb("kosmos.cli.science", "test a claim of the papers at a small size"),
}


class VerbModule(Protocol):
    """What a verb's module offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the verb's arguments, importing nothing heavy."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it.

        Returns: 0 done, 1 something found or failed.
        Raises: ValueError or OSError with a sentence for the user; argparse.ArgumentTypeError for wrong usage.
        """


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 1 found or failed, 2 wrong usage, 130 interrupted."""
    words = sys.argv[1:] if argv is None else list(argv)
    parser, verbs = _parsers()
    name = next((word for word in words if not word.startswith("-")), None)
    if name is None or name not in VERBS:
        parser.parse_args(words)  # ends here with --help, --version or an unknown verb
        parser.print_help(sys.stderr)
        return WRONG_USAGE
    module = cast(VerbModule, import_module(VERBS[name].module))
    module.add_arguments(verbs[name])
    arguments = parser.parse_args(words)
    try:
        code = module.run(arguments)
        sys.stdout.flush()  # so that a reader who left is noticed here, not at exit
        return code
    except argparse.ArgumentTypeError as error:
        verbs[name].error(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more at exit, which must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except (ValueError, OSError) as error:
        if arguments.debug:
            raise
        print(f"kosmos {name}: {_sentence(error)}", file=sys.stderr)
        return FAILED


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(prog="kosmos", description="Language models that see.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"kosmos {__version__}")
    parser.add_argument("--debug", action="store_true", help=DEBUG_HELP)
    table = parser.add_subparsers(metavar="VERB", title="verbs")
    verbs = {}
    for name, verb in VERBS.items():
        description = verb.help[0].upper() + verb.help[1:] + "."
        verbs[name] = table.add_parser(name, help=verb.help, description=description, allow_abbrev=False)
        # Suppressed default: `kosmos --debug chat` must not be undone by the verb's own absent flag.
        verbs[name].add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=DEBUG_HELP)
    return parser, verbs


def _sentence(error: ValueError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename is not None else error.strerror
    return str(error) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
