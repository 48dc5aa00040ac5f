"""A model in training as the checkpoint that everything else opens: gathered now, written later by another thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from kosmos.checkpoint import HEAD, assign_weights, empty_model, save_checkpoint
from kosmos.config import KosmosConfig
from kosmos.model import KosmosModel
from kosmos.training.lora import merged, save_adapter
from kosmos.training.parallel import Parallel
from kosmos.training.recipe import TrainRecipe
from kosmos.training.start import Start

__all__ = ["gather_weights", "plain_model", "publisher", "whole_model"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ADAPTER = "adapter"  # folder inside a step's


def publisher(begun: Start, recipe: TrainRecipe, parallel: Parallel) -> Callable[[Path], None] | None:
    """Gather the model as it is now; all ranks call. Returns: what writes it, on the first rank."""
    weights = gather_weights(begun.model, parallel)
    if not parallel.first:
        return None
    return partial(_write, _plain(begun, recipe, weights), begun, recipe, weights)


def whole_model(begun: Start, recipe: TrainRecipe, parallel: Parallel) -> KosmosModel | None:
    """The model as it is now, on the first rank, in a piece and without adapters; all ranks call."""
    weights = gather_weights(begun.model, parallel)
    return _plain(begun, recipe, weights) if parallel.first else None


@torch.no_grad()
def gather_weights(model: KosmosModel, parallel: Parallel) -> dict[str, Tensor]:
    """All weights, whole and in the host's memory, on the first rank; those that train are copies."""
    learnt = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = {}
    for name, tensor in model.state_dict().items():
        if name == HEAD:
            continue  # the embedding itself
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if parallel.first:
            # A DTensor on one device, and a tensor of the host, come back as they are: training would change them.
            found[name] = whole.detach().cpu().clone() if name in learnt else whole.detach().cpu()
    return found


def plain_model(config: KosmosConfig, weights: Mapping[str, Tensor]) -> KosmosModel:
    """A model of these weights, which it takes as they are."""
    model = empty_model(config)
    # A tower that is built anew for its tables draws, and training goes on drawing; GPUs are left alone.
    with torch.random.fork_rng(devices=[]):
        assign_weights(model, weights.items(), "the model in training", device="cpu", dtype=None)
    return model.eval()


def _plain(begun: Start, recipe: TrainRecipe, weights: Mapping[str, Tensor]) -> KosmosModel:
    return merged(begun.model, weights) if recipe.lora.rank else plain_model(begun.model.config, weights)


def _write(model: KosmosModel, begun: Start, recipe: TrainRecipe, weights: Mapping[str, Tensor], folder: Path) -> None:
    save_checkpoint(
        model,
        folder,
        tokenizer_model=begun.tokenizer_model,
        chat_template=begun.chat_template,
        card=begun.card or f"# {recipe.name}\n",
        dtype=DTYPES[recipe.save.dtype],
        extra_files=begun.notices,
    )
    if recipe.lora.rank:
        save_adapter(begun.model, folder / ADAPTER, weights)
