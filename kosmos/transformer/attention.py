"""How rows attend. A block hands over queries, keys and values; the context knows sequences, positions and the past.

`PackedAttention` serves training, scoring and encoders, `CrossAttention` an encoder's memory, and `PagedAttention` in
`paged_attention.py` prefill chunks and decode rows over a cache. All give equal numbers; with `tiled` equal bits, as
every row then meets its keys in fixed tiles that nothing around it can change (see `tiles.py`).
Legend: R rows of all sequences, N sequences of a group, T their padded length, H heads, K head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from kosmos.transformer.blockwise import attend_blockwise
from kosmos.transformer.dropped_attention import attend_dropped, can_attend_dropped
from kosmos.transformer.groups import PaddedGroup, padded_groups
from kosmos.transformer.positions import PositionBias, XPos
from kosmos.transformer.tiles import attend_in_tiles

__all__ = ["AttentionContext", "CrossAttention", "PackedAttention", "check_reach"]


class AttentionContext(Protocol):
    """What a block asks to attend."""

    def attend(
        self, layer: int, query_RHK: Tensor, key_RHK: Tensor, value_RHK: Tensor, bias: PositionBias | None = None
    ) -> Tensor:
        """Mixed values [R, H, K] of layer `layer`, one row for each query."""
        ...


def check_reach(*, causal: bool, causal_block: int | None, rotation: XPos | None, longest: int) -> None:
    """Whether such rows may attend so, for every context.

    Args:
        longest: rows of the longest sequence; matters without `causal` alone.
    Raises: ValueError for a combination that has no right result.
    """
    if rotation is not None and not causal:
        if rotation.decays:
            raise ValueError("xPos amplifies keys after the query; use it with causal attention only")
        if longest > rotation.block:
            raise ValueError(f"{longest} rows that look both ways, but rotations share an anchor of {rotation.block}")
    if causal_block is None:
        return
    if not causal:
        raise ValueError("blockwise attention is causal; without causality give no causal_block")
    if rotation is not None and rotation.block != causal_block:
        raise ValueError(f"blocks of {causal_block} tokens, but keys are anchored to blocks of {rotation.block}")


class PackedAttention:
    """Whole sequences laid end to end, each attending inside itself, from position 0."""

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        causal: bool = True,
        causal_block: int | None = None,
        rotation: XPos | None = None,
        dropout: float = 0.0,
        tiled: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            causal_block: blockwise causal attention over blocks of so many tokens; None: all that came before.
        Raises: ValueError for xPos without `causal` (its factors would amplify later keys), blocks without `causal` or
            unlike the rotation's, and rotated sequences without `causal` that are longer than the rotation's block.
        """
        longest = max(lengths, default=0)
        check_reach(causal=causal, causal_block=causal_block, rotation=rotation, longest=longest)
        self.causal, self.rotation, self.dropout, self.tiled = causal, rotation, dropout, tiled
        self.causal_block = causal_block
        self.lengths = tuple(lengths)
        self.positions_R = torch.cat([torch.arange(length, device=device) for length in self.lengths or (0,)])
        self.groups = padded_groups(self.lengths, device)
        self.order_R = torch.cat([group.rows for group in self.groups] or [self.positions_R[:0]])
        self.in_one_block = rotation is None or longest <= rotation.block
        # Two blocks see everything before them, so only longer sequences need the windows.
        self.blockwise = causal_block is not None and longest > 2 * causal_block

    def attend(
        self, layer: int, query_RHK: Tensor, key_RHK: Tensor, value_RHK: Tensor, bias: PositionBias | None = None
    ) -> Tensor:
        """See `AttentionContext`."""
        if self.tiled and self.causal and bias is None:
            return self._in_tiles(query_RHK, key_RHK, value_RHK)
        if self.rotation is not None and (self.in_one_block or self.blockwise):
            query_RHK = self.rotation.rotate_queries(query_RHK, self.positions_R)
            key_RHK = self.rotation.rotate_keys(key_RHK, self.positions_R)
        if self._drops_plainly(bias) and can_attend_dropped(query_RHK, key_RHK, value_RHK):
            return attend_dropped(query_RHK, key_RHK, value_RHK, self.groups, self.dropout)
        mixed = [
            group.unpad(self._mix(group, group.pad(query_RHK), group.pad(key_RHK), group.pad(value_RHK), bias))
            for group in self.groups
        ]
        if len(mixed) == 1:
            return mixed[0]
        return torch.empty_like(query_RHK).index_copy(0, self.order_R, torch.cat(mixed)) if mixed else query_RHK

    def _drops_plainly(self, bias: PositionBias | None) -> bool:
        """Whether this is causal attention with dropout and nothing else."""
        in_one = self.rotation is None or self.in_one_block
        return self.dropout > 0 and self.causal and bias is None and in_one and not self.blockwise

    def _mix(
        self, group: PaddedGroup, query_NTHK: Tensor, key_NTHK: Tensor, value_NTHK: Tensor, bias: PositionBias | None
    ) -> Tensor:
        if self.blockwise and self.causal_block is not None:
            return attend_blockwise(
                query_NTHK,
                key_NTHK,
                value_NTHK,
                start=0,
                first_key=0,
                block=self.causal_block,
                rotation=self.rotation,
                bias=bias,
                dropout=self.dropout,
            )
        if self.rotation is not None and not self.in_one_block:
            return self._mix_blocks(self.rotation, query_NTHK, key_NTHK, value_NTHK)
        mask = None if self.causal else group.key_mask
        if bias is not None:
            mask = self._mask_with(bias, group, mask)
        out_NHTK = F.scaled_dot_product_attention(
            query_NTHK.transpose(1, 2),
            key_NTHK.transpose(1, 2),
            value_NTHK.transpose(1, 2),
            attn_mask=mask,
            dropout_p=self.dropout,
            # Padding stands behind the real keys, so a causal mask hides it already.
            is_causal=self.causal and mask is None,
        )
        return out_NHTK.transpose(1, 2)

    def _mask_with(self, bias: PositionBias, group: PaddedGroup, mask: Tensor | None) -> Tensor:
        steps = torch.arange(group.length, device=group.rows.device)
        scores = bias(steps, steps)[None]
        if self.causal:
            scores = scores.masked_fill(steps[None, :] > steps[:, None], float("-inf"))
        return scores if mask is None else scores.masked_fill(~mask, float("-inf"))

    def _mix_blocks(self, rotation: XPos, query_NTHK: Tensor, key_NTHK: Tensor, value_NTHK: Tensor) -> Tensor:
        """xPos over more than one block: the queries of a block meet all keys so far, rotated toward that block."""
        count, length = query_NTHK.shape[:2]
        outputs = []
        for block, start in enumerate(range(0, length, rotation.block)):
            stop = min(start + rotation.block, length)
            steps = torch.arange(stop, device=query_NTHK.device).repeat(count)
            keys = key_NTHK[:, :stop].flatten(0, 1)
            keys = rotation.rotate_keys_toward(keys, steps, query_block=block).unflatten(0, (count, stop))
            own = torch.arange(start, stop, device=query_NTHK.device)
            queries = rotation.rotate_queries(query_NTHK[:, start:stop].flatten(0, 1), own.repeat(count))
            queries = queries.unflatten(0, (count, stop - start))
            visible = torch.arange(stop, device=own.device)[None, :] <= own[:, None]
            mixed = F.scaled_dot_product_attention(
                queries.transpose(1, 2),
                keys.transpose(1, 2),
                value_NTHK[:, :stop].transpose(1, 2),
                attn_mask=visible,
                dropout_p=self.dropout,
            )
            outputs.append(mixed.transpose(1, 2))
        return torch.cat(outputs, dim=1)

    def _in_tiles(self, query_RHK: Tensor, key_RHK: Tensor, value_RHK: Tensor) -> Tensor:
        if self.rotation is not None:
            key_RHK = self.rotation.rotate_keys(key_RHK, self.positions_R)
        outputs = [
            attend_in_tiles(query, key, value, start=0, rotation=self.rotation, causal_block=self.causal_block)
            for query, key, value in zip(
                query_RHK.split(self.lengths), key_RHK.split(self.lengths), value_RHK.split(self.lengths), strict=True
            )
        ]
        return torch.cat(outputs)


