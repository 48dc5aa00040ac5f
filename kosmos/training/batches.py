"""What the loop needs of a stream of batches: to go through it, and to go on where it was. `Loader` is one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, Protocol  # Any: batches of whatever kind a stage's losses take

__all__ = ["Batches", "NoBatches"]


class Batches(Protocol):
    """A stream of this rank's batches without end."""

    def __iter__(self) -> Iterator[Mapping[str, Any]]: ...

    def state_dict(self) -> dict[str, object]:
        """Where this rank is after the batch taken last, plain values."""
        ...

    def merge(self, records: Sequence[Mapping[str, Any]]) -> dict[str, object]:
        """The states of all ranks in one, from which any number of ranks can go on."""
        ...

    def load_state_dict(self, record: Mapping[str, Any]) -> None:
        """Go on from a merged state."""
        ...


class NoBatches:
    """For losses that make their own batch from the step's number: nothing is read, so nothing is remembered."""

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return repeat({})

    def state_dict(self) -> dict[str, object]:
        """Nothing."""
        return {}

    def merge(self, records: Sequence[Mapping[str, Any]]) -> dict[str, object]:
        """Nothing."""
        return {}

    def load_state_dict(self, record: Mapping[str, Any]) -> None:
        """Nothing to go on from."""
