"""Places in words: boxes to pairs of grid cells and back, and the phrases that a text links to boxes.

Source: Kosmos-2 (arXiv 2306.14824, section 2.2) and its release: a picture is a grid of 32 x 32 cells, a box is the
cells of its upper-left and lower-right corner, and a text says `<phrase>words</phrase><object>cell cell</object>`,
several boxes parted by `</delimiter_of_multi_objects/>`.
Knows nothing of pictures or models. No torch here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from text.document import Box
from text.specials import (
    CONTROLS,
    DELIMITER,
    END_IMAGE,
    END_OBJECT,
    END_PHRASE,
    GRID_SIDE,
    NUM_LOCATIONS,
    OBJECT,
    PHRASE,
    TAG,
    location_name,
)
from text.tokenizer import StreamDecoder, Tokenizer

__all__ = [
    "Entity",
    "Grounded",
    "LocationPair",
    "box_of_pair",
    "entities_of",
    "pair_names",
    "pair_of_box",
    "phrase_rows",
    "post_process",
    "training_pair_of_box",
]

_LAST = 0.99999  # the released loader's largest lower-right coordinate, so that 1 falls into the last cell


class LocationPair(NamedTuple):
    """Two grid cells, each row * 32 + column: those of a box's upper-left and lower-right corner."""

    upper_left: int
    lower_right: int


class Entity(NamedTuple):
    """A phrase, its characters `text[start:end]` of the clean text, and its boxes (fractions of width and height)."""

    phrase: str
    span: tuple[int, int]
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Grounded:
    """Words without special tokens or outer white space, and the entities among them, in order."""

    text: str
    entities: tuple[Entity, ...]


def pair_of_box(box: Box) -> LocationPair:
    """The cells of a box in a prompt: a lower-right corner on a grid line belongs to the cell before it.

    Raises: ValueError for a box that is empty, turned round or outside 0..1.
    Source: transformers' Kosmos-2 processor, which lets coordinates above 1 pass and names cells that do not exist.
    """
    x0, y0, x1, y1 = _checked(box)
    return LocationPair(
        math.floor(y0 * GRID_SIDE) * GRID_SIDE + math.floor(x0 * GRID_SIDE),
        (math.ceil(y1 * GRID_SIDE) - 1) * GRID_SIDE + math.ceil(x1 * GRID_SIDE) - 1,
    )


def training_pair_of_box(box: Box) -> LocationPair:
    """The cells of a box in training data: a lower-right corner on a grid line belongs to the cell after it.

    Raises: ValueError for a box that is empty, turned round or outside 0..1.
    Source: the released Kosmos-2 loader; it differs from `pair_of_box` on grid lines only.
    """
    x0, y0, x1, y1 = (min(value, _LAST) for value in _checked(box))
    return LocationPair(
        math.floor(y0 * GRID_SIDE) * GRID_SIDE + math.floor(x0 * GRID_SIDE),
        math.floor(y1 * GRID_SIDE) * GRID_SIDE + math.floor(x1 * GRID_SIDE),
    )


def box_of_pair(pair: LocationPair) -> Box:
    """Where a pair of cells is: from centre to centre, or from edge to edge if both lie in one row or column.

    Raises: ValueError for a cell outside the grid.
    """
    for cell in pair:
        if not 0 <= cell < NUM_LOCATIONS:
            raise ValueError(f"location {cell} is outside the grid; give 0 to {NUM_LOCATIONS - 1}")
    (row0, column0), (row1, column1) = (divmod(cell, GRID_SIDE) for cell in pair)
    near, far = (0.0, 1.0) if row0 == row1 or column0 == column1 else (0.5, 0.5)
    return (
        (column0 + near) / GRID_SIDE,
        (row0 + near) / GRID_SIDE,
        (column1 + far) / GRID_SIDE,
        (row1 + far) / GRID_SIDE,
    )


def pair_names(pairs: Sequence[LocationPair]) -> list[str]:
    """The names of the special tokens that place a phrase: `<object>` cell cell ... `</object>`."""
    names = [OBJECT]
    for index, pair in enumerate(pairs):
        names += [DELIMITER] if index else []
        names += [location_name(cell) for cell in pair]
    return [*names, END_OBJECT]


