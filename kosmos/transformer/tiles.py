"""Attention whose every bit is a function of one sequence alone: fixed tiles of queries and keys, by log-sum-exp.

A matrix product's last bits change with its shape, so a row computed alone and in a batch may differ. Here every
product has one shape, whatever is asked; a tile that a query may not see changes nothing, exactly. Slow and
meant for proofs. Legend: Q queries of a tile, T keys of a tile, H heads, K head width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kosmos.transformer.positions import XPos

__all__ = ["attend_in_tiles"]

TILE = 32
LOWEST = -1e30


def attend_in_tiles(
    query_RHK: Tensor,
    key_SHK: Tensor,
    value_SHK: Tensor,
    *,
    start: int,
    rotation: XPos | None,
    causal_block: int | None = None,
    first_key: int = 0,
) -> Tensor:
    """Causal attention of one sequence.

    Args:
        query_RHK: queries at positions `start`, `start + 1` ..., not rotated.
        key_SHK: keys from position `first_key`, rotated as they are stored.
        causal_block: rows see their own block of so many tokens and the one before it; None: all that came before.
    Returns: mixed values [R, H, K] in the dtype of the queries; sums are kept in float32.
    Raises: ValueError if a tile would straddle two rotation blocks.
    """
    if rotation is not None and rotation.block % TILE:
        raise ValueError(f"tiles of {TILE} keys do not divide the xPos block {rotation.block}; make it a multiple")
    if causal_block is not None and causal_block % TILE:
        raise ValueError(f"tiles of {TILE} keys do not divide the causal block {causal_block}; make it a multiple")
    keys, values = (_pad(x.float(), -(-x.shape[0] // TILE) * TILE) for x in (key_SHK, value_SHK))
    outputs = []
    for first in range(0, query_RHK.shape[0], TILE):
        query = query_RHK[first : first + TILE]
        positions = torch.arange(start + first, start + first + TILE, device=query.device)
        low = torch.zeros_like(positions)
        if causal_block is not None:
            low = (positions // causal_block - 1).clamp(min=0) * causal_block
        tile = _one_tile(_pad(query.float(), TILE), positions, low, keys, values, first_key, rotation)
        outputs.append(tile[: query.shape[0]])
    return torch.cat(outputs).to(query_RHK.dtype) if outputs else query_RHK


def _one_tile(
    query_QHK: Tensor,
    positions_Q: Tensor,
    low_Q: Tensor,
    keys: Tensor,
    values: Tensor,
    first_key: int,
    rotation: XPos | None,
) -> Tensor:
    """Queries that see keys from `low_Q` to their own position; `keys` begin at position `first_key`."""
    scale = query_QHK.shape[-1] ** -0.5
    largest = query_QHK.new_full((query_QHK.shape[1], TILE, 1), float("-inf"))
    total, mixed = torch.zeros_like(largest), torch.zeros_like(query_QHK.transpose(0, 1))
    stop = min(keys.shape[0], int(positions_Q[-1]) + 1 - first_key)
    for first in range(int(low_Q[0]) - first_key, stop, TILE):
        query = query_QHK
        if rotation is not None:
            query = rotation.rotate_queries(query_QHK, positions_Q, key_block=(first_key + first) // rotation.block)
        key, value = (x[first : first + TILE].transpose(0, 1).contiguous() for x in (keys, values))
        scores_HQT = torch.bmm(query.transpose(0, 1).contiguous(), key.transpose(1, 2).contiguous()) * scale
        seen = torch.arange(first_key + first, first_key + first + TILE, device=key.device)
        hidden = (seen > positions_Q[:, None]) | (seen < low_Q[:, None])
        scores_HQT = scores_HQT.masked_fill(hidden, float("-inf"))
        # finite, so that a tile hidden from a row as a whole leaves its sums at exactly zero
        higher = torch.maximum(largest, scores_HQT.amax(dim=-1, keepdim=True)).clamp(min=LOWEST)
        weights_HQT = torch.exp(scores_HQT - higher)
        keep = torch.exp(largest - higher)
        total = total * keep + weights_HQT.sum(dim=-1, keepdim=True)
        mixed = mixed * keep + torch.bmm(weights_HQT, value)
        largest = higher
    return (mixed / total).transpose(0, 1)


def _pad(x: Tensor, length: int) -> Tensor:
    return F.pad(x, (0, 0, 0, 0, 0, length - x.shape[0]))
