"""`kosmos train`: says what is missing in a sentence, and trains a miniature set to a checkpoint that opens."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kosmos.cli.main import main
from kosmos.config import KosmosConfig
from kosmos.evaluation.metrics.caption_cider import CaptionCiderD
from kosmos.presets import preset
from kosmos.pretrained import load
from kosmos.training.builtin import run as tiny
from kosmos.training.builtin.recipe import TINY, MixtureRecipe, TinyRecipe

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
