"""Pages of memory: large ones for large weights, and such as stay with the process from one step to the next.

A token reads all weights, and translating addresses costs a tenth of that. Linux gives pages of 2 MB to memory that
asks for them before it is first written. Elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import mmap

import torch
from torch import Tensor, nn

__all__ = ["keep_freed_memory", "use_large_pages"]

PAGE_BYTES = 2 << 20
WORTH_BYTES = PAGE_BYTES  # smaller tensors would mostly waste their page
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, NEVER = -1, -2, -4, -1  # of mallopt(3)
GROWTH_BYTES = 64 << 20


def use_large_pages(module: nn.Module) -> None:
    """Move every large CPU parameter and buffer of `module` into large pages, in place; ties stay ties."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == "cpu" and tensor.numel() * tensor.element_size() >= WORTH_BYTES:
            tensor.data = _in_large_pages(tensor.data)


def _in_large_pages(tensor: Tensor) -> Tensor:
    size = tensor.numel() * tensor.element_size()
    # one page more than needed, to start where a large page starts
    memory = mmap.mmap(-1, size + PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(mmap.MADV_HUGEPAGE)
    except OSError:  # a kernel without large pages
        return tensor
    start = -torch.frombuffer(memory, dtype=torch.uint8, count=1).data_ptr() % PAGE_BYTES
    moved = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=start).view(tensor.shape)
    return moved.copy_(tensor)


def keep_freed_memory() -> None:
    """Let memory that is freed stay with the process, which writes to it again without asking the system for pages.

    A step of training frees what it allocates; handed back and fetched anew, page by page, that is a tenth of its time.
    For a process that does nothing else: what it took at most stays taken. Where the C library cannot, nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not the C library of Linux
        return
    for option, value in ((TRIM_THRESHOLD, NEVER), (TOP_PAD, GROWTH_BYTES), (MMAP_MAX, 0)):
        mallopt(option, value)
