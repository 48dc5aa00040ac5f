"""Which sequences a CPU attends together: those of like length, padded at the end or read from the cache as one view.

Pure bookkeeping, done once a forward and used by every layer. Legend as in `attention.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from kosmos.transformer.cache import CachedSequence, PagedCache
from kosmos.transformer.positions import PositionBias

__all__ = ["CachedGroup", "PaddedGroup", "cached_groups", "padded_groups"]

WASTE = 1.5  # padded rows may be this many times the real ones before a group is split
LONG = 256  # rows from which a sequence is worth a call of its own: padding costs by the square


@dataclass(frozen=True)
class PaddedGroup:
    """Sequences padded to the longest of them.

    Attributes:
        rows: packed rows of the group, in order.   starts: the first of each sequence.
        slots: where each of them stands in the padded [N * T].
        whole: the group is all rows, equally long: padding is a reshape.
    """

    rows: Tensor
    starts: tuple[int, ...]
    slots: Tensor
    lengths: tuple[int, ...]
    whole: bool

    @property
    def length(self) -> int:
        """T."""
        return max(self.lengths)

    @cached_property
    def key_mask(self) -> Tensor | None:
        """bool [N, 1, 1, T], True where a key is real; None if all are."""
        if min(self.lengths) == self.length:
            return None
        real = torch.zeros(len(self.lengths) * self.length, dtype=torch.bool, device=self.rows.device)
        real[self.slots] = True
        return real.view(len(self.lengths), 1, 1, self.length)

    def pad(self, x_RHK: Tensor) -> Tensor:
        """Packed rows -> [N, T, H, K], zeros behind the shorter ones."""
        shape = (len(self.lengths), self.length)
        if self.whole:
            whole_NTHK: Tensor = x_RHK.unflatten(0, shape)
            return whole_NTHK
        padded = x_RHK.new_zeros(shape[0] * shape[1], *x_RHK.shape[1:])
        padded_NTHK: Tensor = padded.index_copy(0, self.slots, x_RHK[self.rows]).unflatten(0, shape)
        return padded_NTHK

    def unpad(self, x_NTHK: Tensor) -> Tensor:
        """[N, T, H, K] -> the group's rows, in the order of `rows`."""
        flat = x_NTHK.flatten(0, 1)
        return flat if self.whole else flat[self.slots]


def padded_groups(lengths: Sequence[int], device: torch.device | str) -> list[PaddedGroup]:
    """Sort by length and cut where padding would waste more than it saves."""
    order = sorted((index for index, length in enumerate(lengths) if length), key=lambda index: lengths[index])
    buckets: list[list[int]] = []
    for index in order:
        bucket = buckets[-1] if buckets else []
        real = sum(lengths[member] for member in bucket) + lengths[index]
        alike = bucket and (lengths[index] < LONG or lengths[index] == lengths[bucket[0]])
        if alike and (len(bucket) + 1) * lengths[index] <= WASTE * real:
            bucket.append(index)
        else:
            buckets.append([index])
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    return [_padded_group(sorted(bucket), lengths, starts, device) for bucket in buckets]


def _padded_group(
    members: list[int], lengths: Sequence[int], starts: list[int], device: torch.device | str
) -> PaddedGroup:
    own = tuple(lengths[member] for member in members)
    longest = max(own)
    rows = torch.cat([torch.arange(starts[member], starts[member] + lengths[member]) for member in members])
    slots = torch.cat([torch.arange(place * longest, place * longest + length) for place, length in enumerate(own)])
    whole = min(own) == longest and len(rows) == starts[-1]
    first = tuple(starts[member] for member in members)
    return PaddedGroup(rows=rows.to(device), starts=first, slots=slots.to(device), lengths=own, whole=whole)


