"""A document longer than a model reads, cut into pieces that go on one after the other; nothing of it is lost.

Cuts fall where a segment begins, but not between a picture and the words after it. Only a text that is too long, with
the pictures before it, is cut between its tokens; a picture never is, and no phrase is torn from its places.
A piece after the first begins with `<s>` again, from which its first token is predicted.
"""

from __future__ import annotations

from kosmos.processor import Encoded

__all__ = ["LEAST", "cut", "pieces"]

LEAST = 32  # rows; a shorter head or rest teaches little


def pieces(encoded: Encoded, length: int) -> list[Encoded]:
    """Pieces of at most `length` rows, in order; the document itself if it is short enough.

    Raises: ValueError for a picture that takes more rows than a piece has.
    """
    if encoded.length <= length:
        return [encoded]
    found, start = [], 1  # row 0 is `<s>`, which every piece gets
    while start < encoded.length:
        stop = _stop(encoded, start, start + length - 1)
        found.append(_piece(encoded, start, stop))
        start = stop
    return found


def cut(encoded: Encoded, room: int) -> tuple[Encoded, Encoded] | None:
    """A head of at most `room` rows and the rest, so that a batch is filled.

    Words are cut anywhere; a document with pictures before one of them, as a picture keeps the words that follow it.
    Returns: None where head or rest would be short.
    """
    place = _before_phrase(encoded, room)
    if encoded.images:
        place = max((start - 1 for start in encoded.image_starts if start - 1 <= room), default=0)
    if place < LEAST or encoded.length - place < LEAST:
        return None
    return _piece(encoded, 1, place), _piece(encoded, place, encoded.length)


def _stop(encoded: Encoded, start: int, most: int) -> int:
    """Where a piece that begins at `start` ends, at row `most` at the latest."""
    if most >= encoded.length:
        return encoded.length
    size = encoded.num_latents + 2
    pictures = {first - 1: first - 1 + size for first in encoded.image_starts}
    behind = set(pictures.values())
    borders = [row for row in encoded.borders if start < row <= most and _before_phrase(encoded, row) == row]
    if apart := [row for row in borders if row not in behind]:
        return apart[-1]
    picture = next((first for first, end in pictures.items() if first < most <= end), None)
    if picture is None:  # among words
        place = _before_phrase(encoded, most)
        return place if place > start else most
    if picture > start:  # pictures on end
        return picture
    if pictures[picture] > most:
        raise ValueError(f"a picture takes {size} rows, more than the {most - start} of a piece")
    return most


def _before_phrase(encoded: Encoded, place: int) -> int:
    """A place to cut at, or where the phrase begins that a cut there would tear."""
    return next((first for first, end in encoded.phrases if first < place < end), place)


def _piece(encoded: Encoded, start: int, stop: int) -> Encoded:
    places = [place for place, first in enumerate(encoded.image_starts) if start < first < stop]
    return Encoded(
        ids=(encoded.ids[0], *encoded.ids[start:stop]),
        loss_weights=(0.0, *encoded.loss_weights[start:stop]),
        images=tuple(encoded.images[place] for place in places),
        image_starts=tuple(encoded.image_starts[place] - start + 1 for place in places),
        num_latents=encoded.num_latents,
        borders=tuple(border - start + 1 for border in encoded.borders if start <= border < stop),
        phrases=tuple((a - start + 1, b - start + 1) for a, b in encoded.phrases if start <= a and b <= stop),
        image_hashes=tuple(encoded.image_hashes[place] for place in places),
    )
