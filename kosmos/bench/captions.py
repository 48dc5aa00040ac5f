"""How well a model captions photographs it never saw, and what quantising its weights costs; figures, not speed.

Held-out: the 1,000 validation photographs of Flickr8k with five references each, and chapters of four books that
training never sees. The model is opened once for each way its weights are stored, so all figures are of one run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kosmos.evaluation.captioning import caption_scores, held_out_loss
from kosmos.evaluation.held_out import Photograph, held_out_books, held_out_photographs
from kosmos.pretrained import Kosmos, load
from kosmos.transformer.kernels.quantized import QuantizeMode

__all__ = ["CAPTION_CASES", "CaptionBench", "CaptionFigure", "run_captions"]

TEXTS = 100
TEXT_WORDS = 120
BEAMS = {"greedy": 1, "beam5": 5}
CAPTION_CASES = ("loss", *BEAMS)


@dataclass(frozen=True, kw_only=True)
class CaptionBench:
    """What to measure: `pictures` limits the validation pictures (all where None); `weights` are ways to store them.

    `cases` are `loss` (of captions and of books), `greedy` and `beam5`.
    """

    model: str
    data: Path
    weights: Sequence[QuantizeMode | None]
    pictures: int | None = None
    cases: tuple[str, ...] = CAPTION_CASES


@dataclass(frozen=True, kw_only=True)
class CaptionFigure:
    """One figure; `peers` are what the same model reaches without the right picture, or with unquantised weights."""

    case: str
    unit: str
    ours: float
    peers: dict[str, float]

    def to_json(self) -> str:
        """One line."""
        ratio = {name: round(self.ours / value, 4) if value else None for name, value in self.peers.items()}
        return json.dumps({"bench": "captions", **asdict(self), "ratio": ratio})

    def to_row(self) -> str:
        """One line for people."""
        others = "  ".join(f"{name} {value:.4f}" for name, value in self.peers.items())
        return f"{self.case:24} {self.ours:8.4f} {self.unit:12} {others}"


def run_captions(bench: CaptionBench) -> Iterator[CaptionFigure]:
    """Figures as they are found, the first way of storing weights being the peer of the others."""
    items = held_out_photographs(bench.data)[: bench.pictures]
    texts = [" ".join(text.split()[:TEXT_WORDS]) for text in held_out_books(bench.data)[:TEXTS]]
    first: dict[str, float] = {}
    for weights in bench.weights:
        model = load(bench.model, quantize=weights)
        name = weights or "unquantised"
        for figure in _figures(model, items, texts, bench.cases):
            peers = figure.peers | ({"unquantised": first[figure.case]} if figure.case in first else {})
            yield CaptionFigure(case=f"{figure.case} {name}", unit=figure.unit, ours=figure.ours, peers=peers)
            first.setdefault(figure.case, figure.ours)


def _figures(
    model: Kosmos, items: Sequence[Photograph], texts: Sequence[str], cases: Sequence[str]
) -> Iterator[CaptionFigure]:
    pictures, references = [item.picture for item in items], [item.captions for item in items]
    if "loss" in cases:
        loss = held_out_loss(model, pictures, references, texts)
        yield CaptionFigure(case="loss-captions", unit="nats/token", ours=loss.captions, peers={})
        yield CaptionFigure(case="loss-text", unit="nats/token", ours=loss.text, peers={})
    for case, num_beams in BEAMS.items():
        if case in cases:
            found = caption_scores(model, pictures, references, num_beams=num_beams)
            peers = {"grey": found.grey, "other": found.other}
            yield CaptionFigure(case=case, unit="CIDEr-D", ours=found.picture, peers=peers)
