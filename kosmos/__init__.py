"""Kosmos reads text and pictures in any order and continues in words.

`kosmos.load("tiny")` gives a `Kosmos` to generate, stream, score and embed with. Names resolve on first use (PEP 562),
so `import kosmos` costs nothing and imports no torch. For users only: no module of the house imports this root.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kosmos.answer import Generation
    from kosmos.pretrained import Kosmos, load
    from kosmos.score import Score
    from text.document import Document

__all__ = ["Document", "Generation", "Kosmos", "Score", "__version__", "load"]

__version__ = "0.1.0"

_HOMES = {
    "Document": "text.document",
    "Generation": "kosmos.answer",
    "Kosmos": "kosmos.pretrained",
    "Score": "kosmos.score",
    "load": "kosmos.pretrained",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'kosmos' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # the next use is a plain attribute
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
