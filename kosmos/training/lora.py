"""LoRA: low-rank adapters beside the frozen matrices of the decoder, trained by peft, saved as peft saves them.

Source: arXiv 2106.09685. Adapters start as nothing: their second factor is 0. What uses an adapter needs no peft: a
run's checkpoints hold the merged weights, and `kosmos.load` opens an adapter's folder with the checkpoint it names.
Sparse layers keep their experts, as X-MoE (arXiv 2204.09179) fine-tunes them: stacked weights take no adapter.
"""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from copy import copy
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any  # Any: peft's own types, which only those have who installed it

import torch
from safetensors.torch import save
from torch import Tensor, nn

from kosmos.checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_PREFIX,
    ADAPTER_WEIGHTS,
    HEAD,
    Adapter,
    adapted_matrix,
    assign_weights,
    checkpoint_folder,
    empty_model,
    is_adapter,
    read_adapter,
)
from kosmos.huggingface import is_kosmos2
from kosmos.model import KosmosModel
from kosmos.pretrained import BUILT_IN
from kosmos.training.recipe import LoraRecipe
from kosmos.transformer.experts import Experts, experts_of
from kosmos.transformer.linear import Linear
from kosmos.weight_files import listed, write_folder

__all__ = ["add_adapters", "load_adapter", "merged", "save_adapter"]

log = logging.getLogger(__name__)
BLOCKS = "decoder.blocks."
RESAMPLER = "resampler."
NAME = "default"  # peft's, of an adapter that is alone
OWN_FILE = re.compile(rf"{re.escape(ADAPTER_CONFIG)}|{re.escape(ADAPTER_WEIGHTS)}|README\.md")


def add_adapters(model: KosmosModel, recipe: LoraRecipe, base: str = "") -> tuple[str, ...]:
    """Put an adapter beside each linear layer of the decoder that the recipe names, in place, and freeze the rest.

    Args:
        base: where the model's weights come from, which an adapter's folder names; of a run folder the newest step.
    Returns: names of what trains: adapters, and the resampler if the recipe says so.
    Raises: ValueError if peft is not installed, the model has adapters, the recipe names a layer that is not there or
        whose matrix is smaller than the rank, or one of its numbers is out of range.
    """
    peft = _peft()
    _check_plain(model)
    _check_numbers(recipe)
    targets = _targets(model, recipe)
    config = peft.LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=rf"decoder\.blocks\.\d+\.(?:\w+\.)+(?:{'|'.join(map(re.escape, recipe.targets))})",
        exclude_modules=_inside_experts(model),
        base_model_name_or_path=_lasting(base) or None,
    )
    peft.inject_adapter_in_model(config, model)
    for target in targets:
        _take_own_linear(model.get_submodule(target))
    model.resampler.requires_grad_(recipe.resampler)
    # Only now: told before, peft would wrap the resampler and keep a second copy of it.
    config.modules_to_save = ["resampler"] if recipe.resampler else None
    return tuple(name for name, parameter in model.named_parameters() if parameter.requires_grad)


