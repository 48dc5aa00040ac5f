"""Keys of a source's documents: portable, and none twice."""

from __future__ import annotations

from collections.abc import Iterable

from data_pipelines.naming import MAX_KEY_BYTES, clean_key

__all__ = ["numbered", "unique_keys"]

ROOM = 12  # bytes left for a number


def unique_keys(wanted: Iterable[str]) -> list[str]:
    """A portable key for each name; one that comes again gets a number."""
    taken: set[str] = set()
    times: dict[str, int] = {}
    keys = []
    for name in wanted:
        key = plain = clean_key(name)
        while key in taken:
            times[plain] = times.get(plain, 1) + 1
            key = numbered(plain, times[plain])
        taken.add(key)
        keys.append(key)
    return keys


def numbered(key: str, number: int) -> str:
    """A key with a number behind it, cut so that it stays portable."""
    return f"{key[: MAX_KEY_BYTES - ROOM].rstrip('/')}-{number}"
