"""What a page is made of once its markup is gone: paragraphs of words and named pictures, in reading order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Block", "NamedPicture", "Page"]


@dataclass(frozen=True)
class NamedPicture:
    """A picture as a page names it: address and alternative words."""

    address: str
    alt: str = ""


Block: TypeAlias = str | NamedPicture


@dataclass(frozen=True)
class Page:
    """A page without its markup.

    Attributes:
        dropped: paragraphs and pictures that belonged to menus, footers and the like.
    """

    title: str
    blocks: Sequence[Block]
    dropped: int = 0