def save_adapter(
    model: KosmosModel, folder: str | os.PathLike[str], weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write what `add_adapters` lets train, as peft does; a folder with an adapter is replaced whole.

    Args:
        weights: a state of this model that is not its own (averaged, or gathered from ranks).
    Raises: ValueError for a model without adapters, or numbers that are not finite.
    """
    config = _config(model)
    whole = (RESAMPLER,) if config.modules_to_save else ()
    kept = {
        ADAPTER_PREFIX + _saved_name(name): tensor.detach().cpu().contiguous()
        for name, tensor in (model.state_dict() if weights is None else weights).items()
        if ".lora_" in name or name.startswith(whole)
    }
    broken = [name for name, tensor in kept.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(f"adapter weights are not finite: {listed(broken)}; nothing was written")
    with write_folder(Path(folder), known=OWN_FILE) as temporary:
        saved = copy(config)
        saved.inference_mode = True  # peft opens it for use
        saved.save_pretrained(str(temporary))
        (temporary / ADAPTER_WEIGHTS).write_bytes(save(kept, metadata={"format": "pt"}))


def load_adapter(model: KosmosModel, folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """Put a saved adapter beside the matrices of the model it was trained with, ready to train on.

    Returns: names of what trains.
    Raises: ValueError if peft is not installed, the folder holds no LoRA, or it does not fit the model.
    """
    adapter = read_adapter(folder)
    recipe = LoraRecipe(
        rank=adapter.rank,
        alpha=adapter.alpha,
        dropout=adapter.dropout,
        targets=tuple(dict.fromkeys(layer.rpartition(".")[2] for layer in adapter.layers)),
        resampler=any(name.startswith(RESAMPLER) for name in adapter.weights),
    )
    _check_plain(model)
    _check_numbers(recipe)
    _check_fit(model, recipe, adapter, str(folder))
    trained = add_adapters(model, recipe)
    _config(model).base_model_name_or_path = adapter.base or None
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name in trained:
            parameters[name].copy_(adapter.weights[_saved_name(name)])
    return trained


def merged(model: KosmosModel, weights: Mapping[str, Tensor] | None = None) -> KosmosModel:
    """A plain model that computes what the adapted one does; weights without an adapter are shared, not copied.

    Args:
        weights: a state of this model that is not its own (averaged, or gathered from ranks).
    Raises: ValueError for a model without adapters.
    """
    config = _config(model)
    given = dict(model.state_dict() if weights is None else weights)
    plain = {}
    for name, tensor in given.items():
        layer, is_adapted, rest = name.partition(".base_layer.")
        if is_adapted and rest == "weight":
            down_RI, up_OR = (given[f"{layer}.lora_{part}.{NAME}.weight"].to(tensor.device) for part in "AB")
            tensor = adapted_matrix(tensor, down_RI, up_OR, config.lora_alpha / config.r)
        if ".lora_" not in name and name != HEAD:
            plain[f"{layer}.{rest}" if is_adapted else name] = tensor.detach()
    network = empty_model(model.config)
    place = plain["decoder.embedding.weight"].device
    with torch.random.fork_rng(devices=[]):  # a tower built anew for its tables draws, and training goes on drawing
        assign_weights(network, plain.items(), "the adapted model", device=place, dtype=None)
    return network.train(model.training)


def _peft() -> Any:
    try:
        return import_module("peft")
    except ImportError as missing:
        raise ValueError("LoRA needs peft: install kosmos-mllm[train], or train the weights themselves") from missing


def _config(model: KosmosModel) -> Any:
    """peft's config of the adapters."""
    configs: Mapping[str, Any] | None = getattr(model, "peft_config", None)
    if configs is None:
        raise ValueError("this model has no adapters; add_adapters puts them there")
    return configs[NAME]


def _check_plain(model: KosmosModel) -> None:
    if hasattr(model, "peft_config"):
        raise ValueError("this model has adapters already; merge them first")


def _check_numbers(recipe: LoraRecipe) -> None:
    if recipe.rank < 1 or not recipe.alpha > 0 or not 0 <= recipe.dropout < 1 or not recipe.targets:
        raise ValueError(
            f"rank={recipe.rank}, alpha={recipe.alpha}, dropout={recipe.dropout}, targets={recipe.targets}; give a rank"
            " of at least 1, an alpha above 0, a dropout from 0 to below 1 and at least one target"
        )


def _targets(model: KosmosModel, recipe: LoraRecipe) -> list[str]:
    """Full names of the layers that get an adapter.

    Raises: ValueError for a target that no linear layer is named, or a rank above what a matrix has.
    """
    known: defaultdict[str, list[str]] = defaultdict(list)
    for name, module in model.named_modules():
        if name.startswith(BLOCKS) and isinstance(module, Linear):
            known[name.rpartition(".")[2]].append(name)
    sparse = len(experts_of(model))
    for target in recipe.targets:
        if target not in known:
            raise ValueError(_unknown(target, list(known), sparse))
    if sparse and {"fc1", "fc2"} & set(recipe.targets):
        log.warning("adapters skip the experts of %d sparse layers: stacked weights take none", sparse)
    chosen = [name for target in recipe.targets for name in known[target]]
    for name in chosen:
        matrix = model.get_parameter(f"{name}.weight")
        if recipe.rank > min(matrix.shape):
            raise ValueError(
                f"rank={recipe.rank} is above what {name} has, {matrix.shape[0]} x {matrix.shape[1]}; give at most"
                f" {min(matrix.shape)}"
            )
    return chosen


def _inside_experts(model: KosmosModel) -> str | None:
    """A pattern of what is named like a linear layer but is stacked weights."""
    sparse = [re.escape(name) for name, module in model.named_modules() if isinstance(module, Experts)]
    return rf"(?:{'|'.join(sparse)})\..*" if sparse else None


def _check_fit(model: KosmosModel, recipe: LoraRecipe, adapter: Adapter, source: str) -> None:
    """Raises: ValueError unless a saved adapter has exactly the weights that the recipe gives this model."""
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    wanted = {name: shape for name, shape in shapes.items() if recipe.resampler and name.startswith(RESAMPLER)}
    for layer in _targets(model, recipe):
        num_out, num_in = shapes[f"{layer}.weight"]
        wanted |= {f"{layer}.lora_A.weight": (recipe.rank, num_in), f"{layer}.lora_B.weight": (num_out, recipe.rank)}
    found = {name: tuple(tensor.shape) for name, tensor in adapter.weights.items()}
    wrong = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    if wrong:
        raise ValueError(f"{source} does not fit this model: {len(wrong)} weights differ, {listed(wrong)}")


def _saved_name(name: str) -> str:
    """peft leaves the adapter's name out of what it writes."""
    return name.replace(f".{NAME}.", ".")


def _unknown(target: str, known: list[str], sparse: int) -> str:
    """The message for a target that is not there."""
    if target in ("fc1", "fc2") and sparse:
        why = ": all its feed-forwards are experts, whose stacked weights take no adapter"
    elif target == "head":
        why = " that can have an adapter: the head is the embedding itself"
    else:
        near = get_close_matches(target, known, n=1)
        why = f" (did you mean {near[0]!r}?)" if near else ""
    return f"no linear layer of the decoder is named {target!r}{why}; there are {', '.join(known)}"


def _take_own_linear(adapted: nn.Module) -> None:
    """Let both factors of an adapter multiply as every layer of ours does, e.g. in fixed tiles of rows."""
    for factors in (adapted.lora_A, adapted.lora_B):
        assert isinstance(factors, nn.ModuleDict)
        theirs = factors[NAME]
        assert isinstance(theirs, nn.Linear)
        ours = Linear(theirs.in_features, theirs.out_features, bias=False, device="meta")
        ours.weight = theirs.weight
        factors[NAME] = ours


def _lasting(base: str) -> str:
    """A name that opens the same weights from anywhere, later too: a folder's full path, of a run its newest step."""
    path = Path(base).expanduser()
    if not base or base in BUILT_IN or not path.is_dir():
        return base
    return str((path if is_kosmos2(path) or is_adapter(path) else checkpoint_folder(path)).resolve())
