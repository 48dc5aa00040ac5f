"""Where shards are: this machine, any store fsspec knows (s3:// gs:// hf:// http://), standard input, or a pipe.

A shard of elsewhere is copied here before it is read, so that everything else works on a memory map. A pipe runs a
shell command, so it needs a flag of its own. Knows nothing of tars.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from braceexpand import braceexpand  # the notation webdataset's users write: train-{000000..000011}.tar

__all__ = ["STDIN", "expand", "is_local", "local_copy"]

STDIN = "-"
PIPE = "pipe:"
SHARD_ENDING = ".tar"
MAX_BRACES = 1_000_000  # names one pattern may stand for


def is_local(path: str) -> bool:
    """Whether a path is a file name of this machine."""
    return path != STDIN and not path.startswith(PIPE) and "://" not in path


def expand(patterns: Sequence[str], *, allow_pipe: bool = False) -> list[str]:
    """Paths that patterns stand for: braces, `*` and `?`, a folder for all its tars; sorted within a pattern.

    Raises: FileNotFoundError for a pattern that stands for nothing; ValueError for a pipe that is not allowed.
    """
    found: list[str] = []
    for pattern in patterns:
        if pattern == STDIN or pattern.startswith(PIPE):
            _check_pipe(pattern, allow_pipe)
            found.append(pattern)
            continue
        for one in _braces(pattern):
            found += _matches(one)
    return found


@contextmanager
def local_copy(path: str, *, allow_pipe: bool = False) -> Iterator[Path]:
    """The file itself if it is of this machine, else a copy that goes away afterwards.

    Raises: OSError; ValueError for a pipe that is not allowed.
    """
    if is_local(path):
        yield Path(path)
        return
    _check_pipe(path, allow_pipe)
    with tempfile.NamedTemporaryFile(prefix="kosmos-shard-", suffix=SHARD_ENDING) as copy:
        _fetch(path, copy.file)
        copy.flush()
        yield Path(copy.name)


def _check_pipe(path: str, allow_pipe: bool) -> None:
    if path.startswith(PIPE) and not allow_pipe:
        raise ValueError(f"{path!r} would run a shell command; allow that with --allow-pipe if you wrote it yourself")


def _braces(pattern: str) -> Iterator[str]:
    for number, one in enumerate(braceexpand(pattern)):
        if number >= MAX_BRACES:
            raise ValueError(f"{pattern!r} stands for more than {MAX_BRACES} names")
        yield one


def _matches(path: str) -> list[str]:
    if not is_local(path):
        return _remote_matches(path)
    if os.path.isdir(path):
        found = sorted(str(tar) for tar in Path(path).glob("**/*" + SHARD_ENDING) if tar.is_file())
    elif glob.has_magic(path):
        found = sorted(glob.glob(path, recursive=True))
    else:
        found = [path] if os.path.exists(path) else []
    if not found:
        raise _nothing(path)
    return found


def _remote_matches(path: str) -> list[str]:
    import fsspec

    if not glob.has_magic(path) and path.endswith(SHARD_ENDING):
        return [path]
    store, inside = fsspec.core.url_to_fs(path)
    pattern = inside if glob.has_magic(inside) else f"{inside.rstrip('/')}/**/*{SHARD_ENDING}"
    found = sorted(store.unstrip_protocol(name) for name in store.glob(pattern))
    if not found:
        raise _nothing(path)
    return found


def _nothing(path: str) -> FileNotFoundError:
    if is_local(path) and os.path.isdir(path):
        return FileNotFoundError(f"{path} holds no {SHARD_ENDING}; `kosmos data create` makes shards of other files")
    return FileNotFoundError(2, "no such file, nor a folder or pattern that stands for some", path)


def _fetch(path: str, copy: IO[bytes]) -> None:
    if path == STDIN:
        shutil.copyfileobj(sys.stdin.buffer, copy)
    elif path.startswith(PIPE):
        command = path.removeprefix(PIPE)
        done = subprocess.run(command, shell=True, stdout=copy, check=False)  # noqa: S602  (behind --allow-pipe)
        if done.returncode:
            raise OSError(done.returncode, f"command failed with code {done.returncode}", command)
    else:
        import fsspec

        with fsspec.open(path, "rb") as remote:
            shutil.copyfileobj(remote, copy, 2**20)
