"""The bench `attention` on a toy shape: every case comes out, beside torchscale where it is installed."""

from collections.abc import Iterable
from dataclasses import replace
from importlib.util import find_spec

import pytest

from kosmos.bench import attention, floors
from kosmos.bench.attention import ATTENTION_CASES, AttentionBench, run_attention
from kosmos.bench.timing import Timed


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = replace(attention.SHAPE, vocab_size=50, num_layers=2, width=32, num_heads=4, ffn_width=48)
    for name, value in {"SHAPE": shape, "TRAINED": 40, "CACHED": 50, "BLOCK": 32, "MOST_FULL": 16384}.items():
        monkeypatch.setattr(attention, name, value)
    monkeypatch.setattr(floors, "READ_BUFFER_BYTES", 1 << 20)
    monkeypatch.setattr(floors, "RATE_WIDTH", 64)
    monkeypatch.setattr(floors, "SMALL_WIDTH", 16)
    floors.best_matrix_rate.cache_clear()


@pytest.mark.slow
def test_every_case_comes_out_with_a_limit() -> None:
    figures = {figure.case: figure for figure in run_attention(AttentionBench(rounds=1, steps=1, peers=False))}
    assert tuple(figures) == ATTENTION_CASES
    assert all(figure.ours > 0 and figure.limit > 0 for figure in figures.values())
    assert set(figures["blockwise-16384"].peers) == {"full"}
    assert figures["blockwise-32768"].peers == {}


def test_the_crossing_is_where_full_attention_costs_as_much_as_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_turn(contestants: Iterable[tuple[str, int]], _rounds: int) -> dict[tuple[str, int], Timed]:
        seconds = {"ours": lambda length: 2.0 * length, "full": lambda length: length**2 / 70}
        return {(name, length): Timed((seconds[name](length),)) for name, length in contestants}

    monkeypatch.setattr(attention, "in_turn", in_turn)
    (figure,) = run_attention(AttentionBench(cases=("blockwise-crossing",)))
    assert figure.ours == pytest.approx(140)
    assert figure.spread["ours"] == pytest.approx((140, 140))
    assert (figure.unit, figure.limit) == ("tokens", 3 * 32)
    assert figure.better_than(figure.limit) == pytest.approx(96 / 140)


@pytest.mark.parametrize("case", ["train-step", "decode-2048"])
def test_torchscale_runs_beside_us(case: str) -> None:
    if not (find_spec("torchscale") and find_spec("fairscale")):
        pytest.skip("NOT proved: torchscale 0.3.0 and fairscale 0.4.0 are not installed")
    (figure,) = run_attention(AttentionBench(rounds=1, steps=2, cases=(case,)))
    assert figure.peers["torchscale"] > 0
