"""Flags and progress that the verbs of `kosmos data` share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_pipelines.execution import Execution
    from data_pipelines.report import Report

__all__ = ["add_execution_arguments", "add_shards_argument", "count", "execution_of", "print_report", "repair_advised"]


def add_shards_argument(parser: argparse.ArgumentParser, *, name: str = "shards", several: bool = True) -> None:
    """Which shards, and whether a pipe may run."""
    parser.add_argument(
        name,
        nargs="+" if several else None,
        help="tars: paths, folders, patterns (train-{000000..000011}.tar, *.tar), s3:// gs:// hf:// http(s)://, or - "
        "for standard input",
    )
    parser.add_argument("--allow-pipe", action="store_true", help="let `pipe:COMMAND` run a shell command")


def add_execution_arguments(parser: argparse.ArgumentParser) -> None:
    """How work is spread, and in which form the report is printed."""
    group = parser.add_argument_group("execution")
    group.add_argument("--workers", type=count, default=1, help="processes (1); with ray: tasks at once")
    group.add_argument("--engine", choices=("local", "ray"), default="local", help="processes here, or a Ray cluster")
    group.add_argument("--json", action="store_true", help="the report as one JSON object")


def execution_of(arguments: argparse.Namespace) -> Execution:
    """What the flags say; progress goes to stderr."""
    from data_pipelines.execution import Execution

    return Execution(workers=arguments.workers, engine=arguments.engine, told=_told)


@contextmanager
def repair_advised() -> Iterator[None]:
    """Around work on shards that must be whole: says what to do about one that is torn."""
    from data_pipelines.errors import ShardError

    try:
        yield
    except ShardError as torn:
        raise ValueError(f"{torn}; `kosmos data repair` saves what is whole in it") from torn


def print_report(report: Report, *, as_json: bool) -> None:
    """On stdout, for people or for machines."""
    print(report.to_json() if as_json else report.to_text())


def count(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _told(done: int, tasks: int, report: Report) -> None:
    words = f"{done}/{tasks} shards  {report.read:,} documents read  {report.written:,} written"
    if sys.stderr.isatty():
        print(f"\r\x1b[K{words}", end="\n" if done == tasks else "", file=sys.stderr, flush=True)
    elif done == tasks or done % 100 == 0:
        print(words, file=sys.stderr, flush=True)
