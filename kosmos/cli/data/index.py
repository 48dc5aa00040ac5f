"""`kosmos data index`: the index beside every shard, from headers alone; shards whose index is fresh are left alone."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from kosmos.cli.data.flags import add_execution_arguments, workers_of

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Shards, and what else is written."""
    parser.add_argument("shards", nargs="+", help="tars of this machine: paths, folders, patterns")
    parser.add_argument("--force", action="store_true", help="also where a fresh index is there")
    parser.add_argument(
        "--energon", action="store_true", help="also write .nv-meta/, which Megatron-Energon opens; give one folder"
    )
    add_execution_arguments(parser, json="one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Index, and name every shard that cannot be.

    Returns: 1 if a shard is torn.
    """
    from data_pipelines.energon import prepare_for_energon
    from data_pipelines.indexing import index_shards
    from data_pipelines.stores import expand

    folder = Path(arguments.shards[0])
    if arguments.energon and (len(arguments.shards) > 1 or not folder.is_dir()):
        raise argparse.ArgumentTypeError(f"--energon takes one folder of shards, not {' '.join(arguments.shards)}")
    paths = expand(arguments.shards)
    found = index_shards(paths, force=arguments.force, workers=workers_of(arguments), engine=arguments.engine)
    for line in found.torn:
        print(f"{line}; `kosmos data lint` says more", file=sys.stderr)
    record = found.to_record()
    words = [f"{found.documents:,} documents in {found.shards:,} shards; {found.written:,} indexes written"]
    if arguments.energon and not found.torn:
        prepared = prepare_for_energon(folder, [Path(path) for path in paths])
        record["energon"] = {"shards": prepared.shards, "documents": prepared.documents, "read": prepared.read}
        words.append(f"{folder / '.nv-meta'}: {prepared.read:,} of {prepared.shards:,} shards read anew")
    print(json.dumps(record) if arguments.json else "\n".join(words))
    return 1 if found.torn else 0
