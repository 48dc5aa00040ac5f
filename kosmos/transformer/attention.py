"""How rows attend. A block hands over queries, keys and values; the context knows sequences, positions and the past.

`PackedAttention` serves training, scoring and encoders, `CrossAttention` an encoder's memory, `PagedAttention` prefill
chunks and decode rows over a cache. All give equal numbers; with `tiled` they give equal bits, because every row then
meets its keys in fixed tiles that nothing around it can change (see `tiles.py`).
Legend: R rows of all sequences, N sequences of a group, T their padded length, H heads, K head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from kosmos.transformer.cache import CachedSequence, PagedCache
from kosmos.transformer.groups import CachedGroup, PaddedGroup, cached_groups, padded_groups
from kosmos.transformer.kernels.paged_attention import PagedRows, PageTable, load_paged_rows
from kosmos.transformer.positions import XPos
from kosmos.transformer.tiles import attend_in_tiles

__all__ = ["AttentionContext", "CrossAttention", "PackedAttention", "PagedAttention", "PositionBias"]


class PositionBias(Protocol):
    """A table learned by the block (T5, METRO): scores to add for query and key positions."""

    def __call__(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """[Q], [T] -> [H, Q, T]."""
        ...


class AttentionContext(Protocol):
    """What a block asks to attend."""

    def attend(
        self, layer: int, query_RHK: Tensor, key_RHK: Tensor, value_RHK: Tensor, bias: PositionBias | None = None
    ) -> Tensor:
        """Mixed values [R, H, K] of layer `layer`, one row for each query."""
        ...


class PackedAttention:
    """Whole sequences laid end to end, each attending inside itself, from position 0."""

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        causal: bool = True,
        rotation: XPos | None = None,
        dropout: float = 0.0,
        tiled: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        """Raises: ValueError for xPos without `causal`: its factors would amplify later keys."""
        if rotation is not None and not causal:
            raise ValueError("xPos amplifies keys after the query; use it with causal attention only")
        self.causal, self.rotation, self.dropout, self.tiled = causal, rotation, dropout, tiled
        self.lengths = tuple(lengths)
        self.positions_R = torch.cat([torch.arange(length, device=device) for length in self.lengths or (0,)])
        self.groups = padded_groups(self.lengths, device)
        self.in_one_block = rotation is None or max(self.lengths, default=0) <= rotation.block

    def attend(
        self, layer: int, query_RHK: Tensor, key_RHK: Tensor, value_RHK: Tensor, bias: PositionBias | None = None
    ) -> Tensor:
        """See `AttentionContext`."""
        if self.tiled and self.causal and bias is None:
            return self._in_tiles(query_RHK, key_RHK, value_RHK)
        if self.rotation is not None and self.in_one_block:
            query_RHK = self.rotation.rotate_queries(query_RHK, self.positions_R)
            key_RHK = self.rotation.rotate_keys(key_RHK, self.positions_R)
        if len(self.groups) == 1 and self.groups[0].whole:
            group = self.groups[0]
            return group.unpad(self._mix(group, group.pad(query_RHK), group.pad(key_RHK), group.pad(value_RHK), bias))
        out_RHK = torch.empty_like(query_RHK)
        for group in self.groups:
            mixed_NTHK = self._mix(group, group.pad(query_RHK), group.pad(key_RHK), group.pad(value_RHK), bias)
            out_RHK = out_RHK.index_copy(0, group.rows, group.unpad(mixed_NTHK))
        return out_RHK

    def _mix(
        self, group: PaddedGroup, query_NTHK: Tensor, key_NTHK: Tensor, value_NTHK: Tensor, bias: PositionBias | None
    ) -> Tensor:
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
            attend_in_tiles(query, key, value, start=0, rotation=self.rotation)
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


class PagedAttention:
    """New rows of cached sequences: writes their keys once, then reads each sequence's pages."""

    def __init__(
        self,
        cache: PagedCache,
        sequences: Sequence[CachedSequence],
        lengths: Sequence[int],
        *,
        rotation: XPos | None = None,
        tiled: bool = False,
    ) -> None:
        """Takes room for the new rows; `advance` must follow the forward.

        Args:
            lengths: new rows of each sequence, in the order of the packed rows.
        Raises: ValueError if a page would straddle two rotation blocks; CacheFull if there is no room.
        """
        if rotation is not None and rotation.block % cache.page_size:
            raise ValueError(f"page size {cache.page_size} does not divide the xPos block {rotation.block}")
        self.cache, self.sequences, self.lengths = cache, tuple(sequences), tuple(lengths)
        self.rotation, self.tiled = rotation, tiled
        device = cache.keys_LSHK.device
        slots: list[int] = []
        positions: list[int] = []
        for sequence, length in zip(self.sequences, self.lengths, strict=True):
            cache.reserve(sequence, length)
            slots += cache.slots(sequence, sequence.length, sequence.length + length)
            positions += range(sequence.length, sequence.length + length)
        self.slots_R = torch.tensor(slots, dtype=torch.long, device=device)
        self.positions_R = torch.tensor(positions, dtype=torch.long, device=device)
        self.kernel = self._kernel()

    def _kernel(self) -> PagedRows | None:
        """The compiled attention, for steps in which every sequence has one new row."""
        store = self.cache.keys_LSHK
        fits = store.device.type == "cpu" and store.dtype == torch.float32 and set(self.lengths) == {1}
        return load_paged_rows() if fits and not self.tiled else None

    @cached_property
    def table(self) -> PageTable:
        """Where the compiled attention finds each row's keys."""
        cache, keys = self.cache, [sequence.length + 1 for sequence in self.sequences]
        block = cache.num_slots if self.rotation is None else self.rotation.block
        return PageTable.of([sequence.pages for sequence in self.sequences], keys, cache.page_size, block)

    @cached_property
    def groups(self) -> list[CachedGroup]:
        """Rows that torch's attention takes together."""
        return cached_groups(self.cache, self.sequences, self.lengths)

    def advance(self) -> None:
        """Count the new rows as stored."""
        for sequence, length in zip(self.sequences, self.lengths, strict=True):
            sequence.length += length

    def attend(
        self, layer: int, query_RHK: Tensor, key_RHK: Tensor, value_RHK: Tensor, bias: PositionBias | None = None
    ) -> Tensor:
        """See `AttentionContext`."""
        if bias is not None:
            raise ValueError("a cache stores no position bias; use PackedAttention for models with learned tables")
        keys_SHK, values_SHK = self.cache.keys_LSHK[layer], self.cache.values_LSHK[layer]
        if self.rotation is not None:
            key_RHK = self.rotation.rotate_keys(key_RHK, self.positions_R)
        keys_SHK.index_copy_(0, self.slots_R, key_RHK.to(keys_SHK.dtype))
        values_SHK.index_copy_(0, self.slots_R, value_RHK.to(values_SHK.dtype))
        if self.tiled:
            return self._in_tiles(query_RHK, keys_SHK, values_SHK)
        if self.kernel is not None and query_RHK.dtype == torch.float32:
            return self.kernel.attend(self._toward_blocks(query_RHK), keys_SHK, values_SHK, self.table)
        in_one_block = self.rotation is None or max(g.num_keys for g in self.groups) <= self.rotation.block
        if self.rotation is not None and in_one_block:
            query_RHK = self.rotation.rotate_queries(query_RHK, self.positions_R)
        outputs = []
        for group in self.groups:
            query_NQHK = query_RHK[group.start : group.stop].unflatten(0, (group.count, -1))
            key_NTHK, value_NTHK = group.read(keys_SHK), group.read(values_SHK)
            if in_one_block or self.rotation is None:
                mixed = F.scaled_dot_product_attention(
                    query_NQHK.transpose(1, 2),
                    key_NTHK.transpose(1, 2),
                    value_NTHK.transpose(1, 2),
                    attn_mask=group.mask,
                    is_causal=group.causal,
                )
                outputs.append(mixed.transpose(1, 2).flatten(0, 1))
            else:
                positions = self.positions_R[group.start : group.stop]
                outputs.append(_mix_cached_blocks(self.rotation, positions, query_NQHK, key_NTHK, value_NTHK))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _toward_blocks(self, query_RHK: Tensor) -> Tensor:
        """Queries as they meet the keys of each rotation block: [R, B, H, K]."""
        rotation = self.rotation
        if rotation is None:
            return query_RHK[:, None]
        blocks = -(-self.table.pages_RP.shape[1] // self.table.pages_a_block)
        if blocks == 1:
            return rotation.rotate_queries(query_RHK, self.positions_R)[:, None]
        turned = [rotation.rotate_queries(query_RHK, self.positions_R, key_block=block) for block in range(blocks)]
        return torch.stack(turned, dim=1)

    def _in_tiles(self, query_RHK: Tensor, keys_SHK: Tensor, values_SHK: Tensor) -> Tensor:
        outputs = []
        for sequence, query in zip(self.sequences, query_RHK.split(self.lengths), strict=True):
            stored = torch.tensor(self.cache.slots(sequence, 0, sequence.length + query.shape[0]), device=query.device)
            outputs.append(
                attend_in_tiles(
                    query, keys_SHK[stored], values_SHK[stored], start=sequence.length, rotation=self.rotation
                )
            )
        return torch.cat(outputs)


def _mix_cached_blocks(
    rotation: XPos, positions: Tensor, query_NQHK: Tensor, key_NTHK: Tensor, value_NTHK: Tensor
) -> Tensor:
    """xPos over a cache of more than one block: stored keys stay as they are, queries turn for each block."""
    count, num_queries, _, width = query_NQHK.shape
    keys_seen = torch.arange(key_NTHK.shape[1], device=positions.device)
    scores = []
    for block, start in enumerate(range(0, key_NTHK.shape[1], rotation.block)):
        queries = rotation.rotate_queries(query_NQHK.flatten(0, 1), positions, key_block=block)
        queries_NHQK = queries.unflatten(0, (count, num_queries)).transpose(1, 2)
        keys_NHKT = key_NTHK[:, start : start + rotation.block].permute(0, 2, 3, 1)
        scores.append((queries_NHQK @ keys_NHKT).float())
    visible = keys_seen <= positions.view(count, num_queries, 1)
    scores_NHQT = (torch.cat(scores, dim=-1) * width**-0.5).masked_fill(~visible[:, None], float("-inf"))
    weights_NHQT = scores_NHQT.softmax(dim=-1).to(value_NTHK.dtype)
    mixed_NHQK: Tensor = weights_NHQT @ value_NTHK.transpose(1, 2)
    return mixed_NHQK.transpose(1, 2).flatten(0, 1)


def _steps(rows: Tensor) -> Tensor:
    return torch.arange(rows.shape[0], device=rows.device)
