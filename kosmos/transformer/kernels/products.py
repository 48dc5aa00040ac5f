"""Tensors in, tensors out: calls into the compiled products.

Legend: R rows of activations, I input features, O output features.
Every sum runs over I in one fixed order, so a row's result does not depend on how many rows come with it.
"""

from __future__ import annotations

import ctypes
import functools
import logging

import torch
from torch import Tensor

from kosmos.transformer.kernels.build import load_library

__all__ = ["Products", "load_products"]

log = logging.getLogger(__name__)

POINTER, INT, LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_long
ACTIVATIONS = (torch.float32, torch.bfloat16)


class Products:
    """The compiled library behind a typed face; only whole, contiguous CPU tensors enter it."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._bf16 = library.kosmos_linear_bf16
        self._bf16.argtypes = [POINTER, INT, POINTER, POINTER, INT, POINTER, INT, LONG, LONG, LONG, INT]
        self._int8 = library.kosmos_linear_int8
        self._int8.argtypes = [POINTER, INT, *[POINTER] * 4, INT, POINTER, INT, LONG, LONG, LONG]
        self.methods = ("widen", "dpbf16")[: library.kosmos_methods()]

    def bf16(self, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, method: str) -> Tensor:
        """[..., I] fp32 or bf16 times a bf16 weight; returns [..., O] in the dtype of x.

        Args:
            method: `widen` turns weights to fp32 in registers (exact products); `dpbf16` rounds x to bf16 and uses the
                processor's bf16 dot product.
        """
        x, out = _in_and_out(x, weight_OI.shape[0])
        rows = x.numel() // weight_OI.shape[1] if weight_OI.shape[1] else 0
        failed = self._bf16(
            *_pointer_and_kind(x),
            weight_OI.data_ptr(),
            *_pointer_and_kind(bias_O),
            *_pointer_and_kind(out),
            rows,
            *weight_OI.shape,
            self.methods.index(method),
        )
        if failed:
            raise MemoryError(
                f"no memory to rearrange {rows} rows of {weight_OI.shape[1]} activations; give fewer rows"
            )
        return out

    def int8(self, x: Tensor, weight_OI: Tensor, scale_O: Tensor, sum_O: Tensor, bias_O: Tensor | None) -> Tensor:
        """[..., I] times an int8 weight; each row of x is rounded to int8 with its own scale.

        Args:
            scale_O: fp32, the value of one step of each output's weights.
            sum_O: int32, sum of each output's int8 weights.
        """
        x, out = _in_and_out(x, weight_OI.shape[0])
        rows = x.numel() // weight_OI.shape[1] if weight_OI.shape[1] else 0
        failed = self._int8(
            *_pointer_and_kind(x),
            weight_OI.data_ptr(),
            scale_O.data_ptr(),
            sum_O.data_ptr(),
            *_pointer_and_kind(bias_O),
            *_pointer_and_kind(out),
            rows,
            *weight_OI.shape,
        )
        if failed:
            raise MemoryError(
                f"no memory to rearrange {rows} rows of {weight_OI.shape[1]} activations; give fewer rows"
            )
        return out


@functools.cache
def load_products() -> Products | None:
    """The compiled products if this machine can have them and they multiply rightly; otherwise None."""
    library = load_library()
    if library is None:
        return None
    products = Products(library)
    if not _multiply_rightly(products):
        log.warning("compiled products give wrong results on this machine and are off; torch's are used")
        return None
    return products


def _in_and_out(x: Tensor, num_out: int) -> tuple[Tensor, Tensor]:
    if x.dtype not in ACTIVATIONS or x.device.type != "cpu":
        raise TypeError(f"compiled products take fp32 or bf16 on the cpu, not {x.dtype} on {x.device}")
    return x.contiguous(), x.new_empty(*x.shape[:-1], num_out)


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
