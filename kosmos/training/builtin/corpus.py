"""The shards the built-in model learns from, made of the folder of data by the same verbs' functions as anyone's.

    photographs-train  photographs-val   a picture, its captions in `meta.captions`
    captions-train                       captions of other pictures, without them, held-out ones left out
    books-train  pages-train             pieces of books; words and pictures in reading order

What exists already is not made again. Knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from data_pipelines.creation import create, plan
from data_pipelines.execution import Execution
from data_pipelines.shard import Sample, ShardWriter, open_shard
from data_pipelines.sources.source import Options
from data_pipelines.sources.written import written
from data_pipelines.stores import expand
from text.document import Document, Text

__all__ = ["Corpus", "captions_of"]

PER_SHARD = 500
OTHER_CAPTIONS = "captions-train"


class Corpus:
    """A folder of shards, a folder inside for each set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, data: Path, told: Callable[[str], None]) -> None:
        """Write every set that is not there. Raises: OSError, ValueError for data that cannot be read."""
        for split in ("train", "val"):
            shards = sorted((data / "flickr8k").glob(f"{split}-*.tar"))
            if not shards:
                raise FileNotFoundError(
                    2, f"no {split}-*.tar there; give the folder of the data by --data", data / "flickr8k"
                )
            self._create(f"photographs-{split}", shards, Options(captions="captions"), told)
        pages = Options(images=data / "interleaved" / "images.tar", split="train")
        self._create("pages-train", [data / "interleaved" / "docs.jsonl"], pages, told)
        self._create("books-train", [data / "text" / "books-train.jsonl.gz"], Options(), told)
        all_captions = [data / "multi30k" / "train.jsonl.gz"]
        self._create(f"{OTHER_CAPTIONS}-all", all_captions, Options(text="en"), told, format="text-records")
        self._keep_out()

    def shards(self, name: str) -> list[str]:
        """Paths of a set's shards, in order."""
        return expand([str(self.folder / name)])

    def samples(self, name: str) -> Iterator[Sample]:
        """All samples of a set."""
        for path in self.shards(name):
            with open_shard(path) as shard:
                yield from shard

    def documents(self, name: str) -> Iterator[Document]:
        """All documents of a set."""
        return (sample.document() for sample in self.samples(name))

    def captions(self, split: str) -> list[tuple[str, ...]]:
        """What is said of each photograph of a split."""
        return [captions_of(document) for document in self.documents(f"photographs-{split}")]

    def texts(self, name: str) -> list[str]:
        """The words of a set, a string a segment."""
        return [s.text for document in self.documents(name) for s in document.segments if isinstance(s, Text)]

    def _create(
        self, name: str, paths: list[Path], options: Options, told: Callable[[str], None], format: str = ""
    ) -> None:
        out = self.folder / name
        if not out.exists():
            told(f"shards of {name}")
        # A shard is called as its set, so that files made from it can be told apart by its name alone.
        report = create(plan(paths, options, format=format, per_shard=PER_SHARD, name=name), out, Execution())
        if not report.written:
            raise ValueError(f"no document of {paths[0]} could be used: {dict(report.dropped)}")

    def _keep_out(self) -> None:
        """Captions of other photographs but those that also are, or equal, captions of validation photographs."""
        path = self.folder / OTHER_CAPTIONS / f"{OTHER_CAPTIONS}-000000.tar"
        if path.exists():
            return
        pictures, words = self._held_out()
        with ShardWriter(path) as writer:
            for sample in self.samples(f"{OTHER_CAPTIONS}-all"):
                document = sample.document()
                text = "".join(s.text for s in document.segments if isinstance(s, Text))
                picture = str(document.meta.get("image", "")).partition(".")[0]
                if picture not in pictures and _bare(text) not in words:
                    writer.write(sample.key, Document((Text(written(text)),), document.meta))

    def _held_out(self) -> tuple[set[str], set[str]]:
        """Flickr's numbers of the validation photographs, and the words of their captions."""
        pictures, words = set[str](), set[str]()
        for document in self.documents("photographs-val"):
            pictures.add(str(document.meta["id"]).partition("_")[0])
            words.update(_bare(caption) for caption in captions_of(document))
        return pictures, words


def captions_of(document: Document) -> tuple[str, ...]:
    """All captions of a photograph."""
    stated = document.meta.get("captions")
    if isinstance(stated, list):
        return tuple(map(str, stated))
    return tuple(segment.text for segment in document.segments if isinstance(segment, Text))


def _bare(caption: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", caption.lower()))
