"""`kosmos train`: lists its presets, says what is missing, hands recipes on, and trains a miniature set."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from kosmos.cli.main import main
from kosmos.cli.recipe_flags import recipe_fields
from kosmos.cli.train import PRESETS
from kosmos.config import KosmosConfig
from kosmos.evaluation.metrics.caption_cider import CaptionCiderD
from kosmos.presets import preset
from kosmos.pretrained import load
from kosmos.training.builtin import run as tiny
from kosmos.training.builtin.recipe import TINY, MixtureRecipe, TinyRecipe
from kosmos.training.recipe import TrainRecipe
from kosmos.training.recipes import RECIPES
from tests.architecture.house import python

WORDS = ("dog", "cat", "bird", "boat", "girl")
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}


def _small() -> tuple[KosmosConfig, TinyRecipe]:
    config = preset("tiny")
    decoder = replace(config.decoder, vocab_size=307, num_layers=1, width=32, num_heads=2, ffn_width=64)
    config = replace(config, decoder=decoder, tokenizer=replace(config.tokenizer, num_words=300))
    mixture = MixtureRecipe(caption_rows=80, text_rows=48, page_rows=24, piece_rows=24, views=2)
    return config, replace(
        TINY,
        mixture=mixture,
        optimiser=replace(TINY.optimiser, steps=4, warmup_steps=1),
        reward=replace(TINY.reward, steps=2, pictures=3, samples=2, max_tokens=6),
        validation_pictures=3,
    )


def _png(colour: tuple[int, int, int]) -> bytes:
    written = io.BytesIO()
    noise = np.random.default_rng(colour[0]).integers(0, 20, (32, 32, 3))
    Image.fromarray((np.array(colour) + noise).astype(np.uint8)).save(written, "PNG")
    return written.getvalue()


def _tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def _zipped(path: Path, rows: list[dict[str, str]]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder laid out as the real one, with a few drawn pictures in each place."""
    folder = tmp_path / "data"
    for name in ("flickr8k", "multi30k", "text", "interleaved"):
        (folder / name).mkdir(parents=True)
    for split, shards in (("train", 2), ("val", 1)):
        for shard in range(shards):
            members = {}
            for number, (colour, value) in enumerate(COLOURS.items()):
                key = f"{split}{shard}{number}"
                captions = [f"A {colour} {word} on the water number {key} ." for word in WORDS]
                members[f"{key}.jpg"] = _png(value)
                members[f"{key}.json"] = json.dumps({"id": f"{key}_x", "captions": captions}).encode()
            _tar(folder / "flickr8k" / f"{split}-{shard:06d}.tar", members)
    texts = [
        f"The {c} {w} went over the {o} hill and was seen by {n} people."
        for c in COLOURS
        for w in WORDS
        for o in COLOURS
        for n in range(9)
    ]
    _zipped(folder / "multi30k" / "train.jsonl.gz", [{"image": f"{n}.jpg", "en": text} for n, text in enumerate(texts)])
    for split in ("train", "val"):
        _zipped(folder / "text" / f"books-{split}.jsonl.gz", [{"text": " ".join(texts[:40])}] * 4)
    _tar(folder / "interleaved" / "images.tar", {"1.png": _png((9, 9, 9))})
    pages = [
        {"id": s, "split": s, "seq": [{"text": texts[0]}, {"image": "1.png"}, {"text": texts[1]}]}
        for s in ("train", "val")
    ]
    (folder / "interleaved" / "docs.jsonl").write_text("\n".join(map(json.dumps, pages)), "utf-8")
    return folder


