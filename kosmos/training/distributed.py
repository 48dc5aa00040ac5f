"""Processes that train one model together: started by torchrun, or here, as many as there are cores.

On a CPU one process a core with one thread each beats one process with many threads: they meet once a step, not at
every matrix product, so a busy core delays a step and does not stall it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

__all__ = ["Launch", "add_over_ranks", "gathered", "joined", "launch", "run_ranks"]

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Which of how many processes this one is, on all machines and on this one."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    local_ranks: int = 1

    @property
    def device(self) -> torch.device:
        """A GPU for each process of a machine, or the CPU where there is none."""
        return torch.device("cuda", self.local_rank) if torch.cuda.is_available() else torch.device("cpu")


def launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """What torchrun says, or one process alone.

    Raises: ValueError if it says only half of it.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    given = [name for name in names if name in environment]
    if not given:
        return Launch()
    if len(given) < len(names):
        missing = ", ".join(name for name in names if name not in environment)
        raise ValueError(f"{given[0]} is set, but not {missing}; start several processes with torchrun, or unset it")
    rank, ranks, local_rank, local_ranks = (int(environment[name]) for name in names)
    return Launch(rank=rank, ranks=ranks, local_rank=local_rank, local_ranks=local_ranks)


@contextmanager
def joined(here: Launch, device: torch.device) -> Iterator[None]:
    """Processes of a launch can talk to each other inside: by gloo, on GPUs by NCCL, there with gloo for the host."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if here.ranks == 1:
        yield
        return
    if here.ranks == here.local_ranks:  # one machine; its own name may lead nowhere
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


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
