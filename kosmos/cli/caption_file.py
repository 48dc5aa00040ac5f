"""The output of `kosmos caption`: JSON lines that survive a kill at any moment.

Whole batches are appended with one write and synced. A line that was torn, or damaged since, is removed when the file
is opened again, by writing the good lines to a new file and renaming it. Knows nothing of pictures or models.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

__all__ = ["CaptionFile"]


class CaptionFile:
    """Open for one writer at a time, who holds a lock on the file itself.

    Attributes:
        names: pictures that have a line.
        num_damaged: lines that were no good and had to go.
    """

    def __init__(self, path: Path, *, retry_errors: bool) -> None:
        """Raises: ValueError if another run is writing to it; OSError if it cannot be written."""
        # A link stays a link, and what is no file of ours is never rewritten.
        self._path = path = path.resolve()
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is not a file; choose another --output")
        self.names: set[str] = set()
        self.num_damaged = 0
        self._file = _locked(path)
        self._repair(retry_errors=retry_errors)

    def __enter__(self) -> CaptionFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def append(self, lines: Sequence[Mapping[str, str]]) -> None:
        """Add whole lines and see them safely on disk."""
        _write(self._file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
        self.names.update(line["image"] for line in lines)

    def _repair(self, *, retry_errors: bool) -> None:
        """Learn which pictures have a line; rewrite the file only if a line must go."""
        kept: list[bytes] = []
        dropped = 0
        lines = self._path.read_bytes().splitlines(keepends=True)
        for line in lines:
            name, is_error = _named(line)
            if name is None:
                self.num_damaged += 1
            if name is None or name in self.names or (is_error and retry_errors):
                dropped += 1
                continue
            kept.append(line)
            self.names.add(name)
        if any(line.endswith(b"\n") for line in lines) and not any(_named(line)[0] for line in lines):
            os.close(self._file)
            raise ValueError(f"{self._path} holds no line of captions but others; choose another --output")
        if dropped:
            self._replace(b"".join(kept))

    def _replace(self, content: bytes) -> None:
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        renewed = _locked(temporary)
        os.fchmod(renewed, os.fstat(self._file).st_mode & 0o7777)
        _write(renewed, content)
        temporary.replace(self._path)
        os.close(self._file)
        self._file = renewed


def _locked(path: Path) -> int:
    """The file, made if need be, open for appending and locked."""
    while True:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise ValueError(f"{path} is being written by another run; wait or choose another --output") from None
        # Another run may have put a repaired file in its place between our two steps.
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            return file
        os.close(file)


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
    os.fsync(file)


def _named(line: bytes) -> tuple[str | None, bool]:
    """The picture of a whole, good line (None: it is not), and whether the line is an error's."""
    try:
        values = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None, False
    if not isinstance(values, dict) or not isinstance(values.get("image"), str):
        return None, False
    if isinstance(values.get("caption"), str):
        return values["image"], False
    return (values["image"], True) if isinstance(values.get("error"), str) else (None, False)
