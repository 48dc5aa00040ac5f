"""Which number formats a model computes with on this machine: found by a short race at load, not by processor names.

Two questions are kept apart. The eye and long prompts are arithmetic: which of fp32 and bf16 multiplies faster?
Decoding is reading: which stored format of the decoder's matrices comes out of memory faster?
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from kosmos.transformer.kernels.memory import use_large_pages
from kosmos.transformer.kernels.plan import Method, ProductPlan, multiply, probe_bf16_plan, race
from kosmos.transformer.kernels.products import load_products
from kosmos.transformer.linear import Linear, set_plan

__all__ = ["Dtypes", "Requested", "choose_dtypes", "store_weights"]

Requested = Literal["auto", "float32", "bfloat16"]
SECONDS_EACH = 0.1
WORTH_ROUNDING = 1.2  # bf16 drops 16 bits of every number, so it must clearly win
CACHE_SIZED_BYTES = 64 << 20  # fp32 weights up to this much mostly stay in the processor's caches: nothing to win


@dataclass(frozen=True, kw_only=True)
class Dtypes:
    """Formats of one loaded model.

    Attributes:
        tower: the eye's and the resampler's weights and arithmetic.
        hidden: the decoder's activations, norms and cache.
        weights: the decoder's matrices and embedding table, as stored.
        plan: products for matrices in bf16; None when they are fp32 or on another device than the CPU.
    """

    tower: torch.dtype
    hidden: torch.dtype
    weights: torch.dtype
    plan: ProductPlan | None = None


def choose_dtypes(
    requested: Requested = "auto", *, weight_bytes: int | None = None, device: torch.device | str = "cpu"
) -> Dtypes:
    """Formats for a model on this machine.

    Args:
        requested: `float32` is fp32 everywhere, `bfloat16` stores the decoder in bf16; `auto` decides both by a race.
        weight_bytes: of the decoder in fp32, bytes; small decoders stay fp32 under `auto`. None: assume a large one.
    Raises: ValueError for another request.
    """
    if requested not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"unknown dtype {requested!r}; known: auto, float32, bfloat16")
    if torch.device(device).type != "cpu":
        chosen = torch.float32 if requested == "float32" else torch.bfloat16
        return Dtypes(tower=chosen, hidden=chosen, weights=chosen)
    small = weight_bytes is not None and weight_bytes <= CACHE_SIZED_BYTES
    if requested == "float32" or (requested == "auto" and (small or not _reads_faster_in_bf16())):
        tower = torch.bfloat16 if requested == "auto" and not small and _multiplies_faster_in_bf16() else torch.float32
        return Dtypes(tower=tower, hidden=torch.float32, weights=torch.float32)
    tower = torch.bfloat16 if _multiplies_faster_in_bf16() else torch.float32
    return Dtypes(tower=tower, hidden=torch.float32, weights=torch.bfloat16, plan=probe_bf16_plan())


def store_weights(decoder: nn.Module, dtypes: Dtypes) -> None:
    """Cast a decoder in place: matrices and embedding tables to `weights`, all else to `hidden`; set the plan.

    Tensors that are tied stay tied.
    """
    matrices = {id(part.weight) for part in decoder.modules() if isinstance(part, Linear | nn.Embedding)}
    for tensor in (*decoder.parameters(), *decoder.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtypes.weights if id(tensor) in matrices else dtypes.hidden)
    set_plan(decoder, dtypes.plan)
    use_large_pages(decoder)


@functools.cache
def _multiplies_faster_in_bf16() -> bool:
    """At the shape of an eye: 257 patches of a width of 1024, widened four times."""
    x_RI, weight_OI = torch.ones(257, 1024), torch.full((4096, 1024), 0.01)
    (in_fp32,) = race([functools.partial(F.linear, x_RI)], [weight_OI], SECONDS_EACH)
    (in_bf16,) = race([functools.partial(F.linear, x_RI.bfloat16())], [weight_OI.bfloat16()], SECONDS_EACH)
    return in_bf16 * WORTH_ROUNDING < in_fp32


@functools.cache
def _reads_faster_in_bf16() -> bool:
    """One row, weights that no cache holds."""
    x_RI, wide = torch.ones(1, 2048), torch.full((8, 4096, 2048), 0.01)
    method: Method = "widen" if load_products() else "torch"
    (in_fp32,) = race([functools.partial(F.linear, x_RI)], list(wide), SECONDS_EACH)
    (in_bf16,) = race([lambda weight: multiply(method, x_RI, weight, None)], list(wide.bfloat16()), SECONDS_EACH)
    return in_bf16 * WORTH_ROUNDING < in_fp32
