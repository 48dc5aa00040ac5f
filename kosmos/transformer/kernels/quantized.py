"""Linear layers with 8-bit and 4-bit weights, for reading fewer bytes a token.

`Int8Linear`: one scale an output, activations rounded to int8 row by row, whole-number sums.
`Int4Linear`: one scale and one zero point a group of inputs, activations untouched (weight-only).
Legend: R rows, I input features, O output features, G groups of inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kosmos.transformer.kernels.memory import use_large_pages
from kosmos.transformer.kernels.products import GROUP, load_products
from kosmos.transformer.linear import Linear

__all__ = ["Int4Linear", "Int8Linear", "QuantizeMode", "quantize", "stored_bytes"]

QuantizeMode = Literal["int4", "int8"]
NARROW_HEAD = 512  # inputs; below, an output head is never stored in 4 bits
OUTPUT_MULTIPLE = 16  # torch's 4-bit product wants outputs in such multiples
WEIGHTS_AT_A_TIME = 1 << 18  # rounded together: they and what is made of them stay in a processor's cache
SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8)  # ranges tried for each group; clipping a little often rounds the rest better


class Int8Linear(nn.Module):
    """A frozen linear layer with int8 weights and dynamically rounded activations."""

    values_OI: Tensor
    scale_O: Tensor
    sum_O: Tensor
    bias_O: Tensor | None

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        values_OI, scale_O = torch.empty(weight_OI.shape, dtype=torch.int8), torch.empty(len(weight_OI))
        for rows in _row_slices(weight_OI):
            wide_OI = weight_OI[rows].detach().float()
            scale_O[rows] = (wide_OI.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
            values_OI[rows] = (wide_OI / scale_O[rows, None]).round_().clamp_(-127, 127)
        self.register_buffer("values_OI", values_OI)
        self.register_buffer("scale_O", scale_O)
        self.register_buffer("sum_O", values_OI.sum(1, dtype=torch.int32))
        self.register_buffer("bias_O", None if bias_O is None else bias_O.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        products = load_products()
        if products is not None and x.device.type == "cpu":
            return products.int8(x, self.values_OI, self.scale_O, self.sum_O, self.bias_O)
        return self.by_torch(x)

    def by_torch(self, x: Tensor) -> Tensor:
        """The same product in torch's own operations, for machines without the compiled one."""
        x_RI = x.reshape(-1, x.shape[-1]).float()
        step_R = x_RI.abs().amax(1, keepdim=True) / 127
        whole_RI = (x_RI / step_R.clamp_min(torch.finfo(torch.float32).tiny)).round_().to(torch.int8)
        sums_RO = torch._int_mm(whole_RI, self.values_OI.t())
        out_RO = sums_RO.float() * step_R * self.scale_O
        out_RO = out_RO if self.bias_O is None else out_RO + self.bias_O
        return out_RO.to(x.dtype).reshape(*x.shape[:-1], -1)


class Int4Linear(nn.Module):
    """A frozen linear layer with packed 4-bit weights: value = q * scale + base, q in 0..15.

    The layout is that of the compiled product where there is one, else that of torch's own.
    """

    packed: Tensor
    steps: Tensor
    bias_O: Tensor | None

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        self.num_out, self.num_in = weight_OI.shape
        self.compiled = load_products() is not None and weight_OI.device.type == "cpu"
        pack = _pack_for_compiled if self.compiled else _pack_for_torch
        packed, steps = pack(*_fit(weight_OI.detach()))
        self.register_buffer("packed", packed)
        self.register_buffer("steps", steps)
        self.register_buffer("bias_O", None if bias_O is None else bias_O.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        products = load_products() if self.compiled else None
        if products is not None:
            return products.int4(x, self.packed, self.steps, self.bias_O)
        x_RI = F.pad(x.reshape(-1, x.shape[-1]).float(), (0, -self.num_in % GROUP))
        out_RO: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x_RI, self.packed, GROUP, self.steps)
        out_RO = out_RO[:, : self.num_out]
        out_RO = out_RO if self.bias_O is None else out_RO + self.bias_O
        return out_RO.to(x.dtype).reshape(*x.shape[:-1], -1)


