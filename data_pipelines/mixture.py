"""Mixture: which shards a stream of documents is drawn from, and in what proportion; read from a YAML.

The YAML has the shape of Energon's MetadatasetV2, so that one file serves both:

    __module__: megatron.energon
    __class__: MetadatasetV2
    splits:
      train:
        blend:                                   # shares of the documents; our own `by: token` beside it: of the tokens
          - {weight: 3, path: web}               # a folder of tars, or one with Energon's .nv-meta
          - {weight: 1, path: "pairs-{000..011}.tar", subset: {range: [0%, 90%]}}
      val: {path: held-out.yaml, split_part: train}

`blend_epochized` with `repetitions` instead of weights says how often an epoch passes over each part. Paths are seen
from the YAML's folder. Source: megatron-energon 7.4.1, metadataset_v2.py. Knows nothing of reading shards.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Literal, TypeAlias

from data_pipelines.mixture_file import Table, listed, mapping, number, percent, read_yaml, string, unknown_keys
from data_pipelines.prepared import is_prepared, prepared_shards
from data_pipelines.stores import is_local

__all__ = ["Component", "Measure", "Mixture", "mixture_of", "read_mixture"]

Measure: TypeAlias = Literal["document", "token", "epoch"]
"""What weights are: shares of the documents, shares of the tokens, or passes over a component in an epoch."""

MAX_COMPONENTS = 10_000
MAX_NESTING = 16

_ROOT = ("__module__", "__class__", "splits")
_BLENDS = {"blend": "weight", "blend_epochized": "repetitions"}
# Of no meaning to a reader of our documents; Energon's own files may hold them.
_ENERGONS = ("subflavors", "shuffle_over_epochs_multiplier", "dataset_config")
_LEAF = ("path", "split_part", "subset", "split_config", *_ENERGONS)


@dataclass(frozen=True, kw_only=True)
class Component:
    """One part of a mixture.

    Attributes:
        name: its path as written; unique in the mixture.
        shards: patterns for `stores.expand`: folders, tars with braces or `*`, addresses.
        weight: its share of the mixture (they sum to 1); passes in an epoch for a mixture by epoch.
        subset: the documents used, from and to, as fractions 0..1 of all of them in order.
    """

    name: str
    shards: tuple[str, ...]
    weight: float = 1.0
    subset: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        start, end = self.subset
        if not (isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"component {self.name!r} has weight {self.weight}; give a number above 0")
        if not 0 <= start < end <= 1:
            raise ValueError(f"component {self.name!r} uses {start:.0%} to {end:.0%} of itself; give 0% <= from < to")

    def documents(self, total: int) -> range:
        """Numbers of the documents used out of `total`, rounded as Energon rounds."""
        return range(int(total * self.subset[0]), int(total * self.subset[1]))


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Components and what their weights count."""

    components: tuple[Component, ...]
    by: Measure = "document"

    def __post_init__(self) -> None:
        if not self.components:
            raise ValueError("a mixture has at least one component")


def mixture_of(paths: Sequence[str]) -> Mixture:
    """A mixture of one component: plain shard patterns, each document as likely as any other."""
    return Mixture(components=(Component(name="shards", shards=tuple(paths)),))


def read_mixture(path: str | os.PathLike[str], split: str = "train") -> Mixture:
    """The mixture a YAML describes; YAMLs it refers to are taken in with their weights multiplied.

    Raises: OSError; ValueError for what is not understood, naming file and place.
    """
    by, components = _read_file(Path(path), split, ())
    names = Counter[str]()
    unique = []
    for component in components:
        names[component.name] += 1
        again = f"#{names[component.name]}" if names[component.name] > 1 else ""
        unique.append(replace(component, name=component.name + again))
    return Mixture(components=tuple(unique), by=by or "document")


def _read_file(path: Path, split: str, above: tuple[Path, ...]) -> tuple[Measure | None, list[Component]]:
    """Components of a split, and what their weights are; None for a split that is a single path."""
    place = path.resolve()
    if place in above:
        raise ValueError(f"{path} refers to itself through {above[-1].name}; take one of the two out")
    if len(above) >= MAX_NESTING:
        raise ValueError(f"{path} is nested more than {MAX_NESTING} mixtures deep; write the parts into one file")
    root = mapping(read_yaml(path), str(path))
    unknown_keys(root, _ROOT, str(path))
    kind = (root.get("__module__", "megatron.energon"), root.get("__class__", "MetadatasetV2"))
    if kind != ("megatron.energon", "MetadatasetV2"):
        raise ValueError(f"{path} is a {kind[0]}.{kind[1]}; a mixture is a megatron.energon MetadatasetV2")
    splits = mapping(root.get("splits"), f"{path}, splits")
    if split not in splits:
        raise ValueError(f"{path} has no split {split!r}; it has {', '.join(map(str, splits)) or 'none'}")
    where = f"{path}, splits.{split}"
    return _split(mapping(splits[split], where), where, split, (*above, place))


