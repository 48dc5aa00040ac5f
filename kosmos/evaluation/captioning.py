"""What a model says of photographs it never saw, scored: with the picture, with a grey one, with another picture.

A model that looks scores far higher with the right picture; what remains with a grey one is knowledge of the captions'
habits. Knows nothing of files; pictures come encoded, references as written.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image as Pictures

from kosmos.evaluation.metrics.caption_cider import CaptionCiderD
from kosmos.pretrained import Kosmos
from text.document import Document, Image, Prompt, Text

__all__ = ["CaptionScores", "HeldOutLoss", "caption_scores", "held_out_loss"]

LONGEST_CAPTION = 32  # tokens
GREY = (128, 128, 128)
SIDE = 224


@dataclass(frozen=True, kw_only=True)
class CaptionScores:
    """CIDEr-D of one way to decode.

    Attributes:
        picture: captions of the right pictures.
        grey: the caption of a uniformly grey picture, held against every picture's references.
        other: the caption of another picture (half the set further on).
        captions: what was said of the right pictures.
    """

    num_beams: int
    picture: float
    grey: float
    other: float
    captions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class HeldOutLoss:
    """Nats a token of words the model was not trained on."""

    captions: float
    text: float


def caption_scores(
    model: Kosmos, pictures: Sequence[bytes], references: Sequence[Sequence[str]], *, num_beams: int
) -> CaptionScores:
    """Caption every picture and hold the captions against the references.

    Raises: ValueError unless there are references for each picture.
    """
    if not pictures or len(pictures) != len(references):
        raise ValueError(f"{len(pictures)} pictures, references for {len(references)}; give some, one list each")
    metric = CaptionCiderD(references)
    captions = _captions(model, pictures, num_beams)
    (grey,) = _captions(model, [_grey()], num_beams)
    half = len(pictures) // 2
    return CaptionScores(
        num_beams=num_beams,
        picture=_mean(metric, captions),
        grey=_mean(metric, [grey] * len(pictures)),
        other=_mean(metric, [*captions[half:], *captions[:half]]),
        captions=tuple(captions),
    )


def held_out_loss(
    model: Kosmos, pictures: Sequence[bytes], references: Sequence[Sequence[str]], texts: Sequence[str]
) -> HeldOutLoss:
    """Loss of each picture's first reference after its picture, and of the second half of each text after its first."""
    halves = [_halves(text) for text in texts]
    return HeldOutLoss(
        captions=_loss(model, [Image(picture) for picture in pictures], [captions[0] for captions in references]),
        text=_loss(model, [Text(first) for first, _ in halves], [second for _, second in halves]),
    )


def _captions(model: Kosmos, pictures: Sequence[bytes], num_beams: int) -> list[str]:
    prompts: list[Prompt] = [Image(picture) for picture in pictures]
    found = model.generate(prompts, max_new_tokens=LONGEST_CAPTION, num_beams=num_beams)
    return [generation.text for generation in found]


def _mean(metric: CaptionCiderD, captions: Sequence[str]) -> float:
    return sum(metric.score(caption, picture) for picture, caption in enumerate(captions)) / len(captions)


def _loss(model: Kosmos, prompts: Sequence[Image | Text], continuations: Sequence[str]) -> float:
    scores = model.score([Document((prompt,)) for prompt in prompts], continuations)
    return -sum(score.total for score in scores) / sum(len(score.ids) for score in scores)


def _halves(text: str) -> tuple[str, str]:
    words = text.split()
    middle = max(1, len(words) // 2)
    return " ".join(words[:middle]), " ".join(words[middle:])


def _grey() -> bytes:
    written = io.BytesIO()
    Pictures.new("RGB", (SIDE, SIDE), GREY).save(written, "PNG")
    return written.getvalue()