def quantize(module: nn.Module, mode: QuantizeMode) -> None:
    """Replace every `Linear` inside `module` by a quantised one; embeddings, norms and everything else stay.

    A head that is tied to an embedding gets its own 8- or 4-bit copy, while the lookup keeps the table; a narrow head
    has 8 bits in either mode, since it decides between words and rounds too coarsely in 4 (docs/models/tiny.md).
    Raises: ValueError for an unknown mode.
    """
    if mode not in ("int4", "int8"):
        raise ValueError(f"unknown quantisation {mode!r}; known: int4, int8")
    kind = Int4Linear if mode == "int4" else Int8Linear
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Linear):
                narrow_head = name == "head" and child.in_features < NARROW_HEAD
                with torch.no_grad():
                    setattr(parent, name, (Int8Linear if narrow_head else kind)(child.weight, child.bias))
    use_large_pages(module)


def stored_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers; tensors that are shared count once."""
    tensors = {tensor.data_ptr(): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _row_slices(weight_OI: Tensor) -> Iterator[slice]:
    """Outputs to round together."""
    at_a_time = max(WEIGHTS_AT_A_TIME // max(weight_OI.shape[1], 1), 1)
    for start in range(0, weight_OI.shape[0], at_a_time):
        yield slice(start, start + at_a_time)


def _fit(weight_OI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """4-bit values uint8 [O, G, 32] with the scale and base [O, G] of each group; inputs are padded with zeros."""
    num_out, num_in = weight_OI.shape
    num_groups = -(-num_in // GROUP)
    values_OGI = torch.empty(num_out, num_groups, GROUP, dtype=torch.uint8)
    scale_OG, base_OG = torch.empty(2, num_out, num_groups)
    for rows in _row_slices(weight_OI):
        padded_OI = F.pad(weight_OI[rows].float(), (0, -num_in % GROUP))
        values_OGI[rows], scale_OG[rows], base_OG[rows] = _fit_groups(padded_OI.unflatten(1, (-1, GROUP)))
    return values_OGI, scale_OG, base_OG


def _fit_groups(grouped_OGI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each group the range that gives the least squared error; scale and base are bf16 numbers, as stored."""
    low, high = grouped_OGI.aminmax(dim=-1, keepdim=True)
    middle, half = (low + high) / 2, (high - low) / 2
    best_error = torch.full_like(middle, torch.inf)
    best_scale, best_base = torch.ones_like(middle), torch.zeros_like(middle)
    for shrink in SHRINKS:
        scale = (half * (2 * shrink / 15)).clamp_min(1e-8).bfloat16().float()
        base = (middle - 7.5 * scale).bfloat16().float()
        error = (_steps(grouped_OGI, scale, base).mul_(scale).add_(base).sub_(grouped_OGI)).square_().sum(-1, True)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale, best_base = torch.where(better, scale, best_scale), torch.where(better, base, best_base)
    values_OGI = _steps(grouped_OGI, best_scale, best_base).to(torch.uint8)
    return values_OGI, best_scale.squeeze(-1), best_base.squeeze(-1)


def _steps(grouped_OGI: Tensor, scale: Tensor, base: Tensor) -> Tensor:
    return ((grouped_OGI - base) / scale).round_().clamp_(0, 15)


def _pack_for_compiled(values_OGI: Tensor, scale_OG: Tensor, base_OG: Tensor) -> tuple[Tensor, Tensor]:
    """As `Products.int4` wants it."""
    low, high = values_OGI.chunk(2, dim=-1)
    steps_OG2 = torch.stack([base_OG, scale_OG], dim=-1).bfloat16()  # the second is the upper half of a word
    return (low | high << 4).flatten(1), steps_OG2.view(torch.int32).squeeze(-1)


def _pack_for_torch(values_OGI: Tensor, scale_OG: Tensor, base_OG: Tensor) -> tuple[Tensor, Tensor]:
    """As torch's own 4-bit product wants it: outputs in multiples of 16, bases counted from 8."""
    rows = (0, -len(values_OGI) % OUTPUT_MULTIPLE)
    values_OI = F.pad(values_OGI.flatten(1), (0, 0, *rows)).to(torch.int32)
    steps_OG2 = torch.stack([scale_OG, base_OG + 8 * scale_OG], dim=-1)
    steps_GO2 = F.pad(steps_OG2, (0, 0, 0, 0, *rows)).transpose(0, 1).contiguous()
    return torch._convert_weight_to_int4pack_for_cpu(values_OI, 1), steps_GO2
