"""Names of samples: the rule by which readers take member names apart, and keys that all of them agree on.

Source of the rule: webdataset's format notes; Energon has the same.
"""

from __future__ import annotations

import hashlib
import re

__all__ = ["MAX_KEY_BYTES", "clean_key", "is_portable", "split_name"]

MAX_KEY_BYTES = 90
_META = re.compile(r"__[^/]*__($|/)")
_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_/-]*")


def split_name(name: str) -> tuple[str, str] | None:
    """Key (up to the first dot of the last part) and part name (lower case) of a member.

    Returns: None for what belongs to no sample: names without a dot, hidden ones, `__x__` folders. (Of a hidden file
        in a folder, as macOS packs them, others make a part of a sample called like the folder.)
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, part = base.partition(".")
    if not stem or not dot or not part or (name.startswith("__") and _META.match(name)):
        return None
    return folder + slash + stem, part.lower()


def is_portable(key: str) -> bool:
    """Whether every reader takes this key as it is: letters, digits, `_`, `-` and `/`, at most 90 bytes."""
    parts = key.split("/")
    return bool(_KEY.fullmatch(key)) and len(key) <= MAX_KEY_BYTES and all(parts) and not key.startswith("__")


def clean_key(wanted: str) -> str:
    """A portable key for any name.

    What had to be changed gets eight digits of its hash behind it, so that two names never become one key.
    """
    parts = [part for part in wanted.split("/") if part not in ("", ".", "..")]
    plain = "/".join(re.sub(r"[^A-Za-z0-9_-]", "_", part) for part in parts).lstrip("_") or "document"
    if plain == wanted and is_portable(plain):
        return plain
    name = wanted.encode("utf-8", "surrogatepass")  # names of files need not be UTF-8
    return f"{plain[: MAX_KEY_BYTES - 9].rstrip('/')}-{hashlib.sha256(name).hexdigest()[:8]}"
