"""Claim: with Sub-LN a deep model bears learning rates at which other assemblies fail, and loses nothing elsewhere.

Source: Foundation Transformers (arXiv 2210.06423), sections 1 and 4; DeepNet (arXiv 2203.00555) for DeepNorm. There: 18
to 72 layers, twice the rate that Pre-LN bears, Post-LN diverging at 18 + 18 layers. Here: bytes of books, a width of
32, rising depth and rate, and no gradient clipping, as clipping would hide what is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch

from kosmos.science.language import (
    Corpus,
    LanguageRecipe,
    byte_corpus,
    nats_of,
    pieces,
    train_language_model,
    unigram_nats,
)
from kosmos.science.report import Cell, Curve, Estimate, Report, estimate
from kosmos.science.runs import Figures, Finished, do_runs, logged, read_runs
from kosmos.transformer.config import DecoderConfig, Norms
from kosmos.transformer.stack import Decoder

__all__ = ["StabilityRun", "do", "outcome", "perform", "plan", "report"]

ASSEMBLIES: dict[Norms, str] = {"pre": "Pre-LN", "post": "Post-LN", "deepnorm": "DeepNorm", "subln": "Sub-LN"}
RATES = (3e-3, 3e-2, 1e-1)
DEPTHS, QUICK_DEPTHS = (2, 6, 18), (2, 4)
STEPS, QUICK_STEPS = 80, 20
OUTCOMES = ("diverged", "stuck", "learned")
HELD_OUT = 64  # sequences
TAIL = 10  # last steps whose mean loss is held against the first


@dataclass(frozen=True, kw_only=True)
class StabilityRun:
    """A decoder of one assembly, depth and rate."""

    norms: Norms
    num_layers: int
    learning_rate: float
    seed: int
    steps: int = STEPS
    width: int = 32
    num_heads: int = 2
    sequences: int = 4
    length: int = 64

    @property
    def name(self) -> str:
        """See `Run`."""
        return f"{self.norms}-{self.num_layers}-{self.learning_rate:g}-seed{self.seed}"


def plan(*, seeds: int, steps: int | None, quick: bool) -> list[StabilityRun]:
    """All runs, one seed after the other, so that a folder is worth reading early."""
    depths, rates = (QUICK_DEPTHS, RATES[::2]) if quick else (DEPTHS, RATES)
    length = steps or (QUICK_STEPS if quick else STEPS)
    return [
        StabilityRun(norms=norms, num_layers=depth, learning_rate=rate, seed=seed, steps=length)
        for seed, depth, rate, norms in product(range(seeds), depths, rates, ASSEMBLIES)
    ]


def do(runs: Sequence[StabilityRun], data: Path, folder: Path, told: Callable[[str], None]) -> None:
    """Do what is not done."""
    corpus = byte_corpus(data)
    do_runs(runs, folder, lambda run, place: perform(run, place, corpus), told)


def perform(run: StabilityRun, place: Path, corpus: Corpus) -> Figures:
    """One run: its losses at the start, at the end and on held-out text, in nats a byte."""
    torch.manual_seed(run.seed)
    config = DecoderConfig(
        vocab_size=corpus.num_words,
        num_layers=run.num_layers,
        width=run.width,
        num_heads=run.num_heads,
        ffn_width=4 * run.width,
        positions="learned",
        max_length=run.length,
        norms=run.norms,
        dropout=0.0,
        attention_dropout=0.0,
    )
    recipe = LanguageRecipe(
        steps=run.steps,
        learning_rate=run.learning_rate,
        sequences=run.sequences,
        length=run.length,
        clip_norm=math.inf,
    )
    model = Decoder(config)
    rows = pieces(corpus, length=run.length + 1, count=HELD_OUT, within=run.length + 1)
    finite = train_language_model(
        model, corpus, recipe, place, seed=run.seed, validate=lambda rank, ranks: {"held_out": nats_of(model, rows)}
    )
    losses, held_out = logged(place, "loss"), logged(place, "held_out")
    return {
        "steps_finite": finite,
        "first": losses[0] if losses else None,
        "last": sum(losses[-TAIL:]) / len(losses[-TAIL:]) if finite == run.steps else None,
        "held_out": held_out[-1] if finite == run.steps else None,
        "unigram": unigram_nats(corpus, [rows[:, 1:]]),
    }


def outcome(figures: Figures) -> str:
    """`diverged`: a loss that is not finite, or above its start; `stuck`: no better than counting bytes; `learned`."""
    first, last, held_out = (figures[name] for name in ("first", "last", "held_out"))
    if first is None or last is None or held_out is None or last >= first:
        return "diverged"
    unigram = figures["unigram"]
    return "stuck" if unigram is not None and held_out >= unigram else "learned"


Group = dict[tuple[Norms, int, float], list[Finished[StabilityRun]]]


def report(folder: Path) -> Report:
    """What the folder's runs say."""
    groups: Group = {}
    for finished in read_runs(folder, StabilityRun):
        run = finished.run
        groups.setdefault((run.norms, run.num_layers, run.learning_rate), []).append(finished)
    order = sorted(groups, key=lambda key: (key[1], key[2], list(ASSEMBLIES).index(key[0])))
    rows: list[dict[str, Cell | Estimate]] = []
    for norms, depth, rate in order:
        outcomes = [outcome(one.figures) for one in groups[norms, depth, rate]]
        row: dict[str, Cell | Estimate] = {"layers": depth, "rate": f"{rate:g}", "assembly": ASSEMBLIES[norms]}
        for name in OUTCOMES:
            row[name] = f"{outcomes.count(name)} of {len(outcomes)}"
        rows.append({**row, "nats a byte": _held_out(groups[norms, depth, rate])})
    return Report(
        claim="stability",
        columns=("layers", "rate", "assembly", *OUTCOMES, "nats a byte"),
        rows=tuple(rows),
        verdicts=_verdicts(groups),
        curves=_curves(groups),
        axes=("learning rate", "held-out nats a byte"),
        logarithmic="x",
    )


