"""Experts: equal active work, routing looked at between checkpoints, a killed run compares with its last checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from kosmos.science import experts
from kosmos.science.experts import ExpertsRun, Observer
from kosmos.science.language import byte_corpus, pieces
from kosmos.science.runs import logged, read_runs
from kosmos.training.run_log import RunLog
from kosmos.transformer.experts import experts_of
from kosmos.transformer.stack import Decoder

TOY = ExpertsRun(
    router="xmoe", seed=0, steps=16, num_experts=4, num_words=300, num_layers=2, width=16, sequences=2, length=16,
    held_out=8,
)  # fmt: skip


class Killed(BaseException):
    pass


@pytest.mark.parametrize("router", ["switch", "xmoe"])
def test_one_row_meets_as_many_weights_as_in_the_dense_model(router: str) -> None:
    dense, sparse = (Decoder(replace(TOY, router=kind).config) for kind in ("dense", router))  # type: ignore[arg-type]
    (layer,) = experts_of(sparse)
    idle = sum(p[1:].numel() for name, p in layer.named_parameters() if not name.startswith("router"))
    router_only = sum(p.numel() for p in layer.router.parameters())
    active = sum(p.numel() for p in sparse.parameters()) - idle - router_only
    assert active == sum(p.numel() for p in dense.parameters())


def test_looking_twice_at_the_same_weights_finds_no_fluctuation(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, place = Decoder(replace(TOY, num_words=256).config).eval(), tmp_path
    observer = Observer(model, pieces(byte_corpus(data), length=16, count=8, within=16), place, every=1)
    assert set(observer.look()) == {"held_out", "RC"}
    RunLog(place, ()).write({"loss": 1.0})
    assert observer.look()["RF"] == 0.0
    with torch.no_grad():
        experts_of(model)[0].router.reduction.neg_()  # type: ignore[union-attr, operator]
    RunLog(place, ()).write({"loss": 1.0})
    assert observer.look()["RF"] > 0.5


def test_every_kind_runs_to_its_figures(data: Path, tmp_path: Path) -> None:
    experts.do([replace(TOY, router=kind) for kind in experts.LABELS], data, tmp_path, lambda line: None)
    found = {one.run.router: one.figures for one in read_runs(tmp_path, ExpertsRun)}
    assert set(found) == {"dense", "switch", "xmoe"}
    assert found["dense"]["RC"] is None
    assert len([name for name in found["xmoe"] if name.startswith("RF ")]) == experts.CHECKPOINTS - 1
    assert not list(tmp_path.glob("*/choices*"))
    assert len(experts.report(tmp_path).rows) == 3


def test_a_killed_run_goes_on_to_the_same_figures(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = experts.LanguageRecipe
    monkeypatch.setattr(experts, "LanguageRecipe", lambda **values: recipe(**values, save_every=5))
    experts.do([TOY], data, tmp_path / "whole", lambda line: None)
    write = RunLog.write

    def write_or_die(log: RunLog, record: dict[str, object]) -> None:
        if record["step"] == 13:
            raise Killed
        write(log, record)

    monkeypatch.setattr(RunLog, "write", write_or_die)
    with pytest.raises(Killed):
        experts.do([TOY], data, tmp_path / "cut", lambda line: None)
    monkeypatch.setattr(RunLog, "write", write)
    assert len(logged(tmp_path / "cut" / TOY.name, "loss")) == 12
    experts.do([TOY], data, tmp_path / "cut", lambda line: None)
    whole, cut = (read_runs(tmp_path / name, ExpertsRun)[0].figures for name in ("whole", "cut"))
    assert cut == whole


def test_the_papers_figures_bear_out_every_verdict(tmp_path: Path) -> None:
    rows = {"dense": (23.51, None, None), "switch": (19.02, 1.0, 0.5), "xmoe": (18.72, 2.0, 0.2)}
    for router, row in rows.items():
        for seed in range(2):
            run = replace(TOY, router=router, seed=seed)  # type: ignore[arg-type]
            (tmp_path / run.name).mkdir()
            record = {"run": asdict(run), "figures": dict(zip(("perplexity", "RC", "RF"), row, strict=True))}
            (tmp_path / run.name / "result.json").write_text(json.dumps(record))
    assert set(experts.report(tmp_path).verdicts.values()) == {True}
