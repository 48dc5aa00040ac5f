"""Folders that were prepared for Energon: the shards of a split, from `.nv-meta/split.yaml`.

Source: megatron-energon 7.4.1, flavors/webdataset/metadata.py. Such folders come from elsewhere, so no shard named in
one may lie outside it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from braceexpand import braceexpand

from data_pipelines.mixture_file import listed, mapping, read_yaml, string

__all__ = ["META_FOLDER", "is_prepared", "prepared_shards"]

META_FOLDER = ".nv-meta"
MAX_NAMES = 1_000_000
MAX_BYTES = 16 * 2**20  # a split may write every shard out


def is_prepared(folder: Path) -> bool:
    """Whether a folder says which of its shards belong to which split."""
    return any((folder / META_FOLDER / name).is_file() for name in ("split.yaml", "split.json"))


def prepared_shards(folder: Path, split: str, split_config: str = "split.yaml") -> tuple[str, ...]:
    """Paths of a split's shards, in the order written.

    Raises: ValueError for an unknown split, a shard outside the folder, and single samples left out, which only
        Energon can do.
    """
    path = folder / META_FOLDER / split_config
    if not path.is_file() and split_config == "split.yaml":
        path = path.with_suffix(".json")  # JSON is YAML
    root = mapping(read_yaml(path, MAX_BYTES), str(path))
    parts = mapping(root.get("split_parts"), f"{path}, split_parts")
    if split not in parts:
        raise ValueError(f"{path} has no split {split!r}; it has {', '.join(parts)} (choose with `split_part`)")
    names = list(_names(parts[split], f"{path}, split_parts.{split}"))
    left_out = set(_names(root["exclude"], f"{path}, exclude")) if root.get("exclude") else set[str]()
    if single := sorted(name for name in left_out.difference(names) if "/" in name):
        raise ValueError(f"{path} leaves out single samples ({single[0]}); write them out with `kosmos data filter`")
    kept = [name for name in names if name not in left_out]
    if not kept:
        raise ValueError(f"{path} leaves no shard in the split {split!r}")
    return tuple(_inside(folder, name, path) for name in kept)


def _names(value: object, where: str) -> Iterator[str]:
    for pattern in listed(value, where):
        names = list(islice(braceexpand(string(pattern, where)), MAX_NAMES + 1))
        if len(names) > MAX_NAMES:
            raise ValueError(f"{where}: {pattern!r} stands for more than {MAX_NAMES} names")
        yield from names


def _inside(folder: Path, name: str, where: Path) -> str:
    root = folder.resolve()
    if root not in (folder / name).resolve().parents:
        raise ValueError(f"{where} names {name!r}, which lies outside the folder")
    return os.path.join(folder, name)
