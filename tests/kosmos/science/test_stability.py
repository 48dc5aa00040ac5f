"""Stability: what counts as diverged, stuck and learned, and what a table of them concludes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from kosmos.science import stability
from kosmos.science.stability import StabilityRun, outcome, plan

GOOD: dict[str, float | None] = {"steps_finite": 9.0, "first": 5.0, "last": 2.0, "held_out": 2.5, "unigram": 3.0}


@pytest.mark.parametrize(
    "changed, expected",
    [({}, "learned"), ({"held_out": 3.0}, "stuck"), ({"last": 5.0}, "diverged"), ({"last": None}, "diverged")],
)
def test_outcomes(changed: dict[str, float | None], expected: str) -> None:
    assert outcome(GOOD | changed) == expected


def test_every_run_has_a_name_of_its_own() -> None:
    runs = plan(seeds=3, steps=None, quick=False)
    assert len({run.name for run in runs}) == len(runs) == 108
    assert {run.steps for run in plan(seeds=1, steps=7, quick=True)} == {7}


def _keep(folder: Path, run: StabilityRun, figures: dict[str, float | None]) -> None:
    (folder / run.name).mkdir(parents=True)
    (folder / run.name / "result.json").write_text(json.dumps({"run": asdict(run), "figures": figures}))


def test_the_table_counts_seeds_and_leaves_diverged_ones_out_of_the_mean(tmp_path: Path) -> None:
    ways = {"pre": 2.7, "post": None, "deepnorm": 2.6, "subln": 2.5}
    for norms, held_out in ways.items():
        for seed in range(2):
            run = StabilityRun(norms=norms, num_layers=2, learning_rate=1e-2, seed=seed)  # type: ignore[arg-type]
            figures = GOOD | {"held_out": held_out and held_out + seed / 1000}
            _keep(tmp_path, run, figures | ({"last": None} if norms == "pre" and seed else {}))
    report = stability.report(tmp_path)
    pre, post, _, subln = report.rows
    assert (pre["diverged"], pre["learned"], str(pre["nats a byte"])) == ("1 of 2", "1 of 2", "2.700")
    assert (post["diverged"], post["nats a byte"]) == ("2 of 2", None)
    assert str(subln["nats a byte"]) == "2.500 ± 0.006"
    assert list(report.verdicts.values()) == [True, True, True, False]  # one seed of Pre-LN has no interval


def test_an_assembly_without_runs_leaves_the_claim_open(tmp_path: Path) -> None:
    _keep(tmp_path, StabilityRun(norms="pre", num_layers=2, learning_rate=1e-2, seed=0), GOOD)
    assert stability.report(tmp_path).verdicts == {"all four assemblies have runs": False}
