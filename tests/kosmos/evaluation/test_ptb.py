"""Captions are cut as the published evaluation cuts them."""

from __future__ import annotations

import pytest

from kosmos.evaluation.metrics.ptb import ptb_tokens


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A dog runs .", "a dog runs"),
        ("A Dog, runs; on: sand!", "a dog runs on sand"),
        ("the man's dog isn't here", "the man 's dog is n't here"),
        ("the man 's dog", "the man 's dog"),
        ("they're sure we'll say I'm", "they 're sure we 'll say i 'm"),
        ("a t-shirt with 3 stripes (50% off)", "a t-shirt with 3 stripes -lrb- 50 % off -rrb-"),
        ('a sign that says " sale " - now', "a sign that says sale now"),
        ("1,000 dogs at 10:30 for $5", "1,000 dogs at 10:30 for $ 5"),
        ("it cannot be", "it can not be"),
        ("the U.S. flag...", "the u.s. flag"),
        ("two o'clock, ma'am", "two o'clock ma'am"),
        ("O'Neill CAN'T see AT&T or rock & roll", "o'neill ca n't see at&t or rock & roll"),
        ("what ---- now .....", "what now"),
        ("a black/white sign on Main St.", r"a black\/white sign on main st."),
        ("the boys' dogs", "the boys dogs"),
        ("", ""),
    ],
)
def test_a_caption_becomes_these_tokens(caption: str, tokens: str) -> None:
    assert " ".join(ptb_tokens(caption)) == tokens
