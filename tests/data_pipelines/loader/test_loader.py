"""The loader: the same documents in the same order however it is killed, resumed and shared; nothing lost silently."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.loader.loader import Loader
from data_pipelines.loader.state import merge_states
from data_pipelines.loader.stream import Stream
from data_pipelines.mixture import Component, Mixture, mixture_of
from data_pipelines.shard import ShardWriter
from tests.data_pipelines.loader.words import Piece, WordEncoder, mixture, write_set
from text.document import Document, Image, Text

Batches: TypeAlias = dict[str, tuple[Piece, ...]]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Stream[Piece, tuple[Piece, ...]]]:
    """Two streams: a mixture of a large and a small component, with two bad documents; and one of long documents."""
    folder = tmp_path_factory.mktemp("sets")
    large = write_set(folder, "large", [[3, 5, 8, 2, 9, 4, 7]] * 13)
    small = write_set(folder, "small", [[6, 1, 11]])
    with ShardWriter(folder / "large" / "bad.tar") as writer:
        writer.write("bad-1", Document((Text("bad one"),)))
        writer.write("bad-2", Document((Text("good words"), Image(PNG + b"broken"))))
    long = write_set(folder, "long", [[30, 45, 7], [100]])
    shares = [Component(name=c.name, shards=c.shards, weight=w) for c, w in ((large, 3.0), (small, 1.0))]
    return {
        "short": Stream(mixture=mixture(*shares), encoder=WordEncoder(), rows=24, look_ahead=3),
        "long": Stream(mixture=mixture(long), encoder=WordEncoder(), rows=40, look_ahead=2),
    }


def _loader(streams: Mapping[str, Stream[Piece, tuple[Piece, ...]]], **options: int) -> Loader[tuple[Piece, ...]]:
    return Loader(streams, **{"lanes": 6, "max_skipped": 1, **options})


def _steps(loaders: list[Loader[tuple[Piece, ...]]], steps: int) -> list[Batches]:
    """What all ranks take in so many steps, in the order of the run."""
    taken = [list(islice(loader, steps)) for loader in loaders]
    return [batches for step in zip(*taken, strict=True) for batches in step]


@settings(max_examples=25)
@given(data=st.data())
def test_a_run_killed_anywhere_goes_on_with_other_ranks(
    streams: Mapping[str, Stream[Piece, tuple[Piece, ...]]], data: st.DataObject
) -> None:
    pieces = data.draw(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 9)), min_size=2, max_size=4))
    taken: list[Batches] = []
    record: Mapping[str, object] | None = None
    for ranks, steps in pieces:
        loaders = [_loader(streams, rank=rank, ranks=ranks) for rank in range(ranks)]
        for loader in loaders:
            if record is not None:
                loader.load_state_dict(record)
        taken += _steps(loaders, steps)
        record = json.loads(json.dumps(merge_states([loader.state_dict() for loader in loaders])))
    assert taken == _steps([_loader(streams)], len(taken))


@pytest.mark.slow
def test_workers_give_what_one_process_gives_and_resume_with_another_number(
    streams: Mapping[str, Stream[Piece, tuple[Piece, ...]]],
) -> None:
    wanted = _steps([_loader(streams)], 20)
    first = _loader(streams, workers=3)
    taken = list(islice(first, 9))
    second = _loader(streams, workers=2)
    second.load_state_dict(first.state_dict())
    assert taken + list(islice(second, 11)) == wanted


@pytest.mark.slow
def test_more_workers_than_lanes_is_no_deadlock(streams: Mapping[str, Stream[Piece, tuple[Piece, ...]]]) -> None:
    wanted = _steps([_loader(streams, lanes=2)], 5)
    assert list(islice(_loader(streams, lanes=2, workers=3), 5)) == wanted


def test_an_epoch_gives_every_word_of_every_document_once(tmp_path: Path) -> None:
    component = write_set(tmp_path, "all", [[3, 50, 7], [12, 1], [120]])
    stream = Stream(mixture=mixture(component), encoder=WordEncoder(), rows=20, look_ahead=2)
    words = Counter[tuple[str, int]]()
    for batches in islice(Loader({"s": stream}, lanes=1), 200):
        for piece in batches["s"]:
            words.update((piece.key, piece.start + place) for place in range(piece.length))
    assert len(words) == 3 + 50 + 7 + 12 + 1 + 120
    assert max(words.values()) - min(words.values()) <= 2  # the last window may not be used up


def test_a_batch_never_holds_more_rows_than_it_may(streams: Mapping[str, Stream[Piece, tuple[Piece, ...]]]) -> None:
    for batches in islice(_loader(streams), 60):
        assert sum(piece.length for piece in batches["short"]) <= 24
        assert sum(piece.length for piece in batches["long"]) <= 40


def test_a_mixture_keeps_its_shares_in_documents(streams: Mapping[str, Stream[Piece, tuple[Piece, ...]]]) -> None:
    keys = Counter(
        piece.key.partition("/")[0] for batches in islice(_loader(streams), 120) for piece in batches["short"]
    )
    assert keys["small"] / keys.total() == pytest.approx(0.25, abs=0.03)


def test_bad_documents_are_passed_over_counted_and_logged(
    streams: Mapping[str, Stream[Piece, tuple[Piece, ...]]], caplog: pytest.LogCaptureFixture
) -> None:
    loader = _loader(streams, lanes=1)
    for _ in islice(loader, 40):
        pass
    report = loader.report
    assert report.dropped["cannot be encoded"] >= 1
    assert report.noted["picture cannot be read"] >= 1
    assert report.balanced
    assert "bad-1" in caplog.text
    assert "bad.tar" in caplog.text


def test_too_many_bad_documents_stop_the_run_and_name_the_shard(tmp_path: Path) -> None:
    component = write_set(tmp_path, "good", [[2] * 300])
    with ShardWriter(tmp_path / "good" / "rotten.tar") as writer:
        for number in range(30):
            writer.write(f"bad-{number}", Document((Text("bad"),)))
    stream = Stream(mixture=mixture(component), encoder=WordEncoder(), rows=20)
    with pytest.raises(ValueError, match=r"more than 1\.0%; worst shards: .*rotten\.tar"):
        for _ in islice(Loader({"s": stream}, lanes=2), 100):
            pass


def test_the_state_of_a_run_is_a_few_kilobytes(streams: Mapping[str, Stream[Piece, tuple[Piece, ...]]]) -> None:
    loader = _loader(streams, lanes=64)
    for _ in islice(loader, 200):
        pass
    assert len(json.dumps(loader.state_dict())) < 6000


def test_a_state_of_other_data_or_missing_lanes_is_refused(
    streams: Mapping[str, Stream[Piece, tuple[Piece, ...]]],
) -> None:
    ranks = [_loader(streams, rank=rank, ranks=2) for rank in range(2)]
    _steps(ranks, 4)
    with pytest.raises(ValueError, match=r"lacks lanes .*merge_states"):
        _loader(streams).load_state_dict(ranks[0].state_dict())
    with pytest.raises(ValueError, match="keeps its lanes"):
        _loader(streams, lanes=7).load_state_dict(ranks[0].state_dict())
    broken = {**ranks[0].state_dict(), "states": {"short": {"0": [1]}}}
    for record in ({"version": 1}, broken):
        with pytest.raises(ValueError, match="no state of a loader"):
            _loader(streams).load_state_dict(record)


def test_a_run_of_other_batches_is_not_gone_on_with(streams: Mapping[str, Stream[Piece, tuple[Piece, ...]]]) -> None:
    loader = _loader(streams, lanes=1)
    for _ in islice(loader, 5):
        pass
    state = json.loads(json.dumps(loader.state_dict()))
    short = streams["short"]
    changes = {
        "look_ahead": replace(short, look_ahead=1),
        "rows": replace(short, rows=48, max_length=24),
        "window": replace(short, window=7),
    }
    for name, changed in changes.items():
        with pytest.raises(ValueError, match=rf"short\.{name} was \d+, now \d+"):
            _loader({**streams, "short": changed}, lanes=1).load_state_dict(state)


def test_a_rank_goes_on_from_its_own_state_though_others_pack_its_lanes(
    streams: Mapping[str, Stream[Piece, tuple[Piece, ...]]],
) -> None:
    def rank(number: int) -> Loader[tuple[Piece, ...]]:
        return _loader(streams, rank=number, ranks=4, lanes=6)

    for number in range(4):
        wanted = list(islice(rank(number), 17))
        for steps in (3, 8, 13):
            first, second = rank(number), rank(number)
            for _ in islice(first, steps):
                pass
            second.load_state_dict(first.state_dict())
            assert list(islice(second, 4)) == wanted[steps : steps + 4]


def test_an_iterator_older_than_the_state_gives_nothing(
    streams: Mapping[str, Stream[Piece, tuple[Piece, ...]]],
) -> None:
    loader = _loader(streams)
    old = iter(loader)
    next(old)
    next(iter(loader))
    with pytest.raises(RuntimeError, match="iterate over it anew"):
        next(old)
    assert loader.state_dict()["batches"] == 2


def test_a_long_document_after_a_bad_one_fills_a_window_alone(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "set" / "0.tar") as writer:
        writer.write("bad", Document((Text("bad"),)))
        writer.write("good", Document((Text("w " * 100),)))
    stream = Stream(
        mixture=mixture(Component(name="set", shards=(str(tmp_path / "set"),))),
        encoder=WordEncoder(),
        rows=40,
        look_ahead=1,
        window=1,
    )
    batches = list(islice(Loader({"s": stream}, lanes=1, max_skipped=1.0), 6))
    assert sorted(piece.length for batch in batches for piece in batch["s"]) == [20, 20, 40, 40, 40, 40]


def test_numbers_that_make_no_sense_are_refused(streams: Mapping[str, Stream[Piece, tuple[Piece, ...]]]) -> None:
    for options in ({"seed": -1}, {"lanes": 0}, {"rank": 2, "ranks": 2}, {"prefetch": 0}, {"workers": -1}):
        with pytest.raises(ValueError, match="none is negative"):
            _loader(streams, **options)


def test_what_was_passed_over_before_a_kill_is_not_counted_twice(
    streams: Mapping[str, Stream[Piece, tuple[Piece, ...]]],
) -> None:
    whole = _loader(streams)
    for _ in islice(whole, 30):
        pass
    first = _loader(streams)
    for _ in islice(first, 13):
        pass
    second = _loader(streams)
    second.load_state_dict(first.state_dict())
    for _ in islice(second, 17):
        pass
    assert second.report == whole.report


@pytest.mark.slow
def test_the_death_of_a_worker_is_a_sentence(streams: Mapping[str, Stream[Piece, tuple[Piece, ...]]]) -> None:
    stream = Stream(mixture=streams["short"].mixture, encoder=_Killed(), rows=24)
    with pytest.raises(OSError, match="loader worker 0 ended with code"):
        list(islice(Loader({"s": stream}, workers=1, lanes=2, max_skipped=1.0), 3))


class _Killed(WordEncoder):
    def collate(self, batch: object) -> tuple[Piece, ...]:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_mixture_by_epoch_passes_over_the_small_set_as_often_as_asked(tmp_path: Path) -> None:
    large, small = write_set(tmp_path, "large", [[4] * 40]), write_set(tmp_path, "small", [[4] * 10])
    passes = [Component(name=c.name, shards=c.shards, weight=w) for c, w in ((large, 1.0), (small, 3.0))]
    stream = Stream(mixture=Mixture(components=tuple(passes), by="epoch"), encoder=WordEncoder(), rows=40)
    keys = Counter(piece.key.partition("/")[0] for b in islice(Loader({"s": stream}, lanes=1), 70) for piece in b["s"])
    assert keys["small"] / keys["large"] == pytest.approx(30 / 40, abs=0.05)


def test_documents_read_ahead_hold_no_bytes_of_pictures(tmp_path: Path) -> None:
    picture = PNG + bytes(1000)
    with ShardWriter(tmp_path / "set.tar") as writer:
        for number in range(40):
            writer.write(f"d{number}", Document((Text("some words"), Image(picture), Image(picture + b"2"))))
    seen: list[tuple[object, ...]] = []

    class Watching(WordEncoder):
        def encode(self, document: Document) -> Piece:
            seen.append(tuple(image.source for image in document.images))
            return super().encode(document)

        def open_pictures(self, rows: Piece, pictures: Callable[[], Sequence[Image]]) -> Piece:
            assert [image.source for image in pictures()] == [picture, picture + b"2"]
            return rows

    stream = Stream(mixture=mixture_of([str(tmp_path)]), encoder=Watching(), rows=20, look_ahead=2)
    assert all(batches["s"] for batches in islice(Loader({"s": stream}, lanes=2), 5))
    assert set(seen) == {(b"", b"")}
