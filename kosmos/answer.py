"""What comes back: the finished `Generation`, and the watch that ends it at a stop string.

Knows the tokenizer, not the model.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kosmos.grounding import Entity
from kosmos.processor import Encoded, Processor
from text.tokenizer import StreamDecoder, Tokenizer

__all__ = ["FinishReason", "Generation", "StopWatch", "finish", "text_of"]

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One answer.

    Attributes:
        text: the words, without special tokens, location tokens or the stop string.
        ids: every generated token, the end token included.
        logprobs: natural log-probability of each of `ids` under the model itself, before any sampling option.
        alternatives: for each token the most probable ones, if `logprobs` were asked for.
        boxes: phrases of `text` with their places, for a grounding model.
        finish_reason: `stop` (end token or stop string) or `length`.
    """

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    boxes: tuple[Entity, ...]
    finish_reason: FinishReason
    alternatives: tuple[tuple[tuple[int, float], ...], ...] = ()

    @property
    def total_logprob(self) -> float:
        """Sum of `logprobs`."""
        return sum(self.logprobs)


class StopWatch:
    """Text as it grows, held back while it may still turn out to be a stop string or outer white space."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._decoder = StreamDecoder(tokenizer)
        self._stop = tuple(stop)
        self._shown = 0
        self._ends: list[int] = []  # of each token, in `text` as it stood when the token came
        self._told_to = 0  # in `text`, where `_shown` counts without the outer white space
        self._closed = False
        self.text = ""

    @property
    def num_told(self) -> int:
        """How many of the first tokens have had all their text taken."""
        return bisect_right(self._ends, self._told_to)

    def push(self, token: int) -> bool:
        """Take one token; True if a stop string is now complete (it is cut off `text`)."""
        self.text += self._decoder.push(token)
        self._ends.append(len(self.text))
        return self._cut()

    def close(self) -> None:
        """Nothing more will come: show what was held back."""
        if not self._closed:
            self.text += self._decoder.finish()
            self._cut()
            self._closed = True

    def take(self) -> str:
        """Words that are safe to show and were not taken before."""
        held = 0 if self._closed else max((_overlap(self.text, stop) for stop in self._stop), default=0)
        certain = self.text[: len(self.text) - held].rstrip()
        visible = certain.lstrip()
        self._told_to = len(certain)
        fresh = visible[self._shown :]
        self._shown = len(visible)
        return fresh

    def _cut(self) -> bool:
        places = [place for place in (self.text.find(stop) for stop in self._stop) if place >= 0]
        if places:
            self.text = self.text[: min(places)]
            self._closed = True
        return bool(places)


def _overlap(text: str, stop: str) -> int:
    """Longest beginning of `stop` that `text` ends with."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)


def text_of(processor: Processor, ids: Sequence[int], stop: Sequence[str]) -> str:
    """The words of `ids` up to the first stop string."""
    text = processor.decode(ids)
    places = [place for place in (text.find(string) for string in stop) if place >= 0]
    return text[: min(places)] if places else text


def finish(
    processor: Processor,
    prompt: Encoded,
    *,
    ids: Sequence[int],
    logprobs: Sequence[float],
    text: str,
    reason: FinishReason,
    alternatives: Sequence[tuple[tuple[int, float], ...]] = (),
) -> Generation:
    """Put an answer together; a model with location tokens also gives its boxes, those of words that a stop string
    cut off excepted."""
    text = text.strip()
    grounded = processor.ground(prompt, ids)
    return Generation(
        text=text,
        ids=tuple(ids),
        logprobs=tuple(logprobs),
        boxes=() if grounded is None else tuple(e for e in grounded.entities if e.span[1] <= len(text)),
        finish_reason=reason,
        alternatives=tuple(alternatives),
    )