def _split(table: Table, where: str, split: str, above: tuple[Path, ...]) -> tuple[Measure | None, list[Component]]:
    if "join" in table:
        raise ValueError(f"{where}: joins of data sets are not read; put what belongs together under one key first")
    blend = next((key for key in _BLENDS if key in table), None)
    if blend is None:
        unknown_keys(table, (*_BLENDS, *_LEAF), where)
        return _reference(table, where, split, above)
    unknown_keys(table, (blend, "by", "subset"), where)
    by = _measure(table, blend, where)
    parts: list[Component] = []
    for place, entry in enumerate(listed(table[blend], f"{where}.{blend}")):
        parts += _weighed(mapping(entry, here := f"{where}.{blend}[{place}]"), here, split, above, blend, by)
        if len(parts) > MAX_COMPONENTS:
            raise ValueError(f"{where} has more than {MAX_COMPONENTS} components; use patterns")
    if by != "epoch":
        whole = sum(part.weight for part in parts)
        parts = [replace(part, weight=part.weight / whole) for part in parts]
    return by, [_narrowed(part, _subset(table, where)) for part in parts]


def _measure(table: Table, blend: str, where: str) -> Measure:
    if blend == "blend_epochized":
        if "by" in table:
            raise ValueError(f"{where}: `by` goes with `blend`; repetitions of `blend_epochized` are epochs")
        return "epoch"
    by = table.get("by", "document")
    if by not in ("document", "token"):
        raise ValueError(f"{where}: by is {by!r}; it is `document` or `token` (epochs: `blend_epochized`)")
    return "token" if by == "token" else "document"


def _weighed(
    entry: Table, where: str, split: str, above: tuple[Path, ...], blend: str, by: Measure
) -> Iterator[Component]:
    """The components an entry of a blend stands for, its weight on them."""
    if "join" in entry:
        raise ValueError(f"{where}: joins of data sets are not read; put what belongs together under one key first")
    unknown_keys(entry, (_BLENDS[blend], *_LEAF), where)
    weight = number(entry.get(_BLENDS[blend], 1), f"{where}.{_BLENDS[blend]}")
    inner, components = _reference(entry, where, split, above)
    if inner not in (None, by):
        raise ValueError(f"{where}: a mixture by {inner} cannot be part of one by {by}; weigh both alike")
    for component in components:
        yield replace(component, weight=component.weight * weight)


def _reference(entry: Table, where: str, split: str, above: tuple[Path, ...]) -> tuple[Measure | None, list[Component]]:
    """What a `path` leads to: another mixture, or documents."""
    written = string(entry.get("path"), f"{where}.path")
    split = string(entry.get("split_part") or split, f"{where}.split_part")
    subset = _subset(entry, where)
    path = os.path.join(above[-1].parent, written) if is_local(written) else written
    if written.endswith((".yaml", ".yml")):
        if not is_local(written):
            raise ValueError(f"{where}: {written} is not a file of this machine; copy the mixture here")
        by, components = _read_file(Path(path), split, above)
        return by, [_narrowed(component, subset) for component in components]
    shards: tuple[str, ...] = (path,)
    if is_prepared(Path(path)):
        shards = prepared_shards(Path(path), split, string(entry.get("split_config", "split.yaml"), where))
    return None, [Component(name=written, shards=shards, subset=subset)]


def _narrowed(component: Component, outer: tuple[float, float]) -> Component:
    """`outer` taken of what the component already uses, as Energon merges ranges."""
    start, end = component.subset
    return replace(component, subset=(start + outer[0] * (end - start), start + outer[1] * (end - start)))


def _subset(table: Mapping[str, object], where: str) -> tuple[float, float]:
    if "subset" not in table:
        return 0.0, 1.0
    here = f"{where}.subset"
    subset = mapping(table["subset"], here)
    unknown_keys(subset, ("range",), here)
    ends = listed(subset.get("range"), f"{here}.range")
    if len(ends) != 2:
        raise ValueError(f"{here}.range has {len(ends)} entries; give two, as in [0%, 50%]")
    start, end = percent(ends[0], f"{here}.range"), percent(ends[1], f"{here}.range")
    if start >= end:
        raise ValueError(f"{here}.range goes from {start:.0%} to {end:.0%}; give the smaller first")
    return start, end
