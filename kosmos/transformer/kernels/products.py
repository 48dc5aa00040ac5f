"""Tensors in, tensors out: calls into the compiled products.

Legend: R rows of activations, I input features, O output features.
Every sum runs over I in one fixed order, so a row's result does not depend on how many rows come with it.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kosmos.transformer.kernels.build import load_library

__all__ = ["GROUP", "Products", "load_products"]

log = logging.getLogger(__name__)

POINTER, INT, LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_long
ACTIVATIONS = (torch.float32, torch.bfloat16)
GROUP = 32  # inputs that share a 4-bit scale, as in native/int4.cpp


class Products:
    """The compiled library behind a typed face; only whole, contiguous CPU tensors enter it."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._bf16 = library.kosmos_linear_bf16
        self._bf16.argtypes = [POINTER, INT, POINTER, POINTER, INT, POINTER, INT, LONG, LONG, LONG, INT]
        self._fp32 = library.kosmos_linear_fp32
        self._fp32.argtypes = [POINTER, INT, POINTER, POINTER, INT, POINTER, INT, LONG, LONG, LONG]
        self._int8 = library.kosmos_linear_int8
        self._int8.argtypes = [POINTER, INT, *[POINTER] * 4, INT, POINTER, INT, LONG, LONG, LONG]
        self._int4 = library.kosmos_linear_int4
        self._int4.argtypes = [POINTER, INT, *[POINTER] * 3, INT, POINTER, INT, LONG, LONG, LONG]
        self.methods = ("widen", "dpbf16")[: library.kosmos_bf16_methods()]

    def fp32(self, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        """[..., I] fp32 or bf16 times an fp32 weight; returns [..., O] in the dtype of x."""
        return _called(x, self._fp32, weight_OI.shape, [weight_OI], bias_O)

    def bf16(self, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, method: str) -> Tensor:
        """[..., I] fp32 or bf16 times a bf16 weight; returns [..., O] in the dtype of x.

        Args:
            method: `widen` turns weights to fp32 in registers (exact products); `dpbf16` rounds x to bf16 and uses the
                processor's bf16 dot product.
        """
        return _called(x, self._bf16, weight_OI.shape, [weight_OI], bias_O, self.methods.index(method))

    def int8(self, x: Tensor, weight_OI: Tensor, scale_O: Tensor, sum_O: Tensor, bias_O: Tensor | None) -> Tensor:
        """[..., I] times an int8 weight; each row of x is rounded to int8 with its own scale.

        Args:
            scale_O: fp32, the value of one step of each output's weights.
            sum_O: int32, sum of each output's int8 weights.
        """
        return _called(x, self._int8, weight_OI.shape, [weight_OI, scale_O, sum_O], bias_O)

    def int4(self, x: Tensor, packed_OB: Tensor, steps_OG: Tensor, bias_O: Tensor | None) -> Tensor:
        """[..., I] times a 4-bit weight in groups of 32 inputs; activations are not rounded.

        Args:
            packed_OB: uint8, 16 bytes a group: byte j holds value j in its low half and value j + 16 in its high half.
            steps_OG: int32, the bits of a bf16 scale (upper half) and a bf16 base (lower half) a group;
                weight = value * scale + base.
        """
        num_groups = steps_OG.shape[1]
        if -(-x.shape[-1] // GROUP) != num_groups:
            raise ValueError(f"{x.shape[-1]} inputs for a weight of {num_groups} groups of {GROUP}")
        return _called(x, self._int4, (packed_OB.shape[0], x.shape[-1]), [packed_OB, steps_OG], bias_O)


@functools.cache
def load_products() -> Products | None:
    """The compiled products if this machine can have them and they multiply rightly; otherwise None."""
    library = load_library()
    if library is None:
        return None
    products = Products(library)
    with torch.autocast("cpu", enabled=False):
        right = _multiply_rightly(products)
    if not right:
        log.warning("compiled products give wrong results on this machine and are off; torch's are used")
        return None
    return products


def _called(
    x: Tensor,
    product: Callable[..., int],
    shape_OI: Sequence[int],
    weight: Sequence[Tensor],
    bias_O: Tensor | None,
    *rest: int,
) -> Tensor:
    """Call `product` with x, the tensors that make up the weight, bias, result and sizes."""
    if x.dtype not in ACTIVATIONS or x.device.type != "cpu":
        raise TypeError(f"compiled products take fp32 or bf16 on the cpu, not {x.dtype} on {x.device}")
    x, (num_out, num_in) = x.contiguous(), shape_OI
    if x.shape[-1] != num_in:
        raise ValueError(f"{x.shape[-1]} inputs for a weight of {num_in}")
    if bias_O is not None:
        if bias_O.shape != (num_out,) or bias_O.dtype not in ACTIVATIONS:
            raise ValueError(f"a bias of {list(bias_O.shape)} {bias_O.dtype} for {num_out} outputs; give fp32 or bf16")
        bias_O = bias_O.contiguous()
    out = x.new_empty(*x.shape[:-1], num_out)
    if not out.numel():
        return out
    rows = x.numel() // num_in if num_in else 0
    pointers = [part.data_ptr() for part in weight]
    kinds = (*_pointer_and_kind(bias_O), *_pointer_and_kind(out))
    if product(*_pointer_and_kind(x), *pointers, *kinds, rows, num_out, num_in, *rest):
        raise MemoryError(f"no memory to rearrange {rows} rows of {num_in} activations; give fewer rows")
    return out


def _pointer_and_kind(tensor: Tensor | None) -> tuple[int | None, bool]:
    return (None, False) if tensor is None else (tensor.data_ptr(), tensor.dtype == torch.bfloat16)


def _multiply_rightly(products: Products) -> bool:
    x_RI = torch.linspace(-1, 1, 3 * 70).reshape(3, 70)
    weight_OI = torch.linspace(-2, 1.5, 5 * 70).reshape(5, 70).bfloat16()
    wanted_RO = x_RI @ weight_OI.float().T
    for method in products.methods:
        if not torch.allclose(products.bf16(x_RI, weight_OI, None, method), wanted_RO, rtol=0.02, atol=0.2):
            return False
    return True
