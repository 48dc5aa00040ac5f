"""`kosmos data info`: how much is in shards, of what kind, and how a document of them reads."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from kosmos.cli.data.flags import add_execution_arguments, add_shards_argument, workers_of

if TYPE_CHECKING:
    from data_pipelines.info import Info

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Shards."""
    add_shards_argument(parser)
    add_execution_arguments(parser, json="one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print the counts.

    Returns: 1 if a shard is torn.
    """
    from data_pipelines.info import info
    from data_pipelines.stores import expand

    found = info(
        expand(arguments.shards, allow_pipe=arguments.allow_pipe),
        workers=workers_of(arguments),
        engine=arguments.engine,
        allow_pipe=arguments.allow_pipe,
    )
    if arguments.json:
        print(json.dumps(found.to_record(), ensure_ascii=False))
    else:
        _print_table(found)
    for line in found.torn:
        print(f"{line}; `kosmos data lint` says more", file=sys.stderr)
    return 1 if found.torn else 0


def _print_table(found: Info) -> None:
    print(f"{found.documents:,} documents in {found.shards:,} shards of {found.size:,} bytes")
    if found.documents:
        print(f"keys {_printable(found.first_key)} ... {_printable(found.last_key)}\n")
    for part, number in sorted(found.parts.items(), key=lambda item: (-item[1], item[0])):
        mean = found.part_sizes.get(part, 0) / number
        print(f"  {_printable(part):<16} {number:>12,} files  {mean:>14,.0f} bytes each")
    if found.sample:
        print("\nThe first document:")
        for line in found.sample:
            print(f"  {_printable(line)}")


def _printable(words: str) -> str:
    """Without what could move a terminal's cursor: names and words are a stranger's."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in words)
