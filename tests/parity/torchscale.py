"""Encoders and decoders of torchscale 0.3.0 with random weights, and those weights under our names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

__all__ = ["FFN", "HEADS", "LAYERS", "REASON", "SIZES", "VOCABULARY", "WIDTH", "load_side", "randomised", "side_fields"]

REASON = "torchscale 0.3.0 and fairscale 0.4.0 are NOT installed; pip install --no-deps -r requirements-peers.lock"
VOCABULARY, WIDTH, HEADS, FFN, LAYERS = 100, 64, 4, 128, 3
SIZES = {"num_layers": LAYERS, "width": WIDTH, "num_heads": HEADS, "ffn_width": FFN}
IN_LAYER = {  # the first that fits
    "self_attn_layer_norm": "attention_norm",
    "self_attn.inner_attn_ln": "attention.norm",
    "self_attn": "attention",
    "encoder_attn_layer_norm": "cross_attention_norm",
    "encoder_attn": "cross_attention",
    "final_layer_norm": "feedforward_norm",
    "ffn.ffn_layernorm": "feedforward.norm",
    "ffn": "feedforward",
}
AROUND = {"embed_tokens": "embedding", "layer_norm": "norm"}
POSITIONS_FROM = 2  # its position tables start at row 2, as fairseq's do


def side_fields(side: str) -> dict[str, int]:
    """The sizes as its configuration of an `encoder` or `decoder` names them."""
    return {
        f"{side}_embed_dim": WIDTH,
        f"{side}_attention_heads": HEADS,
        f"{side}_ffn_embed_dim": FFN,
        f"{side}_layers": LAYERS,
    }


def randomised(peer: nn.Module) -> nn.Module:
    """Random everywhere, norms and biases included; in eval mode."""
    for name, parameter in peer.eval().requires_grad_(False).named_parameters():
        if parameter.ndim == 1:
            parameter.add_(torch.randn_like(parameter) * 0.2)
        elif "embed" in name:
            parameter.copy_(torch.randn_like(parameter) * 0.15)
        else:
            parameter.mul_(1.5)
    return peer


def load_side(ours: nn.Module, state: Mapping[str, Tensor], others: Mapping[str, Tensor] | None = None) -> None:
    """Copy the weights of an encoder or decoder; every weight finds its place, and every place its weight.

    Args:
        state: under its own names.
        others: under ours, what stands elsewhere in torchscale.
    """
    lacking = ours.load_state_dict({**dict(_renamed(state)), **(others or {})}, strict=False)
    assert lacking.unexpected_keys == []
    assert set(lacking.missing_keys) <= {"head.weight"}  # the embedding
    ours.eval().requires_grad_(False)


def _renamed(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in state.items():
        if name.endswith("xpos.scale") or name.startswith("output_projection"):
            continue
        if name == "embed_positions.weight":
            yield "positions.table.weight", tensor[POSITIONS_FROM:]
            continue
        if not name.startswith("layers."):
            known = next(known for known in AROUND if name.startswith(known + "."))
            yield AROUND[known] + name.removeprefix(known), tensor
            continue
        _, layer, inner = name.split(".", 2)
        known = next(known for known in IN_LAYER if inner.startswith(known + "."))
        yield f"blocks.{layer}.{IN_LAYER[known]}{inner.removeprefix(known)}", tensor
