"""Which documents go, and for which original: the first in the order of shards and positions stays.

A document is compared with those that stay, so what goes always names an original that is still there. Documents with
many words are alike by their words, those with few by their pictures: a page is its text, a caption pair its picture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from data_pipelines.dedup.minhash import Match, TextIndex
from data_pipelines.dedup.perceptual import PictureHash, PictureIndex
from data_pipelines.dedup.signatures import Signatures

__all__ = ["Criterion", "Decision", "Limits", "Place", "decide"]

Criterion: TypeAlias = Literal["exact", "text", "pictures"]
_REASONS: Mapping[Criterion, str] = {
    "exact": "exact duplicate",
    "text": "near-duplicate text",
    "pictures": "near-duplicate pictures",
}


class Place(NamedTuple):
    """A document: number of its shard, and its own number in there."""

    shard: int
    document: int


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What counts as a duplicate.

    Attributes:
        by: criteria that are used.
        similarity: least Jaccard similarity of texts, 0..1.   distance: most bits between pictures, of 64.
    """

    by: tuple[Criterion, ...] = ("exact", "text", "pictures")
    similarity: float = 0.75
    distance: int = 10


class Decision(NamedTuple):
    """A document goes: for its own fault (no original), or for a document that stays.

    Attributes:
        score: similarity of texts (0..1) or bits between pictures; 0 for exact duplicates and faults.
    """

    place: Place
    reason: str
    original: Place | None = None
    score: float = 0.0


def decide(shards: Sequence[Signatures], limits: Limits) -> list[Decision]:
    """All documents that go, in order."""
    search = _Search(shards, limits)
    found = []
    for number, signatures in enumerate(shards):
        for document, reason in enumerate(signatures.reasons):
            decision = Decision(Place(number, document), reason) if reason else search.judge(Place(number, document))
            if decision is not None:
                found.append(decision)
    return found


class _Search:
    """The documents that stay so far, and how to find those like a next one. Documents are numbered over all shards."""

    def __init__(self, shards: Sequence[Signatures], limits: Limits) -> None:
        self._shards, self._by = shards, limits.by
        self._first = [0, *accumulate(len(signatures.keys) for signatures in shards)]
        texts = [signatures.texts + first for signatures, first in zip(shards, self._first, strict=False)]
        self._text_places = np.concatenate(texts)
        self._text_rows = {place: row for row, place in enumerate(self._text_places.tolist())}
        self._texts = TextIndex(np.concatenate([signatures.minhashes for signatures in shards]), limits.similarity)
        self._pictures = PictureIndex(limits.distance)
        self._hashes = _picture_table(shards, self._first)
        self._digests: dict[bytes, int] = {}
        self._searches = {"exact": self._exact, "text": self._text, "pictures": self._pictured}

    def judge(self, place: Place) -> Decision | None:
        """Whether a document goes; None: it stays, and later ones are compared with it."""
        number = self._first[place.shard] + place.document
        digest = self._shards[place.shard].digests[place.document].tobytes()
        for criterion in self._by:
            match = self._searches[criterion](number, digest)
            if match is not None:
                return Decision(place, _REASONS[criterion], self._place(match.document), match.score)
        self._keep(number, digest)
        return None

    def _exact(self, _number: int, digest: bytes) -> Match | None:
        original = self._digests.get(digest)
        return None if original is None else Match(original, 0.0)

    def _text(self, number: int, _digest: bytes) -> Match | None:
        row = self._text_rows.get(number)
        match = None if row is None else self._texts.original(row)
        return None if match is None else Match(int(self._text_places[match.document]), round(match.score, 4))

    def _pictured(self, number: int, _digest: bytes) -> Match | None:
        """The first document with as many pictures that holds something like every one of these."""
        pictures = self._hashes.get(number, [])
        found = [self._pictures.find(picture) for picture in pictures]
        shared = set.intersection(*map(set, found)) if found else set()
        original = min((one for one in shared if len(self._hashes[one]) == len(pictures)), default=None)
        return None if original is None else Match(original, max(one[original] for one in found))

    def _keep(self, number: int, digest: bytes) -> None:
        self._digests[digest] = number
        if (row := self._text_rows.get(number)) is not None:
            self._texts.keep(row)
        for picture in self._hashes.get(number, ()):
            self._pictures.add(number, picture)

    def _place(self, number: int) -> Place:
        shard = int(np.searchsorted(self._first, number, side="right")) - 1
        return Place(shard, number - self._first[shard])


def _picture_table(shards: Sequence[Signatures], first: Sequence[int]) -> dict[int, list[PictureHash]]:
    table: defaultdict[int, list[PictureHash]] = defaultdict(list)
    for signatures, start in zip(shards, first, strict=False):
        for document, (find, confirm) in zip(signatures.pictured.tolist(), signatures.pictures.tolist(), strict=True):
            table[start + document].append(PictureHash(find, confirm))
    return dict(table)
