"""The claims by name: what they are about and where they live. A new one is a module and a line here. No torch here.

A claim's module offers `plan` (its runs as plain values), `do` (do what is not done, in a folder) and `report`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from kosmos.science.report import Report

__all__ = ["CLAIMS", "Claim", "Reader", "Runner", "load_reader", "load_runner"]


@dataclass(frozen=True)
class Claim:
    """Where a claim lives.

    Attributes:
        runs: the claim whose runs it is read from, where it has none of its own.
    """

    module: str
    help: str
    runs: str | None = None


CLAIMS: Mapping[str, Claim] = {
    "stability": Claim("kosmos.science.stability", "where Pre-LN, Post-LN, DeepNorm and Sub-LN fail"),
    "extrapolation": Claim("kosmos.science.extrapolation", "perplexity beyond the training length"),
    "resolution": Claim(
        "kosmos.science.resolution_report", "how well attention tells distances apart", "extrapolation"
    ),
    "experts": Claim("kosmos.science.experts", "X-MoE, Switch and dense at equal work a token"),
    "translation": Claim("kosmos.science.translation", "encoder-decoders of the four assemblies"),
}


class Runner(Protocol):
    """The part of a claim's module that makes runs."""

    def plan(self, *, seeds: int, steps: int | None, quick: bool) -> list[Any]:
        """The runs; `steps` and `quick` make them shorter."""

    def do(self, runs: Sequence[Any], data: Path, folder: Path, told: Callable[[str], None]) -> None:
        """Do what is not done."""


class Reader(Protocol):
    """The part that reads them."""

    def report(self, folder: Path) -> Report:
        """What the folder's finished runs say."""


def load_runner(name: str) -> Runner:
    """The module that makes a claim's runs."""
    return cast(Runner, import_module(CLAIMS[CLAIMS[name].runs or name].module))


def load_reader(name: str) -> Reader:
    """The module that reads them."""
    return cast(Reader, import_module(CLAIMS[name].module))
