"""The shares that are told are those the stream would have: counted where all is read, estimated where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipelines.mixing import Contents, count_tokens, measure, shares
from data_pipelines.mixture import Component, Measure, Mixture
from data_pipelines.shard import ShardWriter
from tests.vision.pictures import drawn, encoded
from text.document import Document, Image, Text
from text.tokenizer import Tokenizer

PICTURE = encoded(drawn(), "PNG")


def component(folder: Path, documents: list[Document], weight: float = 1.0) -> Component:
    """A component over one shard."""
    with ShardWriter(folder / "only.tar") as writer:
        for number, document in enumerate(documents):
            writer.write(f"{number:05d}", document)
    return Component(name=folder.name, shards=(str(folder),), weight=weight)


def words(count: int, pictures: int = 0) -> Document:
    return Document((*[Image(PICTURE)] * pictures, Text(" ".join(["dogs"] * count))))


@pytest.fixture
def two(tmp_path: Path, small_tokenizer: Tokenizer) -> list[Contents]:
    """40 long documents and 10 short ones, weighed 1 to 3."""
    long = component(tmp_path / "long", [words(30)] * 40, 0.25)
    short = component(tmp_path / "short", [words(5)] * 10, 0.75)
    return [measure(part, small_tokenizer) for part in (long, short)]


def test_a_document_costs_its_words_its_pictures_and_its_ends(small_tokenizer: Tokenizer) -> None:
    ids = len(small_tokenizer.encode("dogs dogs"))
    assert count_tokens(words(2), small_tokenizer) == ids + 2
    assert count_tokens(words(2, pictures=2), small_tokenizer, image_tokens=8) == ids + 2 + 2 * 10


@pytest.mark.parametrize("by", ["document", "token", "epoch"])
def test_shares_are_those_of_a_stream_drawn_by_the_weights(two: list[Contents], by: Measure) -> None:
    long, short = shares(Mixture(components=tuple(part.component for part in two), by=by), two, token_budget=1e6)
    # What a stream of many draws would hold, said the plain way.
    draws = {
        "document": (0.25, 0.75),
        "token": (0.25 / two[0].tokens, 0.75 / two[1].tokens),
        "epoch": (0.25 * 40, 0.75 * 10),
    }[by]
    tokens = draws[0] * two[0].tokens, draws[1] * two[1].tokens
    assert long.by_document == pytest.approx(draws[0] / sum(draws))
    assert long.by_token == pytest.approx(tokens[0] / sum(tokens))
    assert long.by_document + short.by_document == pytest.approx(1)
    assert long.epochs == pytest.approx(1e6 * long.by_token / (40 * two[0].tokens))
    if by == "token":
        assert [long.by_token, short.by_token] == pytest.approx([0.25, 0.75])


def test_few_documents_are_counted_and_many_estimated_from_all_over(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    rising = component(tmp_path / "rising", [words(1 + number, pictures=number % 2) for number in range(60)])
    whole, estimate = (measure(rising, small_tokenizer, sample=sample) for sample in (60, 15))
    assert (whole.sampled, estimate.sampled) == (60, 15)
    exact = sum(count_tokens(words(1 + number, pictures=number % 2), small_tokenizer) for number in range(60))
    assert whole.tokens * 60 == pytest.approx(exact)
    assert estimate.tokens == pytest.approx(whole.tokens, rel=0.4)
    assert whole.pictures == 0.5


def test_only_the_subset_is_counted(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    part = component(tmp_path / "part", [words(1)] * 5 + [words(50)] * 5)
    half = measure(Component(name="half", shards=part.shards, subset=(0.5, 1.0)), small_tokenizer)
    assert half.documents == range(5, 10)
    assert half.tokens == count_tokens(words(50), small_tokenizer)


def test_broken_documents_are_told_and_do_not_weigh(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    with ShardWriter(tmp_path / "a.tar") as writer:
        writer.write_parts("0", {"json": b"{"})
        writer.write("1", words(4))
    found = measure(Component(name="a", shards=(str(tmp_path),)), small_tokenizer)
    assert (found.sampled, found.broken, found.tokens) == (2, 1, count_tokens(words(4), small_tokenizer))


def test_a_component_without_a_document_is_refused(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    one = component(tmp_path / "one", [words(1)])
    with pytest.raises(ValueError, match="no document in the part it uses"):
        measure(Component(name="none", shards=one.shards, subset=(0.0, 0.5)), small_tokenizer)
    with ShardWriter(tmp_path / "broken.tar") as writer:
        writer.write_parts("0", {"json": b"{"})
    with pytest.raises(ValueError, match="no readable document; run `kosmos data lint`"):
        measure(Component(name="broken", shards=(str(tmp_path / "broken.tar"),)), small_tokenizer)
