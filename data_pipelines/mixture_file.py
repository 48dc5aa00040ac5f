"""Values out of a YAML written by people: safe loading, and checks that name the place and the near match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import TypeAlias

__all__ = ["Table", "listed", "mapping", "number", "percent", "read_yaml", "string", "unknown_keys"]

Table: TypeAlias = Mapping[str, object]

MAX_BYTES = 2**20


def read_yaml(path: Path, max_bytes: int = MAX_BYTES) -> object:
    """Plain values; no tag builds an object.

    Raises: OSError; ValueError for what is no YAML, or one larger than `max_bytes`.
    """
    import yaml

    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the YAML file of a mixture")
    with open(path, "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"{path} has more than {max_bytes} bytes; such a file should be small")
    try:
        found: object = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    except (RecursionError, ValueError) as error:  # ValueError: dates and numbers that only look like one
        raise ValueError(f"{path} is no YAML that can be read: {type(error).__name__}") from None
    return found


def mapping(value: object, where: str) -> Table:
    """A table with words as keys. Raises: ValueError."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{where} is {_seen(value)}; give a table of `key: value`")
    return value


def listed(value: object, where: str) -> Sequence[object]:
    """A list with something in it. Raises: ValueError."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where} is {_seen(value)}; give a list with at least one entry")
    return value


def string(value: object, where: str) -> str:
    """Words. Raises: ValueError."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where} is {_seen(value)}; give a path or name in words")
    return value


def number(value: object, where: str) -> float:
    """A finite number above 0. Raises: ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e300 or not isfinite(value):
        raise ValueError(f"{where} is {_seen(value)}; give a number above 0")
    return float(value)


def percent(value: object, where: str) -> float:
    """A fraction 0..1 from `25%` or `end`. Raises: ValueError, also for numbers of documents."""
    if isinstance(value, str) and value.strip() == "end":
        return 1.0
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            share = float(value.strip().removesuffix("%")) / 100
        except ValueError:
            share = -1.0
        if 0 <= share <= 1:
            return share
    raise ValueError(f"{where} holds {_seen(value)}; give percentages of the documents, as in [0%, 50%]")


def unknown_keys(table: Table, known: Sequence[str], where: str) -> None:
    """Raises: ValueError for a key that is not known, with the one that was probably meant."""
    for key in table:
        if key not in known:
            near = get_close_matches(key, known, 1)
            meant = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(known)}"
            raise ValueError(f"{where}: unknown key {key!r}; {meant}")


def _seen(value: object) -> str:
    if value is None:
        return "missing or empty"
    return f"a list of {len(value)}" if isinstance(value, list) else f"{str(value)[:60]!r}"
