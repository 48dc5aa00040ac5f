"""Long documents are cut at segments, pictures stay whole, and the pieces together are the document."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kosmos.pieces import LEAST, cut, pieces
from kosmos.processor import Encoded
from text.document import Image

LATENTS = 3
SEGMENTS = st.lists(st.one_of(st.integers(1, 30), st.just("picture")), min_size=1, max_size=12)


def _encoded(segments: list[int | str]) -> Encoded:
    """`<s>` (0), then texts of so many distinct ids and pictures (`-1 -2 -2 -2 -3`)."""
    ids, images, starts, borders = [0], [], [], []
    for segment in segments:
        borders.append(len(ids))
        if isinstance(segment, int):
            ids += range(100 + len(ids), 100 + len(ids) + segment)
        else:
            starts.append(len(ids) + 1)
            images.append(Image(f"{len(images)}.jpg"))
            ids += [-1, *[-2] * LATENTS, -3]
    return Encoded(
        ids=tuple(ids),
        loss_weights=(0.0, *[float(id > 0) for id in ids[1:]]),
        images=tuple(images),
        image_starts=tuple(starts),
        num_latents=LATENTS,
        borders=tuple(borders),
        image_hashes=(None,) * len(images),
    )


@given(segments=SEGMENTS, length=st.integers(LATENTS + 3, 40))
def test_pieces_are_the_document_and_none_is_too_long(segments: list[int | str], length: int) -> None:
    whole = _encoded(segments)
    found = pieces(whole, length)
    assert all(piece.length <= length for piece in found)
    assert [id for piece in found for id in piece.ids[1:]] == list(whole.ids[1:])
    assert [weight for piece in found for weight in piece.loss_weights[1:]] == list(whole.loss_weights[1:])
    assert [image for piece in found for image in piece.images] == list(whole.images)
    for piece in found:
        assert (piece.ids[0], piece.loss_weights[0]) == (0, 0.0)
        for start in piece.image_starts:
            assert piece.ids[start - 1 : start + LATENTS + 1] == (-1, *[-2] * LATENTS, -3)


@given(segments=st.lists(st.integers(1, 30), min_size=1, max_size=12), length=st.integers(31, 60))
def test_a_cut_falls_on_a_segment_where_segments_are_short_enough(segments: list[int | str], length: int) -> None:
    whole = _encoded(segments)
    assert set(_cuts(pieces(whole, length))) <= set(whole.borders)


@given(segments=SEGMENTS, length=st.integers(LATENTS + 4, 60))
def test_a_picture_keeps_the_beginning_of_the_words_after_it(segments: list[int | str], length: int) -> None:
    whole = _encoded(segments)
    between = {start + LATENTS + 1 for start in whole.image_starts} - {start - 1 for start in whole.image_starts}
    assert not between & set(_cuts(pieces(whole, length)))


@given(length=st.integers(6, 70), start=st.integers(10, 40), rows=st.integers(2, 30))
def test_a_phrase_is_not_torn_from_its_places(length: int, start: int, rows: int) -> None:
    whole = replace(_encoded([40, 60]), phrases=((start, start + rows),))
    if rows < length:
        assert not set(range(start + 1, start + rows)) & set(_cuts(pieces(whole, length)))
    found = cut(whole, length)
    assert found is None or not start < found[0].length < start + rows
    if found and found[0].length <= start:
        ((first, last),) = found[1].phrases
        assert found[1].ids[first:last] == whole.ids[start : start + rows]


def _cuts(found: list[Encoded]) -> list[int]:
    """Rows of the document at which pieces begin, but the first."""
    return list(accumulate((piece.length - 1 for piece in found[:-1]), initial=1))[1:]


def test_a_picture_that_fits_no_piece_is_refused() -> None:
    with pytest.raises(ValueError, match="a picture takes 5 rows"):
        pieces(_encoded([4, "picture", 4]), 5)


@given(length=st.integers(1, 200), room=st.integers(1, 200))
def test_words_are_cut_to_fill_a_room_and_lose_nothing(length: int, room: int) -> None:
    whole = _encoded([length])
    found = cut(whole, room)
    if found is None:
        assert room < LEAST or whole.length - room < LEAST
        return
    head, rest = found
    assert head.length == room
    assert (*head.ids, *rest.ids[1:]) == whole.ids
    assert (*head.loss_weights, *rest.loss_weights[1:]) == whole.loss_weights
    assert rest.loss_weights[0] == 0.0


def test_a_document_with_pictures_is_cut_before_one_of_them() -> None:
    whole = _encoded([40, "picture", 30, "picture", 60])
    found = cut(whole, 100)
    assert found is not None
    head, rest = found
    assert (head.images, rest.images) == (whole.images[:1], whole.images[1:])
    assert (*head.ids, *rest.ids[1:]) == whole.ids
    assert rest.ids[1] == -1


def test_a_picture_and_its_caption_stay_together() -> None:
    assert cut(_encoded(["picture", 100]), 80) is None
