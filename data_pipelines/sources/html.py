"""HTML to paragraphs and pictures in reading order, without menus, footers and scripts.

The order is that of the markup (selectolax); what is text and what is boilerplate is for trafilatura to judge.
Pictures, their captions and headings are kept inside the smallest element that holds all text that was kept.
Strangers nest elements by the thousand, on which parsers spend minutes: such pages are refused unparsed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_pipelines.sources.blocks import Block, NamedPicture, Page

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser, LexborNode

__all__ = ["NestedTooDeep", "html_blocks", "read_html"]

NEVER_TEXT = ["script", "style", "noscript", "template", "svg", "iframe", "object", "head"]
BOILERPLATE = (
    "nav, footer, aside, form, button, select, body > header, [hidden], [aria-hidden=true], "
    "[role=navigation], [role=banner], [role=contentinfo], [role=search]"
)
_INLINE_TAGS = """a abbr b bdi bdo big cite code data del dfn em font i ins kbd label mark picture q s samp small span
strike strong sub sup td th time tt u var wbr"""
INLINE = frozenset(_INLINE_TAGS.split())
"""Elements that end no paragraph; a row of a table is one, its cells parted by tabs."""
TEXT, PICTURE, LINE_BREAK, PREFORMATTED, CELLS = "-text", "img", "br", "pre", ("td", "th")
HEADINGS = frozenset(("figcaption", "h1", "h2", "h3", "h4", "h5", "h6"))
"""Short and often left out by the judge, but they belong to what stands around them."""
MAX_NESTING = 512  # as browsers have it
_UNCLOSED = """area base br col dd dt embed hr img input li link meta option p param source tbody td tfoot th thead tr
track wbr"""
UNCLOSED = frozenset(_UNCLOSED.split())
"""Elements that people do not close, and parsers do."""
_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9]*)")
SHORT = 24  # letters; a shorter paragraph has to be whole lines of the judged text, not a part of one


@dataclass(frozen=True)
class _Found:
    """A block and the elements around it, outermost first."""

    block: Block
    around: tuple[int, ...]
    is_heading: bool = False


class NestedTooDeep(ValueError):
    """A page that is made to keep parsers busy."""


def read_html(text: str) -> Page:
    """The main part of a page.

    Raises: NestedTooDeep; ValueError if the extra `data` is not installed.
    """
    tree = _parse(text)
    title = tree.css_first("title")
    heading = " ".join(title.text().split()) if title is not None else ""
    return Page(heading, *_main_part(_walk(tree), _judged(text)))


def html_blocks(text: str) -> list[Block]:
    """All blocks of a piece of HTML that somebody already took for content."""
    return [found.block for found in _walk(_parse(text))]


def _parse(text: str) -> LexborHTMLParser:
    try:
        from selectolax.lexbor import LexborHTMLParser
    except ImportError:
        raise ValueError("reading HTML needs the extra `data`: pip install 'kosmos-mllm[data]'") from None
    if _nesting(text) > MAX_NESTING:
        raise NestedTooDeep(f"more than {MAX_NESTING} elements inside each other")
    return LexborHTMLParser(text)


def _nesting(text: str) -> int:
    """How many elements stand inside each other at most, as far as their tags say."""
    depth = deepest = 0
    for tag in _TAG.finditer(text):
        if tag[2].lower() not in UNCLOSED:
            depth = max(0, depth + (-1 if tag[1] else 1))
            deepest = max(deepest, depth)
    return deepest


def _judged(text: str) -> str:
    """What trafilatura takes for the text of a page; "" if there is none."""
    import trafilatura

    return trafilatura.extract(text, include_comments=False, include_tables=True, favor_recall=True) or ""


def _main_part(found: Sequence[_Found], judged: str) -> tuple[list[Block], int]:
    """Blocks that belong to the text, and how many do not."""
    whole, lines = _letters(judged), {_letters(line) for line in judged.splitlines()}
    texts = [one for one in found if isinstance(one.block, str) and _is_text(one.block, whole, lines)]
    root = _common([one.around[:-1] for one in texts])
    chosen = {id(one) for one in texts}

    def belongs(one: _Found) -> bool:
        follows = one.is_heading or isinstance(one.block, NamedPicture)
        return id(one) in chosen or (bool(texts) and follows and one.around[: len(root)] == root)

    kept = [one.block for one in found if belongs(one)]
    return kept, len(found) - len(kept)


def _is_text(paragraph: str, whole: str, lines: set[str]) -> bool:
    letters = _letters(paragraph)
    if len(letters) >= SHORT:
        return letters in whole
    return bool(letters) and all(_letters(line) in lines for line in paragraph.splitlines())


def _walk(tree: LexborHTMLParser) -> list[_Found]:
    tree.strip_tags(NEVER_TEXT)
    for node in tree.css(BOILERPLATE):
        node.decompose()
    return list(_blocks(tree.body)) if tree.body is not None else []


def _blocks(body: LexborNode) -> Iterator[_Found]:
    words: list[str] = []
    place = _Around()
    for node in body.traverse(include_text=True):
        tag = node.tag
        if tag in (TEXT, PICTURE) and (here := _around(node)) != place:
            yield from _paragraph(words, place)
            words, place = [], here
        if tag == TEXT:
            content = node.text_content or ""
            words.append(content if place.preformatted else _one_spaced(content))
        elif tag == PICTURE:
            yield from _paragraph(words, place)
            words = []
            yield _Found(_picture(node), place.elements)
        elif tag == LINE_BREAK:
            words.append("\n")
        elif tag in CELLS:
            words.append("\t")
    yield from _paragraph(words, place)


@dataclass(frozen=True)
class _Around:
    """Block elements around a node, outermost first, and what they say of it."""

    elements: tuple[int, ...] = ()
    preformatted: bool = False
    is_heading: bool = False


def _around(node: LexborNode) -> _Around:
    chain: list[int] = []
    tags: set[str] = set()
    parent = node.parent
    while parent is not None:
        if parent.tag not in INLINE:
            chain.append(parent.mem_id)
            tags.add(str(parent.tag))
        parent = parent.parent
    return _Around(tuple(reversed(chain)), PREFORMATTED in tags, not HEADINGS.isdisjoint(tags))


def _picture(node: LexborNode) -> NamedPicture:
    known = node.attributes
    address = known.get("src") or ""
    if not address or address.startswith("data:"):  # a place holder until a script loads the picture
        address = known.get("data-src") or address
    return NamedPicture(address.strip(), " ".join((known.get("alt") or "").split()))


def _one_spaced(text: str) -> str:
    """White space as browsers show it: one blank, kept at both ends, where it may part two words."""
    return " ".join(f".{text}.".split())[1:-1]


def _paragraph(words: Sequence[str], place: _Around) -> Iterator[_Found]:
    text = "\n".join(
        line.strip(" \t") if not place.preformatted else line.rstrip() for line in "".join(words).split("\n")
    )
    if text.strip():
        yield _Found(text.strip("\n"), place.elements, place.is_heading)


def _letters(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())


def _common(chains: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The longest beginning that all have."""
    shared = []
    for level in zip(*chains, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return tuple(shared)
