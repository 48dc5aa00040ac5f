"""The printed names of the special tokens, in the order of their ids.

Source: the Kosmos-2 release. Its paper prints `<p> <box> <loc_i> <delim>` for what the release calls
`<phrase> <object> <patch_index_iiii> </delimiter_of_multi_objects/>`.
Knows nothing of ids, SentencePiece or documents.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

__all__ = [
    "BEGIN",
    "CONTROLS",
    "DELIMITER",
    "END",
    "END_IMAGE",
    "END_OBJECT",
    "END_PHRASE",
    "GRID_SIDE",
    "GROUNDING",
    "IMAGE",
    "NUM_LOCATIONS",
    "OBJECT",
    "PADDING",
    "PHRASE",
    "TAG",
    "TAGS",
    "UNKNOWN",
    "SpecialTokens",
    "location_name",
]

SpecialTokens: TypeAlias = Literal["kosmos1", "kosmos2"]

BEGIN, PADDING, END, UNKNOWN = "<s>", "<pad>", "</s>", "<unk>"
IMAGE, END_IMAGE = "<image>", "</image>"
PHRASE, END_PHRASE, OBJECT, END_OBJECT = "<phrase>", "</phrase>", "<object>", "</object>"
DELIMITER = "</delimiter_of_multi_objects/>"
GROUNDING = "<grounding>"

GRID_SIDE = 32  # Kosmos-2 paper, section 2.2: locations of a 32 x 32 grid
NUM_LOCATIONS = GRID_SIDE**2


def location_name(index: int) -> str:
    """The name of a grid cell's token: row * 32 + column, four digits.

    Raises: ValueError outside 0..1023.
    """
    if not 0 <= index < NUM_LOCATIONS:
        raise ValueError(f"location {index} is outside the grid; give 0 to {NUM_LOCATIONS - 1}")
    return f"<patch_index_{index:04d}>"


CONTROLS = (BEGIN, PADDING, END, UNKNOWN)
"""Ids 0 to 3 of every vocabulary."""

_KOSMOS1 = ("<mask>", "</doc>", IMAGE, END_IMAGE, "</chunk>", "</line>")
_PLACES = (PHRASE, END_PHRASE, OBJECT, END_OBJECT, DELIMITER, GROUNDING)
TAGS: dict[SpecialTokens, tuple[str, ...]] = {
    "kosmos1": _KOSMOS1,
    "kosmos2": (*_KOSMOS1, *_PLACES, *(location_name(index) for index in range(NUM_LOCATIONS))),
}
"""Special tokens that follow the words, in order."""

_CELL = r"<patch_index_(?:0[0-9]{3}|10[01][0-9]|102[0-3])>"
TAG = re.compile("|".join([*(re.escape(name) for name in (*_KOSMOS1, *_PLACES)), _CELL]))
"""Any name of `TAGS`. The controls are no tags: as in the release, a typed `<s>` (which is HTML too) stays words."""