def test_a_folder_without_data_is_said_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tiny", "--data", str(tmp_path)]) == 1
    assert "--data" in capsys.readouterr().err


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder that looks like one of shards."""
    folder = tmp_path / "shards"
    folder.mkdir()
    _tar(folder / "documents-000000.tar", {"a.json": b'{"segments": [{"text": "A dog"}]}'})
    return folder


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A file that looks like one of words."""
    file = tmp_path / "words.model"
    file.write_bytes(b"")
    return file


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[TrainRecipe, Path]]:
    """Recipes and run folders that training was given, in place of training."""
    seen: list[tuple[TrainRecipe, Path]] = []

    def train_kosmos(recipe: TrainRecipe, folder: Path, *, told: object, progress: object) -> Path:
        assert callable(told)
        assert callable(progress)
        seen.append((recipe, folder))
        return folder / "step-000009"

    module = ModuleType("kosmos.training.run")
    module.train_kosmos = train_kosmos  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kosmos.training.run", module)
    return seen


def _wrong(*words: object) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", *map(str, words)])
    assert end.value.code == 2


def test_every_recipe_is_a_preset_and_stands_in_the_help_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(PRESETS) == {"tiny", *RECIPES}
    with pytest.raises(SystemExit) as end:
        main(["train", "--help"])
    assert end.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert [name for name, line in PRESETS.items() if f"{name} {line}" not in shown] == []


@pytest.mark.parametrize("words", [["--help"], ["base", "--help"], ["base", "--print-config"], ["base"]])
def test_help_and_refusals_come_before_anything_heavy(words: list[str]) -> None:
    code = """
import sys
from kosmos.cli.main import main
try:
    main(["train", *sys.argv[1:]])
except SystemExit as end:
    assert end.code in (0, 2)
print("loaded:", *sorted({"torch", "numpy", "transformers", "rich"} & set(sys.modules)))
"""
    assert python(code, *words).endswith("loaded:\n")


