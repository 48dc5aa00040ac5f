"""Every fault a shard can have is found, where it is, and once; a sound shard is silent."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import pytest

from data_pipelines.lint import lint
from data_pipelines.shard import MAX_MEMBER_BYTES, ShardWriter
from data_pipelines.stores import expand
from data_pipelines.tar import END, header
from tests.data_pipelines.broken_shards import drawn, file, page, torture_folder
from text.document import Document, Image, Text

FINDINGS = {
    "contents.tar": [
        (2048, "c01", "broken JSON"),
        (3072, "c02", "text is not UTF-8"),
        (4096, "c03", "no segments"),
        (5120, "c04", "malformed segments"),
        (6144, "c05", "malformed phrases"),
        (7168, "c06", "missing image"),
        (9216, "c07", "unreferenced image"),
        (11264, "c08", "undecodable image"),
        (13312, "c09", "checksum mismatch"),
        (15872, "c10", "empty file"),
    ],
    "endless.tar": [(2048, "", "no end of archive")],
    "garbage.tar": [(0, "", "torn header")],
    "good.tar": [],
    "joined.tar": [(2048, "", "data after the end")],
    "keys.tar": [
        (3072, "k1", "members not adjacent"),
        (6144, "k3", "duplicate key"),
        (7168, "good-1", "duplicate key"),
    ],
    "mismatch.tar": [(0, "", "index mismatch")],
    "names.tar": [
        (2048, "photo 1", "key is not portable"),
        (3072, "../evil", "unsafe name"),
        (5120, "n2", "forbidden part"),
        (7168, "n3", "part name is not portable"),
        (8192, "README", "file of no document"),
        (9216, "/etc/noext", "unsafe name"),
    ],
    "stale.tar": [(0, "", "stale index")],
    "torn.tar": [
        (1024, "", "torn header"),
        (3996, "", "torn header"),
        (6044, "t7", "beside a tear"),
        (7580, "", "torn header"),
        (9628, "", "member name is not UTF-8"),
        (10140, "t9", "missing image"),
        (11164, "", "truncated"),
    ],
}


@pytest.fixture
def torture(tmp_path: Path) -> Path:
    return torture_folder(tmp_path / "torture")


def found(*patterns: Path, decode: bool = True, workers: int = 1) -> dict[str, list[tuple[int, str, str]]]:
    seen: dict[str, list[tuple[int, str, str]]] = {}
    for linted in lint(expand([str(pattern) for pattern in patterns]), decode=decode, workers=workers):
        rows = seen.setdefault(Path(linted.shard).name, [])
        rows += [(finding.offset, finding.key, finding.reason) for finding in linted.findings]
    return seen


def test_every_fault_is_found_once_where_it_is(torture: Path) -> None:
    assert found(torture) == FINDINGS


@pytest.mark.slow
def test_two_processes_find_the_same(torture: Path) -> None:
    assert found(torture, workers=2) == FINDINGS


def test_without_decoding_only_damaged_pictures_are_missed(torture: Path) -> None:
    both = Counter(row for rows in FINDINGS.values() for row in rows)
    fast = Counter(row for rows in found(torture, decode=False).values() for row in rows)
    assert [reason for _, _, reason in both - fast] == ["undecodable image"]
    assert not fast - both


def test_documents_are_counted_past_every_tear(torture: Path) -> None:
    documents = {Path(one.shard).name: one.documents for one in lint(expand([str(torture)])) if one.documents}
    assert documents == {
        "contents.tar": 12,
        "endless.tar": 2,
        "good.tar": 3,
        "joined.tar": 2,
        "keys.tar": 6,
        "mismatch.tar": 2,
        "names.tar": 5,
        "stale.tar": 1,
        "torn.tar": 8,
    }


def test_what_we_write_is_sound(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "s.tar") as writer:
        for form in ("JPEG", "PNG", "WEBP", "GIF"):
            writer.write(form, Document((Image(drawn(form=form)), Text("a picture"), Image(drawn(form=form)))))
    assert found(tmp_path) == {"s.tar": []}


def test_a_key_is_repeated_where_it_comes_later_in_the_order_of_the_shards(tmp_path: Path) -> None:
    first, second = tmp_path / "1.tar", tmp_path / "2.tar"
    first.write_bytes(page("a") + page("b") + END)
    second.write_bytes(page("c") + page("a") + page("b") + END)
    assert found(first, second) == {"1.tar": [], "2.tar": [(1024, "a", "duplicate key"), (2048, "b", "duplicate key")]}
    assert found(second, first) == {"1.tar": [(0, "a", "duplicate key"), (1024, "b", "duplicate key")], "2.tar": []}


def test_standard_input_is_linted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1.tar").write_bytes(page("a") + END)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(page("b") + page("a") + END)))
    (*_, last) = lint([str(tmp_path / "1.tar"), "-"])
    assert [(finding.shard, finding.offset, finding.reason) for finding in last.findings] == [
        ("-", 1024, "duplicate key")
    ]


def test_a_file_too_large_is_found_and_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "s.tar", "wb") as shard:
        shard.write(header("a.jpg", MAX_MEMBER_BYTES + 1))
        shard.truncate(512 + MAX_MEMBER_BYTES + 512 + len(END))  # a hole: no space is taken
    assert found(tmp_path) == {"s.tar": [(0, "a", "oversized file")]}


def test_several_faults_of_one_document_are_all_found(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(
        file("a b.json", '{"segments": [{"image": "a b.0.png", "blake3": "00"}]}')
        + file("a b.0.png", drawn()[:30])
        + file("a b.1.png", b"")
        + END
    )
    reasons = [reason for _, _, reason in found(tmp_path)["s.tar"]]
    assert reasons == [
        "key is not portable",
        "checksum mismatch",
        "undecodable image",
        "empty file",
        "unreferenced image",
    ]


@pytest.mark.parametrize("parts", [("jpg", "txt"), ("jpg",), ("txt",)])
def test_beside_a_tear_only_half_a_pair_is_doubted(tmp_path: Path, parts: tuple[str, ...]) -> None:
    contents = {"jpg": drawn(form="JPEG"), "txt": b"words"}
    pair = b"".join(file(f"a.{part}", contents[part]) for part in parts)
    (tmp_path / "s.tar").write_bytes(pair + b"torn" * 128 + page("b") + END)
    doubted = [(0, "a", "beside a tear")] if len(parts) == 1 else []
    assert found(tmp_path) == {"s.tar": [*doubted, (len(pair), "", "torn header")]}


def test_an_empty_file_is_a_shard_without_an_end(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(b"")
    assert found(tmp_path) == {"s.tar": [(0, "", "no end of archive")]}


def test_shards_of_img2dataset_are_sound(tmp_path: Path) -> None:
    jpg = drawn(form="JPEG")
    pairs = [file(f"00000000{n}.jpg", jpg) + file(f"00000000{n}.txt", "words") for n in range(2)]
    notes = [file(f"00000000{n}.json", '{"url": "http://x", "caption": "words", "width": 8}') for n in range(2)]
    (tmp_path / "00000.tar").write_bytes(pairs[0] + notes[0] + pairs[1] + notes[1] + END)
    assert found(tmp_path) == {"00000.tar": []}
