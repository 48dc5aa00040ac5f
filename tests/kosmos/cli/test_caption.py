"""`kosmos caption`: every picture gets one line, whatever happens in between."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kosmos.cli import caption
from kosmos.cli.caption_file import CaptionFile
from tests.models import picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven pictures in three folders, two files that are no pictures, one that is none of our business."""
    folder = tmp_path / "pictures"
    (folder / "b" / "deep").mkdir(parents=True)
    for seed, name in enumerate(["a.png", "b/one.jpg", "b/two.WEBP", "b/deep/ü.gif", "c.bmp", "d.png", "e.png"]):
        path = folder / name
        picture(seed).save(path, {".webp": "WEBP"}.get(path.suffix.lower()))
    (folder / "b" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    (folder / "text.png").write_text("words")
    (folder / "notes.txt").write_text("words")
    return folder


def run(checkpoint: Path, folder: Path, output: Path, *more: str) -> int:
    parser = argparse.ArgumentParser()
    caption.add_arguments(parser)
    words = [str(folder), "--output", str(output), "--model", str(checkpoint), "--dtype", "float32"]
    return caption.run(parser.parse_args([*words, "--max-new-tokens", "6", "--num-beams", "2", *more]))


def lines_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.read_text("utf-8").splitlines()]


def test_every_picture_below_a_folder_gets_a_line(
    checkpoint: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kosmos.pretrained import load

    output = tmp_path / "out.jsonl"
    assert run(checkpoint, folder, output, "--prompt", "A photo of", "--batch-size", "3") == 1
    lines = lines_of(output)
    names = [line["image"] for line in lines]
    assert names == sorted(names)
    assert names == [
        "a.png", "b/broken.jpg", "b/deep/ü.gif", "b/one.jpg", "b/two.WEBP", "c.bmp", "d.png", "e.png", "text.png",
    ]  # fmt: skip
    assert [line["image"] for line in lines if "error" in line] == ["b/broken.jpg", "text.png"]
    model = load(checkpoint, dtype="float32")
    expected = model.generate([[picture(0), "A photo of"]], max_new_tokens=6, num_beams=2)[0].text
    assert lines[0] == {"image": "a.png", "caption": expected}
    told = capsys.readouterr().err
    assert "9 pictures: 7 captioned, 0 had a line already, 2 could not be read" in told
    assert "  1 x " in told or "  2 x " in told


def test_a_run_that_was_cut_short_goes_on_to_the_same_bytes(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    run(checkpoint, folder, output)
    whole = output.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        output.write_bytes(whole[:size])
        run(checkpoint, folder, output)
        assert output.read_bytes() == whole


def test_a_finished_run_opens_no_model(
    checkpoint: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    run(checkpoint, folder, output)
    before = output.stat()
    capsys.readouterr()
    assert run(tmp_path / "no-model-here", folder, output, "--json") == 0
    assert json.loads(capsys.readouterr().out)["already"] == 9
    assert output.stat().st_ino == before.st_ino
    assert output.stat().st_mtime_ns == before.st_mtime_ns


def test_damaged_lines_are_made_again_and_good_ones_kept(
    checkpoint: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    kept = '{"image": "d.png", "caption": "written by hand"}\n'
    output.write_text(
        '{"image": "a.png", "cap\n[]\n\n{"image": "c.bmp"}\n' + kept + '{"image": "e.png", "caption": "to'
    )
    run(checkpoint, folder, output, "--json")
    assert json.loads(capsys.readouterr().out)["damaged_lines"] == 5
    assert output.read_text("utf-8").startswith(kept)
    assert sorted(line["image"] for line in lines_of(output))[-3:] == ["d.png", "e.png", "text.png"]
    assert len(lines_of(output)) == 9


def test_errors_are_tried_again_when_asked(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    run(checkpoint, folder, output)
    picture(9).save(folder / "text.png")
    assert run(checkpoint, folder, output) == 0
    assert sum("error" in line for line in lines_of(output)) == 2
    assert run(checkpoint, folder, output, "--retry-errors") == 1
    assert [line["image"] for line in lines_of(output) if "error" in line] == ["b/broken.jpg"]
    assert len(lines_of(output)) == 9


def test_two_runs_never_write_to_one_file(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with CaptionFile(output, retry_errors=False), pytest.raises(ValueError, match="another run"):
        run(checkpoint, folder, output)


def test_a_repaired_file_is_still_locked(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text('{"image": "a.png", "caption": "a man"}\ndamaged\n')
    with CaptionFile(output, retry_errors=False) as first:
        assert first.num_damaged == 1
        with open(output, "rb") as again, pytest.raises(BlockingIOError):
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert os.listdir(tmp_path) == ["out.jsonl"], "nothing is left beside it"


def test_a_file_that_holds_something_else_is_refused_and_untouched(tmp_path: Path) -> None:
    output = tmp_path / "notes.txt"
    output.write_text("my notes\nvery precious\n")
    with pytest.raises(ValueError, match="choose another --output"):
        CaptionFile(output, retry_errors=False)
    assert output.read_text() == "my notes\nvery precious\n"
    with pytest.raises(ValueError, match="not a file"):
        CaptionFile(Path("/dev/null"), retry_errors=False)


def test_a_link_stays_a_link_and_its_file_is_the_one_repaired(tmp_path: Path) -> None:
    real, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    good = '{"image": "a.png", "caption": "a man"}\n'
    real.write_text(good + '{"image": "b.p')
    real.chmod(0o600)
    link.symlink_to(real)
    with CaptionFile(link, retry_errors=False) as file:
        assert file.num_damaged == 1
    assert link.is_symlink()
    assert real.read_text() == good
    assert real.stat().st_mode & 0o777 == 0o600


def test_a_name_that_is_no_utf8_is_escaped(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    picture(0).save(os.fsencode(str(folder)) + b"/\xff.png", "PNG")
    output = tmp_path / "out.jsonl"
    assert run(checkpoint, folder, output) == 0
    assert lines_of(output)[0]["image"] == "\\xff.png"
    assert run(tmp_path / "no-model-here", folder, output) == 0


def test_a_source_that_is_not_there_or_empty_is_explained(checkpoint: Path, tmp_path: Path) -> None:
    for source, complaint in ((tmp_path / "none", "is not there"), (tmp_path, "no picture in")):
        with pytest.raises(ValueError, match=complaint):
            run(checkpoint, source, tmp_path / "out.jsonl")


def test_help_of_these_verbs_needs_no_torch() -> None:
    code = """
import argparse, sys
from kosmos.cli import caption, chat, serve
for verb in (caption, chat, serve):
    verb.add_arguments(argparse.ArgumentParser())
assert not {"torch", "numpy", "PIL", "fastapi", "pydantic", "jinja2"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