def test_the_help_of_a_preset_shows_its_flags_with_its_values(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "kosmos1", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--optimiser.steps N (300_000)" in shown
    assert "--parallel.sharding {ddp,fsdp,hsdp}" in shown
    assert "(runs/kosmos1)" in shown


def test_an_unknown_preset_and_none_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    _wrong("kosmos9")
    assert "'kosmos1-instruct'" in capsys.readouterr().err
    _wrong()
    assert "PRESET" in capsys.readouterr().err


def test_an_unknown_flag_is_answered_with_the_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    _wrong("base", "--optimizer.lr", "1e-4")
    said = capsys.readouterr().err
    assert said.endswith("error: unknown flag --optimizer.lr; did you mean --optimiser.learning-rate?\n")
    assert said.count("\n") == 2


def test_the_resolved_recipe_is_printed_and_begun_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "base", "--print-config", "--steps", "7", "--experts.num", "8"]) == 0
    printed = capsys.readouterr().out
    record = json.loads(printed)
    assert (record["optimiser"]["steps"], record["experts"]["num"], record["model"]) == (7, 8, "base")
    file = tmp_path / "config.json"
    file.write_text(printed, "utf-8")
    assert main(["train", "base", "--config", str(file), "--experts.num", "0", "--print-config"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["optimiser"]["steps"], again["experts"]["num"]) == (7, 0)


def test_a_recipe_without_shards_says_how_they_are_given(capsys: pytest.CaptureFixture[str]) -> None:
    _wrong("base")
    assert "error: base has no shards; give --data.caption.shards FOLDER" in capsys.readouterr().err


def test_a_model_that_starts_anew_needs_its_words(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _wrong("base", "--data.text.shards", shards)
    assert "--tokenizer FILE" in capsys.readouterr().err


def test_a_value_that_cannot_be_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    _wrong("base", "--data.caption.tokens", "100")
    assert "error: data.caption: max_length=2048 of tokens=100" in capsys.readouterr().err


def test_what_is_not_there_is_named(
    tmp_path: Path, shards: Path, words: Path, capsys: pytest.CaptureFixture[str], handed: list[object]
) -> None:
    missing = str(tmp_path / "missing")
    known = ["--data.text.shards", str(shards), "--tokenizer", str(words)]
    for wrong in (
        ["base", *known, "--data.caption.shards", missing],
        ["base", *known, "--validation", missing],
        ["base", *known, "--tokenizer", missing],
        ["kosmos2-finetune", *known, "--model", missing],
        ["base", "--config", missing],
    ):
        assert main(["train", *wrong]) == 1
        said = capsys.readouterr().err
        assert missing in said
        assert said.count("\n") == 1
    assert handed == []


@pytest.mark.parametrize("folder", ["--run", "--run-folder"])
def test_a_recipe_is_handed_to_training_with_its_folder(
    folder: str,
    tmp_path: Path,
    shards: Path,
    words: Path,
    capsys: pytest.CaptureFixture[str],
    handed: list[tuple[TrainRecipe, Path]],
) -> None:
    run = tmp_path / "run"
    given = ["--data.text.shards", str(shards), "--tokenizer", str(words), "--learning-rate", "3e-4"]
    assert main(["train", "base", *given, folder, str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'step-000009'}\n"
    base = RECIPES["base"]
    wanted = replace(
        base,
        tokenizer=str(words),
        optimiser=replace(base.optimiser, learning_rate=3e-4),
        data=replace(base.data, text=replace(base.data.text, shards=(str(shards),))),
    )
    assert handed == [(wanted, run)]


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "tiny"])  # which starts its processes itself
def test_torchrun_takes_none_of_our_flags_for_its_own(preset: str) -> None:
    from torch.distributed.run import get_args_parser

    flags = [entry.flag for entry in recipe_fields(RECIPES[preset])]
    words = [word for flag in ("--run-folder", "--config", *flags) for word in (flag, "1")]
    theirs = get_args_parser().parse_args(["--nproc-per-node", "2", "-m", "kosmos.cli.main", "train", preset, *words])
    assert theirs.training_script_args == ["train", preset, *words]


def test_one_process_of_several_prints(
    shards: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    handed: list[tuple[TrainRecipe, Path]],
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["train", "kosmos2-finetune", "--data.caption.shards", str(shards)]) == 0
    assert capsys.readouterr().out == ""
    assert [(recipe.name, folder) for recipe, folder in handed] == [("kosmos2-finetune", Path("runs/kosmos2-finetune"))]


def test_tiny_keeps_its_own_flags_beside_those_of_its_recipe(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, object] = {}

    def train_tiny(recipe: TinyRecipe, paths: tiny.Paths, **arguments: object) -> None:
        seen.update(arguments, recipe=recipe, paths=paths)

    monkeypatch.setattr(tiny, "train_tiny", train_tiny)
    words = ["--data", str(data), "--cache", str(tmp_path / "c"), "--run", str(tmp_path / "r"), "--processes", "1"]
    assert main(["train", "tiny", *words, "--dtype", "float32", "--mixture.views", "2", "--optimiser.steps", "3"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'r' / 'checkpoint'}\n"
    mixture, optimiser = replace(TINY.mixture, views=2), replace(TINY.optimiser, steps=3)
    assert seen["recipe"] == replace(TINY, mixture=mixture, optimiser=optimiser)
    assert (seen["ranks"], seen["precision"]) == (1, "float32")


def test_a_run_from_data_to_checkpoint_can_be_repeated_and_opened(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, recipe = _small()
    monkeypatch.setattr(tiny, "preset", lambda name: config)
    paths = tiny.Paths(data=data, cache=tmp_path / "cache", run=tmp_path / "run", output=tmp_path / "out")
    told: list[str] = []
    arguments = {"metric": CaptionCiderD, "reward": partial(CaptionCiderD, ends=True), "ranks": 1, "told": told.append}
    tiny.train_tiny(recipe, paths, **arguments)  # type: ignore[arg-type]
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text("utf-8").splitlines()]
    assert {"text", "caption", "interleaved", "validation_loss", "validation_cider_d"} <= lines[0].keys()
    assert {line["stage"] for line in lines} == {"words", "reward"}

    tiny.train_tiny(recipe, paths, **arguments)  # type: ignore[arg-type]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights

    model = load(tmp_path / "out", dtype="float32")
    assert model.generate([Image.new("RGB", (64, 48))], max_new_tokens=4)[0].ids

    with pytest.raises(ValueError, match="another run"):
        tiny.train_tiny(replace(recipe, seed=1), paths, **arguments)  # type: ignore[arg-type]
