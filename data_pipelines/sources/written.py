"""Captions as people write them. Released ones are spaced as in the Penn Treebank ("A dog runs .")."""

from __future__ import annotations

import re

__all__ = ["written"]

_CONTRACTION = re.compile(r" (n't|'s|'re|'ve|'ll|'d|'m)\b")
_BEFORE = re.compile(r"\s+([.,;:!?%)\]}]|'')")
_AFTER = re.compile(r"([(\[{$]|``)\s+")
_QUOTED = re.compile(r'" ([^"]*?) "')


def written(caption: str) -> str:
    """A caption as people write it: first letter large, no blank before punctuation, a full stop at the end."""
    text = " ".join(caption.split())
    text = _QUOTED.sub(r'"\1"', text)
    text = _CONTRACTION.sub(r"\1", text)
    text = _AFTER.sub(r"\1", _BEFORE.sub(r"\1", text))
    text = text.replace("``", '"').replace("''", '"').replace(" - ", "-").strip()
    if not text:
        return text
    text = text[0].upper() + text[1:]
    return text if text[-1] in '.!?"' else text.rstrip(",;:-") + "."
