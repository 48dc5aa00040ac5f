"""`kosmos plan` prints what training takes, for people and for machines, and says what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kosmos.cli import plan
from kosmos.cli.main import main
from kosmos.training.planning.gpus import GPUS
from kosmos.training.planning.memory import SHARDINGS
from kosmos.training.planning.plan import CHECKPOINTINGS


def test_names_of_the_flags_are_those_of_the_tables() -> None:
    assert tuple(GPUS) == plan.GPU_NAMES
    assert SHARDINGS == plan.SHARDING_NAMES
    assert CHECKPOINTINGS == plan.CHECKPOINTING_NAMES


def test_a_page_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "kosmos1", "--gpus", "64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["embedding", "131,086,336", "0"] in [line.split() for line in lines]
    assert sum(line.startswith("fsdp ") for line in lines) == 2  # gigabytes, and the largest micro-batch
    assert "MFU of 0.4 (assumed, not measured)" in lines[-1]


def test_an_object_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "kosmos2", "--gpus", "8", "--eye", "all", "--mfu", "0.5", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["parameters"]["total"] == record["parameters"]["trained"] == 1_664_485_376
    assert len(record["layouts"]) == len(SHARDINGS) * len(CHECKPOINTINGS)
    assert {layout["sharding"] for layout in record["layouts"] if layout["fault"]} == {"hsdp"}
    first = record["layouts"][0]
    parts = {name: value for name, value in first["bytes"].items() if name not in ("total", "recomputed", "logits")}
    extra = max(first["bytes"]["recomputed"], first["bytes"]["logits"])
    assert sum(parts.values()) + extra == pytest.approx(first["bytes"]["total"])
    assert record["mfu"] == 0.5


def test_experts_are_told_by_what_a_row_meets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "base", "--experts", "16", "--json"]) == 0
    parameters = json.loads(capsys.readouterr().out)["parameters"]
    assert parameters["total"] > 1e9 > 0.31e9 > parameters["active"]


def test_a_sharding_that_cannot_fit_is_refused_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "kosmos1", "--sharding", "ddp", "--micro-batch", "100"]
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert "does not fit" in out
    assert err.startswith("kosmos plan: kosmos1 needs ")
    assert err.count("\n") == 1


def test_where_nothing_fits_that_is_said_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "kosmos1", "--experts", "64", "--gpu", "a100"]) == 1
    assert "sharding fsdp over" in capsys.readouterr().err


def test_days_are_told_for_bfloat16_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "tiny", "--precision", "float32"]) == 0
    assert "days are not known" in capsys.readouterr().out


def test_a_checkpoint_folder_is_planned_like_a_preset(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(checkpoint), "--sequence-length", "128", "--pictures", "2", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["load"] == {"rows": 128, "pictures": 2, "micro_batch": 1}


@pytest.mark.parametrize(
    "words", [["--gpus", "0"], ["--mfu", "1.5"], ["--mfu", "nan"], ["--tokens", "-1"], ["--gpu", "abacus"]]
)
def test_wrong_usage_is_code_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["plan", "tiny", *words])
    assert exit_info.value.code == 2


def test_an_unknown_preset_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "huge"]) == 1
    assert "unknown preset 'huge'" in capsys.readouterr().err
