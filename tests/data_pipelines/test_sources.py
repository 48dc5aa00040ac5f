"""Foreign formats are read in order and whole; captions become what people write; validation stays out of training."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from data_pipelines.sources.captioned import Captioned, captioned, photographs
from data_pipelines.sources.interleaved import pages
from data_pipelines.sources.plain_text import caption_texts
from data_pipelines.sources.written import written


def _tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def _json(origin: str, *captions: str) -> bytes:
    return json.dumps({"id": origin, "captions": captions}).encode()


@pytest.mark.parametrize(
    ("released", "plain"),
    [
        ("A dog runs .", "A dog runs."),
        ("a dog , wet , runs", "A dog, wet, runs."),
        ("The man 's dog does n't run .", "The man's dog doesn't run."),
        ('a sign says " sale " here .', 'A sign says "sale" here.'),
        ("Two dogs ( black and white ) play !", "Two dogs (black and white) play!"),
        ("  two   dogs\n", "Two dogs."),
        ("", ""),
    ],
)
def test_a_released_caption_becomes_what_people_write(released: str, plain: str) -> None:
    assert written(released) == plain
    assert written(plain) == plain


def test_photographs_come_in_the_order_of_the_tars(tmp_path: Path) -> None:
    for shard, keys in ((1, "cd"), (0, "ab")):
        members = {
            f"{key}.{kind}": _json(key, key) if kind == "json" else b"p" for key in keys for kind in ("jpg", "json")
        }
        _tar(tmp_path / "flickr8k" / f"train-{shard:06d}.tar", members)
    found = photographs(tmp_path, "train")
    assert [item.key for item in found] == ["a", "b", "c", "d"]
    assert found[0] == Captioned(key="a", origin="a", picture=b"p", captions=("A.",))


def test_no_tar_is_said_with_the_option_to_use(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--data"):
        photographs(tmp_path, "val")


@pytest.mark.parametrize("members", [{"a.json": _json("a", "b")}, {"a.jpg": b"p"}])
def test_half_a_sample_is_an_error_and_not_skipped(tmp_path: Path, members: dict[str, bytes]) -> None:
    _tar(tmp_path / "x.tar", members)
    with pytest.raises(ValueError, match="a"):
        list(captioned(tmp_path / "x.tar"))


def test_a_page_keeps_words_and_pictures_in_reading_order(tmp_path: Path) -> None:
    _tar(tmp_path / "interleaved" / "images.tar", {"1.png": b"one", "2.png": b"two"})
    lines = [
        {"id": "x", "split": "train", "seq": [{"text": "a"}, {"image": "2.png"}, {"text": "b"}, {"image": "1.png"}]},
        {"id": "y", "split": "val", "seq": [{"text": "c"}]},
    ]
    (tmp_path / "interleaved" / "docs.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    (page,) = pages(tmp_path, "train")
    assert page.parts == ("a", b"two", "b", b"one")


def test_what_is_said_of_a_validation_picture_stays_out(tmp_path: Path) -> None:
    rows = [("77.jpg", "Same picture."), ("78.jpg", "A DOG, runs"), ("79.jpg", "Two cats sleep .")]
    (tmp_path / "multi30k").mkdir()
    with gzip.open(tmp_path / "multi30k" / "train.jsonl.gz", "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps({"image": image, "en": text}) + "\n" for image, text in rows)
    held_out = Captioned(key="v", origin="77_abc", picture=b"", captions=("A dog runs.",))
    assert caption_texts(tmp_path, kept_out=[held_out]) == ["Two cats sleep."]


def test_no_validation_picture_or_caption_is_among_the_training_texts(kosmos_data: Path) -> None:
    held_out = photographs(kosmos_data, "val")
    texts = set(caption_texts(kosmos_data, kept_out=held_out))
    assert len(texts) > 25_000
    assert not texts & {caption for item in held_out for caption in item.captions}
