"""`kosmos data repair`: the good documents of shards into new ones, the bad into a quarantine, all accounted for."""

from __future__ import annotations

import argparse
from pathlib import Path

from kosmos.cli.data.flags import add_execution_arguments, add_shards_argument, execution_of, print_report

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Shards, where to, and how closely they are looked at."""
    add_shards_argument(parser, name="source", several=False)
    parser.add_argument("out", type=Path, help="folder of the new shards; quarantine/ in it holds the rest")
    parser.add_argument("--no-decode", action="store_true", help="do not decode pictures; those that are damaged stay")
    add_execution_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Repair, and say what became of every document.

    Returns: 1 if no document was written.
    """
    from data_pipelines.repair import repair
    from data_pipelines.stores import expand

    source = Path(arguments.source)
    report = repair(
        expand([arguments.source], allow_pipe=arguments.allow_pipe),
        arguments.out,
        root=source if source.is_dir() else None,
        decode=not arguments.no_decode,
        allow_pipe=arguments.allow_pipe,
        execution=execution_of(arguments),
    )
    return print_report(report, as_json=arguments.json)
