"""Of documents that are alike the first stays; every other one names it, on any number of workers."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.dedup.decisions import Limits
from data_pipelines.dedup.deduplication import FOUND, Against, Deduplication, dedup_shards
from data_pipelines.execution import Execution
from data_pipelines.report import Report
from data_pipelines.shard import ShardWriter
from tests.data_pipelines.written import bytes_of_shards, document, encode, keys_of, noise, write_shard
from text.document import Document

DEFAULT = Deduplication()


def article(seed: int, changes: int = 0) -> str:
    """300 words, some of them others."""
    draw = random.Random(seed)
    words = [f"w{draw.randrange(3_000)}" for _ in range(300)]
    for change in range(changes):
        words[7 + 50 * change] = f"edit{change}"
    return " ".join(words)


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    """Two shards: originals, then copies of four kinds among strangers, and what is broken."""
    first: dict[str, Document] = {f"page-{seed}": document(article(seed), encode(noise(seed))) for seed in range(4)}
    first |= {f"photo-{seed}": document(encode(noise(seed)), f"caption number {seed}") for seed in range(50, 54)}
    second = {
        "same": document(article(0).upper(), encode(noise(0))),
        "edited": document(article(1, changes=3), encode(noise(90))),
        "rewritten": document(article(1, changes=6)[: len(article(1)) // 2] + article(77), encode(noise(1))),
        "resized": document(encode(noise(50).resize((300, 250)), quality=50), "another caption"),
        "two-photos": document(encode(noise(51)), encode(noise(91)), "one of them is known"),
        "damaged": document(encode(noise(52))[:600], "cut short"),
        "new": document(encode(noise(92)), "caption number 50"),
        "evaluated": document(encode(noise(93)), "nothing else"),
    }
    paths = [write_shard(tmp_path / "in" / "a.tar", first), write_shard(tmp_path / "in" / "b.tar", second)]
    with ShardWriter(tmp_path / "in" / "c.tar") as writer:
        writer.write_parts("broken", {"json": b"["})
        writer.write("again", document(encode(noise(92), quality=60), "a later copy"))
    return [*paths, str(tmp_path / "in" / "c.tar")]


def run(shards: list[str], out: Path, wanted: Deduplication = DEFAULT, workers: int = 1) -> Report:
    return dedup_shards(shards, out, wanted, execution=Execution(workers=workers))


def found(out: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in (out / FOUND).read_text("utf-8").splitlines()]
    return {line["key"]: line for line in lines}


def test_copies_go_and_name_the_original_and_strangers_stay(shards: list[str], tmp_path: Path) -> None:
    report = run(shards, tmp_path / "out")
    assert report.balanced
    gone = found(tmp_path / "out")
    reasons = {key: (line["reason"], line.get("original", {}).get("key")) for key, line in gone.items()}
    assert reasons == {
        "same": ("exact duplicate", "page-0"),
        "edited": ("near-duplicate text", "page-1"),
        "resized": ("near-duplicate pictures", "photo-50"),
        "broken": ("broken JSON", None),
        "again": ("near-duplicate pictures", "new"),
    }
    assert gone["again"]["original"] == {"shard": "b.tar", "key": "new"}
    assert report.dropped == {
        "exact duplicate": 1,
        "near-duplicate text": 1,
        "near-duplicate pictures": 2,
        "broken JSON": 1,
    }
    assert keys_of(tmp_path / "out" / "b.tar") == ["rewritten", "two-photos", "damaged", "new", "evaluated"]


def test_the_first_in_the_order_of_shards_stays(shards: list[str], tmp_path: Path) -> None:
    run([shards[1], shards[0]], tmp_path / "out")
    assert set(found(tmp_path / "out")) == {"page-0", "page-1", "photo-50"}


def test_criteria_are_used_as_asked(shards: list[str], tmp_path: Path) -> None:
    report = run(shards, tmp_path / "out", replace(DEFAULT, limits=Limits(by=("exact",))))
    assert report.dropped == {"exact duplicate": 1, "broken JSON": 1}


def test_what_evaluation_sets_hold_is_dropped_and_named(shards: list[str], tmp_path: Path) -> None:
    pictures = write_shard(tmp_path / "eval" / "pictures.tar", {"x": document(encode(noise(93), quality=30))})
    texts = tmp_path / "eval" / "texts.jsonl"
    texts.write_text(json.dumps({"text": " ".join(article(3).split()[100:120])}) + "\n")
    against = (Against("photos", pictures), Against("reading", str(texts)))
    report = run(shards, tmp_path / "out", replace(DEFAULT, against=against))
    assert report.balanced
    assert report.examples["contaminated: photos"] == ("evaluated",)
    assert report.examples["contaminated: reading"] == ("page-3",)
    assert report.noted == {"photos: pictures looked for": 1, "reading: texts looked for": 1}


@pytest.mark.slow
def test_workers_change_nothing_but_the_time(shards: list[str], tmp_path: Path) -> None:
    assert run(shards, tmp_path / "one") == run(shards, tmp_path / "two", workers=2)
    assert bytes_of_shards(tmp_path / "one") == bytes_of_shards(tmp_path / "two")


def test_a_rerun_after_a_kill_gives_the_same_bytes(shards: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = run(shards, out)
    whole = bytes_of_shards(out)
    for name in ("signatures-b.tar.done.json", "signatures/b.tar.npz", "c.tar.done.json"):
        (out / ".kosmos" / name).unlink()
    (out / FOUND).unlink()
    (out / "c.tar").unlink()
    assert run(shards, out) == report
    assert bytes_of_shards(out) == whole


def test_standard_input_cannot_be_read_twice(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="standard input"):
        run(["-"], tmp_path)
