"""Pictures that records name: looked up in a folder or a tar, never fetched, never outside.

Every picture of a source passes `checked`: a known format by its content, within limits of bytes and pixels; it is not
decoded here. Knows no record.
"""

from __future__ import annotations

import io
import os
import re
import stat
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from PIL import Image as Pillow

from data_pipelines.errors import DocumentError
from data_pipelines.shard import Shard
from vision.image import FILE_FORMATS, ImageLimits
from vision.strict_pillow import strict_pillow

__all__ = ["MAX_FILE_BYTES", "Pictures", "checked", "file_inside"]

LIMITS = ImageLimits()
MAX_FILE_BYTES = LIMITS.max_bytes
_ELSEWHERE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|//|\\\\")


@dataclass(frozen=True)
class Pictures:
    """Where pictures are looked up: folders and tars, in this order."""

    places: tuple[Path, ...]

    def find(self, key: str, name: str) -> bytes:
        """The bytes of a picture.

        Args:
            key: of the document that names it.   name: path below a folder, or name of a tar's member.
        Raises: DocumentError: `picture elsewhere` for an address, `picture outside its folder`, `picture not found`.
        """
        if _ELSEWHERE.match(name):
            raise DocumentError(key, "picture elsewhere", name[:200])
        for place in self.places:
            data = _in_folder(key, place, name) if place.is_dir() else _in_tar(place, name)
            if data is not None:
                return data
        raise DocumentError(key, "picture not found", name[:200])


def checked(key: str, data: bytes) -> tuple[int, int]:
    """Width and height of a picture that may go on, from its header.

    Raises: DocumentError: `picture too large`, `picture of an unknown format`.
    """
    if len(data) > LIMITS.max_bytes:
        raise DocumentError(key, "picture too large", f"{len(data)} bytes, at most {LIMITS.max_bytes}")
    try:
        with strict_pillow(), Pillow.open(io.BytesIO(data), formats=FILE_FORMATS) as picture:
            width, height = picture.size
    except Pillow.DecompressionBombError as error:
        raise DocumentError(key, "picture too large", str(error)) from None
    except Exception:  # readers raise many types on hostile bytes
        raise DocumentError(key, "picture of an unknown format", f"begins with {data[:8]!r}") from None
    if width * height > LIMITS.max_pixels:
        raise DocumentError(key, "picture too large", f"{width} x {height} pixels, at most {LIMITS.max_pixels}")
    return width, height


def file_inside(root: Path, name: str) -> Path | None:
    """The regular file `name` below `root`, None if there is none.

    Raises: ValueError for a name that leads out, by dots, by a link, or by any other trick.
    """
    try:
        found = os.path.realpath(root / name.lstrip("/"))
        if not found.startswith(os.path.realpath(root) + os.sep):
            raise ValueError(f"{name[:200]!r} leads out of {root}")
        return Path(found) if stat.S_ISREG(os.stat(found).st_mode) else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:  # names that are too long, loops of links
        raise ValueError(f"{name[:200]!r}: {error.strerror}") from None


def _in_folder(key: str, folder: Path, name: str) -> bytes | None:
    try:
        found = file_inside(folder, name) or file_inside(folder, unquote(name))
    except ValueError as error:
        raise DocumentError(key, "picture outside its folder", str(error)) from None
    if found is None:
        return None
    if os.stat(found).st_size > MAX_FILE_BYTES:
        raise DocumentError(key, "picture too large", f"{name[:200]}: more than {MAX_FILE_BYTES} bytes")
    return found.read_bytes()


def _in_tar(tar: Path, name: str) -> bytes | None:
    known = os.stat(tar)
    shard, places = _members(tar, known.st_size, known.st_mtime_ns)
    place = places.get(name)
    return shard.archive[place[0] : place[0] + place[1]] if place else None


@lru_cache(maxsize=8)
def _members(tar: Path, size: int, changed: int) -> tuple[Shard, dict[str, tuple[int, int]]]:
    shard = Shard(tar)
    return shard, {member.name.removeprefix("./"): (member.data, member.size) for member in shard.members()}
