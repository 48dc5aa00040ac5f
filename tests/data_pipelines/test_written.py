"""Released captions become what people write, and what people write stays."""

from __future__ import annotations

import pytest

from data_pipelines.sources.written import written


@pytest.mark.parametrize(
    ("released", "plain"),
    [
        ("A dog runs .", "A dog runs."),
        ("a dog , wet , runs", "A dog, wet, runs."),
        ("The man 's dog does n't run .", "The man's dog doesn't run."),
        ('a sign says " sale " here .', 'A sign says "sale" here.'),
        ("Two dogs ( black and white ) play !", "Two dogs (black and white) play!"),
        ("  two   dogs\n", "Two dogs."),
        ("", ""),
    ],
)
def test_a_released_caption_becomes_what_people_write(released: str, plain: str) -> None:
    assert written(released) == plain
    assert written(plain) == plain