class CrossAttention:
    """Queries of each sequence attend to all of their own memory: an encoder's keys and values, made once a request."""

    def __init__(
        self,
        memory: Sequence[tuple[Tensor, Tensor]],
        *,
        query_lengths: Sequence[int],
        memory_lengths: Sequence[int],
    ) -> None:
        """
        Args:
            memory: keys and values [M, H, K] of each layer, sequences end to end.
        Raises: ValueError if there are not as many query as memory sequences.
        """
        if len(query_lengths) != len(memory_lengths):
            raise ValueError(f"{len(query_lengths)} query sequences but {len(memory_lengths)} memories; give one each")
        self.memory = tuple(memory)
        self.query_lengths, self.memory_lengths = tuple(query_lengths), tuple(memory_lengths)

    def attend(
        self,
        layer: int,
        query_RHK: Tensor,
        key_RHK: Tensor | None = None,
        value_RHK: Tensor | None = None,
        bias: PositionBias | None = None,
    ) -> Tensor:
        """Like `AttentionContext`, with keys and values taken from the memory of `layer`."""
        keys, values = self.memory[layer]
        outputs = []
        for query, key, value in zip(
            query_RHK.split(self.query_lengths),
            keys.split(self.memory_lengths),
            values.split(self.memory_lengths),
            strict=True,
        ):
            mask = None if bias is None else bias(_steps(query), _steps(key)).to(query.dtype)
            mixed_HQK = F.scaled_dot_product_attention(
                query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1), attn_mask=mask
            )
            outputs.append(mixed_HQK.transpose(0, 1))
        return torch.cat(outputs)


def _steps(rows: Tensor) -> Tensor:
    return torch.arange(rows.shape[0], device=rows.device)
