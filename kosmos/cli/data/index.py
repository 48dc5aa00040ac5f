"""`kosmos data index`: the index beside every shard, from headers alone; shards whose index is fresh are left alone."""

from __future__ import annotations

import argparse
import json
import sys

from kosmos.cli.data.flags import add_shards_argument, count

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Shards, and what else is written."""
    add_shards_argument(parser)
    parser.add_argument("--force", action="store_true", help="also where a fresh index is there")
    parser.add_argument("--workers", type=count, default=1, help="processes (1)")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Index, and name every shard that cannot be.

    Returns: 1 if a shard is torn.
    """
    from data_pipelines.indexing import index_shards
    from data_pipelines.stores import expand

    found = index_shards(expand(arguments.shards), force=arguments.force, workers=arguments.workers)
    for line in found.torn:
        print(line, file=sys.stderr)
    if arguments.json:
        print(json.dumps(found.to_record()))
    else:
        print(f"{found.documents:,} documents in {found.shards:,} shards; {found.written:,} indexes written")
    return 1 if found.torn else 0
