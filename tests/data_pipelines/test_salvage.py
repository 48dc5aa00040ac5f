"""Torn tars read to their last whole member, with every lost byte counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.salvage import AFTER_END, NO_END, Tear, salvage
from data_pipelines.tar import BLOCK, END, Member, members
from tests.data_pipelines.broken_shards import file
from tests.data_pipelines.test_tar import Entry, archive_of

LONG = "d" * 90 + "/" + "n" * 90 + ".txt"


def names_and_tears(archive: bytes) -> tuple[list[str], list[Tear]]:
    found = list(salvage(archive, "x.tar"))
    names = [one.name for one in found if isinstance(one, Member)]
    return names, [one for one in found if isinstance(one, Tear)]


@given(st.lists(st.sampled_from(["a.txt", "b.0.jpg", LONG]), max_size=5), st.sampled_from(["gnu", "pax"]))
def test_a_sound_archive_has_no_tears(names: list[str], form: str) -> None:
    archive = archive_of([Entry(name, name.encode() * 9) for name in names], form)
    assert list(salvage(archive, "x.tar")) == list(members(archive, "x.tar"))


@given(st.data())
def test_whatever_happens_to_one_stretch_the_rest_is_found(draw: st.DataObject) -> None:
    files = [file(f"{n}.txt", bytes([65 + n]) * 700) for n in range(5)]
    size = len(files[0])
    whole = b"".join(files) + END
    start = draw.draw(st.integers(0, 5 * size - 1))
    end = draw.draw(st.integers(start + 1, 5 * size))
    put = draw.draw(st.sampled_from([b"", b"\0", b"x" * 300, b"\xff" * 1024, bytes(whole[: end - start])]))
    archive = whole[:start] + put + whole[end:]
    names, tears = names_and_tears(archive)
    # Where a block is missing, or a header stands that has no contents, one more file may be taken for contents.
    hidden = end - start - len(put) >= BLOCK or put.startswith(b"0.txt")
    after = -(-end // size) + hidden
    untouched = {f"{n}.txt" for n in range(5) if (n + 1) * size <= start or n >= after}
    assert untouched <= set(names)
    last = 0
    for found in salvage(archive, "x.tar"):  # what is found lies in order, and no byte is found twice
        begins, ends = (found.start, found.data + found.size) if isinstance(found, Member) else (found.start, found.end)
        assert last <= begins <= ends <= len(archive)
        last = ends
    assert all(tear.lost <= len(archive) for tear in tears)


def test_a_garbled_header_costs_its_own_file_only() -> None:
    archive = bytearray(file("a.txt", "a") + file("b.txt", "b") + file("c.txt", "c") + END)
    archive[2 * BLOCK + 130] ^= 1  # the size of b: still a number, so only the checksum tells
    assert names_and_tears(bytes(archive)) == (["a.txt", "c.txt"], [Tear(1024, 2048, "torn header")])


def test_missing_bytes_of_any_number_do_not_hide_what_follows() -> None:
    files = file("a.txt", "a" * 600) + file("b.txt", "words")
    for missing in (1, 100, 411):  # of a's padding
        archive = files[:1124] + files[1124 + missing :] + END
        assert names_and_tears(archive) == (
            ["a.txt", "b.txt"],
            [Tear(1536 - missing, 1536 - missing, "torn header")],
        ), missing


def test_a_file_whose_contents_miss_bytes_is_lost() -> None:
    files = file("a.txt", "a" * 600) + file("b.txt", "words")
    for missing in (1, 100, 411):
        archive = files[:700] + files[700 + missing :] + END
        assert names_and_tears(archive) == (["b.txt"], [Tear(0, 1536 - missing, "torn header")]), missing


def test_a_torn_tail_is_one_tear() -> None:
    for form in ("pax", "gnu"):
        archive = archive_of([Entry("a.txt", b"a"), Entry(LONG, b"b" * 5000)], form)[:-9000]
        names, tears = names_and_tears(archive)
        assert names == ["a.txt"]
        assert tears == [Tear(1024, len(archive), "truncated")]


def test_archives_laid_end_to_end_are_read_to_the_last() -> None:
    archive = file("a.txt", "a") + END + file("b.txt", "b") + END
    assert names_and_tears(archive) == (["a.txt", "b.txt"], [Tear(2048, 2048, AFTER_END)])
    noise = file("a.txt", "a") + END + b"noise" * 200
    assert names_and_tears(noise) == (["a.txt"], [Tear(1024, len(noise), AFTER_END)])


def test_a_missing_end_is_told() -> None:
    archive = file("a.txt", "a")
    assert names_and_tears(archive) == (["a.txt"], [Tear(1024, 1024, NO_END)])
    assert names_and_tears(b"") == ([], [Tear(0, 0, NO_END)])
    assert names_and_tears(END + bytes(8192)) == ([], [])


def test_hostile_headers_end_the_walk_all_the_same() -> None:
    block = bytearray(file("a.txt", "a")[:BLOCK])
    block[124:136] = b"77777777777\0"
    block[148:156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 8 * 32)
    archive = bytes(block) * 50 + END
    assert names_and_tears(archive) == ([], [Tear(0, len(archive), "truncated")])
