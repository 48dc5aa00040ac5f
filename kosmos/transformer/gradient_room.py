"""Room for the gradient of all experts at once, in large pages where the system has them.

Large tensors leave and enter the process with every step, and a system that hands them out in pages of 4 KB spends a
fifth of a step of 64 experts on nothing else. Knows nothing of what is written there.
"""

from __future__ import annotations

import mmap

import torch
from torch import Tensor

__all__ = ["gradient_room"]

PAGE_BYTES = 2 << 20
RECYCLED_BYTES = 32 << 20  # smaller tensors come back from the allocator of C, page faults paid


def gradient_room(parameter: Tensor) -> Tensor:
    """An uninitialised tensor of the shape, dtype and device of a contiguous `parameter`."""
    size = parameter.numel() * parameter.element_size()
    if parameter.device.type != "cpu" or size <= RECYCLED_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty_like(parameter)
    # one page more than needed, to start where a large page starts
    memory = mmap.mmap(-1, size + PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(mmap.MADV_HUGEPAGE)
    except OSError:  # a kernel without large pages
        return torch.empty_like(parameter)
    start = -torch.frombuffer(memory, dtype=torch.uint8, count=1).data_ptr() % PAGE_BYTES
    whole = torch.frombuffer(memory, dtype=parameter.dtype, count=parameter.numel(), offset=start)
    return whole.view(parameter.shape)
