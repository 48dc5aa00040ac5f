"""How a decoder starts: the paper's initialisation and the one the released code really performs.

Sources: Foundation Transformers (arXiv 2210.06423, section 3.2) for `magneto`; microsoft/unilm kosmos-2 for `released`,
where the Xavier reset is never called, so torch's own default is scaled, biases included.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from kosmos.transformer.config import Initialisation

__all__ = ["decoder_gain", "initialise_decoder"]

SCALED = ("v_proj", "out_proj", "fc1", "fc2")


def decoder_gain(num_layers: int) -> float:
    """Gain of value, output and feed-forward weights in a decoder-only model: sqrt(ln 2M)."""
    return math.sqrt(math.log(2 * num_layers))


@torch.no_grad()
def initialise_decoder(decoder: nn.Module, *, num_layers: int, embedding: nn.Embedding, rule: Initialisation) -> None:
    """Fill the parameters of `decoder` in place; the embedding's padding row becomes zero."""
    nn.init.normal_(embedding.weight, std=embedding.embedding_dim**-0.5)
    if embedding.padding_idx is not None:
        embedding.weight[embedding.padding_idx].zero_()
    gain = decoder_gain(num_layers)
    for name, module in decoder.named_modules():
        if not isinstance(module, nn.Linear) or module.weight is embedding.weight:
            continue
        factor = gain if name.rsplit(".", 1)[-1] in SCALED else 1.0
        if rule == "magneto":
            nn.init.xavier_normal_(module.weight, gain=factor)
            nn.init.zeros_(module.bias)
        else:
            module.reset_parameters()
            module.weight.mul_(factor)
            module.bias.mul_(factor)
