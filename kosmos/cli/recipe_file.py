"""A resolved recipe as JSON, as it lies beside a run: written whole, read back over a recipe of the same kind."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, get_args, get_origin

from kosmos.cli.recipe_flags import recipe_fields, replaced

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["read_recipe", "recipe_text"]

Recipe = TypeVar("Recipe", bound="DataclassInstance")

MAX_BYTES = 2**20


def recipe_text(recipe: DataclassInstance) -> str:
    """Every value of a recipe, as JSON."""
    return json.dumps(asdict(recipe), indent=2)


def read_recipe(path: Path, recipe: Recipe) -> Recipe:
    """The recipe with the values of a file: a printed one, or the `config.json` of a run folder.

    Values that the file leaves out stay.

    Raises: OSError; ValueError for a file that is no such thing, and for names and values that are none of the recipe.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    try:
        record = json.loads(data.decode("utf-8")) if len(data) <= MAX_BYTES else None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if isinstance(record, dict) and isinstance(record.get("recipe"), dict):
        record = record["recipe"]  # beside it stands what else decides a run
    if not isinstance(record, dict):
        raise ValueError(f"{path} holds no recipe; give the config.json of a run, or what --print-config printed")
    kinds = {entry.path: entry.kind for entry in recipe_fields(recipe)}
    names = [entry.name for entry in fields(recipe)]
    parts = {prefix for path in kinds for prefix in _prefixes(path)}
    values: dict[str, object] = {}
    for name, value in _flat(record, parts, ""):
        if name not in kinds:
            near = get_close_matches(name, [*kinds, *names], n=1)
            raise ValueError(f"{path}: the recipe has no {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        values[name] = _checked(value, kinds[name], f"{path}: {name}")
    try:
        return replaced(recipe, values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _prefixes(path: str) -> Iterator[str]:
    """The parts a value lies in: `data` and `data.caption` of `data.caption.tokens`."""
    while path := path.rpartition(".")[0]:
        yield path


def _flat(record: Mapping[str, object], parts: set[str], prefix: str) -> Iterator[tuple[str, object]]:
    for name, value in record.items():
        if prefix + name in parts and isinstance(value, dict):
            yield from _flat(value, parts, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _checked(value: object, kind: object, where: str) -> object:
    """The value, of the field's own type. Raises: ValueError."""
    if get_origin(kind) is tuple and isinstance(value, list):
        single, *others = get_args(kind)
        if others == [...] or len(value) == 1 + len(others):
            return tuple(_checked(one, single, where) for one in value)
    elif get_origin(kind) is Literal:
        if value in get_args(kind):
            return value
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    elif kind in (int, str, bool) and type(value) is kind:
        return value
    raise ValueError(f"{where} is {json.dumps(value)[:80]}, which it cannot be")
