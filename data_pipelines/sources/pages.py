"""A folder of HTML or Markdown pages with their pictures: each page is a document in reading order.

A picture is looked up from the page, inside the folder; one that is elsewhere or leads out is left out and counted,
never fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from data_pipelines.errors import DocumentError
from data_pipelines.sources.blocks import Page
from data_pipelines.sources.draft import Draft
from data_pipelines.sources.glimpse import Glimpse, ending
from data_pipelines.sources.html import NestedTooDeep, read_html
from data_pipelines.sources.keys import unique_keys
from data_pipelines.sources.markdown import read_markdown
from data_pipelines.sources.pictures import Pictures
from data_pipelines.sources.source import Entry, Opened, Options

__all__ = ["Pages"]

HTML, MARKDOWN = ("html", "htm", "xhtml"), ("md", "markdown")
MAX_PAGE_BYTES = 16 * 2**20
_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?([A-Za-z0-9_:.-]{1,40})", re.I)


class Pages:
    """HTML loses its menus and footers; Markdown is all content."""

    def matches(self, first: Glimpse) -> bool:
        """See Source."""
        return bool(first.having(*HTML, *MARKDOWN)) and not first.record and not first.parts

    def open(self, first: Glimpse, options: Options) -> Opened:
        """See Source."""
        pages = [(path, _root(path, first)) for path in first.having(*HTML, *MARKDOWN)]
        names = [path.relative_to(root).with_suffix("").as_posix() for path, root in pages]
        return _Pages(tuple(pages), tuple(unique_keys(names)), options.images)


@dataclass(frozen=True)
class _Pages:
    """Pages, each with the folder it may not leave."""

    pages: tuple[tuple[Path, Path], ...]
    keys: tuple[str, ...]
    images: Path | None

    def __len__(self) -> int:
        return len(self.pages)

    def read(self, start: int, stop: int) -> Iterator[Entry]:
        """See Opened."""
        for key, (path, root) in zip(self.keys[start:stop], self.pages[start:stop], strict=True):
            try:
                yield _entry(key, path, root, Pictures((self.images or root,)))
            except DocumentError as error:
                yield Entry(key, error)


def _root(path: Path, first: Glimpse) -> Path:
    return next((root for root in first.paths if root.is_dir() and path.is_relative_to(root)), path.parent)


def _entry(key: str, path: Path, root: Path, pictures: Pictures) -> Entry:
    text = _decoded(key, path)
    try:
        page = read_html(text) if ending(path) in HTML else read_markdown(text)
    except NestedTooDeep as error:
        raise DocumentError(key, "page nested too deeply", str(error)) from None
    inside = path.relative_to(root)
    draft = Draft(key, pictures, needs_pictures=False)
    _fill(draft, page, PurePosixPath(inside.parent.as_posix()))
    for _ in range(page.dropped):
        draft.note("left out: boilerplate")
    return draft.entry({"source": inside.as_posix(), **({"title": page.title} if page.title else {})})


def _fill(draft: Draft, page: Page, folder: PurePosixPath) -> None:
    words: list[str] = []
    for block in page.blocks:
        if isinstance(block, str):
            words.append(block)
            continue
        draft.words("\n\n".join(words))
        words = []
        draft.picture(_place(block.address, folder), {"alt": block.alt} if block.alt else {})
    draft.words("\n\n".join(words))


def _place(address: str, folder: PurePosixPath) -> str:
    """A picture's name below the root; addresses of elsewhere stay what they are."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return address
    if parts.scheme or parts.netloc:
        return address
    return parts.path.lstrip("/") if parts.path.startswith("/") else (folder / parts.path).as_posix()


def _decoded(key: str, path: Path) -> str:
    with open(path, "rb") as file:
        data = file.read(MAX_PAGE_BYTES + 1)
    if len(data) > MAX_PAGE_BYTES:
        raise DocumentError(key, "page too large", f"over {MAX_PAGE_BYTES} bytes")
    stated = _CHARSET.search(data[:4_096])
    for name in ("utf-8-sig", stated[1].decode() if stated else "utf-8"):
        try:
            return data.decode(name)
        except (UnicodeDecodeError, LookupError):
            continue
    raise DocumentError(key, "text is not UTF-8", "and no other charset is stated that fits")
