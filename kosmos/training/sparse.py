"""Sparse variants of a model: X-MoE in the place of some feed-forwards, begun anew or from a dense checkpoint.

Source: X-MoE (arXiv 2204.09179); a dense checkpoint is upcycled (arXiv 2212.05055). Also the figures that a log shows
of routing; what takes hidden states or two checkpoints is in `kosmos.transformer.routing_instruments`.
Legend: S sparse layers, E experts, K choices of a row, W routing width.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from kosmos.config import KosmosConfig
from kosmos.model import KosmosModel
from kosmos.training.recipe import ExpertsRecipe
from kosmos.transformer.config import ExpertsConfig
from kosmos.transformer.experts import Experts, experts_of
from kosmos.transformer.routing import CosineRouter
from kosmos.transformer.routing_instruments import load_entropy
from kosmos.transformer.upcycling import upcycle

__all__ = ["expert_counts", "expert_figures", "sparse_config", "upcycled"]


def sparse_config(config: KosmosConfig, recipe: ExpertsRecipe) -> KosmosConfig:
    """The sparse variant of a shape, `base-x8` for eight experts; the shape itself where the recipe asks for none.

    Raises: ValueError if layers do not divide into groups with one sparse layer each, one expert is asked for, or the
        shape has other experts already.
    """
    if not recipe.num:
        return config
    decoder, present = config.decoder, config.decoder.experts
    if recipe.num < 2 or recipe.every < 1 or decoder.num_layers % recipe.every:
        raise ValueError(
            f"experts num={recipe.num}, every={recipe.every} for the {decoder.num_layers} layers of {config.name}; give"
            " at least 2 experts, and an `every` that divides the layers"
        )
    wanted = ExpertsConfig(
        num_experts=recipe.num, every=recipe.every, top_k=recipe.top_k, balance_weight=recipe.balance_weight
    )
    if present is None:
        return replace(config, name=f"{config.name}-x{recipe.num}", decoder=replace(decoder, experts=wanted))
    if _asked(present) != _asked(wanted):
        raise ValueError(
            f"{config.name} has experts already: num={present.num_experts}, every={present.every},"
            f" top_k={present.top_k}, balance_weight={present.balance_weight}; give the same, or leave experts out"
        )
    return config


def upcycled(model: KosmosModel, recipe: ExpertsRecipe) -> KosmosModel:
    """The sparse variant of a trained model: each expert begins as the dense feed-forward, so outputs are the same.

    A model that is sparse already, or is asked to stay dense, is given back as it is. Routers are drawn.
    Raises: ValueError as `sparse_config`.
    """
    config = sparse_config(model.config, recipe)
    if config is model.config or config.decoder.experts is None:
        return model
    experts = replace(config.decoder.experts, unit_gates=True)  # without it copies do not give the dense output
    embedding = model.decoder.embedding.weight
    with torch.device(embedding.device):
        sparse = KosmosModel(replace(config, decoder=replace(config.decoder, experts=experts))).to(embedding.dtype)
    upcycle(sparse, model)
    return sparse.train(model.training)


@torch.no_grad()
def expert_counts(model: KosmosModel) -> Tensor:
    """What the last forward of each sparse layer counted: float64 [S, E + 2].

    Rows each expert computed, then choices made and choices dropped for lack of room. Counts of micro-batches and of
    ranks add up; `expert_figures` reads the sum. Empty for a dense model.
    Raises: ValueError if the model has not run.
    """
    layers = experts_of(model)
    lasts = [layer.last for layer in layers if layer.last is not None]
    if len(lasts) < len(layers):
        raise ValueError(f"{len(layers)} sparse layers, of which {len(lasts)} have run; run the model first")
    found = [
        torch.cat((last.loads_E, last.loads_E.new_tensor([last.experts_RK.numel()]), last.overflow[None]))
        for last in lasts
    ]
    return torch.stack(found).double() if found else torch.zeros(0, 2, dtype=torch.float64)


@torch.no_grad()
def expert_figures(model: KosmosModel, counts: Tensor | None = None) -> dict[str, float]:
    """How evenly and how surely experts are chosen; nothing for a dense model.

    Args:
        counts: summed `expert_counts`; None takes those of the last forward.
    Returns: over sparse layers, `experts_entropy` of the load (mean) and `experts_entropy_lowest`, 1 where all share
        alike; `experts_busiest`, the largest share that one expert of a layer took; `experts_idle`, share of experts
        without a row; `experts_dropped`, share of choices that found no room; `experts_similarity`, mean absolute
        cosine between the router's experts; `experts_temperature` of X-MoE's gates (means). Where weights are shared
        out over ranks, all ranks must call.
    """
    layers = experts_of(model)
    if not layers:
        return {}
    counts = expert_counts(model) if counts is None else counts
    loads_SE = counts[:, :-2].cpu()
    choices, dropped = counts[:, -2:].sum(0).tolist()
    figures = {
        "experts_busiest": float((loads_SE.amax(1) / loads_SE.sum(1).clamp(min=1)).max()),
        "experts_idle": float((loads_SE == 0).double().mean()),
        "experts_dropped": dropped / max(choices, 1.0),
        "experts_similarity": sum(_similarity(layer) for layer in layers) / len(layers),
    }
    entropies = [load_entropy(loads_E) for loads_E in loads_SE if loads_E.sum()]
    if entropies:
        figures |= {"experts_entropy": sum(entropies) / len(entropies), "experts_entropy_lowest": min(entropies)}
    temperatures = [
        float(_whole(layer.router.temperature)) for layer in layers if isinstance(layer.router, CosineRouter)
    ]
    if temperatures:
        figures["experts_temperature"] = sum(temperatures) / len(temperatures)
    return figures


def _asked(experts: ExpertsConfig) -> tuple[int, int, int, float]:
    """What a recipe can ask for."""
    return experts.num_experts, experts.every, experts.top_k, experts.balance_weight


def _similarity(layer: Experts) -> float:
    """Mean absolute cosine between different experts as the router knows them."""
    points_EW = F.normalize(_whole(layer.router.experts).float(), dim=1)
    cosines_EE = (points_EW @ points_EW.T).abs()
    count = len(points_EW)
    return float((cosines_EE.sum() - cosines_EE.diagonal().sum()) / (count * (count - 1)))


def _whole(parameter: Tensor) -> Tensor:
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
