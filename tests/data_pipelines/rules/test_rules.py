"""Every rule keeps an example at its threshold and drops one beyond it."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from data_pipelines.filtering import judge
from data_pipelines.rules.rule import Candidate
from data_pipelines.rules.table import RULES, SETS, choose_rules
from tests.data_pipelines.written import document, encode, noise
from text.document import Document

SENTENCE = "the quick brown fox jumps over a lazy dog while seven old sailors watch from their boat and laugh"
WORDS = SENTENCE.split()
PICTURE = encode(noise(0))
ENGLISH = "The dog runs over the green grass and jumps into the cold water behind the house."
GERMAN = "Der Hund läuft über das grüne Gras und springt hinter dem Haus in das kalte Wasser."


def flat(difference: int) -> bytes:
    """80 x 80 pixels whose levels differ by so much, and by no more."""
    levels = np.full((80, 80, 3), 100, dtype=np.uint8)
    levels[:, 40:] += difference
    return encode(Pillow.fromarray(levels), "PNG")


def sized(width: int, height: int) -> bytes:
    return encode(noise(1, width, height))


def words(count: int) -> str:
    draw = random.Random(count)
    return " ".join(draw.choice(WORDS) for _ in range(count))


def unlike(count: int) -> str:
    """Words that never come again."""
    return " ".join(f"{WORDS[n % len(WORDS)]}{'abcdefghij'[n // len(WORDS) % 10]}" for n in range(count))


DROPS: dict[str, tuple[float, Document, Document]] = {
    "min-pictures": (2, document(PICTURE, PICTURE), document(PICTURE)),
    "interspersed": (2, document("a", PICTURE, "b"), document(PICTURE, PICTURE, "b", " ")),
    "special-tags": (0, document("a <b> woman"), document("a <PERSON> runs")),
    "stated-size": (200, document(PICTURE, width="200", height=300), document(PICTURE, width=199, height=300)),
    "min-words": (3, document("a b c"), document("a b")),
    "max-words": (3, document("a b c"), document("a b", "c d")),
    "min-characters": (6, document(" abcdef "), document(" abcde ")),
    "repeated-words": (0.5, document("dog cat dog cow dog hen"), document("Dog cat dog cow dog dog")),
    "min-word-length": (3, document("abc abc"), document("abc ab")),
    "max-word-length": (10, document("abcdefghij"), document("abcdefghijk")),
    "symbols": (0.1, document("# " + words(9)), document("# # " + words(9))),
    "bullets": (0.5, document("- a\nb"), document("- a\n• b\nc")),
    "ellipses": (0.5, document("a...\nb"), document("a…\nb...\nc")),
    "alphabetic": (0.8, document("a b c d 1"), document("a b c 1 2")),
    "stop-words": (2, document("have the"), document("the The dog")),
    "duplicate-lines": (0.5, document("a\na"), document("a\na\na")),
    "duplicate-paragraphs": (0.5, document("a\n\na\nb"), document("a\n\na\n\na")),
    "top-2-gram": (0.5, document("a b c d a b e f"), document("a b a b c d a")),
    "top-3-gram": (0.5, document("a b c d e f a b c g h i"), document("a b c a b c d e")),
    "top-4-gram": (0.5, document("a b c d a b c d e f g h i j k l"), document("a b c d a b c d e f")),
    **{
        f"duplicate-{n}-grams": (
            0.5,
            document(f"{unlike(n)} {unlike(n)}"),
            document(f"{unlike(n)} {unlike(n)} {unlike(n)}"),
        )
        for n in range(5, 11)
    },
    "english": (0.5, document(ENGLISH), document(GERMAN)),
    "german": (0.5, document(GERMAN), document(ENGLISH)),
    "french": (0.5, document("Le chien court sur l'herbe verte et saute dans l'eau froide."), document(ENGLISH)),
    "spanish": (0.5, document("El perro corre sobre la hierba verde y salta al agua fría."), document(ENGLISH)),
    "italian": (
        0.5,
        document("Il cane corre sull'erba verde e salta nell'acqua fredda della casa."),
        document(ENGLISH),
    ),
    "portuguese": (0.5, document("O cão corre sobre a relva verde e não salta para a água fria."), document(ENGLISH)),
    "dutch": (0.5, document("De hond rent over het groene gras en springt in het koude water."), document(ENGLISH)),
    "russian": (0.5, document("Собака бежит по зелёной траве и прыгает в холодную воду."), document(ENGLISH)),
    "chinese": (0.5, document("那只狗跑过绿色的草地，跳进房子后面的冷水里。"), document(ENGLISH)),
    "japanese": (0.5, document("犬は緑の草の上を走り、家の裏の冷たい水に飛び込みます。"), document(ENGLISH)),
}
LEAVES_OUT: dict[str, tuple[float, str | bytes, str | bytes]] = {
    "readable": (1, PICTURE, PICTURE[: len(PICTURE) // 2]),
    "min-side": (64, sized(64, 90), sized(63, 90)),
    "single-color": (8, flat(9), flat(8)),
    "max-aspect": (3, sized(30, 90), sized(29, 90)),
    "emoji": (0.1, "🐶 " + words(9), "🐶🐶 " + words(9)),
    "hashtags": (0.1, "# Title #dog " + words(8), "#dog #cat " + words(8)),
    "urls": (0.1, "https://a.example " + words(9), "https://a.example www.b.example " + words(8)),
    "gibberish": (0.3, "xkcdq zzzrt brrgh " + words(7), "xkcdq zzzrt brrgh a81f9e0 " + words(6)),
}


@pytest.mark.parametrize("name", DROPS)
def test_a_rule_keeps_a_document_at_its_threshold_and_drops_one_beyond(name: str) -> None:
    threshold, good, bad = DROPS[name]
    assert RULES[name].judge(Candidate("k", good), threshold) is good
    reason = RULES[name].judge(Candidate("k", bad), threshold)
    assert isinstance(reason, str)
    assert reason


@pytest.mark.parametrize("name", LEAVES_OUT)
def test_a_rule_leaves_out_a_piece_beyond_its_threshold_and_nothing_else(name: str) -> None:
    threshold, good, bad = LEAVES_OUT[name]
    page = document(good, "some words", bad, "more of them", title="t")
    assert RULES[name].judge(Candidate("k", page), threshold) == document(good, "some words", "more of them", title="t")


def test_pictures_after_the_first_five_are_left_out() -> None:
    pictures = [encode(noise(seed)) for seed in range(6)]
    kept = RULES["max-pictures"].judge(Candidate("k", document("a", *pictures, "b")), 5)
    assert kept == document("a", *pictures[:5], "b")


def test_half_of_the_documents_with_one_picture_are_dropped_always_the_same_ones() -> None:
    one, two = document("a", PICTURE), document(PICTURE, PICTURE)
    rule = RULES["one-picture"].judge
    dropped = {key for key in map(str, range(2_000)) if rule(Candidate(key, one), 0.5) is not one}
    assert 900 < len(dropped) < 1_100
    assert dropped == {key for key in map(str, range(2_000)) if rule(Candidate(key, one), 0.5) is not one}
    assert all(rule(Candidate(key, two), 0.5) is two for key in dropped)


def test_a_stated_size_that_is_no_number_is_a_reason_of_its_own() -> None:
    rule = RULES["stated-size"].judge
    assert rule(Candidate("k", document(PICTURE, width="wide")), 0) == "stated size is no number"


def test_a_fine_pattern_of_two_colors_is_no_single_color() -> None:
    levels = np.zeros((512, 512, 3), dtype=np.uint8)
    levels[::2] = 255
    page = document(encode(Pillow.fromarray(levels), "PNG"))
    assert RULES["single-color"].judge(Candidate("k", page), 8) is page


def test_every_rule_of_the_table_has_an_example_here() -> None:
    assert set(RULES) == {*DROPS, *LEAVES_OUT, "max-pictures", "one-picture"}


def test_every_set_names_rules_of_the_table() -> None:
    assert {rule for rules in SETS.values() for rule in rules} <= set(RULES)
    assert dict(choose_rules("text"))["min-words"] == 50


def test_rules_are_added_changed_and_left_out_by_name() -> None:
    chosen = dict(choose_rules("captions", rules={"min-side": 200, "english": None}, without=["max-words"]))
    assert (chosen["min-side"], chosen["english"]) == (200, 0.5)
    assert "max-words" not in chosen


@pytest.mark.parametrize("wrong", [{"name": "pages"}, {"rules": {"min-sid": 1.0}}, {"without": ["bullets"]}])
def test_a_name_that_is_in_no_table_is_answered_with_those_that_are(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"known (sets|rules): |its rules: "):
        choose_rules(**{"name": "interleaved", **wrong})  # type: ignore[arg-type]


def test_real_pages_and_books_in_29_languages_hold_nothing_that_is_called_spam(kosmos_data: Path) -> None:
    with gzip.open(kosmos_data / "text" / "books-val.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    for line in (kosmos_data / "interleaved" / "docs.jsonl").read_text("utf-8").splitlines():
        texts += [part["text"] for part in json.loads(line)["seq"] if "text" in part]
    with gzip.open(kosmos_data / "udhr" / "udhr.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts += [text for line in lines for text in json.loads(line).values() if isinstance(text, str)]
    assert len(texts) > 2_000
    rules = tuple((name, RULES[name].threshold) for name in ("emoji", "hashtags", "urls", "gibberish"))
    found = [text for text in texts if judge("k", document(text), rules).changes]
    assert found == []
