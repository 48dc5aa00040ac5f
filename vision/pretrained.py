"""Published weights into towers: open_clip's by tag or file, timm's by file.

Only tensors are read (safetensors, or torch files without any other object), and every weight of the tower must be
there with its shape. Knows nothing of our own checkpoints, which hold a tower's weights themselves.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from os import PathLike

import torch
from torch import Tensor, nn

from vision.encoder import ClipTower, TimmTower

__all__ = ["load_open_clip_weights", "load_timm_weights"]


def load_open_clip_weights(tower: ClipTower, pretrained: str | PathLike[str]) -> None:
    """Fill a tower with the picture side of a CLIP; positions are interpolated where the picture size differs.

    Args:
        pretrained: a file (whole CLIP, or its `visual` alone), or a tag of open_clip for the tower's name, which is
            fetched from the hub unless it is cached.
    Raises: ValueError if there is no such file or tag, if the tag was trained with another activation or another
        mean and std, or if weights are missing or of other shapes.
    """
    from open_clip.model import resize_pos_embed

    path = os.fspath(pretrained) if os.path.isfile(pretrained) else _fetch(tower, str(pretrained))
    state = _read(path)
    if "conv1.weight" in state:
        state = {f"visual.{name}": weight for name, weight in state.items()}
    state = {name: weight for name, weight in state.items() if name.startswith("visual.") and name != "visual.proj"}
    resize_pos_embed(state, tower)
    _fill(tower, state, path)


def load_timm_weights(tower: TimmTower, path: str | PathLike[str]) -> None:
    """Fill a tower with a timm checkpoint; its classifier is left out.

    Raises: ValueError if the file cannot be read, or weights are missing or of other shapes.
    """
    published = getattr(tower.model, "pretrained_cfg", {})
    heads = published.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else heads
    state = {
        f"model.{name}": weight
        for name, weight in _read(os.fspath(path)).items()
        if not any(name.startswith(f"{head}.") for head in heads)
    }
    _fill(tower, state, os.fspath(path))


def _fetch(tower: ClipTower, tag: str) -> str:
    """The local file of an open_clip tag that fits the tower."""
    from open_clip import download_pretrained, get_pretrained_cfg, list_pretrained_tags_by_model

    name, config = tower.config.name, tower.config
    published = get_pretrained_cfg(name, tag)
    if not published:
        tags = ", ".join(list_pretrained_tags_by_model(name)) or "none"
        raise ValueError(f"{tag!r} is neither a file nor weights of open_clip's {name}; it has: {tags}")
    if bool(published.get("quick_gelu")) != tower.quick_gelu:
        other = f"{name}-quickgelu" if not tower.quick_gelu else name.removesuffix("-quickgelu")
        raise ValueError(f"weights {tag!r} were trained with the other GELU; name the tower {other!r}")
    for field in ("mean", "std"):
        wanted = tuple(published.get(field) or getattr(config, field))
        if wanted != tuple(getattr(config, field)):
            raise ValueError(f"weights {tag!r} need {field}={wanted} in the tower's config")
    return str(download_pretrained(published))


def _read(path: str) -> dict[str, Tensor]:
    """The tensors of a file, without the wrapping some trainers add."""
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            state: object = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} holds no weights that can be read safely: {type(error).__name__}") from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds no state dict but a {type(state).__name__}")
    return {str(key).removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}


def _fill(tower: nn.Module, state: Mapping[str, Tensor], path: str) -> None:
    expected = {name: list(weight.shape) for name, weight in tower.state_dict().items()}
    found = {name: list(weight.shape) for name, weight in state.items()}
    differing = [
        f"{name} is {found.get(name, 'missing')}, not {expected.get(name, 'expected')}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    if differing:
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise ValueError(f"{path} does not fit the tower: {'; '.join(differing[:5])}{more}")
    tower.load_state_dict(dict(state))
