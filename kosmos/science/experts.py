"""Claim: at equal work a token experts beat a dense model, and X-MoE's router is calmer and collapses less than Switch.

Source: X-MoE (arXiv 2204.09179), table 2 (perplexity), figures of representation collapse (RC) and routing fluctuation
(RF). There: 12 layers, 64 experts, masked language modelling on CC100, 125K steps. Here: causal decoders of 4 layers
on books, every second one sparse, 8 experts of which a row visits one, so active work is that of the dense model (the
router, under 2 % of a layer, comes on top).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from kosmos.science.language import Corpus, LanguageRecipe, nats_of, pieces, train_language_model, word_corpus
from kosmos.science.report import Cell, Curve, Estimate, Report, estimate
from kosmos.science.runs import Figures, Finished, do_runs, logged, read_runs
from kosmos.training.objective import Sum
from kosmos.transformer.config import DecoderConfig, ExpertsConfig
from kosmos.transformer.experts import balance_losses, experts_of
from kosmos.transformer.routing_instruments import representation_collapse, routing_fluctuation
from kosmos.transformer.stack import Decoder

__all__ = ["ExpertsRun", "Observer", "do", "perform", "plan", "report"]

Kind = Literal["dense", "switch", "xmoe"]
LABELS: dict[Kind, str] = {"dense": "dense", "switch": "Switch", "xmoe": "X-MoE"}
FIGURES = {"perplexity": "perplexity", "RC": "RC", "RF": "RF"}
STEPS, QUICK_STEPS = 320, 16
CHECKPOINTS = 8  # of each run, between which rows may change their expert


@dataclass(frozen=True, kw_only=True)
class ExpertsRun:
    """A decoder whose second and fourth feed-forward is dense or sparse."""

    router: Kind
    seed: int
    steps: int = STEPS
    num_experts: int = 8
    num_words: int = 1024
    num_layers: int = 4
    width: int = 64
    num_heads: int = 2
    sequences: int = 16
    length: int = 32
    learning_rate: float = 4e-3
    held_out: int = 256

    @property
    def name(self) -> str:
        """See `Run`."""
        return f"{self.router}-seed{self.seed}"

    @property
    def config(self) -> DecoderConfig:
        """The shape of the model."""
        experts = None
        if self.router != "dense":
            experts = ExpertsConfig(num_experts=self.num_experts, every=2, top_k=1, router=self.router)
        return DecoderConfig(
            vocab_size=self.num_words,
            num_layers=self.num_layers,
            width=self.width,
            num_heads=self.num_heads,
            ffn_width=4 * self.width,
            positions="learned",
            max_length=self.length,
            experts=experts,
            dropout=0.0,
            attention_dropout=0.0,
        )


def plan(*, seeds: int, steps: int | None, quick: bool) -> list[ExpertsRun]:
    """All runs, one seed after the other."""
    size = {"num_words": 512, "num_layers": 2, "width": 32, "held_out": 16, "steps": QUICK_STEPS} if quick else {}
    size |= {"steps": steps} if steps else {}
    return [ExpertsRun(router=router, seed=seed, **size) for seed, router in product(range(seeds), LABELS)]


def do(runs: Sequence[ExpertsRun], data: Path, folder: Path, told: Callable[[str], None]) -> None:
    """Do what is not done."""
    for num_words in sorted({run.num_words for run in runs}):
        corpus = word_corpus(data, folder, num_words=num_words)
        own = [run for run in runs if run.num_words == num_words]
        do_runs(own, folder, lambda run, place, corpus=corpus: perform(run, place, corpus), told)  # type: ignore[misc]


class Observer:
    """Looks at the last sparse layer's routing of fixed held-out text, checkpoint after checkpoint.

    Choices are kept as files beside the log, so that a run that goes on is still compared with its last checkpoint.
    """

    def __init__(self, model: Decoder, rows_BT: Tensor, place: Path, *, every: int) -> None:
        """
        Args:
            every: steps between checkpoints.
        """
        self.model, self.rows, self.place, self.every = model, rows_BT, place, every

    def look(self) -> dict[str, float]:
        """Held-out nats; with experts RC, and RF against the checkpoint before."""
        seen: list[Tensor] = []
        chosen: list[Tensor] = []
        layers = experts_of(self.model)
        hooks = []
        if layers:
            hooks.append(layers[-1].register_forward_pre_hook(lambda module, rows: seen.append(rows[0])))
            hooks.append(layers[-1].register_forward_hook(lambda module, rows, out: chosen.append(_first(module))))
        try:
            nats = nats_of(self.model, self.rows, at_once=64)
        finally:
            for hook in hooks:
                hook.remove()
        return {"held_out": nats} | (self._routing(torch.cat(seen), torch.cat(chosen)) if layers else {})

    def _routing(self, hidden_RD: Tensor, experts_R: Tensor) -> dict[str, float]:
        step = len(logged(self.place, "loss")) + 1
        figures = {"RC": representation_collapse(hidden_RD, experts_R)} if len(experts_R.unique()) > 1 else {}
        before = self._choices((step - 1) // self.every * self.every)
        if before.exists():
            figures["RF"] = routing_fluctuation(torch.load(before, weights_only=True), experts_R)
        torch.save(experts_R.clone(), self._choices(step))
        return figures

    def _choices(self, step: int) -> Path:
        return self.place / f"choices-{step}.pt"


def _first(layer: torch.nn.Module) -> Tensor:
    """The first choice of each row in the forward that just ended."""
    (experts,) = experts_of(layer)
    assert experts.last is not None
    return experts.last.experts_RK[:, 0]


def perform(run: ExpertsRun, place: Path, corpus: Corpus) -> Figures:
    """One run: held-out perplexity, RC at the end, RF between its last checkpoints, and their courses."""
    torch.manual_seed(run.seed)
    model, every = Decoder(run.config), max(1, run.steps // CHECKPOINTS)
    observer = Observer(
        model, pieces(corpus, length=run.length, count=run.held_out, within=run.length), place, every=every
    )

    def beside() -> dict[str, Sum]:
        if run.router == "dense":
            return {}
        balance = balance_losses(model)
        return {"balance": Sum(balance.total, balance.count, balance.weight)}

    train_language_model(
        model,
        corpus,
        LanguageRecipe(steps=run.steps, learning_rate=run.learning_rate, sequences=run.sequences, length=run.length),
        place,
        seed=run.seed,
        beside=beside,
        validate=lambda rank, ranks: observer.look(),
        validate_every=every,
    )
    for choices in place.glob("choices-*.pt"):
        choices.unlink()
    figures: dict[str, float | None] = {"perplexity": math.exp(logged(place, "held_out")[-1])}
    for name in ("RC", "RF"):
        course = logged(place, name)
        figures |= {f"{name} {number}": value for number, value in enumerate(course, start=1)}
        figures[name] = course[-1] if course else None
    return figures


def report(folder: Path) -> Report:
    """What the folder's runs say."""
    runs = read_runs(folder, ExpertsRun)
    table = {kind: _estimates([one for one in runs if one.run.router == kind], FIGURES) for kind in LABELS}
    rows: list[dict[str, Cell | Estimate]] = [
        {"feed-forward": label, "seeds": sum(one.run.router == kind for one in runs), **table[kind]}
        for kind, label in LABELS.items()
        if table[kind]
    ]
    return Report(
        claim="experts",
        columns=("feed-forward", "seeds", *FIGURES),
        rows=tuple(rows),
        verdicts=_verdicts(table),
        curves=tuple(curve for panel in ("RC", "RF") for curve in _courses(runs, panel)),
        axes=("checkpoint", "figure"),
        shared_axis=False,
    )


