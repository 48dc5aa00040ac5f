"""HTML to paragraphs and pictures in reading order, without menus, footers and scripts.

The order is that of the markup (selectolax); what is text and what is boilerplate is for trafilatura to judge. A
picture is kept inside the smallest element that holds all text that was kept. No recursion: pages nest without limit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_pipelines.sources.blocks import Block, NamedPicture, Page

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser, LexborNode

__all__ = ["html_blocks", "read_html"]

NEVER_TEXT = ["script", "style", "noscript", "template", "svg", "iframe", "object", "head"]
BOILERPLATE = (
    "nav, footer, aside, form, button, select, body > header, [hidden], [aria-hidden=true], "
    "[role=navigation], [role=banner], [role=contentinfo], [role=search]"
)
_INLINE_TAGS = """a abbr b bdi bdo big cite code data del dfn em font i ins kbd label mark picture q s samp small span
strike strong sub sup time tt u var wbr"""
INLINE = frozenset(_INLINE_TAGS.split())
LINE_BREAK, PREFORMATTED = "br", "pre"
MAX_DEPTH = 256  # ancestors looked at; deeper markup is taken for one block
SHORT = 24  # letters; a shorter paragraph has to be a whole line of the judged text, not a part of one


@dataclass(frozen=True)
class _Found:
    """A block and the elements around it, outermost first."""

    block: Block
    around: tuple[int, ...]


def read_html(text: str) -> Page:
    """The main part of a page.

    Raises: ValueError if the extra `data` is not installed.
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
    return LexborHTMLParser(text)


def _judged(text: str) -> str:
    """What trafilatura takes for the text of a page; "" if there is none."""
    import trafilatura

    return trafilatura.extract(text, include_comments=False, include_tables=True, favor_recall=True) or ""


def _main_part(found: Sequence[_Found], judged: str) -> tuple[list[Block], int]:
    """Blocks that belong to the text, and how many paragraphs do not."""
    whole, lines = _letters(judged), {_letters(line) for line in judged.splitlines()}

    def is_text(block: Block) -> bool:
        letters = _letters(block) if isinstance(block, str) else ""
        return bool(letters) and (letters in whole if len(letters) >= SHORT else letters in lines)

    texts = [one for one in found if is_text(one.block)]
    root = _common([one.around[:-1] for one in texts])
    chosen = {id(one) for one in texts}
    kept = [
        one.block
        for one in found
        if id(one) in chosen or (texts and isinstance(one.block, NamedPicture) and one.around[: len(root)] == root)
    ]
    return kept, sum(isinstance(one.block, str) for one in found) - len(texts)


def _walk(tree: LexborHTMLParser) -> list[_Found]:
    tree.strip_tags(NEVER_TEXT)
    for node in tree.css(BOILERPLATE):
        node.decompose()
    return list(_blocks(tree.body)) if tree.body is not None else []


def _blocks(body: LexborNode) -> Iterator[_Found]:
    words: list[str] = []
    around: tuple[int, ...] = ()
    for node in body.traverse(include_text=True):
        tag = node.tag
        if tag == "-text":
            here, preformatted = _around(node)
            if here != around and (text := _paragraph(words)):
                yield _Found(text, around)
            if here != around:
                words, around = [], here
            content = node.text_content or ""
            words.append(content if preformatted else " ".join(f".{content}.".split())[1:-1])
        elif tag == LINE_BREAK:
            words.append("\n")
        elif tag == "img":
            if text := _paragraph(words):
                yield _Found(text, around)
            words, (around, _) = [], _around(node)
            yield _Found(_picture(node), around)
    if text := _paragraph(words):
        yield _Found(text, around)


def _around(node: LexborNode) -> tuple[tuple[int, ...], bool]:
    """Block elements around a node, outermost first, and whether one of them keeps white space."""
    chain, preformatted, parent = [], False, node.parent
    for _ in range(MAX_DEPTH):
        if parent is None:
            break
        if parent.tag not in INLINE:
            chain.append(parent.mem_id)
            preformatted = preformatted or parent.tag == PREFORMATTED
        parent = parent.parent
    return tuple(reversed(chain)), preformatted


def _picture(node: LexborNode) -> NamedPicture:
    known = node.attributes
    address = known.get("src") or ""
    if not address or address.startswith("data:"):  # a place holder until a script loads the picture
        address = known.get("data-src") or address
    return NamedPicture(address.strip(), " ".join((known.get("alt") or "").split()))


def _paragraph(words: Sequence[str]) -> str:
    lines = "".join(words).split("\n")
    return "\n".join(line.rstrip() for line in lines).strip()


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
