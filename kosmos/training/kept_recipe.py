"""The recipe a run folder keeps: a run that goes on must be the same, but may lie on other devices."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any  # Any: JSON

import torch

from kosmos.checkpoint import newest_step, step_folders
from kosmos.training.distributed import gathered
from kosmos.training.precision import chosen_precision
from kosmos.training.recipe import TrainRecipe

__all__ = ["kept_recipe", "write_recipe"]

CONFIG = "config.json"
# What changes neither which documents a step sees nor what it computes, but for the order of adding.
FREE = ("parallel.", "save.", "show.", "data.workers", "compute.checkpointing", "compute.compile")
NAMED = 4  # differences told


def kept_recipe(recipe: TrainRecipe, folder: Path, *, ranks: int, device: torch.device) -> TrainRecipe:
    """`recipe` with all that was left open decided: as the run in `folder` has it, or for a new run on these ranks.

    Raises: ValueError if the folder holds another run, or these ranks cannot share its batches.
    """
    path = folder / CONFIG
    before = _read(path) if path.exists() else None
    compute = recipe.compute
    if compute.precision == "auto":
        # One race for all: ranks that chose for themselves could differ.
        precision = before["compute"]["precision"] if before else gathered(chosen_precision("auto", device))[0]
        compute = replace(compute, precision=precision)
    if compute.micro_batches == 0:
        compute = replace(compute, micro_batches=before["compute"]["micro_batches"] if before else ranks)
    if compute.micro_batches % ranks:
        raise ValueError(
            f"a step is cut into {compute.micro_batches} batches, which {ranks} devices cannot share evenly; give"
            " --compute.micro-batches a multiple of the devices, or for a run that goes on a divisor of devices"
        )
    recipe = replace(recipe, compute=compute, model=_settled(recipe.model, before.get("model", "") if before else None))
    if before is not None:
        _check_same(json.loads(json.dumps(asdict(recipe))), before, path)
    return recipe


def write_recipe(recipe: TrainRecipe, folder: Path) -> None:
    """Write it beside the run, whole."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CONFIG
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps({"recipe": asdict(recipe)}, indent=2) + "\n", "utf-8")
    unfinished.replace(path)


def _read(path: Path) -> dict[str, Any]:
    """The recipe of the run that is there."""
    try:
        found = json.loads(path.read_text("utf-8"))["recipe"]
        str(found["compute"]["precision"]), int(found["compute"]["micro_batches"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path} is not the recipe of a run of this kind; --run takes a new folder, or that of a run to go on with"
        ) from None
    recipe: dict[str, Any] = found
    return recipe


def _settled(model: str, before: object) -> str:
    """Of a run folder the step it had when this run began: what is frozen must not change when the run goes on."""
    path = Path(model).expanduser()
    if isinstance(before, str) and Path(before).parent == path.resolve():
        return before
    if before is not None or not path.is_dir() or not step_folders(path):
        return model
    return gathered(str(newest_step(path).resolve()))[0]


def _check_same(now: Mapping[str, object], before: Mapping[str, object], path: Path) -> None:
    ours, theirs = dict(_leaves(now)), dict(_leaves(before))
    differing = [
        f"{name} {theirs.get(name)!r} there, {ours.get(name)!r} here"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name) and not name.startswith(FREE)
    ]
    if differing:
        more = f", and {len(differing) - NAMED} more" if len(differing) > NAMED else ""
        raise ValueError(
            f"{path} describes another run: {'; '.join(differing[:NAMED])}{more}; give a new folder by --run, or the"
            " options of before"
        )


def _leaves(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
