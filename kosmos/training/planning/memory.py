"""Memory of one device while it trains: what stays from step to step, what a step adds, for each way to share it out.

AdamW (arXiv 1711.05101) in float32: weights, gradients and two moments of four bytes each; under bfloat16 the float32
weights are the master copy and products read a cast one. FSDP (arXiv 2304.11277) shares all of it out over devices and
gathers a block when its turn comes; HSDP does so inside a node; tensor parallelism splits the matrices and inner norms
of the decoder's blocks. Knows nothing of devices and of what fits (`plan.py`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

from kosmos.config import KosmosConfig
from kosmos.training.cross_entropy import rows_at_once
from kosmos.training.planning.activations import Checkpointing, Load, NumberFormat, sequence_activations
from kosmos.training.planning.inventory import Inventory, ParameterSize

__all__ = [
    "NODE",
    "SHARDINGS",
    "Layout",
    "Memory",
    "Sharding",
    "device_memory",
    "fault",
    "most_sequences",
]

Sharding = Literal["ddp", "fsdp", "hsdp", "tp2", "tp4", "tp8"]
SHARDINGS: tuple[Sharding, ...] = ("ddp", "fsdp", "hsdp", "tp2", "tp4", "tp8")
NODE = 8  # GPUs joined by fast links; HSDP shares out inside a node
NUMBER = 4  # bytes of float32
MOMENTS = 2
STEP = 4  # AdamW's count of steps, one float32 a tensor
GATHERED_BLOCKS = 2  # the one at work and the next, fetched ahead
MOST = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a run lies on its devices.

    Attributes:
        gpus: devices in all.
        whole_logits: of a micro-batch at once; otherwise as many rows as `cross_entropy.py` takes.
        average: a moving average of the trained weights is kept.
    """

    numbers: NumberFormat
    gpus: int = 1
    sharding: Sharding = "ddp"
    checkpointing: Checkpointing = "none"
    whole_logits: bool = False
    average: bool = False

    @property
    def tensor_parallel(self) -> int:
        """Devices that share each matrix of the decoder."""
        return int(self.sharding[2:]) if self.sharding.startswith("tp") else 1

    @property
    def shards(self) -> int:
        """Devices over which weights, gradients and optimiser are shared out."""
        return {"fsdp": self.gpus, "hsdp": min(self.gpus, NODE)}.get(self.sharding, 1)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one device at the peak of a step.

    Attributes:
        weights: float32, the optimiser's master copy under bfloat16.
        working: weights cast for products or gathered from other devices, and a gathered block's gradients.
        optimiser: AdamW's moments and step counts.
        average: the moving average of the weights.
        activations: kept from forward to backward.
        recomputed: of the block whose forward is done again.
        logits: of the loss; gone before blocks are recomputed.
    """

    weights: float
    working: float
    gradients: float
    optimiser: float
    average: float
    activations: float
    recomputed: float
    logits: float

    @property
    def total(self) -> float:
        """The peak: logits and recomputed blocks are never there together."""
        state = self.weights + self.working + self.gradients + self.optimiser + self.average
        return state + self.activations + max(self.recomputed, self.logits)


def fault(config: KosmosConfig, layout: Layout) -> str | None:
    """Why these devices cannot be used so, or None."""
    parallel, decoder = layout.tensor_parallel, config.decoder
    if layout.gpus % parallel:
        return f"needs a multiple of {parallel} GPUs"
    if decoder.num_heads % parallel or decoder.ffn_width % parallel:
        return f"{decoder.num_heads} heads and a feed-forward of {decoder.ffn_width} do not divide by {parallel}"
    if layout.sharding == "hsdp" and (layout.gpus <= NODE or layout.gpus % NODE):
        return f"needs several whole nodes of {NODE} GPUs"
    return None


def device_memory(inventory: Inventory, load: Load, layout: Layout) -> Memory:
    """The peak of one device, in bytes."""
    every = _numbers(inventory.parameters, layout)
    trained = [p for p in inventory.parameters if p.trained]
    learning = _numbers(trained, layout)
    one = sequence_activations(
        inventory,
        load,
        layout.numbers,
        layout.checkpointing,
        tensor_parallel=layout.tensor_parallel,
        whole_logits=layout.whole_logits,
    )
    rows = one.asked_rows * load.micro_batch
    if not layout.whole_logits:
        rows = min(rows, rows_at_once(inventory.config.decoder.vocab_size))
    return Memory(
        weights=NUMBER * every,
        working=_working(inventory, layout),
        gradients=NUMBER * learning,
        optimiser=MOMENTS * NUMBER * learning + STEP * len(trained),
        average=NUMBER * learning if layout.average else 0,
        activations=one.kept * load.micro_batch,
        recomputed=one.recomputed * load.micro_batch,
        logits=rows * one.logits_row,
    )


def most_sequences(inventory: Inventory, load: Load, layout: Layout, room: float) -> int:
    """The largest micro-batch whose peak is within `room` bytes; 0 if none is."""

    def fits(count: int) -> bool:
        return device_memory(inventory, replace(load, micro_batch=count), layout).total <= room

    good, bad = 0, 1
    while bad <= MOST and fits(bad):
        good, bad = bad, 2 * bad
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def _numbers(parameters: list[ParameterSize] | tuple[ParameterSize, ...], layout: Layout) -> float:
    """Numbers of these parameters that lie on one device."""
    parallel = layout.tensor_parallel
    return sum(p.numel / (parallel if p.split else 1) for p in parameters) / layout.shards


def _working(inventory: Inventory, layout: Layout) -> float:
    """Bytes of cast or gathered weights, and of the gradients of a gathered block."""
    if layout.shards == 1:
        trained = [p for p in inventory.parameters if p.trained]
        return layout.numbers.compute * _numbers(trained, layout) if layout.numbers.mixed else 0.0
    blocks: Counter[int] = Counter()
    outside = 0
    for parameter in inventory.parameters:
        if parameter.block is None:
            outside += parameter.numel
        else:
            blocks[parameter.block] += parameter.numel
    largest = max(blocks.values())
    return layout.numbers.compute * (outside + GATHERED_BLOCKS * largest) + NUMBER * largest
