"""Filtering accounts for every document and gives the same bytes however it is run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_pipelines.execution import Execution
from data_pipelines.filtering import DROPPED, filter_shards
from data_pipelines.report import Report
from data_pipelines.rules.table import choose_rules
from data_pipelines.shard import ShardWriter, open_shard, read_documents
from tests.data_pipelines.written import bytes_of_shards, document, encode, keys_of, noise, write_shard
from text.document import Document

WORDS = "The dog runs over the green grass and jumps into the cold water behind the house."
RULES = choose_rules("interleaved")
ONE = Execution()


def page(seed: int, pictures: int = 2) -> Document:
    parts = [part for number in range(pictures) for part in (encode(noise(100 * seed + number)), f"Number {number}.")]
    return document(WORDS, *parts, WORDS, id=seed)


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    """Three shards: good pages, and one of every kind of bad ones."""
    tiny, damaged = encode(noise(0, 40, 40)), encode(noise(1))[:700]
    bad = {
        "tiny": document(WORDS, tiny, WORDS, encode(noise(2)), WORDS, encode(noise(3))),
        "damaged": document(WORDS, damaged, WORDS, encode(noise(4)), WORDS, encode(noise(5))),
        "only-damaged": document(WORDS, damaged, WORDS),
        "no-picture": document(WORDS),
        "seven": page(6, pictures=7),
        "gallery": document(encode(noise(8)), encode(noise(9)), WORDS),
    }
    paths = [tmp_path / "in" / f"x-{number}.tar" for number in range(3)]
    write_shard(paths[0], {f"good-{seed}": page(seed) for seed in range(1, 5)})
    write_shard(paths[1], bad)
    write_shard(paths[2], {f"single-{seed}": page(seed, pictures=1) for seed in range(20, 32)})
    with ShardWriter(tmp_path / "in" / "x-3.tar") as writer:
        writer.write_parts("broken", {"json": b"{"})
        writer.write_parts("missing", {"json": b'{"segments": [{"image": "missing.0.jpg"}]}'})
        writer.write("last", page(9))
    return [str(path) for path in (*paths, tmp_path / "in" / "x-3.tar")]


def run(shards: list[str], out: Path, workers: int = 1, rejected: Path | None = None) -> Report:
    return filter_shards(shards, out, RULES, rejected=rejected, execution=Execution(workers=workers))


def test_every_document_is_written_or_dropped_for_a_named_reason(shards: list[str], tmp_path: Path) -> None:
    report = run(shards, tmp_path / "out")
    assert report.balanced
    assert report.read == 25
    assert {reason: report.examples[reason] for reason in report.dropped if not reason.startswith("one-picture")} == {
        "interspersed: pictures are not interspersed in the text": ("only-damaged", "gallery"),
        "min-pictures: too few pictures": ("no-picture",),
        "broken JSON": ("broken",),
        "missing image": ("missing",),
    }
    assert dict(report.noted) == {"min-side: left out": 1, "readable: left out": 1, "max-pictures: left out": 2}
    assert keys_of(tmp_path / "out" / "x-1.tar") == ["tiny", "damaged", "seven"]


def test_a_changed_document_keeps_the_rest_of_it(shards: list[str], tmp_path: Path) -> None:
    run(shards, tmp_path / "out")
    found = dict(read_documents(str(tmp_path / "out" / "x-1.tar")))["seven"]
    before = dict(read_documents(shards[1]))["seven"]
    assert isinstance(found, Document)
    assert isinstance(before, Document)
    assert [image.source for image in found.images] == [image.source for image in before.images[:5]]
    assert found.meta == before.meta


def test_a_document_no_rule_changes_is_copied_byte_for_byte_with_what_else_lies_beside_it(tmp_path: Path) -> None:
    parts = {"jpg": encode(noise(1)), "txt": b"a dog on a beach", "json": b'{"width":  96}', "npy": b"features"}
    with ShardWriter(tmp_path / "in.tar") as writer:
        writer.write_parts("a", parts)
    filter_shards([str(tmp_path / "in.tar")], tmp_path / "out", choose_rules("captions"), execution=ONE)
    with open_shard(str(tmp_path / "out" / "in.tar")) as shard:
        assert [dict(sample.parts) for sample in shard] == [parts]


def test_dropped_documents_are_kept_beside_with_their_reason(shards: list[str], tmp_path: Path) -> None:
    report = run(shards, tmp_path / "out", rejected=tmp_path / "no")
    found = {
        key: one.meta[DROPPED]
        for path in sorted((tmp_path / "no").glob("*.tar"))
        for key, one in read_documents(str(path))
        if isinstance(one, Document)
    }
    assert found["no-picture"] == "min-pictures: too few pictures"
    assert len(found) == sum(report.dropped.values()) - 2  # two are broken: no document to keep


@pytest.mark.slow
def test_workers_change_nothing_but_the_time(shards: list[str], tmp_path: Path) -> None:
    alone = run(shards, tmp_path / "one", rejected=tmp_path / "no-one")
    rest = filter_shards(shards, tmp_path / "two", RULES, rejected=tmp_path / "no-two", execution=Execution(workers=2))
    assert alone == rest
    assert bytes_of_shards(tmp_path / "one") == bytes_of_shards(tmp_path / "two")
    assert bytes_of_shards(tmp_path / "no-one") == bytes_of_shards(tmp_path / "no-two")


def test_a_rerun_after_a_kill_does_the_rest_and_gives_the_same_bytes(shards: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = run(shards, out)
    whole = bytes_of_shards(out)
    finished = (out / "x-0.tar").stat().st_mtime_ns
    for path in (out / ".kosmos" / "x-1.tar.done.json", out / "x-1.tar.idx", out / ".kosmos" / "x-2.tar.done.json"):
        path.unlink()
    (out / "x-2.tar").write_bytes(b"from before")
    (out / "x-3.tar.123.partial").write_bytes(b"torn")
    assert run(shards, out) == report
    assert bytes_of_shards(out) == whole
    assert (out / "x-0.tar").stat().st_mtime_ns == finished


def test_a_folder_of_other_rules_is_refused(shards: list[str], tmp_path: Path) -> None:
    run(shards, tmp_path / "out")
    with pytest.raises(ValueError, match="other options"):
        filter_shards(shards, tmp_path / "out", choose_rules("text"), execution=ONE)
    with pytest.raises(ValueError, match="what is kept"):
        filter_shards(shards, tmp_path / "new", RULES, rejected=tmp_path / "new", execution=ONE)


def test_the_report_is_plain_json(shards: list[str], tmp_path: Path) -> None:
    assert json.loads(run(shards, tmp_path / "out").to_json())["read"] == 25