def _estimates(runs: Sequence[Finished[ExpertsRun]], names: Sequence[str] | dict[str, str]) -> dict[str, Estimate]:
    found = {}
    for name in names:
        values = [one.figures.get(name) for one in runs]
        one = estimate([value for value in values if value is not None])
        if one is not None:
            found[name] = one
    return found


def _courses(runs: Sequence[Finished[ExpertsRun]], panel: str) -> list[Curve]:
    curves = []
    for kind, label in LABELS.items():
        own = [one for one in runs if one.run.router == kind]
        found = _estimates(own, [f"{panel} {number}" for number in range(1, CHECKPOINTS + 1)])
        points = tuple((float(name.split()[1]), one.mean, one.half_width) for name, one in found.items())
        if points:
            curves.append(Curve(panel, label, points))
    return curves


def _verdicts(table: dict[Kind, dict[str, Estimate]]) -> dict[str, bool | None]:
    if not all(table.values()):
        return {"all three kinds have runs": False}

    def of(kind: Kind, name: str) -> float:
        return table[kind][name].mean if name in table[kind] else math.nan

    return {
        "Switch has a lower perplexity than dense": of("switch", "perplexity") < of("dense", "perplexity"),
        "X-MoE has a lower perplexity than dense": of("xmoe", "perplexity") < of("dense", "perplexity"),
        "X-MoE has a lower perplexity than Switch": of("xmoe", "perplexity") < of("switch", "perplexity"),
        "X-MoE collapses less (higher RC) than Switch": of("xmoe", "RC") > of("switch", "RC"),
        "X-MoE is calmer (lower RF) than Switch": of("xmoe", "RF") < of("switch", "RF"),
    }
