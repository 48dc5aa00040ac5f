"""Session: a model, a cache and the sequences in it. Prefill once, then decode, fork and free.

The only place where generation touches the model. Legend: N sequences, R rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kosmos.model import KosmosModel
from kosmos.packed import Packed
from kosmos.transformer.cache import CachedSequence, PagedCache
from kosmos.transformer.paged_attention import PagedAttention

__all__ = ["Session"]

PAGE_SIZE = 32
PREFILL_ROWS = 4096  # rows of one prefill forward: bounds memory, changes nothing else


class Session:
    """Sequences are named by their index; all start empty."""

    def __init__(self, model: KosmosModel, rooms: Sequence[int], *, spare_tokens: int = 0) -> None:
        """
        Args:
            rooms: tokens each sequence may come to hold; taken at once, so decoding never runs out.
            spare_tokens: further room, for forks.
        """
        self.model = model
        config = model.config.decoder
        # A page must not straddle two blocks, of rotation or of sight.
        page_size = math.gcd(PAGE_SIZE, config.causal_block or PAGE_SIZE)
        if config.positions in ("xpos", "rope"):
            page_size = min(page_size, config.xpos_block)
        # Blocks out of sight are forgotten, so endless text needs no more room than two blocks and a chunk.
        most = 2 * config.causal_block + PREFILL_ROWS if config.causal_block else max(rooms, default=0)
        held = [min(room, most) for room in rooms]
        self.cache = PagedCache(
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            head_dim=config.head_dim,
            num_pages=sum(-(-room // page_size) for room in held) + -(-spare_tokens // page_size),
            page_size=page_size,
            causal_block=config.causal_block,
            dtype=model.decoder.hidden_dtype,
            device=model.decoder.embedding.weight.device,
        )
        self.sequences: list[CachedSequence] = [self.cache.allocate(room) for room in held]

    def prefill(self, packed: Packed, *, max_rows: int = PREFILL_ROWS) -> Tensor:
        """Read whole prompts, one for each sequence, at most `max_rows` rows at a time.

        Returns: logits [N, V] after the last row of each prompt.
        """
        packed = replace(packed, latents=self.model.encode_images(packed), features=None, pixels=None)
        ends, end = [], 0
        for length in packed.lengths:
            end += length
            ends.append(end)
        max_rows = min(max_rows, PREFILL_ROWS)
        hidden = []
        for start in range(0, ends[-1], max_rows):
            stop = min(start + max_rows, ends[-1])
            last_rows = [end - 1 - start for end in ends if start < end <= stop]
            rows_RD = self._forward(_chunk(packed, start, stop), _new_rows(packed.lengths, start, stop))
            hidden.append(rows_RD[last_rows])
        return self.model.logits(torch.cat(hidden))

    def decode(self, members: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """Append one token to each of `members`; returns logits [N, V] in their order."""
        device = self.cache.keys_LSHK.device
        positions = [self.sequences[member].length for member in members]
        packed = Packed(
            tokens=torch.tensor(tokens, dtype=torch.long, device=device),
            lengths=(1,) * len(members),
            positions=torch.tensor(positions, dtype=torch.long, device=device),
        )
        return self.model.logits(self._forward(packed, [(member, 1) for member in members]))

    def reorder(self, parents: Sequence[int]) -> None:
        """Let sequence i continue sequence `parents[i]`; a parent nobody continues is freed, a shared one forked."""
        kept = set(parents)
        for index, sequence in enumerate(self.sequences):
            if index not in kept:
                self.cache.free(sequence)
        taken: set[int] = set()
        renewed = []
        for parent in parents:
            sequence = self.sequences[parent]
            renewed.append(self.cache.fork(sequence) if parent in taken else sequence)
            taken.add(parent)
        self.sequences = renewed

    def free(self, member: int) -> None:
        """Give back the room of one sequence."""
        self.cache.free(self.sequences[member])

    def _forward(self, packed: Packed, rows: Sequence[tuple[int, int]]) -> Tensor:
        context = PagedAttention(
            self.cache,
            [self.sequences[member] for member, _ in rows],
            [count for _, count in rows],
            rotation=self.model.decoder.rotation,
            tiled=self.model.deterministic,
        )
        hidden_RD: Tensor = self.model(packed, context)
        context.advance()
        return hidden_RD


def _new_rows(lengths: Sequence[int], start: int, stop: int) -> list[tuple[int, int]]:
    """(sequence, rows) of the packed rows `start` to `stop`."""
    rows, first = [], 0
    for member, length in enumerate(lengths):
        count = min(stop, first + length) - max(start, first)
        if count > 0:
            rows.append((member, count))
        first += length
    return rows


def _chunk(packed: Packed, start: int, stop: int) -> Packed:
    """Rows `start` to `stop`; latents whose row lies elsewhere are marked -1."""
    image_rows = packed.image_rows
    if image_rows is not None:
        inside = (image_rows >= start) & (image_rows < stop)
        image_rows = torch.where(inside, image_rows - start, -1)
    return Packed(
        tokens=packed.tokens[start:stop],
        lengths=tuple(count for _, count in _new_rows(packed.lengths, start, stop)),
        positions=packed.positions[start:stop],
        image_rows=image_rows,
        latents=packed.latents,
    )
