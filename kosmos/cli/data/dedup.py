"""`kosmos data dedup`: the first of every document, and none that an evaluation set holds."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from kosmos.cli.data.flags import (
    add_execution_arguments,
    add_shards_argument,
    count,
    execution_of,
    print_report,
    repair_advised,
)

if TYPE_CHECKING:
    from data_pipelines.dedup.deduplication import Against

__all__ = ["add_arguments", "run"]

CRITERIA = ("exact", "text", "pictures")
ENDINGS = (".gz", ".jsonl", ".tar")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Shards, folder, what counts as a duplicate."""
    add_shards_argument(parser)
    parser.add_argument("out", type=Path, help="folder for the shards that are written, of the same names")
    group = parser.add_argument_group("duplicates")
    group.add_argument("--by", type=_criteria, default=CRITERIA, help="criteria, with commas (exact,text,pictures)")
    group.add_argument("--similarity", type=_share, default=0.75, help="of near-duplicate texts, 0..1 (0.75)")
    group.add_argument("--distance", type=_bits, default=10, help="most bits between near-duplicate pictures (10)")
    group.add_argument(
        "--min-words",
        type=count,
        default=20,
        help="compare documents of so many words by them, others by pictures (20)",
    )
    parser.add_argument(
        "--against",
        nargs="+",
        action="extend",
        default=[],
        metavar="[NAME=]SET",
        help="evaluation sets (shards, .jsonl, .jsonl.gz): documents that hold their texts or pictures go as well",
    )
    add_execution_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Deduplicate, and print what became of every document.

    Returns: 1 if no document was written.
    """
    from data_pipelines.dedup.decisions import Limits
    from data_pipelines.dedup.deduplication import Deduplication, dedup_shards
    from data_pipelines.stores import expand

    wanted = Deduplication(
        limits=Limits(by=arguments.by, similarity=arguments.similarity, distance=arguments.distance),
        min_words=arguments.min_words,
        against=_against(arguments.against),
    )
    with repair_advised():
        report = dedup_shards(
            expand(arguments.shards, allow_pipe=arguments.allow_pipe),
            arguments.out,
            wanted,
            allow_pipe=arguments.allow_pipe,
            execution=execution_of(arguments),
        )
    return print_report(report, as_json=arguments.json)


def _against(words: list[str]) -> tuple[Against, ...]:
    from data_pipelines.dedup.deduplication import Against

    sets = [Against(*_named(text)) for text in words]
    names = [one.name for one in sets]
    if twice := [name for name in names if names.count(name) > 1]:
        raise argparse.ArgumentTypeError(f"two evaluation sets are called {twice[0]!r}; write NAME={sets[0].source}")
    return tuple(sets)


def _named(text: str) -> tuple[str, str]:
    """A set's name, its own or from its path, and the path."""
    if found := re.fullmatch(r"([\w.-]+)=(.+)", text):
        return found[1], found[2]
    name = text.rstrip("/").rpartition("/")[2]
    for ending in ENDINGS:
        name = name.removesuffix(ending)
    return name, text


def _criteria(text: str) -> tuple[str, ...]:
    wanted = text.split(",")
    if unknown := [word for word in wanted if word not in CRITERIA]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no criterion; choose from {', '.join(CRITERIA)}")
    return tuple(criterion for criterion in CRITERIA if criterion in wanted)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share over 0 and at most 1")
    return share


def _bits(text: str) -> int:
    if not text.isdigit() or int(text) > 15:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of bits from 0 to 15")
    return int(text)
