"""Plain values of JSON from strangers: parsed within limits, taken by name with a clear word where they are wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from data_pipelines.errors import DocumentError

__all__ = ["kept", "list_of", "parse_object", "string_of", "strings_of"]

BORING = (str, int, float, bool)
MAX_META_CHARACTERS = 4_096  # of one value that is kept with a document


def parse_object(key: str, data: bytes) -> dict[str, object]:
    """A JSON object.

    Raises: DocumentError: `text is not UTF-8`, `broken JSON`.
    """
    try:
        record = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DocumentError(key, "text is not UTF-8", str(error)) from None
    except (ValueError, RecursionError) as error:
        raise DocumentError(key, "broken JSON", str(error)) from None
    if not isinstance(record, dict):
        raise DocumentError(key, "broken JSON", f"an object is wanted, not {type(record).__name__}")
    return record


def string_of(key: str, record: Mapping[str, object], name: str) -> str:
    """Words that must be there. Raises: DocumentError."""
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DocumentError(key, "no words", f"{name!r} holds {_seen(value)}, words are expected")
    return value


def list_of(key: str, record: Mapping[str, object], name: str) -> Sequence[object]:
    """A list that must be there. Raises: DocumentError."""
    value = record.get(name)
    if not isinstance(value, list):
        raise DocumentError(key, "malformed record", f"{name!r} holds {_seen(value)}, a list is expected")
    return value


def strings_of(key: str, record: Mapping[str, object], name: str) -> list[str]:
    """Words that must be there, one or several. Raises: DocumentError."""
    value = record.get(name)
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not found or not all(isinstance(one, str) for one in found):
        raise DocumentError(key, "no words", f"{name!r} holds {_seen(value)}, words or a list of them are expected")
    return found


def kept(record: Mapping[str, object], *, besides: Iterable[str] = ()) -> dict[str, object]:
    """What is kept with a document: plain values that are not long, except those named (they became segments)."""
    left = set(besides)
    return {name: value for name, value in record.items() if name not in left and _is_plain(value)}


def _is_plain(value: object) -> bool:
    return isinstance(value, BORING) and not (isinstance(value, str) and len(value) > MAX_META_CHARACTERS)


def _seen(value: object) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
