"""Pages of HTML and Markdown are read in order, without menus, and nothing is taken from outside their folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data_pipelines.sources.piles import entries, found, photo, put, reason, said
from text.document import Document

LONG = "Cats are small animals that live with people, and have done so for a very long time."
LATE = "They sleep for most of the day, hunt in the evening, and come home late at night."
HTML = f"""<!doctype html><html><head><title> Cats </title><script>var hidden = 1;</script></head><body>
<header><img src="/logo.png"><nav><a href="/">Home</a> <a href="/more">More pages about us</a></nav></header>
<main><article><h1>Cats and their ways</h1><p>Cats are <b>small</b> animals that live with people,
and have done so for a very long time.</p>
<figure><img src="../pictures/a%20b.jpg" alt="A  cat"><figcaption>A red cat.</figcaption></figure>
<p>{LATE}</p><table><tr><td>Weight of a grown cat</td><td>about four kilograms</td></tr></table>
<img src="dog.jpg?size=1"></article></main>
<aside><img src="dog.jpg">Related: dogs and birds for sale.</aside>
<footer>Copyright by somebody, all rights reserved.</footer></body></html>"""
MARKDOWN = """---
secret: front matter
---
# Dogs

A *dog* ![blue](dog.jpg "title") runs
fast.

<p align="center"><img src="dog.jpg"></p>

- one `item`

| a | b |
|---|---|
| 1 | 2 |
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Two pages and three pictures."""
    put(tmp_path / "sub" / "cats.html", HTML)
    put(tmp_path / "sub" / "dogs.md", MARKDOWN)
    for shade, name in enumerate(("logo.png", "pictures/a b.jpg", "sub/dog.jpg")):
        put(tmp_path / name, photo(shade))
    return tmp_path


def test_html_keeps_its_order_and_loses_its_menus(site: Path) -> None:
    assert found(site) == "pages"
    cats = entries(site)[0]
    table = "Weight of a grown cat\tabout four kilograms"
    expected = [f"Cats and their ways\n\n{LONG}", photo(1), f"A red cat.\n\n{LATE}\n\n{table}", photo(2)]
    assert (cats.key, said(cats)) == ("sub/cats", expected)
    assert isinstance(cats.document, Document)
    assert cats.document.meta == {"source": "sub/cats.html", "title": "Cats"}
    assert cats.document.images[0].meta == {"alt": "A cat"}


def test_markdown_keeps_its_order_tables_and_html(site: Path) -> None:
    dogs = entries(site)[1]
    assert said(dogs) == ["Dogs\n\nA dog", photo(2), "runs fast.", photo(2), "one item\n\na\tb\n\n1\t2"]


def test_alternative_words_are_read_without_their_escapes(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", photo(1))
    put(tmp_path / "page.md", r"![a\_b \[c\]" + "\nand *d* &amp; `e`](a.jpg)")
    (page,) = entries(tmp_path)
    assert isinstance(page.document, Document)
    assert page.document.images[0].meta == {"alt": "a_b [c]\nand d & e"}


def test_pictures_of_elsewhere_and_outside_are_counted_and_never_taken(tmp_path: Path) -> None:
    put(tmp_path / "secret.jpg", photo(9))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "site" / "stolen.md").symlink_to(put(tmp_path / "secret.md", "# Secret"))
    sources = (
        "https://x.org/a.jpg",
        "//x.org/a.jpg",
        "data:image/png;base64,AAAA",
        "../secret.jpg",
        "%2e%2e/secret.jpg",
        "link.jpg",
        "/../secret.jpg",
        "file:///etc/passwd",
        "gone.jpg",
        "here.jpg",
        "http://[x",
    )
    put(tmp_path / "site" / "here.jpg", photo(1))
    put(tmp_path / "site" / "page.md", "\n\n".join(f'<img src="{source}">' for source in sources))
    (page,) = entries(tmp_path / "site")
    assert said(page) == [photo(1)]
    left = {kind: page.notes.count(kind) for kind in page.notes}
    assert left == {
        "left out: picture elsewhere": 5,
        "left out: picture outside its folder": 4,
        "left out: picture not found": 1,
    }


def test_a_page_in_another_charset_is_read_and_one_in_none_is_counted(tmp_path: Path) -> None:
    put(tmp_path / "a.html", f'<meta charset="iso-8859-1"><p>Über {LONG}</p>'.encode("latin-1"))
    put(tmp_path / "b.md", b"\xff\xfe broken")
    first, second = entries(tmp_path)
    assert said(first) == [f"Über {LONG}"]
    assert reason(second) == "text is not UTF-8"


@pytest.mark.parametrize("page", ["<div>" * 100_000 + LONG, "<b>" * 600 + LONG + "</b>" * 600])
def test_a_page_nested_to_keep_parsers_busy_is_refused(tmp_path: Path, page: str) -> None:
    put(tmp_path / "a.html", page)
    assert reason(entries(tmp_path)[0]) == "page nested too deeply"


def test_a_page_without_text_is_counted(tmp_path: Path) -> None:
    put(tmp_path / "a.html", "<html><body><nav>Home</nav></body></html>")
    assert reason(entries(tmp_path)[0]) == "no segments"


def test_a_page_whose_only_picture_is_elsewhere_stays(tmp_path: Path) -> None:
    put(tmp_path / "a.md", "# Words\n\n![badge](https://x.org/badge.svg)")
    (page,) = entries(tmp_path)
    assert (said(page), page.notes) == (["Words"], ("left out: picture elsewhere",))
