"""Near-duplicate text: MinHash over runs of five words, candidates by bands (LSH), each held against its signature.

Runs of five words and a similarity of 0.75 are FineWeb's (Penedo et al. 2024, 3.4); MinHash is Broder 1997, computed by
`rensa` from a fixed seed. Writing without spaces between words counts as few words and is left to exact duplicates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["NUM_HASHES", "Match", "Signature", "TextIndex", "rows_of_band", "text_signature"]

NUM_HASHES = 128
SHINGLE_WORDS = 5
SEED = 2302
RECALL = 0.99

Signature = NDArray[np.uint32]
"""NUM_HASHES minima."""


class Match(NamedTuple):
    """The number of a document kept before, and how similar (0..1) or distant (bits) it is."""

    document: int
    score: float


def text_signature(words: Sequence[str]) -> Signature:
    """MinHash of normalised words; equal words give equal signatures on any machine.

    Raises: ValueError without the extra `data`.
    """
    try:
        from rensa import RMinHash
    except ImportError:
        raise ValueError("near-duplicate text needs the extra `data`: pip install 'kosmos-mllm[data]'") from None
    sketch = RMinHash(num_perm=NUM_HASHES, seed=SEED)
    last = max(1, len(words) - SHINGLE_WORDS + 1)
    sketch.update([" ".join(words[start : start + SHINGLE_WORDS]) for start in range(last)])
    return np.array(sketch.digest(), dtype=np.uint32)


def rows_of_band(similarity: float) -> int:
    """The longest bands that still find 99 % of the pairs of exactly this similarity."""
    for rows in (16, 8, 4, 2):
        if 1 - (1 - similarity**rows) ** (NUM_HASHES // rows) >= RECALL:
            return rows
    return 1


class TextIndex:
    """Signatures of all documents at once; asked and told in order which of them are kept.

    Memory: beside the signatures, four bytes for each document and band; only documents that share a band with
    another one are ever looked at.
    """

    def __init__(self, signatures: NDArray[np.uint32], similarity: float) -> None:
        """
        Args:
            signatures: [documents, NUM_HASHES].
            similarity: least share of words in common (Jaccard over runs of five words) of near-duplicates.
        """
        self._signatures, self._similarity = signatures, similarity
        rows = rows_of_band(similarity)
        starts = range(0, NUM_HASHES, rows)
        self._groups = np.stack([_groups(signatures[:, start : start + rows]) for start in starts], axis=1)
        self._kept: list[defaultdict[int, list[int]]] = [defaultdict(list) for _ in starts]

    def original(self, document: int) -> Match | None:
        """The most similar document kept so far, the first of several, if any is similar enough."""
        groups = self._groups[document].tolist()
        bands = zip(self._kept, groups, strict=True)
        candidates = sorted({one for kept, group in bands if group >= 0 for one in kept.get(group, ())})
        if not candidates:
            return None
        shares = (self._signatures[candidates] == self._signatures[document]).mean(axis=1)
        best = int(np.argmax(shares))
        return Match(candidates[best], float(shares[best])) if shares[best] >= self._similarity else None

    def keep(self, document: int) -> None:
        """This one stays; later ones may be its duplicates."""
        for kept, group in zip(self._kept, self._groups[document].tolist(), strict=True):
            if group >= 0:
                kept[group].append(document)


def _groups(band: NDArray[np.uint32]) -> NDArray[np.int32]:
    """A number for each row: equal rows have the same, a row like no other has -1."""
    rows = np.ascontiguousarray(band).view(np.dtype((np.void, band.shape[1] * 4)))[:, 0]
    _, numbers, counts = np.unique(rows, return_inverse=True, return_counts=True)
    return np.where(counts[numbers] > 1, numbers, -1).astype(np.int32)
