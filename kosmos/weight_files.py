"""Files under a model: safetensors by name and shard, JSON of bounded size, folders that appear whole or not at all.

Knows nothing of models or configs. Files are hostile: no pickle, no name that leaves its folder, sizes checked first.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = [
    "INDEX",
    "SHARD_BYTES",
    "WEIGHTS",
    "check_whole",
    "listed",
    "publish_folder",
    "read_json",
    "read_text",
    "read_weights",
    "weight_files",
    "write_folder",
    "write_weights",
]

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5 * 1000**3
MAX_JSON_BYTES = 4 * 1024**2


# ---- weight files ----


def weight_files(folder: Path, *, whole: str = WEIGHTS, index: str = INDEX, suffix: str = ".safetensors") -> list[Path]:
    """The weight files of a folder: `whole`, or those that `index` lists.

    Raises: ValueError if there are none, or the index names a file outside the folder.
    """
    path = folder / index
    if not path.exists():
        if not (folder / whole).is_file():
            raise ValueError(f"{folder} holds no {whole}; is it a checkpoint?")
        return [folder / whole]
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{path} has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(suffix):
            raise ValueError(f"{path} names {name!r}, which is no {suffix} file of its own folder")
        if not (folder / name).is_file():
            raise ValueError(f"{path} names {name}, which is not there")
    return [folder / name for name in names]


def check_whole(files: Iterable[Path]) -> None:
    """Raises: ValueError if a safetensors file is cut off or broken."""
    for path in files:
        with _opened(path):
            pass


def read_weights(files: Iterable[Path]) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of safetensors files, mapped from disk, each read when it is used.

    Raises: ValueError if a file is broken or a name comes twice.
    """
    seen: set[str] = set()
    for path in files:
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                if name in seen:
                    raise ValueError(f"{path}: weight {name} is stored twice")
                seen.add(name)
                yield name, file.get_tensor(name)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        file = safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no whole safetensors file ({error})") from None
    with file as opened:
        yield opened


def write_weights(
    weights: Mapping[str, Tensor], folder: Path, *, dtype: torch.dtype | None = None, max_shard_bytes: int = SHARD_BYTES
) -> None:
    """Write `weights` as model.safetensors, or as shards with an index where they are larger than `max_shard_bytes`.

    Raises: ValueError if a number is beyond what `dtype` holds.
    """
    sizes = {name: tensor.numel() * (dtype or tensor.dtype).itemsize for name, tensor in weights.items()}
    shards: list[list[str]] = [[]]
    room = max_shard_bytes
    for name, size in sizes.items():
        if size > room and shards[-1]:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(name)
        room -= size
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        path = folder / file
        path.touch()
        mode = path.stat().st_mode
        save_file({name: _stored(name, weights[name], dtype) for name in names}, path, metadata={"format": "pt"})
        path.chmod(mode)  # safetensors makes a file for its owner alone; a model is read by whoever may read the folder
        weight_map.update(dict.fromkeys(names, file))
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _stored(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    stored = tensor.detach().to(device="cpu", dtype=dtype or tensor.dtype).contiguous()
    if not torch.isfinite(stored).all():
        raise ValueError(f"weight {name} is not finite as {stored.dtype}; nothing was written")
    return stored


# ---- folders and JSON ----


@contextmanager
def write_folder(folder: Path, *, known: re.Pattern[str]) -> Iterator[Path]:
    """A hidden sibling to write into; it takes the name `folder` when the block ends well and vanishes otherwise.

    Args:
        known: names that a folder to be replaced may hold, beside those written now.
    Raises: ValueError if `folder` exists and holds something else.
    """
    folder = Path(os.path.abspath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
    temporary.mkdir()
    try:
        yield temporary
        _check_replaceable(folder, {path.name for path in temporary.iterdir()}, known)
        publish_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish_folder(temporary: Path, folder: Path) -> None:
    """Give a finished folder its name at once, when all of it is on disk; a folder of that name takes the other's."""
    for path in [*temporary.rglob("*"), temporary]:
        _sync(path)
    if folder.exists():
        _exchange(temporary, folder)
    else:
        temporary.rename(folder)
    _sync(folder.parent)


def _check_replaceable(folder: Path, names: set[str], known: re.Pattern[str]) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the name of a folder")
    others = [path.name for path in folder.glob("*") if path.name not in names and not known.fullmatch(path.name)]
    if others:
        raise ValueError(
            f"{folder} holds what is no part of a checkpoint ({listed(sorted(others))}); give another name"
        )


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders: at once where the system can (Linux's renameat2), else with a moment between two renames."""
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    at_working_directory, swap = -100, 2
    if exchange and exchange(at_working_directory, os.fsencode(new), at_working_directory, os.fsencode(old), swap) == 0:
        return
    aside = new.with_name(new.name + ".old")
    old.rename(aside)
    new.rename(old)
    aside.rename(new)


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object from a file of bounded size.

    Raises: ValueError if it is not there, too large or no object.
    """
    try:
        values = json.loads(read_text(path, max_bytes=max_bytes))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not a JSON object")
    return values


def read_text(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> str:
    """A UTF-8 file of bounded size.

    Raises: ValueError if it is not there, too large or no text.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not there")
    if path.stat().st_size > max_bytes:
        raise ValueError(f"{path} is larger than {max_bytes} bytes")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None


def listed(names: Sequence[str]) -> str:
    """The first three, for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
