"""The parameters of a Kosmos before it exists: how many, in which part, trained or not, used by every row or by some.

Shapes come from the model itself, built on the meta device, so nothing is allocated and nothing is counted by a second
set of formulas. What trains is what a run would train (`learning.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kosmos.checkpoint import empty_model
from kosmos.config import KosmosConfig
from kosmos.model import KosmosModel
from kosmos.training.learning import choose_parameters, usual_eye
from kosmos.training.recipe import EyeName
from kosmos.transformer.experts import Experts
from kosmos.transformer.feedforward import Multiway

__all__ = ["PARTS", "EyeShape", "Inventory", "ParameterSize", "take_inventory"]

PARTS = ("tower", "resampler", "decoder", "embedding")
LAYERS = "tower.visual.transformer.resblocks."
WHOLE_UNDER_TP = ("out_proj.bias", "fc2.bias")  # added once, after the sum over devices


@dataclass(frozen=True, kw_only=True)
class ParameterSize:
    """One parameter tensor.

    Attributes:
        block: number of the decoder block it stands in, or None.
        multiplies: it is a matrix that rows are multiplied by.
        active: share of it that a row meets (experts, modalities).
        split: tensor parallelism divides it: matrices, inner norms and inner biases of the decoder's blocks.
    """

    name: str
    part: str
    numel: int
    trained: bool
    block: int | None
    multiplies: bool
    active: float
    split: bool


@dataclass(frozen=True)
class EyeShape:
    """What the tower costs.

    Attributes:
        flops: of one picture forward.
        mlp_width: of a ViT's feed-forward; 0 for towers that are none.
        trained_layers: the last so many layers learn.
    """

    flops: int
    mlp_width: int
    trained_layers: int
    whole: bool


@dataclass(frozen=True)
class Inventory:
    """All parameters of a model, the tied head counted once."""

    config: KosmosConfig
    parameters: tuple[ParameterSize, ...]
    eye: EyeShape

    def count(self, part: str | None = None, *, trained: bool | None = None, active: bool = False) -> int:
        """Parameters of a part (None: all), trained or frozen (None: both), or what one row meets of them."""
        chosen = [p for p in self.parameters if part in (None, p.part) and trained in (None, p.trained)]
        return round(sum(p.numel * (p.active if active else 1) for p in chosen))


def take_inventory(config: KosmosConfig, eye: EyeName | None = None) -> Inventory:
    """Build the model on the meta device and list it.

    Args:
        eye: which layers of the tower train; None: the last of a CLIP tower, none of another.
    Raises: ValueError if that tower cannot be trained so.
    """
    eye = eye or usual_eye(config.tower)
    if config.tower.kind != "clip" and eye != "frozen":
        raise ValueError(f"tower {config.tower.name} is no CLIP and stays frozen in a plan; give eye 'frozen'")
    model = empty_model(config)
    trained = set(choose_parameters(model, eye))
    shares = _active_shares(model)
    parameters = tuple(
        _size(name, parameter.shape, name in trained, shares) for name, parameter in model.named_parameters()
    )
    widths = [p.shape[0] for name, p in model.named_parameters() if name.startswith(f"{LAYERS}0.mlp.c_fc.weight")]
    layers = {name.removeprefix(LAYERS).split(".")[0] for name in trained if name.startswith(LAYERS)}
    shape = EyeShape(_tower_flops(model, config), widths[0] if widths else 0, len(layers), whole=eye == "all")
    return Inventory(config, parameters, shape)


def _active_shares(model: nn.Module) -> dict[str, float]:
    """Share that a row meets, by the beginning of a name."""
    shares: dict[str, float] = {}
    for name, module in model.named_modules():
        if isinstance(module, Experts):
            share = module.config.top_k / module.config.num_experts
            shares |= {f"{name}.{part}.": share for part in ("fc1", "fc2", "norm")}
        if isinstance(module, Multiway):
            shares[f"{name}.modalities."] = 1 / len(module.modalities)
    return shares


def _size(name: str, shape: torch.Size, trained: bool, shares: dict[str, float]) -> ParameterSize:
    in_block = name.startswith("decoder.blocks.")
    embedding = name == "decoder.embedding.weight"
    local = in_block and not (name.endswith(WHOLE_UNDER_TP) or "_norm." in name or ".router." in name)
    return ParameterSize(
        name=name,
        part="embedding" if embedding else name.split(".", 1)[0],
        numel=shape.numel(),
        trained=trained,
        block=int(name.split(".")[2]) if in_block else None,
        multiplies=in_block and len(shape) > 1 and ".norm." not in name and not name.endswith("bias"),
        active=next((share for prefix, share in shares.items() if name.startswith(prefix)), 1.0),
        split=local,
    )


def _tower_flops(model: KosmosModel, config: KosmosConfig) -> int:
    size = config.tower.image_size
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.tower(torch.empty(1, 3, size, size, dtype=torch.uint8, device="meta"))
    total: int = counter.get_total_flops()
    return total
