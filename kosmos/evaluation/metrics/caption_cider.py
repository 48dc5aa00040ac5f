"""CIDEr-D of written captions: `ptb` cuts them into tokens, `cider` scores them; what training and reports use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from kosmos.evaluation.metrics.cider import CiderD
from kosmos.evaluation.metrics.ptb import ptb_tokens

__all__ = ["CaptionCiderD"]

END = "</s>"


@dataclass(frozen=True)
class CaptionCiderD:
    """CIDEr-D against the references of numbered pictures.

    Attributes:
        references: captions of each picture, as written.
        ends: count the end of a finished sentence as one more token. As a reward this is what keeps a model from
            stopping in the middle ("a dog in a"); the published metric, and every report, goes without.
    """

    references: Sequence[Sequence[str]]
    ends: bool = False

    @cached_property
    def _metric(self) -> CiderD:
        return CiderD([[self._tokens(caption) for caption in captions] for captions in self.references])

    def _tokens(self, caption: str) -> list[str]:
        finished = self.ends and caption.rstrip().endswith((".", "!", "?", '"'))
        return [*ptb_tokens(caption), *([END] if finished else [])]

    def score(self, candidate: str, picture: int) -> float:
        """The value of one caption of picture number `picture`, in 0..10."""
        return self._metric.score(self._tokens(candidate), picture)
