"""Convert: what a format can hold comes back equal through `create`, the rest is counted, and no key leads out."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipelines.conversion import convert
from data_pipelines.execution import Execution
from data_pipelines.report import Report
from data_pipelines.shard import ShardWriter
from data_pipelines.sources.source import Options
from data_pipelines.targets.formats import TARGETS, load_target
from kosmos.cli.data.convert import TARGETS as CHOICES
from tests.data_pipelines.sources.piles import entries, photo, put_tar
from text.document import Control, Document, Image, Phrase, Segment, Text
from text.specials import GROUNDING

PAIR = Document((Image(photo(1)), Text("A dog.")), {"source": "web"})
CHAT = Document((Image(photo(2)), Text("What?", loss=False), Text("A cat."), Text("Sure?", loss=False), Text("Yes.")))
PAGE = Document((Text("One."), Image(photo(3)), Text("Two."), Image(photo(4)), Text("Three.")), {"license": "MIT"})
GROUNDED = Document(
    (
        Image(photo(5)),
        Control(GROUNDING),
        Text("a dog", phrases=(Phrase(start=2, end=5, boxes=((0.0, 0.0, 0.5, 1.0),)),)),
    )
)
WORDS = Document((Text("Only words."),))
LATE = Document((Text("One."), Image(photo(6))))
BARE = Document((Image(photo(7)),))
DOCUMENTS = {"pair": PAIR, "chat": CHAT, "page": PAGE, "grounded": GROUNDED, "words": WORDS, "late": LATE, "bare": BARE}


def _shard(path: Path, documents: dict[str, Document] = DOCUMENTS) -> Path:
    with ShardWriter(path) as writer:
        for key, document in documents.items():
            writer.write(key, document)
    return path


def _converted(tmp_path: Path, to: str) -> Report:
    report = convert([str(_shard(tmp_path / "set-0.tar"))], tmp_path / "out", to, Execution())
    assert report.balanced
    return report


def _plain(document: object) -> list[Segment]:
    """Segments without what a reader adds to pictures."""
    assert isinstance(document, Document), document
    return [Image(one.source) if isinstance(one, Image) else one for one in document.segments]


@pytest.mark.parametrize("to", ["documents", "parquet"])
def test_our_own_forms_lose_nothing(tmp_path: Path, to: str) -> None:
    report = _converted(tmp_path, to)
    assert (report.written, report.dropped, report.noted) == (len(DOCUMENTS), {}, {})
    source = tmp_path / "out" / ("set-0.jsonl" if to == "documents" else "set-0.parquet")
    read = entries(source)
    assert [_plain(entry.document) for entry in read] == [list(document.segments) for document in DOCUMENTS.values()]
    metas = [entry.document.meta for entry in read if isinstance(entry.document, Document)]
    assert metas == [{"key": key, **document.meta} for key, document in DOCUMENTS.items()]


COMES_BACK = {
    "webdataset": {
        "pair": PAIR.segments,
        "chat": (Image(photo(2)), Text("What? A cat. Sure? Yes.")),
        "grounded": (Image(photo(5)), Text("a dog")),
    },
    "llava": {"pair": PAIR.segments, "chat": CHAT.segments, "grounded": (Image(photo(5)), Text("a dog"))},
    "mmc4": {
        "pair": PAIR.segments,
        "chat": (Image(photo(2)), Text("What? A cat. Sure? Yes.")),
        "page": PAGE.segments,
        "grounded": (Image(photo(5)), Text("a dog")),
        "words": WORDS.segments,
        "late": (Image(photo(6)), Text("One.")),
    },
    "obelics": {
        "pair": PAIR.segments,
        "chat": (Image(photo(2)), Text("What?"), Text("A cat."), Text("Sure?"), Text("Yes.")),
        "page": PAGE.segments,
        "grounded": (Image(photo(5)), Text("a dog")),
        "words": WORDS.segments,
        "late": LATE.segments,
        "bare": BARE.segments,
    },
    "text": {
        "pair": (Text("A dog."),),
        "chat": (Text("What?\nA cat.\nSure?\nYes."),),
        "page": (Text("One.\nTwo.\nThree."),),
        "grounded": (Text("a dog"),),
        "words": WORDS.segments,
        "late": (Text("One."),),
    },
    "coco": {
        "pair": PAIR.segments,
        "chat": (Image(photo(2)), Text("What? A cat. Sure? Yes.")),
        "grounded": (Image(photo(5)), Text("a dog")),
    },
}


@pytest.mark.parametrize("to", COMES_BACK)
def test_what_a_format_can_hold_comes_back(tmp_path: Path, to: str) -> None:
    report = _converted(tmp_path, to)
    read = entries(tmp_path / "out", options=Options(verbatim=True))
    assert [_plain(entry.document) for entry in read] == [list(segments) for segments in COMES_BACK[to].values()]
    assert report.written == len(COMES_BACK[to])


COUNTED = {
    "webdataset": (
        {"cannot hold: not one picture": 2, "cannot hold: words before the picture": 1, "cannot hold: no words": 1},
        {"lost: which words are learnt": 1, "lost: special tokens": 1, "lost: places of phrases": 1},
    ),
    "llava": ({"cannot hold: begins with an answer": 3, "cannot hold: ends without an answer": 1}, {}),
    "mmc4": ({"cannot hold: no words": 1}, {"moved: picture after the last words now stands before them": 1}),
    "obelics": ({}, {"lost: special tokens": 1, "lost: places of phrases": 1, "lost: which words are learnt": 1}),
    "text": ({"cannot hold: no words": 1}, {"lost: pictures": 5}),
    "coco": (
        {"cannot hold: not one picture": 2, "cannot hold: words before the picture": 1, "cannot hold: no words": 1},
        {"lost: meta": 1},
    ),
}


@pytest.mark.parametrize("to", COUNTED)
def test_what_a_format_cannot_hold_is_counted_by_reason(tmp_path: Path, to: str) -> None:
    report = _converted(tmp_path, to)
    dropped, noted = COUNTED[to]
    assert report.dropped == dropped
    assert noted.items() <= report.noted.items()


PHRASE = {"start": 2, "end": 5, "boxes": [[0, 0, 1, 1]]}
PAIR_PARTS = {"jpg": photo(1), "txt": b"A dog.", "json": {}}
GROUNDED_PARTS = {"0.jpg": photo(1), "json": {"segments": [{"image": "0.jpg"}, {"text": "A dog", "phrases": [PHRASE]}]}}
PARALLEL_PARTS = {"json": {"segments": [{"text": "One"}, {"text": "Eins"}], "meta": {"languages": ["en", "de"]}}}
HELD = {"grounded": GROUNDED_PARTS, "parallel-lines": PARALLEL_PARTS, "tmx": PARALLEL_PARTS}


@pytest.mark.parametrize("to", TARGETS)
def test_no_key_leads_out_of_the_output(tmp_path: Path, to: str) -> None:
    keys = ("../../escaped", "/tmp/escaped", "a/../../escaped", "C:\\escaped", "ok")
    members = {f"{key}.{part}": content for key in keys for part, content in HELD.get(to, PAIR_PARTS).items()}
    shard = put_tar(tmp_path / "in" / "deep" / "set-0.tar", members)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    report = convert([str(shard)], tmp_path / "in" / "out", to, Execution())
    assert (report.read, report.written) == (5, 5)
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert new
    assert all(path.is_relative_to(tmp_path / "in" / "out") for path in new)


def test_shards_of_one_name_do_not_write_over_each_other(tmp_path: Path) -> None:
    paths = [str(_shard(tmp_path / folder / "set-0.tar", {"k": PAIR})) for folder in ("a", "b")]
    report = convert(paths, tmp_path / "out", "documents", Execution())
    assert report.written == 2
    assert sorted(path.name for path in (tmp_path / "out").glob("*.jsonl")) == ["set-0-2.jsonl", "set-0.jsonl"]
    assert len(list((tmp_path / "out" / "images").rglob("*.jpg"))) == 2


def test_a_key_that_comes_again_is_counted(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "set-0.tar") as writer:
        for key in ("a", "b", "a"):
            writer.write(key, PAIR)
    report = convert([str(tmp_path / "set-0.tar")], tmp_path / "out", "documents", Execution())
    assert (report.written, report.dropped) == (2, {"duplicate key": 1})


@pytest.mark.slow
def test_two_workers_write_the_bytes_of_one(tmp_path: Path) -> None:
    paths = [str(_shard(tmp_path / f"set-{number}.tar")) for number in range(3)]
    for to in ("documents", "parquet", "coco"):
        for workers in (1, 2):
            convert(paths, tmp_path / f"{to}-{workers}", to, Execution(workers=workers))
        one, two = (
            {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            for folder in (tmp_path / f"{to}-1", tmp_path / f"{to}-2")
        )
        assert one == two


def test_the_command_offers_the_formats_of_the_table() -> None:
    assert tuple(TARGETS) == CHOICES
    with pytest.raises(ValueError, match="known formats: webdataset"):
        load_target("unheard of")


def test_shards_are_not_written_over_themselves(tmp_path: Path) -> None:
    shard = _shard(tmp_path / "a.tar")
    before = shard.read_bytes()
    with pytest.raises(ValueError, match="written over itself"):
        convert([str(shard)], tmp_path, "webdataset", Execution())
    assert shard.read_bytes() == before