def _held_out(group: Sequence[Finished[StabilityRun]]) -> Estimate | None:
    """Of the seeds that did not diverge."""
    values = [one.figures["held_out"] for one in group if outcome(one.figures) != "diverged"]
    return estimate([value for value in values if value is not None])


def _failures(groups: Group, norms: Norms) -> int:
    """Runs that did not learn."""
    return sum(outcome(one.figures) != "learned" for key, group in groups.items() if key[0] == norms for one in group)


def _verdicts(groups: Group) -> dict[str, bool | None]:
    if {key[0] for key in groups} != set(ASSEMBLIES):
        return {"all four assemblies have runs": False}
    failures = {norms: _failures(groups, norms) for norms in ASSEMBLIES}
    better = worse = 0
    for norms, depth, rate in groups:
        if norms == "subln" and ("pre", depth, rate) in groups:
            ours, theirs = _held_out(groups["subln", depth, rate]), _held_out(groups["pre", depth, rate])
            better += _below(ours, theirs)
            worse += _below(theirs, ours)
    return {
        f"Sub-LN learns in every run ({failures['subln']} fail)": failures["subln"] == 0,
        f"Pre-LN fails more often than Sub-LN ({failures['pre']} against {failures['subln']})": failures["pre"]
        > failures["subln"],
        f"Post-LN fails most often ({failures['post']}; DeepNorm {failures['deepnorm']})": failures["post"]
        > max(failures[norms] for norms in ASSEMBLIES if norms != "post"),
        f"where intervals part, Sub-LN is below Pre-LN ({better} below, {worse} above)": worse == 0 < better,
    }


def _below(one: Estimate | None, other: Estimate | None) -> bool:
    """Whether the interval of `one` lies wholly below the other's; a diverged group is above everything."""
    if one is None or other is None:
        return one is not None
    if one.half_width is None or other.half_width is None:
        return False
    return one.mean + one.half_width < other.mean - other.half_width


def _curves(groups: Group) -> tuple[Curve, ...]:
    curves = []
    for depth in sorted({key[1] for key in groups}):
        for norms, label in ASSEMBLIES.items():
            rates = sorted(key[2] for key in groups if key[:2] == (norms, depth))
            found = [(rate, _held_out(groups[norms, depth, rate])) for rate in rates]
            points = tuple((rate, one.mean, one.half_width) for rate, one in found if one is not None)
            curves.append(Curve(f"{depth} layers", label, points))
    return tuple(curves)
