"""Files that appear whole or not at all: written under a temporary name, synced, renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["TEMPORARY", "whole_file"]

TEMPORARY = ".partial"
"""Ending of files that a killed process may leave; a rerun writes over them."""


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write; it is at `path` once the block is left without an error.

    Raises: OSError, about `path` and not the name it has for the while.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.filename == str(temporary):
            error.filename, error.filename2 = str(path), None
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
