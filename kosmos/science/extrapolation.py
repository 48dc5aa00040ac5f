"""Claim: trained at one length, xPos with blockwise causal attention (BCA) reads longer texts, and ever better.

Source: "A Length-Extrapolatable Transformer" (arXiv 2212.10554, tables 2 and 5). There: 24 layers, trained at 1,024,
perplexity of the same 4,096 tokens of arXiv papers cut to pieces. Here: small decoders trained at 256 on books,
and perplexity a byte on books they have not seen, cut in the same way. B of xPos is kept at half the training
length, as there. BCA is a matter of reading: each trained model is read with it and without.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path

import torch

from kosmos.science.language import (
    NUM_BYTES,
    Corpus,
    LanguageRecipe,
    byte_corpus,
    nats_of,
    pieces,
    train_language_model,
)
from kosmos.science.report import Cell, Curve, Estimate, Report, estimate
from kosmos.science.resolution import measure
from kosmos.science.runs import Figures, Finished, do_runs, read_runs
from kosmos.transformer.config import DecoderConfig, PositionScheme
from kosmos.transformer.stack import Decoder

__all__ = ["LABELS", "ExtrapolationRun", "curve_distances", "do", "perform", "plan", "report", "values", "variants"]

SCHEMES: tuple[PositionScheme, ...] = ("sinusoidal", "alibi", "rope", "xpos")
LABELS = {
    "sinusoidal": "sinusoidal",
    "alibi": "ALiBi",
    "alibi+bca": "ALiBi + BCA",
    "rope": "RoPE",
    "rope+bca": "RoPE + BCA",
    "xpos": "xPos",
    "xpos+bca": "xPos + BCA",
}
STEPS, QUICK_STEPS = 500, 20
TEXTS = 4  # whose scores are averaged by distance


@dataclass(frozen=True, kw_only=True)
class ExtrapolationRun:
    """A decoder with one position scheme, trained at `length` and read at that times 1, 2, 4 ... up to `reach`.

    Attributes:
        held_out: pieces of `length * reach` tokens.
    """

    positions: PositionScheme
    seed: int
    steps: int = STEPS
    length: int = 256
    reach: int = 16
    num_layers: int = 2
    width: int = 64
    num_heads: int = 2
    sequences: int = 4
    learning_rate: float = 6e-3
    held_out: int = 4

    @property
    def name(self) -> str:
        """See `Run`."""
        return f"{self.positions}-seed{self.seed}"

    @property
    def config(self) -> DecoderConfig:
        """As it is trained: whole attention."""
        return DecoderConfig(
            vocab_size=NUM_BYTES,
            num_layers=self.num_layers,
            width=self.width,
            num_heads=self.num_heads,
            ffn_width=4 * self.width,
            positions=self.positions,
            xpos_scale_base=self.length // 2,
            xpos_block=8 * self.length,
            dropout=0.0,
            attention_dropout=0.0,
        )

    @property
    def lengths(self) -> list[int]:
        """Which it is read at."""
        return [self.length << doubling for doubling in range(self.reach.bit_length())]


def plan(*, seeds: int, steps: int | None, quick: bool) -> list[ExtrapolationRun]:
    """All runs, one seed after the other."""
    size = {"length": 64, "reach": 4, "width": 32, "held_out": 2, "steps": QUICK_STEPS} if quick else {}
    size |= {"steps": steps} if steps else {}
    return [
        ExtrapolationRun(positions=positions, seed=seed, **size) for seed, positions in product(range(seeds), SCHEMES)
    ]


def do(runs: Sequence[ExtrapolationRun], data: Path, folder: Path, told: Callable[[str], None]) -> None:
    """Do what is not done."""
    corpus = byte_corpus(data)
    do_runs(runs, folder, lambda run, place: perform(run, place, corpus), told)


def variants(run: ExtrapolationRun) -> dict[str, DecoderConfig]:
    """How the trained model is read, by name; blocks are half the training length, as in the paper."""
    if run.positions == "sinusoidal":
        return {run.positions: run.config}
    block = run.length // 2
    return {
        run.positions: run.config,
        f"{run.positions}+bca": replace(run.config, causal_block=block, xpos_block=block),
    }


def curve_distances(length: int) -> list[int]:
    """Distances below `length` at which the mean score is kept: 0, 1, then some in each octave."""
    return sorted({0, *(int(2 ** (quarter / 4)) for quarter in range(int(4 * math.log2(length))))})


def perform(run: ExtrapolationRun, place: Path, corpus: Corpus) -> Figures:
    """One run: perplexity by variant and length, attention resolution at the first lengths, its curve at the third."""
    torch.manual_seed(run.seed)
    trained = Decoder(run.config)
    recipe = LanguageRecipe(
        steps=run.steps, learning_rate=run.learning_rate, sequences=run.sequences, length=run.length
    )
    train_language_model(trained, corpus, recipe, place, seed=run.seed)
    figures: dict[str, float | None] = {}
    longest = run.length * run.reach
    for name, config in variants(run).items():
        reader = Decoder(config)
        reader.load_state_dict(trained.state_dict())
        reader.eval()
        for length in run.lengths:
            rows = pieces(corpus, length=length, count=run.held_out * longest // length, within=longest)
            figures[f"{name} perplexity {length}"] = math.exp(nats_of(reader, rows, at_once=max(1, longest // length)))
        for length in run.lengths[:3]:
            texts = pieces(corpus, length=length, count=TEXTS, within=length)
            found = measure(reader, list(texts))
            figures[f"{name} resolution {length}"] = found.value
        for distance in curve_distances(len(found.curve)):
            figures[f"{name} score {distance}"] = found.curve[distance]
    return figures


def values(runs: Sequence[Finished[ExtrapolationRun]], figure: str) -> list[float]:
    """One figure of all runs that have it."""
    found = [one.figures.get(figure) for one in runs]
    return [value for value in found if value is not None]


def report(folder: Path) -> Report:
    """What the folder's runs say about perplexity."""
    runs = read_runs(folder, ExtrapolationRun)
    lengths = sorted({length for one in runs for length in one.run.lengths})
    table: dict[str, dict[int, Estimate]] = {}
    for name in LABELS:
        found = {length: estimate(values(runs, f"{name} perplexity {length}")) for length in lengths}
        table[name] = {length: one for length, one in found.items() if one is not None}
    rows: list[dict[str, Cell | Estimate]] = [
        {"positions": LABELS[name], **{str(length): one for length, one in row.items()}}
        for name, row in table.items()
        if row
    ]
    return Report(
        claim="extrapolation",
        columns=("positions", *map(str, lengths)),
        rows=tuple(rows),
        verdicts=_verdicts(runs, table, lengths) if all(table.values()) else {"all schemes have runs": False},
        curves=tuple(
            Curve("", LABELS[name], tuple((length, one.mean, one.half_width) for length, one in row.items()))
            for name, row in table.items()
        ),
        axes=("tokens read at once", "perplexity of held-out books"),
        logarithmic="x",
    )


