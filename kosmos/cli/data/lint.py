"""`kosmos data lint`: everything that is wrong with shards, each finding with its shard, key, byte and reason."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from typing import TYPE_CHECKING

from kosmos.cli.data.flags import add_execution_arguments, add_shards_argument, tell_shards, workers_of

if TYPE_CHECKING:
    from data_pipelines.inspection import Finding

__all__ = ["add_arguments", "run"]

SHOWN = 5  # findings of each reason in the table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Shards, and how closely they are looked at."""
    add_shards_argument(parser)
    parser.add_argument("--no-decode", action="store_true", help="do not decode pictures; much faster")
    add_execution_arguments(parser, json="one JSON object a finding")


def run(arguments: argparse.Namespace) -> int:
    """Print what is found.

    Returns: 1 if anything is.
    """
    from data_pipelines.lint import lint
    from data_pipelines.stores import expand

    linted = lint(
        expand(arguments.shards, allow_pipe=arguments.allow_pipe),
        decode=not arguments.no_decode,
        workers=workers_of(arguments),
        engine=arguments.engine,
        allow_pipe=arguments.allow_pipe,
        told=tell_shards,
    )
    shards, documents, counts = set(), 0, Counter[str]()
    shown: list[Finding] = []
    for one in linted:
        shards.add(one.shard)
        documents += one.documents
        for finding in one.findings:
            counts[finding.reason] += 1
            if arguments.json:
                print(json.dumps(finding.to_record(), ensure_ascii=False), flush=True)
            elif counts[finding.reason] <= SHOWN:
                shown.append(finding)
    if not arguments.json:
        _print_table(counts, shown, f"{documents:,} documents in {len(shards):,} shards")
    return 1 if counts else 0


def _print_table(counts: Counter[str], shown: list[Finding], looked_at: str) -> None:
    print(f"{looked_at}: {counts.total():,} findings" if counts else f"{looked_at}: nothing found")
    for reason, number in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        print(f"\n{reason}: {number:,}")
        for finding in shown:
            if finding.reason == reason:
                # Names are a stranger's: repr keeps control characters out of the terminal.
                key = f"  {finding.key!r}" if finding.key else ""
                detail = f"  ({finding.detail!r})"[:160] if finding.detail else ""
                print(f"  {finding.shard}, byte {finding.offset}{key}{detail}")
        if number > SHOWN:
            print(f"  ... and {number - SHOWN:,} more (--json prints all)")
