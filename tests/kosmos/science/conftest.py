"""A folder of data in miniature: enough text for toy runs of every claim."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

WORDS = ("the", "old", "sea", "was", "grey", "and", "a", "small", "boat", "came", "over", "it", "with", "men", "sang")


def _book(title: str, seed: int, *, sentences: int) -> list[dict[str, str]]:
    chosen = random.Random(seed)
    lines = [" ".join(chosen.choices(WORDS, k=9)).capitalize() + "." for _ in range(sentences)]
    half = len(lines) // 2
    return [{"title": title, "text": " ".join(part)} for part in (lines[:half], lines[half:])]


def _captions(seed: int, count: int) -> list[str]:
    chosen = random.Random(seed)
    return [" ".join(chosen.choices(WORDS, k=chosen.randint(3, 8))) + "." for _ in range(count)]


def _zipped(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    _zipped(folder / "text" / "books-train.jsonl.gz", _book("A", 1, sentences=400) + _book("B", 2, sentences=400))
    _zipped(folder / "text" / "books-val.jsonl.gz", _book("C", 3, sentences=200) + _book("D", 4, sentences=100))
    for split, seed, count in (("train", 5, 300), ("val", 6, 20), ("test2016", 7, 20)):
        rows = [{"en": text, "de": text.upper(), "fr": text.title()} for text in _captions(seed, count)]
        _zipped(folder / "multi30k" / f"{split}.jsonl.gz", rows)
    return folder
