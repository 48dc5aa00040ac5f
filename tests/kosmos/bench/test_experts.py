"""The bench `experts` on a toy shape: every case comes out, held against its peers and the limit of its products."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch.distributed as dist

from kosmos.bench import experts
from kosmos.bench.experts import CASES, ExpertsBench, has_torchscale, run_experts

TOY = ExpertsBench(rounds=1, rows=64, width=16, ffn_width=32, clock=time.perf_counter)


@pytest.fixture(autouse=True)
def _small_square(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experts, "RATE_WIDTH", 64)


def test_every_case_comes_out_without_torchscale() -> None:
    figures = {figure.case: figure for figure in run_experts(replace(TOY, peers=False))}
    assert tuple(figures) == CASES
    assert {case: set(figure.peers) for case, figure in figures.items()} == {
        "experts-16": {"dense"},
        "experts-16-eval": set(),
        "experts-64": {"experts-16"},
    }
    assert all(figure.ours > 0 and figure.limit > 0 for figure in figures.values())
    assert figures["experts-16"].limit == pytest.approx(3 * figures["experts-16-eval"].limit)


@pytest.mark.skipif(not has_torchscale(), reason="torchscale and fairscale are NOT installed")
def test_torchscale_runs_beside_us_and_leaves_no_process_group() -> None:
    for _ in range(2):
        figures = {figure.case: figure for figure in run_experts(TOY)}
        assert set(figures["experts-16"].peers) == {"torchscale", "dense"}
        assert set(figures["experts-16-eval"].peers) == {"torchscale"}
        assert not dist.is_initialized()


def test_only_the_asked_cases_are_measured() -> None:
    (figure,) = run_experts(replace(TOY, cases=("experts-64",)))
    assert figure.case == "experts-64"
    assert set(figure.peers) == {"experts-16"}
