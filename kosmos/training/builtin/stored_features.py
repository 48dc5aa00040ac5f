"""What the eye saw of every picture of a set, by the document's key: memory maps behind one lookup.

Pickles as paths; every process maps the files itself. Knows no tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.shard import open_shard
from kosmos.training.builtin.features import Bytes, Eye, cached_features

__all__ = ["StoredFeatures"]


class StoredFeatures:
    """Features [49, 1280], as stored bytes, of pictures by key, place in the document, and view."""

    def __init__(self, shards: Sequence[str], cache: Path, *, views: int) -> None:
        self._shards, self._cache, self.views = tuple(shards), cache, views
        self._rows: dict[str, tuple[int, int]] = {}
        for number, shard in enumerate(self._shards):
            row = 0
            for key, pictures in _pictures(shard):
                self._rows[key] = number, row
                row += len(pictures)
        self._maps: dict[tuple[int, int], Bytes] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_maps": {}}

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __call__(self, key: str, place: int = 0, view: int = 0) -> Bytes:
        """Features of picture `place` of a document. Raises: KeyError for a document that is not in the set."""
        shard, row = self._rows[key]
        if (shard, view) not in self._maps:
            self._maps[shard, view] = np.load(self._path(shard, view), mmap_mode="r")
        found: Bytes = self._maps[shard, view][row + place]
        return found

    def compute(self, eye: Callable[[], Eye], told: Callable[[str], None]) -> None:
        """Let the eye see what it has not seen yet."""
        for view in range(self.views):
            missing = [shard for shard in range(len(self._shards)) if not self._path(shard, view).exists()]
            if missing:
                told(f"features of {Path(self._shards[0]).parent.name}, view {view + 1} of {self.views}")
            for shard in missing:
                self._compute(shard, view, eye())

    def _compute(self, shard: int, view: int, eye: Eye) -> None:
        def pictures() -> list[tuple[str, bytes]]:
            return [(key, picture) for key, found in _pictures(self._shards[shard]) for picture in found]

        cached_features(self._cache, Path(self._shards[shard]).stem, view, eye=eye, pictures=pictures)

    def _path(self, shard: int, view: int) -> Path:
        return self._cache / f"{Path(self._shards[shard]).stem}-view{view:02d}.npy"


def _pictures(shard: str) -> Iterator[tuple[str, list[bytes]]]:
    """Keys and encoded pictures of the documents of a shard, in order."""
    with open_shard(shard) as samples:
        for sample in samples:
            yield sample.key, [bytes(image.source) for image in sample.document().images]  # type: ignore[arg-type]
