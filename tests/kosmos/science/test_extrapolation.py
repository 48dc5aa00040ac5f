"""Extrapolation: a trained model is read with blocks and without; table and verdicts follow from the figures."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from kosmos.science import extrapolation, resolution_report
from kosmos.science.extrapolation import ExtrapolationRun, variants
from kosmos.science.language import byte_corpus, pieces
from kosmos.science.runs import read_runs
from kosmos.transformer.stack import Decoder

TOY = ExtrapolationRun(
    positions="xpos", seed=0, steps=2, length=16, reach=4, num_layers=1, width=16, num_heads=2,
    sequences=2, held_out=2,
)  # fmt: skip
SCHEMES = ("sinusoidal", "alibi", "rope", "xpos")


def test_a_model_is_read_whole_and_in_blocks_of_half_its_training_length() -> None:
    whole, blocks = variants(TOY).values()
    assert (whole.causal_block, whole.xpos_block) == (None, 128)
    assert (blocks.causal_block, blocks.xpos_block) == (8, 8)
    assert replace(blocks, causal_block=None, xpos_block=128) == whole
    assert list(variants(replace(TOY, positions="sinusoidal"))) == ["sinusoidal"]


def test_blocks_change_nothing_up_to_the_training_length(data: Path, tmp_path: Path) -> None:
    extrapolation.do([TOY], data, tmp_path, lambda line: None)
    (found,) = read_runs(tmp_path, ExtrapolationRun)
    assert found.run == TOY
    figures = {name: value or 0.0 for name, value in found.figures.items()}
    assert figures["xpos perplexity 16"] == pytest.approx(figures["xpos+bca perplexity 16"], rel=1e-5)
    assert figures["xpos perplexity 64"] != figures["xpos+bca perplexity 64"]
    assert len([name for name in figures if "perplexity" in name]) == 6
    assert math.isfinite(figures["xpos resolution 64"])


def test_perplexity_is_the_exponential_of_the_mean_loss(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Decoder] = []
    monkeypatch.setattr(extrapolation, "train_language_model", lambda model, *rest, **more: kept.append(model))
    extrapolation.do([TOY], data, tmp_path, lambda line: None)
    corpus, model = byte_corpus(data), kept[0].eval()
    losses = []
    for row in pieces(corpus, length=32, count=4, within=64):
        context = model.context([31])
        with torch.inference_mode():
            logits = model.logits(model(model.embed(row[:-1]), context.positions_R, context))
        losses.append(float(F.cross_entropy(logits, row[1:])))
    figures = read_runs(tmp_path, ExtrapolationRun)[0].figures
    assert figures["xpos perplexity 32"] == pytest.approx(math.exp(sum(losses) / 4), rel=1e-5)


def _keep(folder: Path, run: ExtrapolationRun, figures: dict[str, float]) -> None:
    (folder / run.name).mkdir(parents=True)
    (folder / run.name / "result.json").write_text(json.dumps({"run": asdict(run), "figures": figures}))


def _papers(folder: Path) -> None:
    """The paper's tables 2 and 5, as if two seeds had given them, and its table 3."""
    rows = {
        "sinusoidal": (29.94, 132.63, 1283.79), "alibi": (24.99, 23.14, 24.26), "alibi+bca": (24.99, 24.6, 25.37),
        "rope": (25.52, 73.6, 294.45), "rope+bca": (25.52, 25.57, 25.65),
        "xpos": (23.31, 22.56, 28.43), "xpos+bca": (23.31, 21.6, 20.73),
    }  # fmt: skip
    resolutions = {"rope": (0.91, 0.08), "xpos": (0.98, 0.54), "xpos+bca": (0.98, 1.08)}
    for positions in SCHEMES:
        for seed in range(2):
            run = replace(TOY, positions=positions, seed=seed)
            figures = {f"{positions} score {n}": 1.0 for n in extrapolation.curve_distances(64)}
            for name in variants(run):
                figures |= {f"{name} perplexity {16 << i}": value for i, value in enumerate(rows[name])}
                found = resolutions.get(name, (0.5, 0.5))
                figures |= {f"{name} resolution {16 << i}": value for i, value in enumerate(found)}
            _keep(folder, run, figures)


def test_the_papers_own_figures_bear_out_every_verdict(tmp_path: Path) -> None:
    _papers(tmp_path)
    report = extrapolation.report(tmp_path)
    assert set(report.verdicts.values()) == {True}
    assert [row["positions"] for row in report.rows][-1] == "xPos + BCA"
    assert str(report.rows[0]["64"]) == "1283.8 ± 0.0"
    assert set(resolution_report.report(tmp_path).verdicts.values()) == {True}


def test_a_seed_that_is_worse_beyond_its_length_breaks_the_verdict(tmp_path: Path) -> None:
    _papers(tmp_path)
    result = tmp_path / "xpos-seed1" / "result.json"
    record = json.loads(result.read_text())
    record["figures"]["xpos+bca perplexity 64"] = 23.32
    result.write_text(json.dumps(record))
    verdicts = extrapolation.report(tmp_path).verdicts
    assert not verdicts["xPos + BCA is at no length worse than at its training length, for any seed"]


def test_a_folder_without_all_schemes_gives_a_table_and_no_verdict(tmp_path: Path) -> None:
    _keep(tmp_path, TOY, {"xpos perplexity 16": 20.0})
    report = extrapolation.report(tmp_path)
    assert len(report.rows) == 1
    assert report.verdicts == {"all schemes have runs": False}
    assert resolution_report.report(tmp_path).rows[0]["positions"] == "RoPE (theory)"
