"""Kosmos-1's rules for pages with pictures that concern the page as a whole.

Source: Kosmos-1 paper (arXiv 2302.14045v2), section 3.1 and appendix B.1.3.
"""

from __future__ import annotations

from itertools import pairwise

from blake3 import blake3

from data_pipelines.rules.rule import Candidate, Verdict
from text.document import Image, Text

__all__ = ["interspersed", "one_picture"]


def interspersed(candidate: Candidate, threshold: float) -> Verdict:
    """Drop pages whose pictures and words touch at fewer places: words, picture, words touch at two."""
    kinds = [isinstance(segment, Image) for segment in candidate.document.segments if _shows(segment)]
    borders = sum(before != after for before, after in pairwise(kinds))
    return candidate.document if borders >= threshold else "pictures are not interspersed in the text"


def one_picture(candidate: Candidate, threshold: float) -> Verdict:
    """Drop this share of the documents with exactly one picture; which ones, their keys decide."""
    if len(candidate.document.images) != 1:
        return candidate.document
    draw = int.from_bytes(blake3(candidate.key.encode()).digest()[:8], "big") / 2**64
    return "one picture, and drawn to be dropped" if draw < threshold else candidate.document


def _shows(segment: object) -> bool:
    return isinstance(segment, Image) or (isinstance(segment, Text) and bool(segment.text.strip()))
