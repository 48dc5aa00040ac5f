"""A training run on paper: parameters, FLOPs, memory of each sharding, what fits, and how many days it takes.

Nothing is allocated. The share of the peak rate that a run reaches is an assumption handed in; everything else follows
from the config. Source of the defaults: Kosmos-1 (arXiv 2302.14045, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from kosmos.config import KosmosConfig
from kosmos.training.planning.activations import Checkpointing, Load
from kosmos.training.planning.flops import Flops, sequence_flops
from kosmos.training.planning.gpus import GPUS, Gpu
from kosmos.training.planning.inventory import Inventory
from kosmos.training.planning.memory import SHARDINGS, Layout, Memory, device_memory, fault, most_sequences

__all__ = [
    "CHECKPOINTINGS", "EXPECTED_MFU", "PAPER_TOKENS", "Option", "Plan", "check_fits", "default_load", "make_plan",
]  # fmt: skip

PAPER_TOKENS = 360e9
PAPER_PICTURES, PAPER_STEP_TOKENS = 6144, 1.2e6  # captions of a step, one picture each; pages' pictures are not told
EXPECTED_MFU = 0.4  # an assumption, not a measurement: of a dense billion in bfloat16 with fused attention
CHECKPOINTINGS: tuple[Checkpointing, ...] = ("none", "selective", "full")
MOST_GPUS = 4096
DAY = 86400


@dataclass(frozen=True)
class Option:
    """One way to share out and recompute.

    Attributes:
        memory: of one device at the asked micro-batch; None where `fault` says why there is no such layout.
        largest: sequences of a micro-batch that fit.
    """

    layout: Layout
    memory: Memory | None
    largest: int
    fault: str | None


@dataclass(frozen=True)
class Plan:
    """What is known before a run.

    Attributes:
        flops: of a token.
        days: to `tokens` tokens at `mfu`, which counts no recomputation; None in float32, whose rate is not known.
        options: every sharding with every checkpointing.
    """

    inventory: Inventory
    load: Load
    gpu: Gpu
    flops: Flops
    mfu: float
    tokens: float
    days: float | None
    options: tuple[Option, ...]


def default_load(config: KosmosConfig, *, micro_batch: int = 1) -> Load:
    """Full sequences with as many pictures as the paper's batches have, where they have room."""
    rows = config.decoder.max_length
    room = (rows - 1) // config.resampler.num_latents
    return Load(
        rows=rows, pictures=min(round(rows * PAPER_PICTURES / PAPER_STEP_TOKENS), room), micro_batch=micro_batch
    )


def make_plan(
    inventory: Inventory,
    load: Load,
    layout: Layout,
    gpu: Gpu,
    *,
    mfu: float = EXPECTED_MFU,
    tokens: float = PAPER_TOKENS,
) -> Plan:
    """Work out a run; every sharding and checkpointing stands beside the one in `layout`.

    Raises: ValueError if pictures leave a sequence no room for a word.
    """
    latents = load.pictures * inventory.config.resampler.num_latents
    if load.rows <= latents:
        raise ValueError(
            f"{load.pictures} pictures take {latents} of {load.rows} rows and leave none for words; give fewer pictures"
        )
    flops = sequence_flops(inventory, load).over(load.rows)
    options = tuple(
        _option(inventory, load, replace(layout, sharding=sharding, checkpointing=checkpointing), gpu)
        for sharding in SHARDINGS
        for checkpointing in CHECKPOINTINGS
    )
    days = tokens * flops.total / (layout.gpus * gpu.flops * mfu) / DAY if layout.numbers.mixed else None
    return Plan(inventory, load, gpu, flops, mfu, tokens, days, options)


def check_fits(inventory: Inventory, load: Load, layout: Layout, name: str) -> None:
    """Refuse a run that cannot fit, before anything is allocated.

    Args:
        name: of the GPU, in `GPUS`.
    Raises: ValueError: how much is needed, how much there is, and the smallest change that helps.
    """
    gpu, why = GPUS[name], fault(inventory.config, layout)
    if why is not None:
        raise ValueError(f"sharding {layout.sharding} on {layout.gpus} GPUs: {why}; take ddp or fsdp")
    needed = device_memory(inventory, load, layout).total
    if needed <= gpu.usable_bytes:
        return
    helps = next((c for c in _changes(inventory, load, layout, gpu) if _fits(inventory, c[1], c[2], gpu)), None)
    advice = f"{helps[0]} fits" if helps else f"no layout of up to {MOST_GPUS} GPUs fits; shorten the sequence"
    raise ValueError(
        f"{inventory.config.name} needs {needed / 1e9:.1f} GB on each {name} with sharding {layout.sharding}, "
        f"checkpointing {layout.checkpointing} and a micro-batch of {load.micro_batch}, "
        f"but {gpu.usable_bytes / 1e9:.1f} of {gpu.memory_bytes / 1e9:.0f} GB can be used; {advice}"
    )


def _option(inventory: Inventory, load: Load, layout: Layout, gpu: Gpu) -> Option:
    why = fault(inventory.config, layout)
    if why is not None:
        return Option(layout, None, 0, why)
    memory = device_memory(inventory, load, layout)
    return Option(layout, memory, most_sequences(inventory, load, layout, gpu.usable_bytes), None)


def _fits(inventory: Inventory, load: Load, layout: Layout, gpu: Gpu) -> bool:
    return fault(inventory.config, layout) is None and device_memory(inventory, load, layout).total <= gpu.usable_bytes


def _changes(inventory: Inventory, load: Load, layout: Layout, gpu: Gpu) -> Iterator[tuple[str, Load, Layout]]:
    """What could be changed, what costs least first: nothing, time, links between GPUs, more GPUs."""
    chunked = replace(layout, whole_logits=False)
    if layout.whole_logits:
        yield "computing logits in chunks", load, chunked
    fewer = most_sequences(inventory, load, chunked, gpu.usable_bytes)
    if 1 <= fewer < load.micro_batch:
        yield f"a micro-batch of {fewer}", replace(load, micro_batch=fewer), chunked
    rest = CHECKPOINTINGS[CHECKPOINTINGS.index(layout.checkpointing) + 1 :]
    for checkpointing in rest:
        yield f"checkpointing {checkpointing}", load, replace(chunked, checkpointing=checkpointing)
    for sharding in SHARDINGS[1:]:
        yield f"sharding {sharding}", load, replace(chunked, sharding=sharding)
    least = replace(load, micro_batch=1), replace(chunked, checkpointing="full")
    with_least = "with checkpointing full and a micro-batch of 1"
    for sharding in SHARDINGS:
        yield f"sharding {sharding} {with_least}", least[0], replace(least[1], sharding=sharding)
    gpus = layout.gpus
    while (gpus := 2 * gpus) <= MOST_GPUS:
        yield f"sharding fsdp over {gpus} GPUs {with_least}", least[0], replace(least[1], sharding="fsdp", gpus=gpus)
