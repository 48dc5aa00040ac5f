"""Flags and progress that the verbs of `kosmos data` share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_pipelines.execution import Execution
    from data_pipelines.report import Report

__all__ = [
    "EVERY_CORE",
    "TOKENIZER",
    "add_execution_arguments",
    "add_shards_argument",
    "add_tokenizer_argument",
    "count",
    "execution_of",
    "print_report",
    "repair_advised",
    "tell_shards",
    "workers_of",
]

TOKENIZER = Path(__file__).parents[2] / "tiny" / "tokenizer.model"
"""The built-in vocabulary."""
EVERY_CORE = 0
"""Of a Ray cluster."""


def add_shards_argument(parser: argparse.ArgumentParser, *, name: str = "shards", several: bool = True) -> None:
    """Which shards, and whether a pipe may run."""
    parser.add_argument(
        name,
        nargs="+" if several else None,
        help="tars: paths, folders, patterns (train-{000000..000011}.tar, *.tar), s3:// gs:// hf:// http(s)://, or - "
        "for standard input",
    )
    parser.add_argument("--allow-pipe", action="store_true", help="let `pipe:COMMAND` run a shell command")


def add_execution_arguments(parser: argparse.ArgumentParser, *, json: str = "the report as one JSON object") -> None:
    """How work is spread, and in which form the result is printed (`json` says what of it)."""
    group = parser.add_argument_group("execution")
    group.add_argument(
        "--workers", type=count, metavar="N", help="processes (1); with ray: tasks at once (as many as it has cores)"
    )
    group.add_argument("--engine", choices=("local", "ray"), default="local", help="processes here, or a Ray cluster")
    group.add_argument("--json", action="store_true", help=json)


def add_tokenizer_argument(parser: argparse.ArgumentParser) -> None:
    """Whose tokens are counted."""
    parser.add_argument(
        "--tokenizer", type=Path, default=TOKENIZER, metavar="FILE", help="SentencePiece file (that of `tiny`)"
    )


def execution_of(arguments: argparse.Namespace) -> Execution:
    """What the flags say; progress goes to stderr."""
    from data_pipelines.execution import Execution

    return Execution(workers=workers_of(arguments), engine=arguments.engine, told=_told)


def workers_of(arguments: argparse.Namespace) -> int:
    """What was asked for, else one process here, or every core of a cluster."""
    return arguments.workers or (EVERY_CORE if arguments.engine == "ray" else 1)


@contextmanager
def repair_advised() -> Iterator[None]:
    """Around work on shards that must be whole: says what to do about one that is torn."""
    from data_pipelines.errors import ShardError

    try:
        yield
    except ShardError as torn:
        raise ValueError(f"{torn}; `kosmos data repair` saves what is whole in it") from torn


def print_report(report: Report, *, as_json: bool) -> int:
    """On stdout, for people or for machines.

    Returns: exit code of a verb that writes: 1 if no document was written.
    """
    print(report.to_json() if as_json else report.to_text())
    return 0 if report.written else 1


def count(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def tell_shards(done: int, shards: int, words: str = "") -> None:
    """Progress on stderr: a line that changes on a terminal, a line for each hundred shards elsewhere."""
    words = f"{done}/{shards} shards{words}"
    if sys.stderr.isatty():
        print(f"\r\x1b[K{words}", end="\n" if done == shards else "", file=sys.stderr, flush=True)
    elif done == shards or done % 100 == 0:
        print(words, file=sys.stderr, flush=True)


def _told(done: int, tasks: int, report: Report) -> None:
    tell_shards(done, tasks, f"  {report.read:,} documents read  {report.written:,} written")
