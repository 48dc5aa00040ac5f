"""The commands of docs/data.md, run as they stand there on a folder of pages and a folder of photographs."""

from __future__ import annotations

import io
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from skimage import data as pictures

from kosmos.cli.main import main

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
SUBJECTS = ("astronaut", "coffee", "chelsea", "rocket")
WORDS = {
    "astronaut": "She trained for years before her first flight, and smiles in front of the flag and a model shuttle.",
    "coffee": "A cup of coffee on a wooden table was what they all wanted after the long walk through the hills.",
    "chelsea": "The cat looks straight at whoever holds the camera, and does not seem to be afraid of anything at all.",
    "rocket": "The rocket waited on its pad through the night while people drove out to the coast to watch the launch.",
}


def _jpeg(name: str, crop: int = 0) -> bytes:
    pixels = np.ascontiguousarray(getattr(pictures, name)()[crop:, :, :3])
    file = io.BytesIO()
    Pillow.fromarray(pixels).resize((320, 240)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _pages(folder: Path) -> None:
    folder.mkdir()
    for name in SUBJECTS:
        (folder / f"{name}.jpg").write_bytes(_jpeg(name))
    for number, first in enumerate(SUBJECTS):
        second = SUBJECTS[(number + 1) % len(SUBJECTS)]
        for edition in range(3):
            opening = (
                f"This is edition {edition} of the story about {first} and {second}, told by a friend of the house."
            )
            body = "".join(
                f'<p>{opening} {WORDS[name]}</p><figure><img src="{name}.jpg" alt="{name}"></figure>'
                f"<p>{WORDS[name]} That is what everybody remembers of it, number {number}.</p>"
                for name in (first, second)
            )
            page = f"<html><body><nav>Home About</nav><article><h1>{first}</h1>{body}</article></body></html>"
            (folder / f"{first}-{edition}.html").write_text(page, "utf-8")


def _photos(folder: Path) -> None:
    folder.mkdir()
    lines = []
    for name in SUBJECTS:
        (folder / f"{name}.jpg").write_bytes(_jpeg(name, crop=40))
        lines += [f"{name}.jpg#{n}\tA picture of the {name} that was taken in year {n} ." for n in range(2)]
    (folder / "captions.txt").write_text("\n".join(lines) + "\n", "utf-8")


def _blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


@pytest.mark.slow
def test_the_commands_of_the_page_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _pages(tmp_path / "site")
    _photos(tmp_path / "photos")
    (tmp_path / "held-out.jsonl").write_text(json.dumps({"text": "Nothing of this stands on any page here."}) + "\n")
    (tmp_path / "mixture.yaml").write_text(next(b for b in _blocks("yaml") if "unique/pages" in b), "utf-8")
    commands = _blocks("sh")[0].strip().splitlines()
    assert len(commands) == 10
    for command in commands:
        words = shlex.split(command)
        assert words[0] == "kosmos"
        assert main(words[1:]) == 0, command
    assert (tmp_path / "preview.html").stat().st_size > 10_000
    first = capsys.readouterr().out
    place = json.loads((tmp_path / "place.json").read_text("utf-8"))
    assert place["batches"] == 20
    assert main(shlex.split(commands[-1])[1:]) == 0
    assert json.loads((tmp_path / "place.json").read_text("utf-8"))["batches"] == 40
    assert "pictures" in first
