"""Bytes that a forward pass of a Kosmos keeps for the backward one, tensor by tensor, as autograd saves them.

Attention is a fused kernel (no square is kept); on the CPU a dropout inside attention would keep them. Checkpointing
acts on the decoder's blocks: `full` keeps what enters each and recomputes the rest; `selective` also keeps what matrix
products and attention give and recomputes norms, GELU, dropout and rotations (idea: arXiv 2205.05198).
Legend: D width, F feed-forward width, H heads, K head width, P features of a picture, W their width, L latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kosmos.config import KosmosConfig
from kosmos.training.planning.inventory import Inventory
from kosmos.transformer.config import DecoderConfig

__all__ = ["FORMATS", "Activations", "Checkpointing", "Load", "NumberFormat", "sequence_activations"]

Checkpointing = Literal["none", "selective", "full"]
STATISTICS = 8  # mean and inverse deviation of a norm, float32
INDEX = 8  # int64
LOGIT = 12  # of whole logits: float32 log-probability, its gradient and the logit's


@dataclass(frozen=True, kw_only=True)
class NumberFormat:
    """Bytes of a number.

    Attributes:
        compute: of matrix products.
        stream: of rows between blocks.
        norm: of what enters the norms inside sublayers.
        mask: of one place of a dropout mask.
    """

    compute: int
    stream: int
    norm: int
    mask: int = 1

    @property
    def mixed(self) -> bool:
        """Weights are cast for products."""
        return self.compute < self.stream


FORMATS = {
    "float32": NumberFormat(compute=4, stream=4, norm=4),
    "bfloat16": NumberFormat(compute=2, stream=4, norm=4),  # autocast on GPUs keeps norms in float32
}


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one device gets at once: `micro_batch` sequences of `rows` rows with `pictures` pictures each."""

    rows: int
    pictures: int
    micro_batch: int = 1

    def asked_rows(self, config: KosmosConfig) -> int:
        """Rows of a sequence that have a loss: not the first, and none of a picture."""
        return max(self.rows - 1 - self.pictures * config.resampler.num_latents, 0)


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Bytes of one sequence.

    Attributes:
        kept: from forward to backward.
        recomputed: of the largest block, made anew while its backward runs.
        asked_rows: with a loss.
        logits_row: logits of one of them and what the loss makes of them.
    """

    kept: float
    recomputed: float
    asked_rows: int
    logits_row: float


def sequence_activations(
    inventory: Inventory,
    load: Load,
    numbers: NumberFormat,
    checkpointing: Checkpointing = "none",
    *,
    tensor_parallel: int = 1,
    whole_logits: bool = False,
) -> Activations:
    """What one sequence keeps on one device; tensor parallelism divides what lies between split matrices.

    Args:
        whole_logits: the loss takes all logits at once; otherwise in chunks, by `cross_entropy.py`.
    """
    config, rows = inventory.config, load.rows
    decoder, asked = config.decoder, load.asked_rows(config)
    sparse = [_is_sparse(decoder, layer) for layer in range(decoder.num_layers)]
    whole = [rows * _block_row(decoder, numbers, tensor_parallel, is_sparse) for is_sparse in sparse]
    kept = [rows * _kept_row(decoder, numbers, tensor_parallel, is_sparse) for is_sparse in sparse]
    entering = rows * decoder.width * numbers.stream
    blocks = {"none": sum(whole), "selective": sum(kept), "full": entering * len(whole)}[checkpointing]
    left = {"none": 0.0, "selective": max(map(float.__sub__, whole, kept)), "full": max(whole) - entering}[
        checkpointing
    ]
    masks = decoder.width * numbers.mask if decoder.dropout else 0
    ends = rows * (INDEX + masks + decoder.width * numbers.stream + STATISTICS)
    entered = numbers.compute if whole_logits else 2 * numbers.stream  # in chunks the loss keeps its gradient too
    heads = asked * (2 * INDEX + 4 + decoder.width * entered)  # a row's number, target and loss, and the row itself
    logit = LOGIT if whole_logits else 4 + numbers.compute
    pictures = load.pictures * _picture(inventory, numbers)
    return Activations(
        kept=blocks + ends + heads + pictures,
        recomputed=left,
        asked_rows=asked,
        logits_row=decoder.vocab_size * logit,
    )


def _is_sparse(decoder: DecoderConfig, layer: int) -> bool:
    return decoder.experts is not None and (layer + 1) % decoder.experts.every == 0


def _block_row(decoder: DecoderConfig, numbers: NumberFormat, parallel: int, is_sparse: bool) -> float:
    """Bytes a row of one block without checkpointing."""
    width, compute = decoder.width, numbers.compute
    masks = 2 * width * numbers.mask if decoder.dropout else 0
    casts = 3 if numbers.mixed else 1  # autocast casts the rows for each of q, k and v
    alike = 2 * width * numbers.stream + (casts + 1) * width * compute + 2 * STATISTICS + masks
    factors = 8 * decoder.head_dim if decoder.positions in ("xpos", "rope") else 0  # complex, for queries and for keys
    heads = 4 * width * compute + 4 * decoder.num_heads
    if decoder.norms == "subln":
        heads += width * compute + (width * numbers.norm if numbers.norm != compute else 0)
        alike += STATISTICS
    return float(alike + factors + (heads + _feedforward_row(decoder, numbers, is_sparse)) / parallel)


def _feedforward_row(decoder: DecoderConfig, numbers: NumberFormat, is_sparse: bool) -> float:
    """Bytes a row between the first and the second matrix; for experts also what is sent and what comes back."""
    wide, compute, has_norm = decoder.ffn_width, numbers.compute, decoder.norms == "subln"
    statistics = STATISTICS if has_norm else 0
    if not is_sparse or decoder.experts is None:
        return wide * (2 * compute + (numbers.norm if has_norm else 0)) + statistics
    # The grouped product's inner norm also keeps what it gives and the scale of each row's expert.
    inside = wide * compute * (5 if has_norm else 2) + statistics
    sent = inside + 3 * decoder.width * compute + 3 * INDEX  # rows as they go, as they come back, and gated
    return decoder.experts.top_k * sent + 2 * 4 * decoder.experts.num_experts


def _kept_row(decoder: DecoderConfig, numbers: NumberFormat, parallel: int, is_sparse: bool) -> float:
    """Bytes a row of one block that selective checkpointing keeps: its input, products, attention."""
    times = decoder.experts.top_k if is_sparse and decoder.experts else 1
    split = (4 * decoder.width + times * decoder.ffn_width) * numbers.compute + 4 * decoder.num_heads
    whole = decoder.width * numbers.stream + (1 + times) * decoder.width * numbers.compute
    return whole + split / parallel


def _picture(inventory: Inventory, numbers: NumberFormat) -> float:
    """Bytes of one picture in the resampler and the trained layers of the tower."""
    config, eye, compute = inventory.config, inventory.eye, numbers.compute
    features, wide, width = config.tower.num_features, config.tower.width, config.decoder.width
    latents = config.resampler.num_latents
    resampler = features * (wide + width) * compute + 2 * (features + latents) * width * compute
    resampler += latents * (width * (compute + numbers.stream) + 4 * config.resampler.num_heads + INDEX + 1)
    layer = 2 * wide * numbers.stream + (6 * wide + 3 * eye.mlp_width) * compute + 2 * STATISTICS
    ends = 2 * (wide * numbers.stream + STATISTICS) if eye.trained_layers else 0  # last norm, division by the length
    if eye.whole:
        ends += wide * numbers.stream + STATISTICS  # the first norm
        resampler += 3 * config.tower.image_size**2 * compute
    return resampler + features * (eye.trained_layers * layer + ends)
