"""`kosmos data stats`: what is in shards, as tables, JSON or plots."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from kosmos.cli.data.flags import add_shards_argument, count

__all__ = ["add_arguments", "run"]

BUILT_IN = Path(__file__).parents[2] / "tiny" / "tokenizer.model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Shards, what is counted, in which form."""
    add_shards_argument(parser)
    parser.add_argument(
        "--tokenizer", type=Path, default=BUILT_IN, metavar="FILE", help="SentencePiece model (that of `tiny`)"
    )
    parser.add_argument(
        "--languages", action=argparse.BooleanOptionalAction, default=True, help="guess the language of every document"
    )
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw every count as an SVG file here")
    parser.add_argument("--workers", type=count, default=1, help="processes (1)")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Count, print, draw.

    Returns: 1 if no document could be read.
    """
    from data_pipelines.stat_plots import plot_statistics
    from data_pipelines.stats import Counting, count_shards
    from data_pipelines.stores import expand

    found = count_shards(
        expand(arguments.shards, allow_pipe=arguments.allow_pipe),
        Counting(tokenizer=arguments.tokenizer, languages=arguments.languages),
        workers=arguments.workers,
        allow_pipe=arguments.allow_pipe,
        told=_told,
    )
    print(json.dumps(found.to_record(), ensure_ascii=False) if arguments.json else found.to_text())
    if arguments.plots is not None:
        drawn = plot_statistics(found, arguments.plots)
        print(f"{len(drawn)} plots in {arguments.plots}", file=sys.stderr)
    return 0 if found.documents else 1


def _told(done: int, shards: int) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{done}/{shards} shards", end="\n" if done == shards else "", file=sys.stderr, flush=True)
    elif done == shards or done % 100 == 0:
        print(f"{done}/{shards} shards", file=sys.stderr, flush=True)
