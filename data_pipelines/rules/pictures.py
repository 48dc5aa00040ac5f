"""Rules about pictures alone. Those that fail are left out of their document, which stays.

A picture that cannot be decoded fails every rule that looks at it, `readable` first of all.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data_pipelines.glance import Header, encoded, read_header, reduced
from data_pipelines.rules.rule import Candidate, Verdict, keep_pictures
from text.document import Document, Image
from vision.image import Picture, open_image

__all__ = ["max_aspect", "max_pictures", "min_pictures", "min_side", "readable", "single_color"]


def readable(candidate: Candidate, _threshold: float) -> Verdict:
    """Leave out pictures that cannot be decoded whole."""
    return _keep(candidate, lambda data: reduced(data).size > 0)


def min_side(candidate: Candidate, threshold: float) -> Verdict:
    """Leave out pictures with a side of fewer pixels."""
    return _keep(candidate, lambda data: min(read_header(data)[:2]) >= threshold)


def max_aspect(candidate: Candidate, threshold: float) -> Verdict:
    """Leave out pictures whose longer side is more times the shorter one."""
    return _keep(candidate, lambda data: _aspect(read_header(data)) <= threshold)


def single_color(candidate: Candidate, threshold: float) -> Verdict:
    """Leave out pictures whose levels differ by no more, in every channel."""
    return _keep(candidate, lambda data: not _is_plain(data, threshold))


def min_pictures(candidate: Candidate, threshold: float) -> Verdict:
    """Drop documents with fewer."""
    return candidate.document if len(candidate.document.images) >= threshold else "too few pictures"


def max_pictures(candidate: Candidate, threshold: float) -> Verdict:
    """Leave out the pictures after the first so many."""
    kept = {id(image) for image in candidate.document.images[: int(threshold)]}
    return keep_pictures(candidate, lambda image: id(image) in kept)


def _keep(candidate: Candidate, keep: Callable[[bytes], bool]) -> Document:
    def passes(image: Image) -> bool:
        try:
            return keep(encoded(image))
        except ValueError:
            return False

    return keep_pictures(candidate, passes)


def _aspect(header: Header) -> float:
    return max(header.width, header.height) / min(header.width, header.height)


def _is_plain(data: bytes, threshold: float) -> bool:
    # Reduced pictures decide nearly always; the mean of a fine pattern is plain too, so the whole picture has to agree.
    return _spread(reduced(data)) <= threshold and _spread(open_image(data)) <= threshold


def _spread(colors: Picture) -> int:
    levels = colors.reshape(-1, 3)
    return int(np.max(np.ptp(levels, axis=0)))
