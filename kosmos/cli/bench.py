"""`kosmos bench`: speed beside peers and the machine's limits, or captions beside blind ones, measured in one run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kosmos.bench.figure import Figure

__all__ = ["add_arguments", "run"]

PRESETS = ("base", "kosmos1", "kosmos2")
WITH_PEER = "kosmos2"  # the one shape that transformers has too


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare arguments; nothing heavy is imported."""
    parser.add_argument(
        "name",
        choices=("decode", "attention", "experts", "loss", "train", "data", "captions"),
        help="decode: tokens a second, reading an image; attention: training and decoding steps of a decoder; experts: "
        "sparse layers; loss: the output head in training; train: a training step, packed and padded; data: shards to "
        "batches; captions: quality",
    )
    parser.add_argument("--preset", choices=PRESETS, default="kosmos2", help="shape of the model (kosmos2)")
    parser.add_argument("--rounds", type=_count, default=7, help="turns of every contestant; medians are shown (7)")
    parser.add_argument("--steps", type=_count, default=4, help="tokens decoded a turn (4)")
    parser.add_argument("--threads", type=_count, help="processor threads for all (what torch takes)")
    parser.add_argument("--without-peers", action="store_true", help="only ours and the limits")
    parser.add_argument("--case", action="append", help="measure only this case; may be given several times")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    group = parser.add_argument_group("captions")
    group.add_argument("--model", default="tiny", help="name or folder (tiny)")
    group.add_argument("--quantize", action="append", default=[], choices=("int4", "int8"), help="too; may be repeated")
    group.add_argument("--pictures", type=_count, help="only the first so many (all 1,000)")
    group.add_argument(
        "--data", type=Path, default=Path(os.environ.get("KOSMOS_DATA") or "../shared/data"), help="folder of the data"
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    if arguments.name == "captions":
        return _captions(arguments)
    import torch

    from kosmos.bench.figure import table

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    measures = {
        "decode": _decode,
        "attention": _attention,
        "experts": _experts,
        "loss": _loss,
        "train": _train,
        "data": _data,
    }
    for figure in measures[arguments.name](arguments):
        print(figure.to_json() if arguments.json else table([figure]), flush=True)
    return 0


def _decode(arguments: argparse.Namespace) -> Iterator[Figure]:
    from kosmos.bench.decode import CASES, DecodeBench, run_decode

    bench = DecodeBench(
        preset=arguments.preset,
        rounds=arguments.rounds,
        steps=arguments.steps,
        peers=arguments.preset == WITH_PEER and not arguments.without_peers,
        cases=_cases(arguments, CASES),
    )
    return run_decode(bench)


def _attention(arguments: argparse.Namespace) -> Iterator[Figure]:
    from kosmos.bench.attention import ATTENTION_CASES, AttentionBench, run_attention

    bench = AttentionBench(
        rounds=arguments.rounds,
        steps=arguments.steps,
        peers=not arguments.without_peers,
        cases=_cases(arguments, ATTENTION_CASES),
    )
    return run_attention(bench)


def _experts(arguments: argparse.Namespace) -> Iterator[Figure]:
    from kosmos.bench.experts import CASES, ExpertsBench, run_experts

    bench = ExpertsBench(rounds=arguments.rounds, peers=not arguments.without_peers, cases=_cases(arguments, CASES))
    return run_experts(bench)


def _loss(arguments: argparse.Namespace) -> Iterator[Figure]:
    from kosmos.bench.loss import LOSS_CASES, LossBench, run_loss

    cases = _cases(arguments, LOSS_CASES)
    return run_loss(LossBench(rounds=arguments.rounds, peers=not arguments.without_peers, cases=cases))


def _train(arguments: argparse.Namespace) -> Iterator[Figure]:
    from kosmos.bench.train import TRAIN_CASES, TrainBench, run_train

    cases = _cases(arguments, TRAIN_CASES)
    return run_train(
        TrainBench(data=arguments.data, rounds=arguments.rounds, peers=not arguments.without_peers, cases=cases)
    )


def _data(arguments: argparse.Namespace) -> Iterator[Figure]:
    from kosmos.bench.data import DATA_CASES, DataBench, run_data

    cases = _cases(arguments, DATA_CASES)
    return run_data(
        DataBench(data=arguments.data, rounds=arguments.rounds, peers=not arguments.without_peers, cases=cases)
    )


def _cases(arguments: argparse.Namespace, known: tuple[str, ...]) -> tuple[str, ...]:
    """What was asked for, or all. Raises: ArgumentTypeError for a case there is not."""
    unknown = set(arguments.case or ()) - set(known)
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown case {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return tuple(arguments.case or known)


def _captions(arguments: argparse.Namespace) -> int:
    from kosmos.bench.captions import CAPTION_CASES, CaptionBench, run_captions

    bench = CaptionBench(
        model=arguments.model,
        data=arguments.data,
        weights=[None, *arguments.quantize],
        pictures=arguments.pictures,
        cases=_cases(arguments, CAPTION_CASES),
    )
    for figure in run_captions(bench):
        print(figure.to_json() if arguments.json else figure.to_row(), flush=True)
    return 0


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)
