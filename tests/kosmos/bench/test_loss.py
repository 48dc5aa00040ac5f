"""The bench `loss` on a small shape: both cases come out, and chunks take less memory than whole logits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kosmos.bench import floors
from kosmos.bench.loss import LossBench, run_loss

SMALL = LossBench(rounds=1, rows=64, width=16, vocab_size=50)


@pytest.fixture(autouse=True)
def _small_square(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, "RATE_WIDTH", 64)
    monkeypatch.setattr(floors, "SMALL_WIDTH", 16)
    floors.best_matrix_rate.cache_clear()


@pytest.mark.slow
def test_chunks_take_less_memory_than_whole_logits() -> None:
    """2,048 rows of 64k words: whole logits are 508 MB, a chunk of them 128."""
    bench = replace(SMALL, rows=2048, width=1, vocab_size=65_037, cases=("memory-64k",))
    (figure,) = run_loss(bench)
    whole = figure.notes["whole logits, MB"]
    chunk = whole * figure.notes["rows of a chunk"] / bench.rows
    assert figure.peers["whole-logits"] > 2 * whole
    assert figure.limit < figure.ours < 2.5 * chunk  # logits and their log-softmax, never those of the chunk before


def test_time_comes_out_beside_whole_logits_and_the_limit() -> None:
    (figure,) = run_loss(replace(SMALL, cases=("time-64k",)))
    assert set(figure.peers) == {"whole-logits"}
    assert figure.ours > 0
    assert figure.limit > 0
    (alone,) = run_loss(replace(SMALL, cases=("time-64k",), peers=False))
    assert alone.peers == {}
