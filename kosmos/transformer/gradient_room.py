"""Room for the gradients of all experts at once: memory that stays with its layer from step to step, in large pages.

A system that takes hundreds of megabytes back after every step and hands them out anew, page by page, makes a step of
64 experts half as slow again. Knows nothing of what is written there.
"""

from __future__ import annotations

import mmap
import sys
from contextlib import suppress

import torch
from torch import Tensor

__all__ = ["GradientRoom"]

PAGE_BYTES = 2 << 20
RECYCLED_BYTES = 32 << 20  # what is smaller the allocator of C keeps by itself
REFERENCES_WHEN_FREE = 3  # our list, the loop over it and the counting call: no tensor


class GradientRoom:
    """Memory of one layer; two gradients of one shape at the same time have each their own."""

    def __init__(self) -> None:
        self._kept: list[mmap.mmap] = []

    def like(self, parameter: Tensor) -> Tensor:
        """An uninitialised tensor of the shape, dtype and device of a contiguous `parameter`."""
        size = parameter.numel() * parameter.element_size()
        if parameter.device.type != "cpu" or size <= RECYCLED_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
            return torch.empty_like(parameter)
        memory = self._free(size + PAGE_BYTES)  # one page more, to start where a large page starts
        start = -torch.frombuffer(memory, dtype=torch.uint8, count=1).data_ptr() % PAGE_BYTES
        whole = torch.frombuffer(memory, dtype=parameter.dtype, count=parameter.numel(), offset=start)
        return whole.view(parameter.shape)

    def _free(self, size: int) -> mmap.mmap:
        for memory in self._kept:
            if len(memory) == size and sys.getrefcount(memory) == REFERENCES_WHEN_FREE:
                return memory
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # a kernel without large pages
            memory.madvise(mmap.MADV_HUGEPAGE)
        self._kept.append(memory)
        return memory
