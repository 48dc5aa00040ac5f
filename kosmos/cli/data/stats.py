"""`kosmos data stats`: what is in shards, as tables, JSON or plots."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from kosmos.cli.data.flags import (
    add_execution_arguments,
    add_shards_argument,
    add_tokenizer_argument,
    repair_advised,
    tell_shards,
    workers_of,
)

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Shards, what is counted, in which form."""
    add_shards_argument(parser)
    add_tokenizer_argument(parser)
    parser.add_argument(
        "--languages", action=argparse.BooleanOptionalAction, default=True, help="guess the language of every document"
    )
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw every count as an SVG file here")
    add_execution_arguments(parser, json="one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Count, print, draw.

    Returns: 1 if no document could be read.
    """
    from data_pipelines.stat_plots import plot_statistics
    from data_pipelines.stats import Counting, count_shards
    from data_pipelines.stores import expand

    with repair_advised():
        found = count_shards(
            expand(arguments.shards, allow_pipe=arguments.allow_pipe),
            Counting(tokenizer=arguments.tokenizer, languages=arguments.languages),
            workers=workers_of(arguments),
            engine=arguments.engine,
            allow_pipe=arguments.allow_pipe,
            told=tell_shards,
        )
    print(json.dumps(found.to_record(), ensure_ascii=False) if arguments.json else found.to_text())
    if arguments.plots is not None:
        drawn = plot_statistics(found, arguments.plots)
        print(f"{len(drawn)} plots in {arguments.plots}", file=sys.stderr)
    return 0 if found.documents else 1
