"""Blockwise causal attention: a row sees its own block up to itself and the whole block before it.

Source: "A Length-Extrapolatable Transformer" (arXiv 2212.10554, section 3.3): trained at length 2b, read at any length.
The block of a row follows from its absolute position alone, so prefill, chunks and decoding see the same keys.
Cost is linear in the length. Legend: N sequences, Q queries, T keys, H heads, K head width, b tokens of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kosmos.transformer.positions import PositionBias, XPos

__all__ = ["attend_blockwise", "first_seen"]


def first_seen(position: int, block: int) -> int:
    """The first key that a row at `position` sees: where the block before its own begins."""
    return max(position // block - 1, 0) * block


def attend_blockwise(
    query_NQHK: Tensor,
    key_NTHK: Tensor,
    value_NTHK: Tensor,
    *,
    start: int,
    first_key: int,
    block: int,
    rotation: XPos | None = None,
    bias: PositionBias | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Mixed values [N, Q, H, K].

    Args:
        query_NQHK: queries at positions `start`, `start + 1` ..., rotated toward their own block.
        key_NTHK: keys from position `first_key` to the last query's, each rotated against its own block; `first_key`
            begins a block and is no later than what the first query sees.
    """
    end = start + query_NQHK.shape[1]
    outputs = []
    while start < end:
        stop = min((start // block + 1) * block, end)
        low = max(first_seen(start, block), first_key)
        own = start // block * block
        window = slice(low - first_key, stop - first_key)
        keys_NTHK = key_NTHK[:, window]
        if rotation is not None and low < own:
            before, here = keys_NTHK.split([own - low, stop - own], dim=1)
            keys_NTHK = torch.cat([rotation.turn_to_next_block(before.flatten(0, 1)).view_as(before), here], dim=1)
        mixed_NHQK = F.scaled_dot_product_attention(
            query_NQHK[:, : stop - start].transpose(1, 2),
            keys_NTHK.transpose(1, 2),
            value_NTHK[:, window].transpose(1, 2),
            attn_mask=_mask(start, stop, low, bias, query_NQHK),
            dropout_p=dropout,
        )
        outputs.append(mixed_NHQK.transpose(1, 2))
        query_NQHK, start = query_NQHK[:, stop - start :], stop
    return torch.cat(outputs, dim=1)


def _mask(start: int, stop: int, low: int, bias: PositionBias | None, like: Tensor) -> Tensor | None:
    """Which keys from `low` on the queries of one block see; scores to add where there is a bias."""
    queries, keys = (torch.arange(first, stop, device=like.device) for first in (start, low))
    visible_QT = keys[None, :] <= queries[:, None]
    if bias is not None:
        return bias(queries, keys).to(like.dtype).masked_fill(~visible_QT, float("-inf"))
    return None if stop - start == 1 else visible_QT
