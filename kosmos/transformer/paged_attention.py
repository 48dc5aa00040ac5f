"""Attention over a cache: new rows of cached sequences write their keys once, then read each sequence's pages.

On a CPU a decode step is one compiled kernel over the pages where they lie; prefill chunks, position biases and
machines without that kernel take torch's attention, sequences of like length together.
Legend: R rows of all sequences, N sequences of a group, Q new rows of each, T keys, S slots, H heads, K head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from kosmos.transformer.attention import check_reach
from kosmos.transformer.blockwise import attend_blockwise, first_seen
from kosmos.transformer.cache import CachedSequence, PagedCache
from kosmos.transformer.groups import CachedGroup, cached_groups
from kosmos.transformer.kernels.paged_attention import PagedRows, PageTable, load_paged_rows
from kosmos.transformer.positions import PositionBias, XPos, rotate
from kosmos.transformer.tiles import attend_in_tiles

__all__ = ["PagedAttention"]


class PagedAttention:
    """The context of new rows; see the file's head."""

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

        Whether rows see all that came before or blocks is the cache's to say: what it stores depends on it.

        Args:
            lengths: new rows of each sequence, in the order of the packed rows.
        Raises: ValueError if a page would straddle two blocks; CacheFull if there is no room.
        """
        check_reach(causal=True, causal_block=cache.causal_block, rotation=rotation, longest=0)
        if rotation is not None and rotation.block % cache.page_size:
            raise ValueError(f"page size {cache.page_size} does not divide the xPos block {rotation.block}")
        self.cache, self.sequences, self.lengths = cache, tuple(sequences), tuple(lengths)
        self.rotation, self.tiled = rotation, tiled
        self._biases: dict[PositionBias, list[Tensor]] = {}
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
    def firsts(self) -> list[int]:
        """The first key that each sequence's new rows see."""
        block = self.cache.causal_block
        return [first_seen(sequence.length, block) if block else 0 for sequence in self.sequences]

    @cached_property
    def table(self) -> PageTable:
        """Where the compiled attention finds each row's keys."""
        cache = self.cache
        pages = [
            sequence.pages[(first - sequence.forgotten) // cache.page_size :]
            for sequence, first in zip(self.sequences, self.firsts, strict=True)
        ]
        keys = [sequence.length + 1 - first for sequence, first in zip(self.sequences, self.firsts, strict=True)]
        block = cache.num_slots if self.rotation is None else self.rotation.block
        return PageTable.of(pages, keys, cache.page_size, block)

    @cached_property
    def groups(self) -> list[CachedGroup]:
        """Rows that torch's attention takes together."""
        return cached_groups(self.cache, self.sequences, self.lengths)

    def advance(self) -> None:
        """Count the new rows as stored; blocks that no later row will see are given back."""
        block = self.cache.causal_block
        for sequence, length in zip(self.sequences, self.lengths, strict=True):
            sequence.length += length
            if block:
                self.cache.forget(sequence, first_seen(sequence.length, block))

    def attend(
        self, layer: int, query_RHK: Tensor, key_RHK: Tensor, value_RHK: Tensor, bias: PositionBias | None = None
    ) -> Tensor:
        """See `AttentionContext`."""
        keys_SHK, values_SHK = self.cache.keys_LSHK[layer], self.cache.values_LSHK[layer]
        if self.key_factors is not None:
            key_RHK = rotate(key_RHK, self.key_factors)
        keys_SHK.index_copy_(0, self.slots_R, key_RHK.to(keys_SHK.dtype))
        values_SHK.index_copy_(0, self.slots_R, value_RHK.to(values_SHK.dtype))
        if self.tiled and bias is None:
            return self._in_tiles(query_RHK, keys_SHK, values_SHK)
        learns = query_RHK.requires_grad or keys_SHK.requires_grad or values_SHK.requires_grad
        compiled = bias is None and query_RHK.dtype == torch.float32 and not learns
        if self.kernel is not None and compiled:
            return self.kernel.attend(self._toward_blocks(query_RHK), keys_SHK, values_SHK, self.table)
        if self.cache.causal_block:
            return self._blockwise(query_RHK, keys_SHK, values_SHK, bias)
        in_one_block = self.rotation is None or max(g.num_keys for g in self.groups) <= self.rotation.block
        if self.rotation is not None and in_one_block:
            query_RHK = self.rotation.rotate_queries(query_RHK, self.positions_R)
        outputs = []
        for number, group in enumerate(self.groups):
            query_NQHK = query_RHK[group.start : group.stop].unflatten(0, (group.count, -1))
            key_NTHK, value_NTHK = group.read(keys_SHK), group.read(values_SHK)
            if in_one_block or self.rotation is None:
                mixed = F.scaled_dot_product_attention(
                    query_NQHK.transpose(1, 2),
                    key_NTHK.transpose(1, 2),
                    value_NTHK.transpose(1, 2),
                    attn_mask=group.mask if bias is None else self._scores_to_add(bias, query_RHK)[number],
                    is_causal=group.causal and bias is None,
                )
                outputs.append(mixed.transpose(1, 2).flatten(0, 1))
            else:
                positions = self.positions_R[group.start : group.stop]
                outputs.append(_mix_cached_blocks(self.rotation, positions, query_NQHK, key_NTHK, value_NTHK))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _scores_to_add(self, bias: PositionBias, like: Tensor) -> list[Tensor]:
        """Bias and mask of every group, [N, H, Q, T]; one table serves all layers, so it is read once a step."""
        if bias not in self._biases:
            self._biases[bias] = [group.scores(bias).to(like.dtype) for group in self.groups]
        return self._biases[bias]

    def _blockwise(self, query_RHK: Tensor, keys_SHK: Tensor, values_SHK: Tensor, bias: PositionBias | None) -> Tensor:
        """Sequence by sequence, each over the blocks that its new rows see."""
        if self.rotation is not None:
            query_RHK = self.rotation.rotate_queries(query_RHK, self.positions_R)
        outputs = []
        for sequence, first, query in zip(self.sequences, self.firsts, query_RHK.split(self.lengths), strict=True):
            slots = self.cache.slots(sequence, first, sequence.length + query.shape[0])
            stored = torch.tensor(slots, device=query.device)
            mixed = attend_blockwise(
                query[None],
                keys_SHK[stored][None],
                values_SHK[stored][None],
                start=sequence.length,
                first_key=first,
                block=self.cache.causal_block or 0,
                rotation=self.rotation,
                bias=bias,
            )
            outputs.append(mixed[0])
        return torch.cat(outputs)

    @cached_property
    def key_factors(self) -> Tensor | None:
        """Rotation of the new keys, the same in every layer."""
        return None if self.rotation is None else self.rotation.key_factors(self.positions_R)

    @cached_property
    def query_factors(self) -> Tensor | None:
        """Rotation of decode rows toward each block they see, complex [R, B, P], the same in every layer."""
        if self.rotation is None:
            return None
        blocks = -(-self.table.pages_RP.shape[1] // self.table.pages_a_block)
        firsts_R = torch.tensor(self.firsts, device=self.positions_R.device) // self.rotation.block
        each = [self.rotation.query_factors(self.positions_R, key_block=firsts_R + block) for block in range(blocks)]
        return torch.stack(each, dim=1)

    def _toward_blocks(self, query_RHK: Tensor) -> Tensor:
        """Queries as they meet the keys of each rotation block: [R, B, H, K]."""
        factors_RBP = self.query_factors
        return query_RHK[:, None] if factors_RBP is None else rotate(query_RHK[:, None], factors_RBP)

    def _in_tiles(self, query_RHK: Tensor, keys_SHK: Tensor, values_SHK: Tensor) -> Tensor:
        outputs = []
        for sequence, first, query in zip(self.sequences, self.firsts, query_RHK.split(self.lengths), strict=True):
            slots = self.cache.slots(sequence, first, sequence.length + query.shape[0])
            stored = torch.tensor(slots, device=query.device)
            outputs.append(
                attend_in_tiles(
                    query,
                    keys_SHK[stored],
                    values_SHK[stored],
                    start=sequence.length,
                    first_key=first,
                    rotation=self.rotation,
                    causal_block=self.cache.causal_block,
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
