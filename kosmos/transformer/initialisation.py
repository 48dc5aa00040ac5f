"""How a stack starts: the scales of its assembly, and the two ways to draw the weights they multiply.

Sources: Foundation Transformers (arXiv 2210.06423, section 3.2) for Sub-LN's gains, DeepNet (arXiv 2203.00555) for
alpha and beta. `magneto` draws as these papers do, Xavier normal with zero biases; `released` as microsoft/unilm's
kosmos-2 does, where the Xavier reset is never called, so torch's own default is scaled, biases included.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from kosmos.transformer.config import Initialisation, Norms

__all__ = ["DECODER", "ENCODER", "Initialisable", "Scales", "decoder_scales", "encoder_scales", "initialise"]

SCALED = ("v_proj", "out_proj", "fc1", "fc2")


@dataclass(frozen=True, kw_only=True)
class Scales:
    """What a stack's depth multiplies.

    Attributes:
        alpha: the residual stream, before a sublayer joins it.
        gain: value, output and feed-forward weights; queries and keys keep 1.
        cross_gain: value and output weights of cross-attention.
    """

    alpha: float = 1.0
    gain: float = 1.0
    cross_gain: float = 1.0


@runtime_checkable
class Initialisable(Protocol):
    """A module that draws its own weights, e.g. stacked ones, instead of leaving it to `initialise`."""

    def initialise(self, gain: float, rule: Initialisation) -> None:
        """Fill the parameters in place.

        Args:
            gain: of the feed-forward weights; anything else keeps 1.
        """
        ...


def encoder_scales(norms: Norms, encoder_layers: int, decoder_layers: int = 0) -> Scales:
    """Of an encoder, alone or beside a decoder that reads it."""
    return ENCODER[norms](encoder_layers, decoder_layers)


def decoder_scales(norms: Norms, decoder_layers: int, encoder_layers: int = 0) -> Scales:
    """Of a decoder, alone or behind an encoder."""
    return DECODER[norms](encoder_layers, decoder_layers)


def _subln_encoder(encoder: int, decoder: int) -> Scales:
    if decoder == 0:
        return Scales(gain=math.sqrt(math.log(2 * encoder)))
    return Scales(gain=math.sqrt(math.log(3 * decoder) * math.log(2 * encoder) / 3))


def _subln_decoder(encoder: int, decoder: int) -> Scales:
    return Scales(gain=math.sqrt(math.log((3 if encoder else 2) * decoder)))


def _deepnorm_encoder(encoder: int, decoder: int) -> Scales:
    if decoder == 0:
        return Scales(alpha=(2 * encoder) ** 0.25, gain=(8 * encoder) ** -0.25)
    depth = float(encoder**4 * decoder) ** (1 / 16)
    return Scales(alpha=0.81 * depth, gain=0.87 / depth)


def _deepnorm_decoder(encoder: int, decoder: int) -> Scales:
    if encoder == 0:
        return Scales(alpha=(2 * decoder) ** 0.25, gain=(8 * decoder) ** -0.25)
    beta = (12 * decoder) ** -0.25
    return Scales(alpha=(3 * decoder) ** 0.25, gain=beta, cross_gain=beta)


def _unscaled(encoder: int, decoder: int) -> Scales:
    return Scales()


# Both are asked (encoder layers, decoder layers); 0 where there is no such side.
ENCODER: dict[Norms, Callable[[int, int], Scales]] = {
    "subln": _subln_encoder,
    "deepnorm": _deepnorm_encoder,
    "pre": _unscaled,
    "post": _unscaled,
}
DECODER: dict[Norms, Callable[[int, int], Scales]] = {
    "subln": _subln_decoder,
    "deepnorm": _deepnorm_decoder,
    "pre": _unscaled,
    "post": _unscaled,
}


@torch.no_grad()
def initialise(stack: nn.Module, *, embedding: nn.Embedding | None, scales: Scales, rule: Initialisation) -> None:
    """Fill the matrices of `stack` in place; the embedding's padding row becomes zero."""
    if embedding is not None:
        nn.init.normal_(embedding.weight, std=embedding.embedding_dim**-0.5)
        if embedding.padding_idx is not None:
            embedding.weight[embedding.padding_idx].zero_()
    own: list[str] = []
    for name, module in stack.named_modules():
        if isinstance(module, Initialisable):
            module.initialise(scales.gain, rule)
            own.append(name + ".")
        is_head = embedding is not None and getattr(module, "weight", None) is embedding.weight
        if isinstance(module, nn.Linear) and not is_head and not name.startswith(tuple(own)):
            _draw(module, _gain(name, scales), rule)


def _gain(name: str, scales: Scales) -> float:
    if name.rsplit(".", 1)[-1] not in SCALED:
        return 1.0
    return scales.cross_gain if ".cross_attention." in name else scales.gain


def _draw(linear: nn.Linear, gain: float, rule: Initialisation) -> None:
    if rule == "magneto":
        nn.init.xavier_normal_(linear.weight, gain=gain)
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)
        return
    linear.reset_parameters()
    linear.weight.mul_(gain)
    if linear.bias is not None:
        linear.bias.mul_(gain)
