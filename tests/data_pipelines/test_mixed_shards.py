"""A mixture written out has its proportions to the document, and the same bytes whoever writes it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from data_pipelines.execution import Execution
from data_pipelines.mixed_shards import write_mixture
from data_pipelines.mixing import Contents, measure
from data_pipelines.mixture import Component, Measure, Mixture
from data_pipelines.report import Report
from data_pipelines.shard import ShardWriter, read_documents
from tests.vision.pictures import drawn, encoded
from text.document import Document, Image, Text
from text.tokenizer import Tokenizer

PICTURE = encoded(drawn(), "PNG")


@pytest.fixture
def contents(tmp_path: Path, small_tokenizer: Tokenizer) -> list[Contents]:
    """12 documents with a picture and 5 without, weighed 2 to 1; the last of the 5 is broken."""
    for name, count in (("seen", 12), ("read", 4)):
        with ShardWriter(tmp_path / "in" / f"{name}.tar") as writer:
            for number in range(count):
                picture = [Image(PICTURE, meta={"alt": "a wall"})] if name == "seen" else []
                writer.write(f"{name}{number}", Document((*picture, Text(f"{name} {number}")), {"source": name}))
            if name == "read":
                writer.write_parts("read4", {"json": b"{"})
    parts = [
        Component(name=name, shards=(str(tmp_path / "in" / f"{name}.tar"),), weight=weight)
        for name, weight in (("seen", 2 / 3), ("read", 1 / 3))
    ]
    return [measure(part, small_tokenizer) for part in parts]


def write(contents: list[Contents], out: Path, documents: int, *, by: Measure = "document", workers: int = 1) -> Report:
    mixture = Mixture(components=tuple(part.component for part in contents), by=by)
    execution = Execution(workers=workers)
    return write_mixture(mixture, contents, out, documents=documents, shard_documents=10, execution=execution)


def written(out: Path) -> list[tuple[str, Document]]:
    found = [pair for shard in sorted(out.glob("*.tar")) for pair in read_documents(str(shard))]
    assert all(isinstance(document, Document) for _, document in found)
    return [(key, document) for key, document in found if isinstance(document, Document)]


def origin(document: Document) -> tuple[str, str]:
    mixed = document.meta["mixed"]
    assert isinstance(mixed, dict)
    return mixed["component"], mixed["key"]


def test_proportions_are_exact_and_every_document_is_accounted_for(contents: list[Contents], tmp_path: Path) -> None:
    report = write(contents, tmp_path / "out", 30)
    assert report.balanced
    assert (report.read, report.written, dict(report.dropped)) == (30, 28, {"broken JSON": 2})
    found = Counter(origin(document)[0] for _, document in written(tmp_path / "out"))
    assert found == {"seen": 20, "read": 8}
    assert report.noted == {"from seen": 20, "from read": 8}


def test_a_document_comes_again_only_after_all_others_and_in_another_order(
    contents: list[Contents], tmp_path: Path
) -> None:
    write(contents, tmp_path / "out", 36)
    keys = [origin(document)[1] for _, document in written(tmp_path / "out") if origin(document)[0] == "seen"]
    first, second = keys[:12], keys[12:]
    assert len(keys) == 24
    assert set(first) == set(second)
    assert len(set(first)) == 12
    assert first != second
    assert first != sorted(first)


def test_keys_are_new_and_in_order_and_pictures_come_along(contents: list[Contents], tmp_path: Path) -> None:
    write(contents, tmp_path / "out", 24)
    found = written(tmp_path / "out")
    keys = [key for key, _ in found]
    assert keys == sorted(set(keys))
    seen = next(document for _, document in found if origin(document)[0] == "seen")
    assert seen.images[0].source == PICTURE
    assert (seen.images[0].meta["alt"], seen.meta["source"]) == ("a wall", "seen")


def test_an_epoch_holds_every_document_as_often_as_its_repetitions_say(
    contents: list[Contents], tmp_path: Path
) -> None:
    twice = [measure_as(part, weight) for part, weight in zip(contents, (1.0, 2.0), strict=True)]
    write(twice, tmp_path / "out", 12 + 10, by="epoch")
    found = Counter(origin(document) for _, document in written(tmp_path / "out"))
    assert found == {("seen", f"seen{n}"): 1 for n in range(12)} | {("read", f"read{n}"): 2 for n in range(4)}


def measure_as(part: Contents, weight: float) -> Contents:
    """The same contents under another weight."""
    return replace(part, component=replace(part.component, weight=weight))


@pytest.mark.slow
def test_workers_and_interruptions_change_no_byte(contents: list[Contents], tmp_path: Path) -> None:
    write(contents, tmp_path / "alone", 30)
    write(contents, tmp_path / "many", 30, workers=2)
    (tmp_path / "many" / "mixed-000001.tar").unlink()
    (tmp_path / "many" / ".kosmos" / "mixed-000001.done.json").unlink()
    again = write(contents, tmp_path / "many", 30)
    alone, many = ({path.name: path.read_bytes() for path in (tmp_path / n).glob("*.tar*")} for n in ("alone", "many"))
    assert alone == many
    assert again.written == 28


def test_a_folder_of_another_mixture_is_refused(contents: list[Contents], tmp_path: Path) -> None:
    write(contents, tmp_path / "out", 30)
    with pytest.raises(ValueError, match="another command or other options"):
        write(contents, tmp_path / "out", 31)
