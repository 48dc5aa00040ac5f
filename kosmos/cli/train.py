"""`kosmos train`: a model from a folder of data, by a named recipe; killed, the same command goes on where it was."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

__all__ = ["add_arguments", "run"]

RECIPES = ("tiny",)
MAX_RANKS = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare arguments; nothing heavy is imported."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kosmos"
    parser.add_argument("recipe", choices=RECIPES, help="tiny: the built-in model, in some hours on two cores")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("KOSMOS_DATA") or "../shared/data"),
        help="folder with flickr8k, multi30k, text and interleaved (KOSMOS_DATA, else ../shared/data)",
    )
    parser.add_argument(
        "--cache", type=Path, default=cache, help=f"shards and what the eye saw are kept here ({cache})"
    )
    parser.add_argument("--run", type=Path, default=Path("runs/tiny"), help="log and state of the run (runs/tiny)")
    parser.add_argument("--output", type=Path, help="the finished checkpoint folder (checkpoint inside the run folder)")
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="of matrix products; auto takes bfloat16 where a short race shows a clear gain",
    )
    parser.add_argument("--processes", type=_processes, default=2, help="that share the work, one thread each (2)")


def run(arguments: argparse.Namespace) -> int:
    """Train to the end and print where the checkpoint is."""
    from functools import partial

    from kosmos.cli.progress import TrainingProgress
    from kosmos.evaluation.metrics.caption_cider import CaptionCiderD
    from kosmos.training.builtin.recipe import TINY
    from kosmos.training.builtin.run import Paths, train_tiny

    if not (arguments.data / "flickr8k").is_dir():
        raise ValueError(f"{arguments.data} has no folder flickr8k; give the folder of the data by --data")
    output = arguments.output or arguments.run / "checkpoint"
    paths = Paths(data=arguments.data, cache=arguments.cache / "tiny", run=arguments.run, output=output)
    shown = TrainingProgress()
    train_tiny(
        TINY,
        paths,
        metric=CaptionCiderD,
        reward=partial(CaptionCiderD, ends=True),
        ranks=arguments.processes,
        precision=arguments.dtype,
        told=shown.told,
        progress=shown,
    )
    print(output)
    return 0


def _processes(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= MAX_RANKS:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to {MAX_RANKS}")
    return int(text)