def phrase_rows(ids: Sequence[int], tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """Where phrases stand in `ids`: the row of `<phrase>`, and the one after its places, or after it without places."""
    if not tokenizer.has_locations or (begin := tokenizer.id_of(PHRASE)) not in ids:
        return []
    end, place, end_place = (tokenizer.id_of(name) for name in (END_PHRASE, OBJECT, END_OBJECT))
    found, first = list[tuple[int, int]](), None
    for row, (id, following) in enumerate(zip(ids, (*ids[1:], None), strict=True)):
        if id == begin:
            first = row
        elif first is not None and (id == end_place or (id == end and following != place)):
            found.append((first, row + 1))
            first = None
    return found


def post_process(text: str) -> Grounded:
    """Clean words and entities of a generated text whose special tokens are printed by name.

    Only what follows the last `</image>` counts. A place without a phrase before it is named after its cells; a phrase
    without a place is words only. Equal to transformers' `post_process_generation` but for its faults: here a plain `<`
    or `>` stays, no span is negative, and cells outside the grid or pairs turned round give no box.
    """
    reader = _Reader()
    for mark in _marks_of_text(text.rpartition(END_IMAGE)[2]):
        reader.read(mark)
    return reader.grounded()


def entities_of(ids: Sequence[int], tokenizer: Tokenizer, *, after: Sequence[int] = ()) -> Grounded:
    """What `post_process` reads from the text of `ids`, read from the ids: a tag that was typed as words stays words.

    Args:
        after: ids that went before (the prompt). Their words are left out; a phrase they began or named is an entity if
            `ids` say where it is, and its span covers what `ids` hold of it, maybe nothing.
    Raises: ValueError for an id outside the vocabulary.
    """
    whole = [*after, *ids]
    begin = len(whole) - whole[::-1].index(tokenizer.end_image_id) if tokenizer.end_image_id in whole else 0
    reader = _Reader()
    answer_from = max(begin, len(after))
    stream = StreamDecoder(tokenizer)
    for mark in _marks_of_ids(whole[begin:answer_from], tokenizer, stream):
        reader.read(mark)
    reader.forget()
    for mark in _marks_of_ids(whole[answer_from:], tokenizer, stream):
        reader.read(mark)
    reader.read(_Mark(stream.finish(), False))
    return reader.grounded()


class _Mark(NamedTuple):
    """A stretch of words, or one special token by name."""

    text: str
    is_tag: bool


_CELL = re.compile(r"<patch_index_([0-9]{1,9})>")
# Wider than TAG: texts of other programs print cells outside the grid, or without leading zeros.
_PRINTED = re.compile("|".join([TAG.pattern, _CELL.pattern, *map(re.escape, CONTROLS)]))


def _marks_of_text(text: str) -> Iterator[_Mark]:
    start = 0
    for tag in _PRINTED.finditer(text):
        if tag.start() > start:
            yield _Mark(text[start : tag.start()], False)
        yield _Mark(tag[0], True)
        start = tag.end()
    if start < len(text):
        yield _Mark(text[start:], False)


def _marks_of_ids(ids: Sequence[int], tokenizer: Tokenizer, stream: StreamDecoder) -> Iterator[_Mark]:
    for id in ids:
        if words := stream.push(id):
            yield _Mark(words, False)
        if tokenizer.is_special(id):
            yield _Mark(tokenizer.name_of(id), True)


class _Reader:
    """Reads marks one by one; keeps the words so far and what may still become an entity."""

    def __init__(self) -> None:
        self.words = ""
        self.origin = 0  # words before it are not the answer's
        self.found: list[tuple[tuple[int, int], list[LocationPair]]] = []
        self.phrase_start: int | None = None  # of an open <phrase>
        self.phrase: tuple[int, int] | None = None  # closed, nothing since
        self.places: list[list[int]] | None = None  # cells of each box of an open <object>

    def forget(self) -> None:
        """What was read so far is only what went before."""
        self.origin, self.found = len(self.words), []

    def read(self, mark: _Mark) -> None:
        if mark.is_tag:
            if mark.text not in CONTROLS:  # they mean nothing here: a text reads the same with and without them
                self._read_tag(mark.text)
        elif mark.text:
            self.words += mark.text
            self.phrase = self.places = None

    def _read_tag(self, name: str) -> None:
        start, phrase, places = self.phrase_start, self.phrase, self.places
        self.phrase_start = self.phrase = self.places = None
        if name == PHRASE:
            self.phrase_start = len(self.words)
        elif name == END_PHRASE and start is not None:
            self.phrase = (start, len(self.words))
        elif name == OBJECT:
            self.phrase, self.places = phrase if places is None else None, [[]]
        elif places is not None and name == END_OBJECT:
            self._close(phrase, places)
        elif places is not None and name == DELIMITER:
            self.phrase, self.places = phrase, [*places, []]
        elif places is not None and (cell := _CELL.fullmatch(name)):
            places[-1].append(int(cell[1]))
            self.phrase, self.places = phrase, places

    def _close(self, phrase: tuple[int, int] | None, places: list[list[int]]) -> None:
        """Keep what `<object>` placed, if every box is a pair of cells."""
        if all(len(cells) == 2 for cells in places):
            pairs = [LocationPair(*cells) for cells in places]
            self.found.append((phrase or (len(self.words),) * 2, [pair for pair in pairs if _is_box(pair)]))

    def grounded(self) -> Grounded:
        """The words without outer white space, and the entities with their places in them."""
        answer = self.words[self.origin :]
        text = answer.strip()
        left = self.origin + len(answer) - len(answer.lstrip())
        entities: list[Entity] = []
        for (start, end), pairs in self.found:
            phrase = self.words[start:end].strip()
            start += len(self.words[start:end]) - len(self.words[start:end].lstrip())
            span = _within(start - left, len(text)), _within(start + len(phrase) - left, len(text))
            boxes = tuple(map(box_of_pair, pairs))
            if phrase and boxes:
                entities.append(Entity(phrase, span, boxes))
            elif not phrase:
                names = (f"<patch_index_{pair.upper_left}><patch_index_{pair.lower_right}>" for pair in pairs)
                entities += [Entity(name, (span[0], span[0]), (box,)) for name, box in zip(names, boxes, strict=True)]
        return Grounded(text, tuple(entities))


def _within(place: int, end: int) -> int:
    return min(max(place, 0), end)


def _is_box(pair: LocationPair) -> bool:
    """Whether both cells are of the grid and the second lies neither left of nor above the first."""
    if not all(0 <= cell < NUM_LOCATIONS for cell in pair):
        return False
    (row0, column0), (row1, column1) = (divmod(cell, GRID_SIDE) for cell in pair)
    return row0 <= row1 and column0 <= column1


def _checked(box: Box) -> Box:
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError(f"box {box} is no box: give 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1, fractions of the picture")
    return box
