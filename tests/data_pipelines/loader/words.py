"""An encoder of words, so that the loader is tested without a model: a row a word, a batch is a tuple of pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_pipelines.mixture import Component, Mixture
from data_pipelines.shard import ShardWriter
from text.document import Document, Image, Text

__all__ = ["Piece", "WordEncoder", "mixture", "write_set"]


@dataclass(frozen=True)
class Piece:
    """Words of a document from the `start`-th on."""

    key: str
    words: tuple[str, ...]
    start: int = 0
    pictured: bool = False

    @property
    def length(self) -> int:
        return len(self.words)


class WordEncoder:
    """`bad` as first word cannot be encoded; a picture whose bytes say `broken` cannot be opened."""

    def encode(self, document: Document) -> Piece:
        words = " ".join(segment.text for segment in document.segments if isinstance(segment, Text)).split()
        if words[0] == "bad":
            raise ValueError("the word bad stands first")
        pictured = bool(document.images)
        return Piece(str(document.meta["__key__"]), tuple(words), pictured=pictured)

    def split(self, rows: Piece, length: int) -> Sequence[Piece]:
        starts = range(0, rows.length, length)
        return [Piece(rows.key, rows.words[start : start + length], start, rows.pictured) for start in starts]

    def cut(self, rows: Piece, room: int) -> tuple[Piece, Piece] | None:
        """Documents of the set `long` may be cut."""
        if not rows.key.startswith("long") or room < 3:
            return None
        head, rest = rows.words[:room], rows.words[room:]
        return replace(rows, words=head), replace(rows, words=rest, start=rows.start + room)

    def open_pictures(self, rows: Piece, pictures: Callable[[], Sequence[Image]]) -> Piece:
        if rows.pictured and any(b"broken" in image.source for image in pictures()):  # type: ignore[operator]
            raise ValueError("picture is cut short")
        return rows

    def collate(self, batch: Sequence[Piece]) -> tuple[Piece, ...]:
        return tuple(batch)


def write_set(folder: Path, name: str, lengths: Sequence[Sequence[int]], word: str = "w") -> Component:
    """A component of one shard for each list of lengths, its documents that many words long."""
    for shard, counts in enumerate(lengths):
        with ShardWriter(folder / name / f"{shard:03}.tar") as writer:
            for number, count in enumerate(counts):
                writer.write(f"{name}/{shard}-{number}", Document((Text(" ".join([word] * count)),)))
    return Component(name=name, shards=(str(folder / name),))


def mixture(*components: Component) -> Mixture:
    """By document, equal weights."""
    return Mixture(components=components)