@dataclass(frozen=True)
class CachedGroup:
    """Neighbouring sequences with equally many new rows, read from the cache together.

    Attributes:
        start, stop: their packed rows.  count: N.  num_keys: T, keys of the longest.
        first, step: slots where the sequences start, if evenly spaced and each in one piece; else `gather` [N * T].
        mask: bool [N, 1, Q, T] or None.  causal: a fresh prefill, whose mask the kernel knows.
        totals_N: int, keys of each sequence.  num_new: Q.
    """

    start: int
    stop: int
    count: int
    num_keys: int
    first: int
    step: int
    gather: Tensor | None
    mask: Tensor | None
    causal: bool
    totals_N: Tensor
    num_new: int

    def scores(self, bias: PositionBias) -> Tensor:
        """Bias of every sequence with minus infinity where a query may not look: [N, H, Q, T]."""
        steps = torch.arange(self.num_keys, device=self.totals_N.device)
        each = []
        for total in self.totals_N.tolist():
            queries = torch.arange(total - self.num_new, total, device=steps.device)
            each.append(bias(queries, steps).masked_fill(steps[None, :] > queries[:, None], float("-inf")))
        return torch.stack(each)

    def read(self, store_SHK: Tensor) -> Tensor:
        """Keys or values [N, T, H, K]; a view where the pages allow it."""
        if self.gather is not None:
            gathered_NTHK: Tensor = store_SHK[self.gather].unflatten(0, (self.count, self.num_keys))
            return gathered_NTHK
        slot, head, channel = store_SHK.stride()
        return store_SHK.as_strided(
            (self.count, self.num_keys, *store_SHK.shape[1:]),
            (self.step * slot, slot, head, channel),
            store_SHK.storage_offset() + self.first * slot,
        )


def cached_groups(cache: PagedCache, sequences: Sequence[CachedSequence], lengths: Sequence[int]) -> list[CachedGroup]:
    """Neighbours join while they add equally many rows and hold equally many pages."""
    groups: list[CachedGroup] = []
    row, begin = 0, 0
    for index in range(1, len(sequences) + 1):
        if index < len(sequences) and _alike(cache, sequences, lengths, index):
            continue
        members = sequences[begin:index]
        new = lengths[begin]
        if new:
            groups.append(_cached_group(cache, members, new, row))
        row += new * len(members)
        begin = index
    return groups


def _alike(cache: PagedCache, sequences: Sequence[CachedSequence], lengths: Sequence[int], index: int) -> bool:
    before, here = (sequences[i].length + lengths[i] for i in (index - 1, index))
    return lengths[index - 1] == lengths[index] and -(-before // cache.page_size) == -(-here // cache.page_size)


def _cached_group(cache: PagedCache, members: Sequence[CachedSequence], new: int, row: int) -> CachedGroup:
    totals = [member.length + new for member in members]
    num_keys, device = max(totals), cache.keys_LSHK.device
    first, step = _spacing(cache, members, num_keys)
    gather = None
    if step < 0:
        # A shorter neighbour is padded with its own first slot: masked below, but always a finite number.
        slots = [
            cache.slots(member, 0, total) + cache.slots(member, 0, 1) * (num_keys - total)
            for member, total in zip(members, totals, strict=True)
        ]
        gather = torch.tensor([slot for own in slots for slot in own], dtype=torch.long, device=device)
    causal = new > 1 and all(member.length == 0 for member in members)
    mask, totals_N = None, torch.tensor(totals, device=device)
    if not causal and (new > 1 or min(totals) < num_keys):
        last = totals_N.view(-1, 1, 1) - new + torch.arange(new, device=device).view(1, -1, 1)
        mask = (torch.arange(num_keys, device=device) <= last)[:, None]
    return CachedGroup(
        start=row,
        stop=row + new * len(members),
        count=len(members),
        num_keys=num_keys,
        first=first,
        step=step,
        gather=gather,
        mask=mask,
        causal=causal,
        totals_N=totals_N,
        num_new=new,
    )


def _spacing(cache: PagedCache, members: Sequence[CachedSequence], num_keys: int) -> tuple[int, int]:
    """First slot and distance of sequences that lie evenly, each in one piece; distance -1 if they do not."""
    used = -(-num_keys // cache.page_size)
    for member in members:
        if any(page != member.pages[0] + place for place, page in enumerate(member.pages[:used])):
            return 0, -1
    starts = [member.pages[0] for member in members]
    distance = starts[1] - starts[0] if len(starts) > 1 else 0
    if any(after - before != distance for before, after in pairwise(starts)) or distance < 0:
        return 0, -1
    return starts[0] * cache.page_size, distance * cache.page_size
