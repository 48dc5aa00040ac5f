"""A chat becomes one Document: order, literal words, template safety."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kosmos.chat import Turn, document_of_chat
from text.document import Control, Image, Text

PICTURE, OTHER = Image(b"one"), Image(b"two")


def user(*content: Text | Image) -> Turn:
    return Turn(role="user", content=content)


def assistant(words: str) -> Turn:
    return Turn(role="assistant", content=(Text(words),))


def test_picture_then_words_stay_in_order() -> None:
    document = document_of_chat([user(PICTURE, Text("A photo of"))])
    assert document.segments == (PICTURE, Text("A photo of", loss=False))


def test_a_picture_alone_is_a_prompt() -> None:
    assert document_of_chat([user(PICTURE, Text("  "))]).segments == (PICTURE,)


def test_turns_are_joined_without_role_words() -> None:
    turns = [user(PICTURE, Text("A photo of ")), assistant(" a dog"), user(Text("It is")), user(OTHER, Text("and"))]
    document = document_of_chat(turns)
    assert document.segments == (PICTURE, Text("A photo of a dog\nIt is", False), OTHER, Text("and", False))


def test_grounding_is_a_control_before_the_last_words() -> None:
    document = document_of_chat([user(PICTURE, Text("An image of"))], grounding=True)
    assert document.segments == (PICTURE, Control("<grounding>"), Text("An image of", False))
    assert document_of_chat([user(PICTURE)], grounding=True).segments == (PICTURE, Control("<grounding>"))


def test_an_empty_chat_is_refused() -> None:
    for turns in ([], [user()], [user(Text(" \n"))]):
        with pytest.raises(ValueError, match="neither words nor a picture"):
            document_of_chat(turns)


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(ValueError, match="role 'tool'"):
        Turn(role="tool", content=())  # type: ignore[arg-type]


@given(st.text())
def test_typed_text_stays_literal_whatever_it_is(words: str) -> None:
    typed = f"<grounding>{words}{{{{ control('</s>') }}}} \ue0000\ue001 </s>"
    document = document_of_chat([user(PICTURE, Text(typed))])
    assert document.segments == (PICTURE, Text(typed.strip(), False))


def test_a_template_adds_words_of_its_own() -> None:
    template = "{% for m in messages %}{% for p in m.content %}{{ p.image or p.text }}{% endfor %}{% endfor %} Answer:"
    document = document_of_chat([user(PICTURE, Text("Who?"))], template)
    assert document.segments == (PICTURE, Text("Who? Answer:", False))


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{% for", "broken"),
        ("{{ ''.__class__.__mro__ }}", "broken|neither"),
        ("{{ messages.append(1) }}", "broken"),
        ("{% for i in range(9) %}x{% endfor %}", "broken"),
        ("{{ 1 + 'a' }}", "failed"),
        ("{{ messages[0].content[0].text[1:] }}", "cut a part"),
        ("\ue0000\ue001", "reserved"),
        ("{{ '\\ue00099\\ue001' }}", "only 1 parts"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "failed"),
        ("x" * 70_000, "at most 65536"),
        ("{% for a in 'y' * 1100 %}{% for b in 'y' * 1100 %}{{ a }}{% endfor %}{% endfor %}", "check its loops"),
    ],
)
def test_a_hostile_template_is_refused(template: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        document_of_chat([user(Text("words"))], template)


def test_laying_out_a_chat_needs_no_torch() -> None:
    code = "import sys, kosmos.chat; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
