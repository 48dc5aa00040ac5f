"""Markdown pages: words that look like markup stay words, pictures stay between them."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipelines.sources.markdown import read_markdown
from data_pipelines.targets.pages import to_markdown
from tests.data_pipelines.sources.piles import photo
from tests.data_pipelines.targets.readback import converted, plain, read_back
from text.document import Document, Image, Text

LOOKS_LIKE_MARKUP = [
    "# no heading",
    "no heading\n===",
    "no heading\n---",
    "---\nno: front matter\n---\n\nwords",
    "- no list\n+ no list\n* no list",
    "1. no list\n12) no list",
    "> no quote",
    "    no code\n\tno code",
    "``` no fence\n~~~ no fence",
    "a | b\n--|--\nc | d",
    "no table |\n:--\ncell",
    "*no* _no_ **emphasis** snake_case `no code`",
    "![no picture](a.jpg) [no link](a) [no reference]\n\n[no reference]: a",
    "<div>no HTML</div> <img src='a.jpg'> <!-- no comment -->\n\n<script>",
    "<https://example.org> no link",
    "&amp; &#65; &nbsp; AT&T &copy",
    "\\no escape \\* \\",
    "line\nbreaks  \n  with blanks around\nstay",
    "\ufeffmark\rreturn\u2028parts",
    "* * *\n\n_ _ _",
    "\\\n\\",
]


@pytest.mark.parametrize("words", LOOKS_LIKE_MARKUP)
def test_words_that_look_like_markup_stay_words(words: str) -> None:
    wanted = words.strip()
    assert "\n\n".join(map(str, read_markdown(to_markdown(wanted)).blocks)) == wanted


def test_plain_words_are_left_alone() -> None:
    words = 'A dog (brown, 3 years), "Rex": 50% faster - isn\'t it?\n\nYes! AT&T a/b = 1.5 > 1.'
    assert to_markdown(words) == words


def test_pages_come_back_in_reading_order(tmp_path: Path) -> None:
    first = Document((Text("\ufeff# One."), Image(photo(1)), Image(photo(2)), Text("Two.\n\nThree."), Image(photo(3))))
    documents = {"deep/first": first, "last": Document((Image(photo(4)),)), "words": Document((Text("a\nb"),))}
    report = converted(tmp_path, "pages", documents)
    read = read_back(tmp_path)
    wanted = [documents[key] for key in ("last", "words", "deep/first")]  # a folder's own files come first
    assert [plain(document) for document in read] == [list(one.segments) for one in wanted]
    assert report.noted == {}


def test_alternative_words_come_back(tmp_path: Path) -> None:
    alt = r"a [cat] \ `b` *c* &amp; ![d](e)"
    report = converted(tmp_path, "pages", {"k": Document((Image(photo(1), meta={"alt": alt}), Text("Words.")))})
    assert read_back(tmp_path)[0].images[0].meta == {"alt": alt}
    assert report.noted == {}


def test_pictures_lie_in_a_folder_beside_their_page(tmp_path: Path) -> None:
    converted(tmp_path, "pages", {"a/k": Document((Text("A *dog*."), Image(photo(1), meta={"alt": "dog"})))})
    folder = tmp_path / "out" / "set-0" / "a"
    assert (folder / "k.md").read_text() == "A \\*dog\\*.\n\n![dog](k.images/0.jpg)\n"
    assert (folder / "k.images" / "0.jpg").read_bytes() == photo(1)


def test_what_a_page_loses_is_noted(tmp_path: Path) -> None:
    documents = {
        "k": Document((Text(" One "), Text("Two", loss=False)), {"source": "web"}),
        "picture": Document((Image(photo(1), meta={"url": "https://example.org"}),)),
        "nul": Document((Text("a\0b"),)),
        "nothing": Document((Text(" \n"),)),
    }
    report = converted(tmp_path, "pages", documents)
    assert report.noted == {
        "lost: meta": 1,
        "lost: what is known of pictures": 1,
        "lost: which words are learnt": 1,
        "changed: white space around paragraphs": 1,
        "changed: texts side by side are one now": 1,
    }
    assert report.dropped == {
        "cannot hold: a NUL among the words": 1,
        "cannot hold: neither words nor pictures": 1,
    }
