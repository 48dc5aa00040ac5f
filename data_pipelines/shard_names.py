"""What shards are called in the folder they are written to: as they were, told apart where two have one name."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.naming import clean_key
from data_pipelines.stores import STDIN, is_local

__all__ = ["check_not_overwritten", "output_names"]

_ENDING = ".tar"


def output_names(paths: Sequence[str], out: Path) -> dict[str, str]:
    """File name in `out` for each path, in their order; one without `.tar` gets it.

    Returns: by path: its last part, or with its folder's name before it (`a-000000.tar`, `b-000000.tar`) where
        several paths end alike, or with a hash where those do too.
    Raises: ValueError for a path given twice, and for one that would be written over.
    """
    if twice := [path for path, count in Counter(paths).items() if count > 1]:
        raise ValueError(f"{twice[0]} is given twice; name every shard once")
    for rename in (_last, _with_folder, _with_hash):
        names = {path: rename(path) for path in paths}
        if len(set(names.values())) == len(names):
            break
    for path, name in names.items():
        check_not_overwritten(path, out / name)
    return names


def check_not_overwritten(path: str, target: Path) -> None:
    """Raises: ValueError if the output would take the place of its own source."""
    if is_local(path) and Path(path).resolve() == target.resolve():
        raise ValueError(f"{path} would be written over itself; give another folder than {target.parent}")


def _stem(path: str) -> str:
    if path == STDIN:
        return "stdin"
    plain = path if is_local(path) else path.partition("?")[0]
    return plain.rstrip("/").removesuffix(_ENDING)


def _last(path: str) -> str:
    return _clean(_stem(path).rpartition("/")[2])


def _with_folder(path: str) -> str:
    return _clean("-".join(_stem(path).split("/")[-2:]))


def _with_hash(path: str) -> str:
    return f"{_last(path).removesuffix(_ENDING)}-{hashlib.sha256(path.encode()).hexdigest()[:8]}{_ENDING}"


def _clean(stem: str) -> str:
    return clean_key(stem).replace("/", "-") + _ENDING
