"""CIDEr-D: how well a caption's n-grams agree with those of its references, rare ones counting more.

Source: CIDEr paper (arXiv 1411.5726), section 5, with the constants of the COCO caption evaluation (n = 4, sigma = 6,
times 10, document frequencies from the references). Knows nothing of tokenising: captions come as token lists.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["CiderD", "corpus_cider_d"]

MAX_N = 4
SIGMA = 6.0  # tokens; width of the Gaussian on the difference in length
SCALE = 10.0

NGram = tuple[str, ...]
Tokens = Sequence[str]


def _ngrams(tokens: Tokens) -> Counter[NGram]:
    return Counter(tuple(tokens[at : at + n]) for n in range(1, MAX_N + 1) for at in range(len(tokens) - n + 1))


@dataclass(frozen=True)
class _Weighted:
    """TF-IDF of a caption: its n-grams of each order n and their norm; `length` counts bigrams, as the source does."""

    weights: tuple[dict[NGram, float], ...]
    norms: tuple[float, ...]
    length: int


class CiderD:
    """CIDEr-D; document frequencies come from these references (one document: all references of a picture)."""

    def __init__(self, references: Sequence[Sequence[Tokens]]) -> None:
        """Raises: ValueError if there are no pictures, or one without references."""
        if not references or not all(references):
            raise ValueError("CIDEr-D needs at least one picture and one reference for each; check the references")
        self.frequencies: Counter[NGram] = Counter()
        for captions in references:
            self.frequencies.update({ngram for caption in captions for ngram in _ngrams(caption)})
        self.log_documents = math.log(float(len(references)))
        self.references = [[self._weighted(caption) for caption in captions] for captions in references]

    def _weighted(self, tokens: Tokens) -> _Weighted:
        weights: tuple[dict[NGram, float], ...] = tuple({} for _ in range(MAX_N))
        for ngram, count in _ngrams(tokens).items():
            rarity = self.log_documents - math.log(max(1.0, self.frequencies[ngram]))
            weights[len(ngram) - 1][ngram] = count * rarity
        norms = tuple(math.sqrt(sum(weight * weight for weight in part.values())) for part in weights)
        return _Weighted(weights, norms, max(0, len(tokens) - 1))

    def score(self, candidate: Tokens, picture: int) -> float:
        """CIDEr-D of one caption against the references of picture number `picture`, in 0..10."""
        own, others = self._weighted(candidate), self.references[picture]
        return SCALE * sum(_similarity(own, other) for other in others) / len(others)


def _similarity(own: _Weighted, other: _Weighted) -> float:
    """Clipped cosine, mean over the orders n, damped by the difference in length."""
    total = 0.0
    for n in range(MAX_N):
        norm = own.norms[n] * other.norms[n]
        if norm:
            there = other.weights[n]
            shared = sum(
                min(weight, there[ngram]) * there[ngram] for ngram, weight in own.weights[n].items() if ngram in there
            )
            total += shared / norm
    delta = float(own.length - other.length)
    return total / MAX_N * math.exp(-(delta**2) / (2 * SIGMA**2))


def corpus_cider_d(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> tuple[float, list[float]]:
    """The corpus value (mean) and the value of each candidate; document frequencies from these references.

    Raises: ValueError if the two lists differ in length.
    """
    if len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} candidates for {len(references)} lists of references; give one each")
    metric = CiderD(references)
    scores = [metric.score(candidate, picture) for picture, candidate in enumerate(candidates)]
    return sum(scores) / len(scores), scores
