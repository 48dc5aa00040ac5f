"""Captions of many pictures at once, in lockstep: every sequence has the same prompt, so one plain cache serves all.

Training draws samples and validation takes the best word with it; `kosmos.generate` is the general way.
Legend: N sequences, T tokens so far, H heads, K head width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kosmos.model import KosmosModel
from kosmos.packed import Packed
from kosmos.processor import Processor
from kosmos.transformer.positions import PositionBias, XPos

__all__ = ["Layout", "LockstepAttention", "Rollout", "caption_rollout"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The ids a caption begins and ends with. `num_latents` rows stand for a picture."""

    begin: int
    end: int
    image: int
    image_end: int
    num_latents: int

    @staticmethod
    def of(processor: Processor) -> Layout:
        """As the processor lays a picture out."""
        tokenizer = processor.tokenizer
        return Layout(
            begin=tokenizer.bos_id,
            end=tokenizer.eos_id,
            image=tokenizer.image_id,
            image_end=tokenizer.end_image_id,
            num_latents=processor.config.resampler.num_latents,
        )

    def head(self) -> list[int]:
        """`<s>` and the rows of one picture."""
        return [self.begin, self.image, *[self.image] * self.num_latents, self.image_end]


class LockstepAttention:
    """N sequences of equal length that grow together; keys and values of each layer lie in one tensor."""

    def __init__(self, count: int, capacity: int, rotation: XPos | None) -> None:
        self.count, self.capacity, self.rotation = count, capacity, rotation
        self.length, self.new = 0, 0
        self.stores: dict[int, tuple[Tensor, Tensor]] = {}

    def begin(self, new: int) -> None:
        """The next forward adds `new` rows to every sequence."""
        self.length, self.new = self.length + self.new, new

    def attend(
        self, layer: int, query_RHK: Tensor, key_RHK: Tensor, value_RHK: Tensor, bias: PositionBias | None = None
    ) -> Tensor:
        """See `AttentionContext`."""
        stop = self.length + self.new
        if self.rotation is not None:
            positions_R = torch.arange(self.length, stop).repeat(self.count)
            query_RHK = self.rotation.rotate_queries(query_RHK, positions_R)
            key_RHK = self.rotation.rotate_keys(key_RHK, positions_R)
        query, key, value = (
            x.unflatten(0, (self.count, self.new)).transpose(1, 2) for x in (query_RHK, key_RHK, value_RHK)
        )
        if layer not in self.stores:
            shape = (self.count, key.shape[1], self.capacity, key.shape[3])
            self.stores[layer] = (key.new_empty(shape), key.new_empty(shape))
        keys, values = self.stores[layer]
        keys[:, :, self.length : stop], values[:, :, self.length : stop] = key, value
        mixed = F.scaled_dot_product_attention(query, keys[:, :, :stop], values[:, :, :stop], is_causal=self.new > 1)
        return mixed.transpose(1, 2).flatten(0, 1)


class Rollout(NamedTuple):
    """Ids [N, T] of each caption, the end token included where it was reached; behind it the end token repeats."""

    ids: Tensor
    lengths: Tensor


@torch.no_grad()
def caption_rollout(
    model: KosmosModel,
    layout: Layout,
    latents_NLD: Tensor,
    *,
    max_tokens: int,
    draw: torch.Generator | None = None,
) -> Rollout:
    """One caption for each row of latents [N, L, D]: the best word each time, or drawn with `draw` (temperature 1)."""
    count, head = latents_NLD.shape[0], torch.tensor(layout.head())
    context = LockstepAttention(count, len(head) + max_tokens, model.decoder.rotation)
    start_N = torch.arange(count) * len(head)
    step = Packed(
        tokens=head.repeat(count),
        lengths=(len(head),) * count,
        positions=torch.arange(len(head)).repeat(count),
        image_rows=start_N[:, None] + 2 + torch.arange(layout.num_latents),
        latents=latents_NLD,
    )
    ids, done = [], torch.zeros(count, dtype=torch.bool)
    for place in range(max_tokens):
        context.begin(step.tokens.shape[0] // count)
        last_ND = model(step, context).unflatten(0, (count, -1))[:, -1]
        logits_NV = model.logits(last_ND).float()
        if draw is None:
            chosen = logits_NV.argmax(-1)
        else:
            chosen = torch.multinomial(logits_NV.softmax(-1), 1, generator=draw)[:, 0]
        chosen = torch.where(done, layout.end, chosen)
        ids.append(chosen)
        done = done | (chosen == layout.end)
        if bool(done.all()):
            break
        positions = torch.full((count,), len(head) + place)
        step = Packed(tokens=chosen, lengths=(1,) * count, positions=positions)
    stacked = torch.stack(ids, dim=1)
    ends = stacked == layout.end
    lengths = torch.where(ends.any(1), ends.int().argmax(1) + 1, stacked.shape[1])
    return Rollout(stacked, lengths)
