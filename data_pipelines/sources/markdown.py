"""Markdown to paragraphs and pictures in reading order; its HTML too. A page's own markup is taken for content."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from data_pipelines.sources.blocks import Block, NamedPicture, Page
from data_pipelines.sources.html import html_blocks

if TYPE_CHECKING:
    from markdown_it.token import Token

__all__ = ["read_markdown"]

_FRONT_MATTER = re.compile(r"\A---\r?\n.*?\r?\n(?:---|\.\.\.)\r?\n", re.S)
_COMMENT = re.compile(r"<!--.*?-->", re.S)


def read_markdown(text: str) -> Page:
    """All of a page but its front matter.

    Raises: NestedTooDeep; ValueError if the extra `data` is not installed.
    """
    try:
        from markdown_it import MarkdownIt
    except ImportError:
        raise ValueError("reading Markdown needs the extra `data`: pip install 'kosmos-mllm[data]'") from None
    tokens = MarkdownIt("commonmark").enable("table").parse(_FRONT_MATTER.sub("", text))
    return Page(_title(tokens), list(_blocks_of(tokens)))


def _blocks_of(tokens: Sequence[Token]) -> Iterator[Block]:
    cells: list[Block] | None = None  # of the row of a table that is being read
    for token in tokens:
        if token.type == "tr_open":
            cells = []
        elif token.type == "tr_close":
            yield "\t".join(cell for cell in cells or () if isinstance(cell, str))
            yield from (cell for cell in cells or () if isinstance(cell, NamedPicture))
            cells = None
        elif token.type == "inline" and cells is not None:
            cells += _inline(token.children or ())
        elif token.type == "inline":
            yield from _inline(token.children or ())
        elif token.type in ("fence", "code_block") and token.content.strip():
            yield token.content.rstrip()
        elif token.type == "html_block":
            yield from html_blocks(_COMMENT.sub("", token.content))


def _inline(children: Sequence[Token]) -> Iterator[Block]:
    """A paragraph, parted by its pictures."""
    words: list[str] = []
    for child in children:
        pictures = _pictures(child)
        if pictures:
            if text := "".join(words).strip():
                yield text
            words = []
            yield from pictures
        elif child.type in ("softbreak", "hardbreak"):
            words.append("\n" if child.type == "hardbreak" else " ")
        elif child.type in ("text", "code_inline"):
            words.append(child.content)
    if text := "".join(words).strip():
        yield text


def _pictures(child: Token) -> list[NamedPicture]:
    if child.type == "image":
        # Its own content is the label as typed, escapes and all.
        alt = "".join("\n" if one.type == "softbreak" else one.content for one in child.children or ())
        return [NamedPicture(str(child.attrs.get("src", "")), alt)]
    if child.type == "html_inline" and child.content.lower().startswith("<img"):
        return [block for block in html_blocks(child.content) if isinstance(block, NamedPicture)]
    return []


def _title(tokens: Sequence[Token]) -> str:
    """The first heading."""
    for before, token in pairwise(tokens):
        if before.type == "heading_open":
            return token.content
    return ""
