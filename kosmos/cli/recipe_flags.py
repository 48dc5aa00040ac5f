"""Flags of `kosmos train` out of a recipe's dataclasses: `--optimiser.learning-rate 1e-4`. No torch here.

A field becomes a flag by its name and type, its help by the `Attributes:` of its dataclass, with the recipe's own value
in brackets; a new field needs nothing here. A flag's last part alone is enough where no other flag ends so.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from difflib import SequenceMatcher
from inspect import cleandoc
from re import MULTILINE, compile
from shutil import get_terminal_size
from textwrap import fill
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["RecipeField", "RecipeParser", "add_recipe_flags", "recipe_fields", "replaced", "resolved"]

Recipe = TypeVar("Recipe", bound="DataclassInstance")

LEAST_LIKENESS = 0.6  # of a near match, as difflib's own
SHORT_FORMS = "A flag's last part alone is enough where no other flag ends so: "
AMERICAN, OURS = "--optimizer.", "--optimiser."
_ATTRIBUTE = compile(r"(?:^ {4}|(?<=\S) {2,})(\w+): ", MULTILINE)


class RecipeField(NamedTuple):
    """One value of a recipe.

    Attributes:
        path: its place, `optimiser.learning_rate`.   kind: its type.   value: what the recipe has.
        help: what its dataclass says of it; "" where it says nothing.
    """

    path: str
    kind: object
    value: object
    help: str

    @property
    def flag(self) -> str:
        """As it is typed."""
        return f"--{self.path.replace('_', '-')}"


class RecipeParser(argparse.ArgumentParser):
    """Refuses unknown flags with the nearest one, and takes short forms for the whole flag.

    Attributes:
        fill: adds the flags, when they are first needed: of several presets one is chosen.
    """

    fill: Callable[[RecipeParser], None] | None = None

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse does it, after every flag has got its whole name."""
        if self.fill is not None:
            fill, self.fill = self.fill, None
            fill(self)
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([self._whole(word) for word in words], namespace)

    def format_help(self) -> str:
        """With the short forms at the end."""
        single = [name for name, flags in sorted(self._short_forms().items()) if len(flags) == 1]
        width = get_terminal_size().columns - 2  # as argparse itself wraps
        short = fill(SHORT_FORMS + " ".join(single), width, break_on_hyphens=False, break_long_words=False)
        return super().format_help() + (f"\n{short}\n" if single else "")

    def _whole(self, word: str) -> str:
        name, equals, value = word.partition("=")
        if not name.startswith("--") or name == "--":
            return word
        return self._flag(name.replace("_", "-").replace(AMERICAN, OURS), typed=name) + equals + value

    def _flag(self, name: str, *, typed: str) -> str:
        if name in self._option_string_actions:
            return name
        short = self._short_forms()
        meant = short.get(name, [])
        if len(meant) == 1:
            return meant[0]
        if meant:
            self.error(f"{typed} could be {' or '.join(meant)}; say which")
        near = _nearest(name, [*self._option_string_actions, *short])
        whole = short.get(near, [near])[0]
        self.error(f"unknown flag {typed}" + (f"; did you mean {whole}?" if near else "; --help lists all"))

    def _short_forms(self) -> dict[str, list[str]]:
        """Flags by their last part, but for those of which that is the whole."""
        found: dict[str, list[str]] = {}
        for flag in self._option_string_actions:
            if "." in flag:
                off = "no-" if flag.startswith("--no-") else ""
                found.setdefault(f"--{off}{flag.rpartition('.')[2]}", []).append(flag)
        return {name: flags for name, flags in found.items() if name not in self._option_string_actions}


def add_recipe_flags(parser: argparse.ArgumentParser, recipe: DataclassInstance) -> None:
    """A flag for every value of a recipe, in a group for each of its dataclasses.

    Raises: TypeError for a field of a type that no flag can hold.
    """
    groups: dict[str, argparse._ArgumentGroup] = {}
    for entry in recipe_fields(recipe):
        part = entry.path.rpartition(".")[0]
        if part not in groups:
            groups[part] = parser.add_argument_group(part or "recipe", _first_sentence(_part(recipe, part)))
        _add(groups[part], entry)