def _verdicts(
    runs: Sequence[Finished[ExtrapolationRun]], table: dict[str, dict[int, Estimate]], lengths: list[int]
) -> dict[str, bool | None]:
    trained, longest = lengths[0], lengths[-1]
    at = {name: {length: one.mean for length, one in row.items()} for name, row in table.items()}
    xpos = [one.figures for one in runs if one.run.positions == "xpos"]
    never_worse = all(
        (figures[f"xpos+bca perplexity {length}"] or math.inf) <= (figures[f"xpos+bca perplexity {trained}"] or 0.0)
        for figures in xpos
        for length in lengths
    )
    falling = all(at["xpos+bca"][a] > at["xpos+bca"][b] for a, b in pairwise(lengths))
    growth = {name: row[longest] / row[trained] for name, row in at.items()}
    return {
        f"at {trained} xPos is best": at["xpos"][trained]
        == min(row[trained] for name, row in at.items() if "+" not in name),
        "xPos + BCA is at no length worse than at its training length, for any seed": never_worse,
        "xPos + BCA falls with every doubling": falling,
        f"at {longest} xPos + BCA is best": at["xpos+bca"][longest] == min(row[longest] for row in at.values()),
        f"RoPE without BCA rises ({growth['rope']:.2f} times at {longest})": growth["rope"] > 1,
        f"RoPE with BCA stays flat or falls ({growth['rope+bca']:.2f} times)": growth["rope+bca"] <= 1.02,
        f"sinusoids rise most ({growth['sinusoidal']:.2f} times)": growth["sinusoidal"] == max(growth.values()),
        f"xPos without BCA rises less than RoPE ({growth['xpos']:.2f} times)": growth["xpos"] < growth["rope"],
        "ALiBi is worse with BCA": at["alibi+bca"][longest] > at["alibi"][longest],
    }
