"""Statistics count what is there, add up over shards, and are drawn the same every time."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipelines.shard import ShardWriter
from data_pipelines.stat_plots import plot_statistics
from data_pipelines.stats import MAX_NAMES, OTHERS, Counting, Statistics, count_shards
from tests.data_pipelines.written import document, encode, noise, write_shard
from text.tokenizer import Tokenizer

WORDS = "The dog runs over the green grass and jumps into the cold water behind the house."
GERMAN = "Der Hund läuft über das grüne Gras und springt hinter dem Haus in das kalte Wasser."
QUICK = Counting(languages=False)
MODEL = Path(__file__).parents[2] / "kosmos" / "tiny" / "tokenizer.model"


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    first = {
        "a": document(encode(noise(0, 300, 200)), WORDS, source="https://example.org/a", license="MIT"),
        "b": document(encode(noise(1, 300, 200)), WORDS, encode(noise(2, 50, 100), "PNG"), source="web"),
    }
    with ShardWriter(tmp_path / "2.tar") as writer:
        writer.write("c", document(GERMAN, source="https://example.org/b"))
        writer.write("d", document(encode(noise(0, 300, 200)), WORDS.lower()))
        writer.write_parts("broken", {"json": b"{"})
        writer.write("e", document(b"\xff\xd8\xff no picture"))
    return [write_shard(tmp_path / "1.tar", first), str(tmp_path / "2.tar")]


def test_everything_is_counted(shards: list[str]) -> None:
    found = count_shards(shards, Counting())
    assert (found.documents, found.exact_duplicates, found.broken) == (5, 1, {"broken JSON": 1})
    pictures = {one.label: one.num_values for one in found.histograms["pictures a document"].bins() if one.num_values}
    assert pictures == {"0": 1, "1": 3, "2": 1}
    assert found.histograms["words a document"].total == len(f"{WORDS} {WORDS} {GERMAN} {WORDS}".split())
    sides = {one.label: one.num_values for one in found.histograms["shortest side (px)"].bins() if one.num_values}
    assert sides == {"32-63": 1, "200-255": 3}
    assert found.categories == {
        "kinds of pictures": {"JPEG": 3, "PNG": 1, "(unreadable)": 1},
        "languages": {"en": 3, "de": 1, "(no words)": 1},
        "sources": {"example.org": 2, "web": 1, "(not stated)": 2},
        "licences": {"MIT": 1, "(not stated)": 4},
    }


def test_tokens_are_those_of_the_given_model(shards: list[str]) -> None:
    tokenizer = Tokenizer(MODEL, specials="kosmos2")
    found = count_shards(shards, Counting(tokenizer=MODEL, languages=False)).histograms["tokens a document"]
    assert found.total == sum(len(tokenizer.encode(text)) for text in (WORDS, WORDS, GERMAN, WORDS.lower()))
    assert count_shards(shards, QUICK).histograms["tokens a document"].count == 0


@pytest.mark.slow
def test_workers_change_nothing_but_the_time(shards: list[str]) -> None:
    assert count_shards(shards, QUICK, workers=2) == count_shards(shards, QUICK)


def test_a_name_that_differs_in_every_document_does_not_fill_the_memory(tmp_path: Path) -> None:
    half = MAX_NAMES // 2 + 50
    paths = [
        write_shard(tmp_path / f"{part}.tar", {f"k{n}": document("a", source=f"s{part}-{n}") for n in range(half)})
        for part in range(2)
    ]
    sources = count_shards(paths, QUICK).categories["sources"]
    assert len(sources) == MAX_NAMES + 1
    assert sources[OTHERS] == 2 * half - MAX_NAMES


def test_tables_and_json_say_the_same(shards: list[str]) -> None:
    found = count_shards(shards, QUICK)
    text, record = found.to_text(), found.to_record()
    assert "5 documents, 1 of them exact duplicates" in text
    assert "1 that cannot be read: broken JSON" in text
    assert "5 pictures, 1.00 a document" in text
    assert "tokens" not in text
    assert record["totals"] == {"pictures": 5, "words": 64, "tokens": 0}


@pytest.mark.slow
def test_plots_are_whole_drawings_and_the_same_every_time(shards: list[str], tmp_path: Path) -> None:
    found = count_shards(shards, QUICK)
    drawn = plot_statistics(found, tmp_path / "plots")
    assert [path.name for path in drawn] == [
        "pictures-a-document.svg",
        "words-a-document.svg",
        "shortest-side-px.svg",
        "width-height.svg",
        "kinds-of-pictures.svg",
        "sources.svg",
        "licences.svg",
    ]
    before = [path.read_bytes() for path in drawn]
    assert "example.org" in before[5].decode()
    assert [path.read_bytes() for path in plot_statistics(found, tmp_path / "plots")] == before


def test_nothing_at_all_is_no_trouble() -> None:
    assert Statistics().to_text().startswith("0 documents")