def recipe_fields(recipe: DataclassInstance, prefix: str = "") -> Iterator[RecipeField]:
    """Every value of a recipe, its own before those of its parts."""
    kinds, helps = get_type_hints(type(recipe)), _attributes(type(recipe))
    parts = []
    for entry in fields(recipe):
        value = getattr(recipe, entry.name)
        if is_dataclass(value) and not isinstance(value, type):
            parts.append((f"{prefix}{entry.name}.", value))
        else:
            yield RecipeField(prefix + entry.name, kinds[entry.name], value, helps.get(entry.name, ""))
    for path, part in parts:
        yield from recipe_fields(part, path)


def resolved(recipe: Recipe, namespace: argparse.Namespace) -> Recipe:
    """The recipe with what was given on the command line.

    Raises: argparse.ArgumentTypeError for values that a dataclass refuses.
    """
    known = {entry.path for entry in recipe_fields(recipe)}
    try:
        return replaced(recipe, {path: value for path, value in vars(namespace).items() if path in known})
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def replaced(recipe: Recipe, values: Mapping[str, object], prefix: str = "") -> Recipe:
    """The recipe with other values, by path.

    Raises: ValueError that names the part whose dataclass refuses them.
    """
    changes: dict[str, object] = {}
    for entry in fields(recipe):
        path, value = prefix + entry.name, getattr(recipe, entry.name)
        if is_dataclass(value) and not isinstance(value, type):
            changes[entry.name] = replaced(value, values, f"{path}.")
        elif path in values:
            given = values[path]
            changes[entry.name] = tuple(given) if isinstance(given, list) else given
    try:
        return replace(recipe, **changes)
    except ValueError as error:
        raise ValueError(f"{prefix.rstrip('.')}: {error}" if prefix else str(error)) from None


def _add(group: argparse._ArgumentGroup, entry: RecipeField) -> None:
    shown = f"{entry.help} ({_shown(entry.value)})".lstrip().replace("%", "%%")
    options: dict[str, object] = {"dest": entry.path, "default": argparse.SUPPRESS, "help": shown}
    if entry.kind is bool:
        group.add_argument(entry.flag, action=argparse.BooleanOptionalAction, **options)  # type: ignore[arg-type]
        return
    single = entry.kind
    if get_origin(entry.kind) is tuple:
        single, *others = get_args(entry.kind)
        # Any number of values adds to what the same flag gave before: none of them goes lost.
        several = {"nargs": "*", "action": "extend"} if others == [...] else {"nargs": 1 + len(others)}
        options |= several
    if get_origin(single) is Literal:
        options["choices"] = get_args(single)
    elif isinstance(single, type) and single in _TYPES:
        options["type"], options["metavar"] = _TYPES[single]
    else:
        raise TypeError(f"{entry.path} is of the type {entry.kind}, which no flag can hold")
    group.add_argument(entry.flag, **options)  # type: ignore[arg-type]


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number, such as 65_536") from None


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no number, such as 1e-4")
    return value


_TYPES: Mapping[type, tuple[Callable[[str], object], str]] = {
    int: (_whole_number, "N"),
    float: (_number, "X"),
    str: (str, "TEXT"),
}
"""How a single value is read, and what it is called in the help."""


def _shown(value: object) -> str:
    """A value as it would be typed."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:_}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return " ".join(map(_shown, value)) or "none"
    return str(value) or "none"


def _attributes(kind: type) -> dict[str, str]:
    """What the section `Attributes:` of a dataclass says of each field; several may stand on a line."""
    _, _, section = cleandoc(kind.__doc__ or "").partition("\nAttributes:\n")
    _, *found = _ATTRIBUTE.split(section.partition("\n\n")[0])
    return {name: " ".join(said.split()).rstrip(".") for name, said in zip(found[::2], found[1::2], strict=True)}


def _first_sentence(recipe: object) -> str:
    return cleandoc(type(recipe).__doc__ or "").partition("\n")[0]


def _part(recipe: object, path: str) -> object:
    for name in path.split(".") if path else ():
        recipe = getattr(recipe, name)
    return recipe


def _nearest(name: str, known: Sequence[str]) -> str:
    """The known flag most like `name`, by its letters or by the initials of its last part (`lr`); "" if none is."""
    last = name.lstrip("-").rpartition(".")[2]

    def likeness(flag: str) -> float:
        whole = SequenceMatcher(None, name, flag).ratio()
        words = flag.lstrip("-").rpartition(".")[2].split("-")
        return whole + (len(words) > 1 and "".join(word[:1] for word in words) == last)

    best = max(known, key=likeness, default="")
    return best if best and likeness(best) >= LEAST_LIKENESS else ""
