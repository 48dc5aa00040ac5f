"""Ranks that train one model together on one machine: sums are added over processes once a step (gloo, loopback).

One process a core with one thread each beats one process with many threads here: they meet once a step, not at every
matrix product, so a busy core delays a step and does not stall it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

__all__ = ["add_over_ranks", "gathered", "run_ranks"]

ItemT = TypeVar("ItemT")


def add_over_ranks(tensors: Iterable[Tensor]) -> None:
    """Replace every tensor by its sum over the ranks, in one message; nothing to do alone."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    parts = list(tensors)
    message = torch.cat([part.reshape(-1) for part in parts])
    dist.all_reduce(message)
    for part, summed in zip(parts, message.split([part.numel() for part in parts]), strict=True):
        part.copy_(summed.view_as(part))


def gathered(item: ItemT) -> list[ItemT]:
    """What every rank hands in, in the order of ranks; plain values."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [item]
    items: list[ItemT] = [item] * dist.get_world_size()
    dist.all_gather_object(items, item)
    return items


def _rank(rank: int, ranks: int, meeting: str, work: Callable[[int, int], None]) -> None:
    # Ctrl-C, and the death of the parent, end a rank at once and without a traceback: its state is on disk.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    try:
        work(rank, ranks)
    finally:
        dist.destroy_process_group()


def run_ranks(ranks: int, work: Callable[[int, int], None], folder: Path) -> None:
    """Call `work(rank, ranks)` in `ranks` new processes and wait; `work` must be picklable. One rank runs right here.

    Args:
        folder: of this run alone; the processes find each other by a file there.
    """
    if ranks == 1:
        torch.set_flush_denormal(True)
        work(0, 1)
        return
    for left_by_a_killed_run in folder.glob("meeting-*"):
        left_by_a_killed_run.unlink()
    meeting = folder / f"meeting-{os.getpid()}"
    # One thread a process must be known before torch starts its pools in the new process.
    os.environ["OMP_NUM_THREADS"] = "1"
    spawn(_rank, args=(ranks, str(meeting.resolve()), work), nprocs=ranks)
    meeting.unlink(missing_ok=True)
