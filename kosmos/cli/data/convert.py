"""`kosmos data convert`: shards in formats of others; what a format cannot hold is counted and said."""

from __future__ import annotations

import argparse
from pathlib import Path

from kosmos.cli.data.flags import (
    add_execution_arguments,
    add_shards_argument,
    execution_of,
    print_report,
    repair_advised,
)

__all__ = ["TARGETS", "add_arguments", "run"]

TARGETS = (
    "webdataset",
    "llava",
    "mmc4",
    "obelics",
    "documents",
    "text",
    "parquet",
    "coco",
    "grounded",
    "flickr",
    "parallel-lines",
    "tmx",
    "pages",
)
"""As the table of `data_pipelines.targets.formats`, which a parser should not have to import."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Shards, where to, and which format."""
    add_shards_argument(parser)
    parser.add_argument("out", type=Path, help="folder of the output: a file for each shard (pages: a folder)")
    parser.add_argument("--to", choices=TARGETS, required=True, metavar="FORMAT", help=", ".join(TARGETS))
    add_execution_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write every document that the format can hold.

    Returns: 1 if no document was written.
    """
    from data_pipelines.conversion import convert
    from data_pipelines.stores import expand

    shards = expand(arguments.shards, allow_pipe=arguments.allow_pipe)
    execution = execution_of(arguments)
    with repair_advised():
        report = convert(shards, arguments.out, arguments.to, execution, allow_pipe=arguments.allow_pipe)
    return print_report(report, as_json=arguments.json)
