"""`.nv-meta/`: the folder beside shards that Megatron-Energon needs to open them, made without Energon.

    .info.json     documents a shard            split.yaml     which shards are train, val and test
    index.sqlite   where every part stands      dataset.yaml   how a sample is read; yours once it is there
    index.uuid     changes with the index

Samples are read as Energon's crude samples: parts by name, to be cooked by the user's task encoder. A shard whose size
and time are those of the last run is not read again; its rows are copied. Source: megatron-energon 7.4.1, which opens
these folders (a test).
"""

from __future__ import annotations

import json
import os
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from data_pipelines.index import sample_starts
from data_pipelines.naming import split_name
from data_pipelines.shard import Shard
from data_pipelines.whole_file import TEMPORARY, whole_file

__all__ = ["META_FOLDER", "Prepared", "prepare_for_energon"]

META_FOLDER = ".nv-meta"
VERSION = "7.4.1"
"""Of the Energon whose format this is; it wants a number in `.info.json`."""

_TABLES = """
CREATE TABLE samples (tar_file_id INTEGER NOT NULL, sample_key TEXT NOT NULL UNIQUE, sample_index INTEGER NOT NULL,
                      byte_offset INTEGER, byte_size INTEGER);
CREATE TABLE sample_parts (tar_file_id INTEGER, sample_index INTEGER, part_name TEXT, content_byte_offset INTEGER,
                           content_byte_size INTEGER);
CREATE TABLE kosmos_shards (tar_file_id INTEGER PRIMARY KEY, name TEXT NOT NULL, byte_size INTEGER NOT NULL,
                            mtime_ns INTEGER NOT NULL, samples INTEGER NOT NULL);
"""
_INDEXES = """
CREATE INDEX idx_samples_by_tar_and_idx ON samples(tar_file_id, sample_index);
CREATE INDEX idx_sample_parts_seq ON sample_parts(tar_file_id, sample_index, content_byte_offset);
CREATE INDEX idx_sample_parts_full
    ON sample_parts(tar_file_id, sample_index, part_name, content_byte_offset, content_byte_size);
"""
_DATASET = """\
# Samples as they are: parts by name (json, 0.jpg ...), for the cookers of your task encoder.
__module__: megatron.energon
__class__: CrudeWebdataset
"""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What was done.

    Attributes:
        read: shards whose headers were read; the rest were as they had been.
    """

    shards: int
    documents: int
    read: int


def prepare_for_energon(folder: Path, shards: Sequence[Path]) -> Prepared:
    """Write `.nv-meta/` into a folder for the shards below it, which have their indexes already.

    Raises: ValueError for a key that comes twice, which Energon cannot index; ShardError for a torn shard.
    """
    meta = folder / META_FOLDER
    meta.mkdir(exist_ok=True)
    names = [shard.relative_to(folder).as_posix() for shard in shards]
    path = meta / "index.sqlite"
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    for left in meta.glob(f"{path.name}.*{TEMPORARY}"):  # by a run that was killed
        left.unlink()
    try:
        with closing(sqlite3.connect(temporary)) as database:
            counts, read = _fill(database, path, names, shards)
            database.commit()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _write_notes(meta, counts)
    return Prepared(shards=len(shards), documents=sum(counts.values()), read=read)


def _fill(
    database: sqlite3.Connection, before: Path, names: Sequence[str], shards: Sequence[Path]
) -> tuple[Mapping[str, int], int]:
    """Documents a shard, and how many shards were read."""
    database.executescript(_TABLES)
    known = _known(database, before)
    counts, read = {}, 0
    for number, (name, shard) in enumerate(zip(names, shards, strict=True)):
        stat = os.stat(shard)
        old = known.get((name, stat.st_size, stat.st_mtime_ns))
        try:
            if old is None:
                read += 1
                _read_shard(database, number, shard)
            else:
                _copy_shard(database, number, old)
        except sqlite3.IntegrityError:
            raise ValueError(
                f"{shard} holds a key that is there already, and Energon wants each key once; "
                "`kosmos data lint` names it, `kosmos data repair` takes it out"
            ) from None
        counts[name] = database.execute("SELECT count(*) FROM samples WHERE tar_file_id = ?", (number,)).fetchone()[0]
        row = (number, name, stat.st_size, stat.st_mtime_ns, counts[name])
        database.execute("INSERT INTO kosmos_shards VALUES (?, ?, ?, ?, ?)", row)
    database.executescript(_INDEXES)
    return counts, read


def _known(database: sqlite3.Connection, before: Path) -> Mapping[tuple[str, int, int], int]:
    """Number in the index before, by name, size and time of the shard; empty if it is not an index of ours."""
    if not before.exists():
        return {}
    try:
        database.execute("ATTACH DATABASE ? AS before", (str(before),))
        rows = database.execute("SELECT name, byte_size, mtime_ns, tar_file_id FROM before.kosmos_shards").fetchall()
    except sqlite3.DatabaseError:
        return {}
    return {(name, size, time): number for name, size, time, number in rows}


def _copy_shard(database: sqlite3.Connection, number: int, old: int) -> None:
    database.execute(
        "INSERT INTO samples SELECT ?, sample_key, sample_index, byte_offset, byte_size "
        "FROM before.samples WHERE tar_file_id = ? ORDER BY sample_index",
        (number, old),
    )
    database.execute(
        "INSERT INTO sample_parts SELECT ?, sample_index, part_name, content_byte_offset, content_byte_size "
        "FROM before.sample_parts WHERE tar_file_id = ? ORDER BY content_byte_offset",
        (number, old),
    )


def _read_shard(database: sqlite3.Connection, number: int, path: Path) -> None:
    shard = Shard(path)
    try:
        keys: list[str] = []
        parts: list[tuple[int, int, str, int, int]] = []
        for key, part, data, size in _parts(shard):
            if not keys or keys[-1] != key:
                keys.append(key)
            parts.append((number, len(keys) - 1, part, data, size))
        starts = sample_starts(shard.archive, shard.name)
    finally:
        shard.close()
    samples = ((number, key, i, starts[i], starts[i + 1] - starts[i]) for i, key in enumerate(keys))
    database.executemany("INSERT INTO samples VALUES (?, ?, ?, ?, ?)", samples)
    database.executemany("INSERT INTO sample_parts VALUES (?, ?, ?, ?, ?)", parts)


def _parts(shard: Shard) -> Iterator[tuple[str, str, int, int]]:
    for member in shard.members():
        name = split_name(member.name)
        if name is not None:
            yield *name, member.data, member.size


def _write_notes(meta: Path, counts: Mapping[str, int]) -> None:
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for name, count in counts.items():
        if count:
            parts[_split(name)].append(name)
    # JSON is YAML too, and needs no library and no quoting of its own.
    _write(meta / "split.yaml", json.dumps({"split_parts": parts, "exclude": []}, indent=2, ensure_ascii=False))
    _write(meta / ".info.json", json.dumps({"energon_version": VERSION, "shard_counts": counts}, indent=2))
    _write(meta / "index.uuid", str(_identity(meta.parent, counts)))
    if not (meta / "dataset.yaml").exists():
        _write(meta / "dataset.yaml", _DATASET)


def _split(name: str) -> str:
    """Which part a shard belongs to, by the beginning of its file's name: `val-000000.tar`."""
    base = name.rpartition("/")[2]
    return next((part for part in ("val", "test") if base.startswith((f"{part}-", f"{part}_", f"{part}."))), "train")


def _identity(folder: Path, counts: Mapping[str, int]) -> uuid.UUID:
    """The same for the same indexes."""
    digest = sha256(json.dumps(counts).encode())
    for name in counts:
        digest.update((folder / f"{name}.idx").read_bytes())
    return uuid.UUID(bytes=digest.digest()[:16], version=4)


def _write(path: Path, words: str) -> None:
    with whole_file(path) as file:
        file.write(words.rstrip("\n").encode() + b"\n")
