"""The built-in model's shards: what is said of a validation photograph stays out of what it learns."""

from __future__ import annotations

from pathlib import Path

from kosmos.evaluation.held_out import held_out_photographs
from kosmos.training.builtin.corpus import Corpus


def test_no_validation_picture_or_caption_is_among_the_training_texts(kosmos_data: Path, tmp_path: Path) -> None:
    corpus = Corpus(tmp_path)
    corpus.make(kosmos_data, lambda line: None)
    texts = set(corpus.texts("captions-train"))
    assert len(texts) > 25_000
    assert not texts & {caption for photograph in held_out_photographs(kosmos_data) for caption in photograph.captions}
    assert len(corpus.captions("train")) == 6000
    assert {len(captions) for captions in corpus.captions("train")} == {5}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.tar")}
    corpus.make(kosmos_data, lambda line: None)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.tar")} == before
