"""GPUs to plan for: memory and dense bfloat16 rate as their vendors' data sheets print them, plain values."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GPUS", "USABLE", "Gpu"]

USABLE = 0.9  # of the memory: the rest is the driver's context, NCCL's buffers and fragments between blocks


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One device.

    Attributes:
        memory_bytes: decimal, as printed.
        flops: bfloat16 matrix products with float32 sums, FLOP/s, without sparsity.
    """

    memory_bytes: float
    flops: float

    @property
    def usable_bytes(self) -> float:
        """What a plan may fill."""
        return USABLE * self.memory_bytes


GPUS = {
    "a100": Gpu(memory_bytes=80e9, flops=312e12),  # NVIDIA A100 data sheet, A100 80GB SXM
    "h100": Gpu(memory_bytes=80e9, flops=989.4e12),  # NVIDIA H100 data sheet, H100 SXM: 1,979 with sparsity
    "h200": Gpu(memory_bytes=141e9, flops=989.4e12),  # NVIDIA H200 data sheet, H200 SXM: 1,979 with sparsity
    "b200": Gpu(memory_bytes=180e9, flops=2250e12),  # NVIDIA DGX B200 data sheet: 8 GPUs, 1,440 GB, 36 PFLOPS sparse
    "mi300x": Gpu(memory_bytes=192e9, flops=1307.4e12),  # AMD Instinct MI300X data sheet, peak bfloat16
}
