"""Stream: one mixture packed into batches of so many rows; a step of training takes a batch of each stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from data_pipelines.loader.blend import Blend
from data_pipelines.loader.documents import OPEN_SHARDS, Documents
from data_pipelines.loader.encoder import Encoder, Rows
from data_pipelines.loader.order import WINDOW, Order
from data_pipelines.loader.reading import Reader
from data_pipelines.mixture import Mixture

__all__ = ["OpenStream", "Stream"]

RowsT = TypeVar("RowsT", bound=Rows)
BatchT = TypeVar("BatchT")


@dataclass(frozen=True, kw_only=True)
class Stream(Generic[RowsT, BatchT]):
    """What is read, how it becomes rows, and how many of them make a batch.

    Attributes:
        rows: of a batch at most.   max_length: rows of a piece at most (default: a batch's).
        look_ahead: batches packed together. More leave less room empty, take memory in every lane, and are read again
            on resume: 4 will do for batches of many documents, 64 for batches of three or four.
        window: documents shuffled among each other; 1 keeps the order of every shard.
    """

    mixture: Mixture
    encoder: Encoder[RowsT, BatchT]
    rows: int
    max_length: int | None = None
    look_ahead: int = 16
    window: int = WINDOW

    def __post_init__(self) -> None:
        if not 0 < self.longest <= self.rows:
            raise ValueError(f"max_length={self.max_length} with rows={self.rows}; a piece has 1 to {self.rows} rows")
        if self.look_ahead < 1 or self.window < 1:
            raise ValueError(f"look_ahead={self.look_ahead} and window={self.window}; both are at least 1")

    @property
    def longest(self) -> int:
        """Rows of the longest piece."""
        return self.rows if self.max_length is None else self.max_length


@dataclass(frozen=True)
class OpenStream(Generic[RowsT, BatchT]):
    """A stream whose documents are counted."""

    spec: Stream[RowsT, BatchT]
    sets: tuple[Documents, ...]

    @staticmethod
    def open(spec: Stream[RowsT, BatchT]) -> OpenStream[RowsT, BatchT]:
        """Count. Raises: OSError, ValueError for components that cannot be read or are empty."""
        components = spec.mixture.components
        share = max(1, OPEN_SHARDS // len(components))
        return OpenStream(spec, tuple(Documents(component, open_shards=share) for component in components))

    @property
    def shape(self) -> dict[str, object]:
        """All that the order of documents and the cut into batches follow from, but seed and encoder; plain values."""
        spec, components = self.spec, self.spec.mixture.components
        return {
            "documents": {documents.name: len(documents) for documents in self.sets},
            "weights": [component.weight for component in components],
            "by": spec.mixture.by,
            "rows": spec.rows,
            "max_length": spec.longest,
            "look_ahead": spec.look_ahead,
            "window": spec.window,
        }

    def reader(self, name: str, *, lanes: int, seed: int) -> Reader[RowsT]:
        """Reads for any lane; `name` sets this stream's shuffle apart from those of the others."""
        salt = int.from_bytes(name.encode(), "little")
        orders = [
            Order(documents.counts, lanes=lanes, seed=(seed, salt, place), window=self.spec.window)
            for place, documents in enumerate(self.sets)
        ]
        return Reader(
            sets=self.sets,
            orders=orders,
            blend=self._blend((seed, salt, len(orders))),
            encoder=self.spec.encoder,
            max_length=self.spec.longest,
            seed=seed,
        )

    def _blend(self, seed: tuple[int, ...]) -> Blend:
        mixture = self.spec.mixture
        weights = [component.weight for component in mixture.components]
        if mixture.by == "token":
            return Blend(weights=tuple(weights), by="token", seed=seed, scale=self.spec.rows)
        if mixture.by == "epoch":  # passes: the larger a component, the more often its documents come
            weights = [weight * len(documents) for weight, documents in zip(weights, self.sets, strict=True)]
        return Blend(weights=tuple(weights), by="document", seed=seed)
