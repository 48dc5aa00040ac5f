"""Headers read as `tarfile` reads them, and archives cut or damaged anywhere."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.errors import ShardError
from data_pipelines.tar import BLOCK, END, Member, header, is_header, members, padded

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
KINDS = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE)


@dataclass(frozen=True)
class Entry:
    name: str
    contents: bytes = b""
    kind: bytes = tarfile.REGTYPE


def archive_of(entries: list[Entry], form: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=FORMATS[form]) as tar:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.type, info.linkname = entry.kind, "elsewhere" if entry.kind in b"12" else ""
            info.size = len(entry.contents) if entry.kind in KINDS[:3] else 0
            tar.addfile(info, io.BytesIO(entry.contents))
    return packed.getvalue()


def as_tarfile_sees(archive: bytes) -> list[Member]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return [Member(info.name, info.offset, info.offset_data, info.size) for info in tar if info.isreg()]


letters = st.sampled_from("abcxyz019_-. äß語")
short_names = st.text(letters, min_size=1, max_size=12).map(lambda name: name.replace("/", "_") + ".x")
long_names = st.lists(st.text("ab.", min_size=30, max_size=60).map(lambda part: f"d{part}"), min_size=2, max_size=6)
names = st.one_of(short_names, long_names.map("/".join))
entries = st.builds(Entry, names, st.binary(max_size=1200), st.sampled_from(KINDS)).filter(
    # Of an old file with a long name, tarfile looks for a folder's slash where the first 100 bytes of the name end.
    lambda entry: entry.kind != tarfile.AREGTYPE or len(entry.name) < 100
)


@given(st.lists(entries, max_size=6), st.sampled_from(["gnu", "pax"]))
def test_members_are_those_of_tarfile(files: list[Entry], form: str) -> None:
    archive = archive_of(files, form)
    assert list(members(archive, "x.tar", check=True)) == as_tarfile_sees(archive)


@given(st.lists(st.tuples(st.text("ab", min_size=60, max_size=90), st.text("xy", min_size=1, max_size=40)), max_size=5))
def test_names_in_the_prefix_field_are_those_of_tarfile(folders: list[tuple[str, str]]) -> None:
    archive = archive_of([Entry(f"{folder}/{name}.jpg", b"1") for folder, name in folders], "ustar")
    assert list(members(archive, "x.tar")) == as_tarfile_sees(archive)


def test_sizes_beyond_octal_are_read_in_base_256() -> None:
    info = tarfile.TarInfo("large.bin")
    info.size = 9 * 2**30
    block = info.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(ShardError, match="truncated"):
        list(members(block, "x.tar"))
    info.size = 5
    small = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    small[124:136] = b"\x80" + (5).to_bytes(11, "big")
    small[148:156] = b"%06o\0 " % (sum(small) - sum(small[148:156]) + 8 * 32)
    assert [member.size for member in members(bytes(small) + bytes(BLOCK) + END, "x.tar")] == [5]


@pytest.mark.parametrize(
    "size", [b"-0000001000\0", b"0000000000-\0", b"0o000000012\0", b"00000000089\0", b"+0000000012\0"]
)
def test_a_size_that_is_no_octal_number_is_a_torn_header(size: bytes) -> None:
    block = bytearray(header("a.txt", 0))
    block[124:136] = size
    with pytest.raises(ShardError, match="torn header"):
        list(members(bytes(block) + END, "x.tar"))


@given(st.lists(entries, min_size=1, max_size=4), st.sampled_from(sorted(FORMATS)), st.data())
def test_a_cut_gives_the_whole_members_then_an_error(files: list[Entry], form: str, draw: st.DataObject) -> None:
    try:
        archive = archive_of(files, form)
    except ValueError:  # a name that ustar cannot hold
        return
    everything = as_tarfile_sees(archive)
    cut = draw.draw(st.integers(0, len(archive)))
    found, error = [], None
    try:
        for member in members(archive[:cut], "x.tar"):
            found.append(member)
    except ShardError as caught:
        error = caught
    assert found == [member for member in everything if member.data + member.size <= cut]
    if error is None:  # then nothing of another file is left
        assert all(member.start >= cut for member in everything[len(found) :])
    else:
        assert error.reason == "truncated"
        assert error.offset >= max((member.end for member in found), default=0)


def test_every_cut_within_a_member_is_an_error() -> None:
    archive = archive_of([Entry("a" * 120 + ".txt", b"x" * 700)], "pax")
    (member,) = members(archive, "x.tar")
    for cut in range(1, member.data + member.size):
        with pytest.raises(ShardError, match="truncated"):
            list(members(archive[:cut], "x.tar"))


def test_a_link_has_no_contents_whatever_size_it_states() -> None:
    link = tarfile.TarInfo("link.jpg")
    link.type, link.linkname, link.size = tarfile.LNKTYPE, "a.jpg", 700
    archive = link.tobuf(tarfile.USTAR_FORMAT) + header("b.jpg", 0) + END
    assert [member.name for member in members(archive, "x.tar")] == ["b.jpg"]
    assert list(members(archive, "x.tar")) == as_tarfile_sees(archive)


def test_checked_members_do_not_believe_a_garbled_header() -> None:
    archive = bytearray(archive_of([Entry("a.txt", b"1"), Entry("b.txt", b"2")], "ustar"))
    archive[2 * BLOCK] ^= 1  # the first letter of the second name
    assert [member.name for member in members(bytes(archive), "x.tar")] == ["a.txt", "c.txt"]
    with pytest.raises(ShardError, match="byte 1024: torn header"):
        list(members(bytes(archive), "x.tar", check=True))


def test_an_oversized_extended_header_is_refused() -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 2**30
    with pytest.raises(ShardError, match="oversized header"):
        list(members(info.tobuf(tarfile.USTAR_FORMAT) + bytes(BLOCK), "x.tar"))


def test_a_walk_says_where_it_stopped() -> None:
    archive = archive_of([Entry("a.txt", b"1"), Entry("folder", kind=tarfile.DIRTYPE)], "ustar")
    walk = members(archive, "x.tar")
    next(walk)
    with pytest.raises(StopIteration) as stop:
        next(walk)
    assert stop.value.value == 3 * BLOCK


NAMES = st.one_of(st.text("abc/._-01", max_size=120), st.text(max_size=40))


@given(name=NAMES, size=st.one_of(st.integers(0, 2_000), st.integers(8**11 - 2, 8**11 + 2)))
def test_headers_we_write_are_those_of_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    try:
        expected = info.tobuf(tarfile.USTAR_FORMAT)
    except ValueError as error:
        with pytest.raises(type(error)):
            header(name, size)
    else:
        assert header(name, size) == expected


def test_headers_we_write_are_the_same_bytes_and_found_again() -> None:
    block = header("train/000001.json", 700)
    assert block == header("train/000001.json", 700)
    assert is_header(b"x" * 7 + block, 7)
    assert not is_header(b"x" * 7 + block, 6)
    assert padded(700) == 2 * BLOCK
    assert as_tarfile_sees(block + bytes(1024) + END) == [Member("train/000001.json", 0, BLOCK, 700)]
