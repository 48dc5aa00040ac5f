"""How fast training runs: tokens and pictures a second, model FLOPs utilisation (MFU), what a step takes in all.

MFU is the FLOPs of the batches that were really computed, by the formulas of `planning/flops.py`, over what the devices
could do at their peak: no padding, no recomputation, a frozen tower forward only. The peak of a GPU is its data
sheet's; that of a CPU is measured once, as the best of a few square products on this process' threads.
Rows of pictures count as tokens, as in the recipes. Legend: R rows.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import median

import torch

from kosmos.packed import Packed
from kosmos.training.planning.activations import Load
from kosmos.training.planning.flops import sequence_flops
from kosmos.training.planning.gpus import GPUS
from kosmos.training.planning.inventory import EyeShape, Inventory
from kosmos.training.recipe import LoraRecipe

__all__ = ["BatchFlops", "Throughput", "Work", "matrix_rate", "peak_rate"]

WARM_UP_STEPS = 2  # the first steps allocate, and compile
RECENT_STEPS = 50
FORWARD_AND_BACKWARD = 3  # products of a product; two where its matrix is frozen
RACE_WIDTHS, RACE_SECONDS, RACE_ROUNDS = (256, 512, 1024), 0.25, 3
OTHER_MODELS = {"pcie", "nvl", "mig"}  # boards and slices whose rate is not that of the module in the table
NO_EYE = EyeShape(flops=0, mlp_width=0, trained_layers=0, whole=False)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one process computed: rows, pictures' rows included; pictures; FLOPs forward and backward."""

    tokens: int = 0
    images: int = 0
    flops: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            tokens=self.tokens + other.tokens, images=self.images + other.images, flops=self.flops + other.flops
        )


class BatchFlops:
    """FLOPs of packed batches of one model, forward and backward."""

    def __init__(self, inventory: Inventory, lora: LoraRecipe | None = None) -> None:
        """
        Args:
            inventory: of the model, with what trains of its tower.
            lora: with a rank above 0, frozen matrices have no gradient of their own; adapters' products, of some
                percent, are left out.
        """
        self._inventory, self._lora = inventory, lora is not None and lora.rank > 0
        self._of_length: dict[int, float] = {}
        decoder = inventory.config.decoder
        self._asked_row = self._backward_too(2 * decoder.vocab_size * decoder.width)
        trains = not self._lora or (lora is not None and lora.resampler)
        eye = replace(inventory.eye, trained_layers=0, whole=False) if self._lora else inventory.eye
        self._picture = _picture(replace(inventory, eye=eye), trains=trains)
        self._features = _picture(replace(inventory, eye=NO_EYE), trains=trains)

    def work(self, batches: Iterable[Mapping[str, object]]) -> Work:
        """Of a step's batches; what is not packed rows counts as nothing."""
        packed = [part for batch in batches for part in batch.values() if isinstance(part, Packed)]
        return sum((self.of(part) for part in packed), Work())

    def of(self, packed: Packed) -> Work:
        """Of one forward and backward pass.

        A batch that brings features ran no tower, one that brings latents no resampler either.
        """
        images = 0 if packed.image_rows is None else packed.image_rows.shape[0]
        picture = self._picture if packed.pixels is not None else self._features if packed.features is not None else 0.0
        asked = 0 if packed.loss_weight is None else int(torch.count_nonzero(packed.loss_weight))
        rows = sum(self._sequence(length) for length in packed.lengths)
        return Work(tokens=sum(packed.lengths), images=images, flops=rows + asked * self._asked_row + images * picture)

    def _sequence(self, length: int) -> float:
        """The decoder's blocks over one sequence."""
        if length not in self._of_length:
            flops = sequence_flops(self._inventory, Load(rows=length, pictures=0))
            self._of_length[length] = self._backward_too(flops.blocks) + FORWARD_AND_BACKWARD * flops.attention
        return self._of_length[length]

    def _backward_too(self, forward: float) -> float:
        return (FORWARD_AND_BACKWARD - self._lora) * forward


class Throughput:
    """Figures of speed from the steps of one process, whose steps take as long as those of all others."""

    def __init__(
        self,
        *,
        shares: int = 1,
        devices: int = 1,
        peak: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """
        Args:
            shares: processes with batches of their own, each as much work as this one's.
            devices: all of them, also those that share a batch.
            peak: FLOP/s of one; None leaves out the MFU.
        """
        self._shares, self._devices, self._peak, self._clock = shares, devices, peak, clock
        self._recent: deque[tuple[float, Work]] = deque(maxlen=RECENT_STEPS)
        self._steps, self._pauses = 0, 0.0
        self._last: float | None = None

    def step(self, work: Work, seconds: float) -> dict[str, float]:
        """Take in a step that ends now and took so long; returns the figures so far, rates as medians of recent steps.

        Time between steps (validation, saving) is in `seconds_per_step` alone, from which a run's end is reckoned. The
        first steps are in no rate.
        """
        now = self._clock()
        if self._last is not None:
            self._pauses += max(0.0, now - self._last - seconds)
        self._last = now
        self._steps += 1
        if self._steps <= WARM_UP_STEPS:
            return {"seconds_per_step": seconds}
        self._recent.append((max(seconds, 1e-9), work))
        return {**self._rates(), "seconds_per_step": self._typical() + self._pauses / (self._steps - 1)}

    def _typical(self) -> float:
        return median(seconds for seconds, _ in self._recent)

    def _rates(self) -> dict[str, float]:
        def rate(amount: Callable[[Work], float]) -> float:
            return self._shares * median(amount(work) / seconds for seconds, work in self._recent)

        figures = {"tokens_per_s": rate(lambda work: work.tokens)}
        if any(work.images for _, work in self._recent):
            figures["images_per_s"] = rate(lambda work: work.images)
        if self._peak and any(work.flops for _, work in self._recent):
            figures["mfu"] = rate(lambda work: work.flops) / (self._devices * self._peak)
        return figures


def peak_rate(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOP/s of one device at best, or None where nobody knows: a GPU that is not in the table, or not in bfloat16."""
    if device.type == "cpu":
        return matrix_rate(dtype)
    if device.type != "cuda" or dtype != torch.bfloat16:
        return None
    words = set(re.split(r"[^a-z0-9]+", torch.cuda.get_device_name(device).lower()))
    found = next((gpu for name, gpu in GPUS.items() if name in words and not words & OTHER_MODELS), None)
    return found.flops if found else None


def matrix_rate(dtype: torch.dtype) -> float:
    """FLOP/s of square products on this process' threads: the best of some rounds, a second in all.

    A CPU without a unit for `dtype` can be a thousand times slower than one with it; then the small squares decide.
    """
    rates = []
    for width in RACE_WIDTHS:
        seconds = _best_seconds(width, dtype)
        rates.append(2 * width**3 / seconds)
        if seconds > RACE_SECONDS:
            break
    return max(rates)


def _best_seconds(width: int, dtype: torch.dtype) -> float:
    square = torch.ones(width, width, dtype=dtype)
    found: list[float] = []
    while len(found) <= RACE_ROUNDS or sum(found) < RACE_SECONDS:
        begun = time.perf_counter()
        torch.mm(square, square)
        found.append(time.perf_counter() - begun)
        if found[-1] > RACE_SECONDS:
            return found[-1]
    return min(found[1:])  # the first one warms up


def _picture(inventory: Inventory, *, trains: bool) -> float:
    """One picture through tower and resampler; where nothing of them trains, forward alone."""
    flops = sequence_flops(inventory, Load(rows=0, pictures=1))
    return flops.forward + (flops.backward if trains else 0.0)
