"""Whatever a Python caller writes becomes a Document, and only the caller's own strings may hold tags."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from text.document import Control, Document, Image, Phrase, Text, document_of
from text.specials import TAGS

PICTURE = Pillow.new("RGB", (4, 4), "red")


def test_words_are_one_text() -> None:
    assert document_of("An image of").segments == (Text("An image of"),)
    assert document_of("").segments == ()


def test_a_list_keeps_its_order_and_its_strings_apart() -> None:
    segments = document_of([PICTURE, "A photo", "of", Path("dog.jpg"), b"\xff\xd8", Text("<s>")]).segments
    pictures = Image(PICTURE), Image(Path("dog.jpg")), Image(b"\xff\xd8")
    assert segments == (pictures[0], Text("A photo"), Text("of"), pictures[1], pictures[2], Text("<s>"))


def test_a_document_and_a_segment_are_taken_as_they_are() -> None:
    document = Document((Text("a"), Control("</s>")), {"id": 1})
    assert document_of(document) is document
    assert document_of(Control("<grounding>")).segments == (Control("<grounding>"),)
    assert document_of(PICTURE).images == (Image(PICTURE),)


def test_tags_in_a_plain_string_become_controls_and_swallow_the_space_before() -> None:
    prompt = "<grounding> Is <phrase> it </phrase><object><patch_index_0044><patch_index_1023></object>."
    assert document_of(prompt).segments == (
        Control("<grounding>"),
        Text(" Is"),
        Control("<phrase>"),
        Text(" it"),
        *map(Control, ("</phrase>", "<object>", "<patch_index_0044>", "<patch_index_1023>", "</object>")),
        Text("."),
    )


def test_every_tag_is_known() -> None:
    names = [name for name in TAGS["kosmos2"] if name not in ("<image>", "</image>")]
    assert len(names) == 1034
    assert document_of("".join(names)).segments == tuple(map(Control, names))


@pytest.mark.parametrize(
    "words", ["<s>", "</s>", "<pad>", "<unk>", "<patch_index_1024>", "<patch_index_44>", "<Grounding>", "1 < 2 > 0"]
)
def test_what_only_looks_like_a_tag_stays_words(words: str) -> None:
    assert document_of(words).segments == (Text(words),)


@pytest.mark.parametrize("tag", ["<image>", "</image>"])
def test_a_typed_picture_tag_is_refused_with_advice(tag: str) -> None:
    with pytest.raises(ValueError, match="put the picture itself there"):
        document_of(f"{tag} a dog")


@pytest.mark.parametrize("prompt", [5, {"image": "dog.jpg"}, ["a", None], [["a"]]])
def test_what_is_no_prompt_is_refused(prompt: object) -> None:
    with pytest.raises(TypeError, match="a prompt is text, a picture"):
        document_of(prompt)  # type: ignore[arg-type]


@given(st.text(), st.sampled_from(["<grounding>", "<image>", "</s>", "<patch_index_0001>"]))
def test_text_is_literal_whatever_is_typed(words: str, tag: str) -> None:
    assert document_of([Text(words + tag)]).segments == (Text(words + tag),)


@given(st.lists(st.sampled_from([" ", "a", "<grounding>", "<phrase>", "<", ">", "</line>", "é"])))
def test_no_word_of_a_plain_string_is_lost(parts: list[str]) -> None:
    segments = document_of("".join(parts)).segments
    words = [part.text if isinstance(part, Text) else part.name for part in segments if not isinstance(part, Image)]
    printed = "".join(words)
    assert printed.replace(" ", "") == "".join(parts).replace(" ", "")


@pytest.mark.parametrize("spans", [[(0, 0)], [(-1, 2)], [(0, 9)], [(0, 3), (2, 4)], [(3, 4), (0, 1)]])
def test_phrases_must_be_spans_of_their_text_in_order(spans: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="phrase span"):
        Text("dogs", phrases=tuple(Phrase(start=start, end=end, boxes=()) for start, end in spans))


def test_documents_need_neither_pillow_nor_torch_nor_sentencepiece() -> None:
    code = "import sys, text.document; assert not {'PIL', 'torch', 'sentencepiece'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
