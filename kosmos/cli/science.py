"""`kosmos science`: a claim of the papers tested at a small size; killed, the same command goes on where it was."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kosmos.science.report import Report

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare arguments; nothing heavy is imported."""
    from kosmos.science.claims import CLAIMS

    known = "; ".join(f"{name}: {claim.help}" for name, claim in CLAIMS.items())
    parser.add_argument("name", choices=tuple(CLAIMS), help=known)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("KOSMOS_DATA") or "../shared/data"),
        help="folder with text and multi30k (KOSMOS_DATA, else ../shared/data)",
    )
    parser.add_argument(
        "--output", type=Path, help="folder of the runs (runs/science/NAME); two commands on one folder share the work"
    )
    parser.add_argument("--seeds", type=_count, default=3, help="runs of each kind (3)")
    parser.add_argument("--steps", type=_count, help="of each run (what the claim takes)")
    parser.add_argument("--quick", action="store_true", help="minutes become seconds: fewer, smaller, shorter runs")
    parser.add_argument("--read", action="store_true", help="train nothing; only read what the folder holds")
    parser.add_argument("--threads", type=_count, default=1, help="processor threads (1)")
    parser.add_argument("--plot", type=Path, help="write the curves here, .svg or .png (NAME.svg in that folder)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(arguments: argparse.Namespace) -> int:
    """Do the runs that are missing, then print what all of them say."""
    import torch

    from kosmos.science.claims import CLAIMS, load_reader, load_runner

    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    kind = "-quick" if arguments.quick else ""
    folder = arguments.output or Path("runs/science") / f"{CLAIMS[arguments.name].runs or arguments.name}{kind}"
    if not arguments.read:
        if not (arguments.data / "text").is_dir():
            raise ValueError(f"{arguments.data} has no folder text; give the folder of the data by --data")
        runner = load_runner(arguments.name)
        runs = runner.plan(seeds=arguments.seeds, steps=arguments.steps, quick=arguments.quick)
        runner.do(runs, arguments.data, folder, _told)
    report = load_reader(arguments.name).report(folder)
    if not report.rows:
        raise ValueError(f"{folder} holds no finished run; leave --read out to do them")
    _plot(arguments.plot, folder / f"{arguments.name}.svg", report)
    print(report.to_json() if arguments.json else report.to_text())
    return 0


def _plot(wanted: Path | None, usual: Path, report: Report) -> None:
    """Where it is wanted, else beside the runs if there is something to draw with."""
    from importlib.util import find_spec

    from kosmos.science.plot import plot

    if wanted is not None or find_spec("matplotlib"):
        usual.parent.mkdir(parents=True, exist_ok=True)
        plot(report, wanted or usual)


def _told(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)
