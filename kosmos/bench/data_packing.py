"""The case `fill`: how many rows of batches of 2,048 hold a document, over captions, books and pages of the real data.

A picture takes 64 rows, as in Kosmos-1. Nothing is timed, and pictures stay closed.
"""

from __future__ import annotations

from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipelines.creation import create, plan
from data_pipelines.execution import Execution
from data_pipelines.loader.loader import Loader
from data_pipelines.loader.stream import Stream
from data_pipelines.mixture import mixture_of
from data_pipelines.sources.source import Options
from kosmos.bench.data_corpus import write_pairs
from kosmos.bench.figure import Figure
from kosmos.presets import preset
from kosmos.processor import Encoded, Processor
from text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kosmos.bench.data import DataBench

__all__ = ["fill_case"]

SHAPE = "kosmos1"
ROWS, LOOK_AHEAD, LANES = 2048, 96, 2
CORPORA = {
    "captions": ("flickr8k", "train-*.tar", Options(captions="captions")),
    "books": ("text", "books-train.jsonl.gz", Options()),
    "pages": ("interleaved", "docs.jsonl", Options()),
}


class _Closed:
    """Kosmos's own rows, without opening a picture."""

    def __init__(self, processor: Processor) -> None:
        from kosmos.training.encoding import DocumentEncoder

        self._encoder = DocumentEncoder(processor)
        self.encode, self.split, self.cut = self._encoder.encode, self._encoder.split, self._encoder.cut

    def open_pictures(self, rows: Encoded, pictures: object) -> Encoded:
        return rows

    def collate(self, batch: Sequence[Encoded]) -> int:
        return len(batch)


def fill_case(bench: DataBench, folder: Path) -> Figure:
    """The share of rows filled: the least of the corpora, and each beside it."""
    filled = {name: _fill(paths) for name, paths in _corpora(bench, folder).items()}
    return Figure(
        bench="data",
        case="fill",
        unit="share",
        ours=min(filled.values()),
        spread={"ours": (min(filled.values()), max(filled.values()))},
        limit=1.0,
        notes=filled,
    )


def _corpora(bench: DataBench, folder: Path) -> dict[str, list[str]]:
    """Shards of each corpus that is there; drawn pairs where none is."""
    found = {}
    for name, (place, pattern, options) in CORPORA.items():
        sources = sorted((bench.data / place).glob(pattern))
        if sources:
            create(plan(sources, options), folder / name, Execution())
            found[name] = [str(folder / name)]
    if found:
        return found
    pairs = write_pairs(folder, bench.data, documents=bench.documents, shards=1)
    return {"drawn captions": [str(path) for path in pairs]}


def _fill(paths: Sequence[str]) -> float:
    config = preset(SHAPE)
    vocabulary = (files("kosmos") / "tiny" / "tokenizer.model").read_bytes()
    processor = Processor(Tokenizer(vocabulary, specials=config.tokenizer.specials), config, pictures="late")
    stream = Stream(mixture=mixture_of(paths), encoder=_Closed(processor), rows=ROWS, look_ahead=LOOK_AHEAD)
    loader = Loader({"pieces": stream}, lanes=LANES)
    for _ in islice(loader, LANES * LOOK_AHEAD):
        pass
    return loader.fill["pieces"]
