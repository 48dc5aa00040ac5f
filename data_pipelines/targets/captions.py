"""The captions of a picture, for formats that hold several; and text that must stay within its line."""

from __future__ import annotations

import re

from text.document import Document

__all__ = ["BROKEN_LINES", "captions_of", "on_one_line"]

BROKEN_LINES = "changed: line breaks and tabs are blanks now"
_BREAKS = re.compile(r"[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")
"""A tab, and all that `str.splitlines` parts lines at."""


def captions_of(document: Document, words: str) -> list[str]:
    """The words, then the other captions of its meta."""
    others = document.meta.get("captions")
    found = [one for one in others if isinstance(one, str)] if isinstance(others, (list, tuple)) else []
    if words in found:
        found.remove(words)
    return [words, *found]


def on_one_line(text: str) -> str:
    """Words without the breaks and tabs that lists of lines are parted by."""
    return _BREAKS.sub(" ", text).strip()
