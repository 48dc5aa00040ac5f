"""Linear layers with 8-bit and 4-bit weights, for reading fewer bytes a token.

`Int8Linear`: one scale an output, activations rounded to int8 row by row, whole-number sums.
`Int4Linear`: one scale and one zero point a group of inputs, activations untouched (weight-only).
Legend: R rows, I input features, O output features, G groups of inputs.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kosmos.transformer.kernels.memory import use_large_pages
from kosmos.transformer.kernels.products import load_products
from kosmos.transformer.linear import Linear

__all__ = ["GROUP", "Int4Linear", "Int8Linear", "QuantizeMode", "quantize", "stored_bytes"]

QuantizeMode = Literal["int4", "int8"]
GROUP = 32  # inputs that share a 4-bit scale
NARROW_HEAD = 512  # inputs; below, an output head is never stored in 4 bits
OUTPUT_MULTIPLE = 16  # torch's 4-bit product wants outputs in such multiples
OUTPUTS_AT_A_TIME = 4096  # bounds the memory of fitting a large head
SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8)  # ranges tried for each group; clipping a little often rounds the rest better


class Int8Linear(nn.Module):
    """A frozen linear layer with int8 weights and dynamically rounded activations."""

    values_OI: Tensor
    scale_O: Tensor
    sum_O: Tensor
    bias_O: Tensor | None

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        wide_OI = weight_OI.detach().float()
        scale_O = (wide_OI.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
        values_OI = (wide_OI / scale_O[:, None]).round_().clamp_(-127, 127).to(torch.int8)
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
    """A frozen linear layer with packed 4-bit weights: value = (q - 8) * scale + zero, q in 0..15."""

    packed: Tensor
    scale_and_zero_GO2: Tensor
    bias_O: Tensor | None

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        self.num_out, self.num_in = weight_OI.shape
        padding = (0, -self.num_in % GROUP, 0, -self.num_out % OUTPUT_MULTIPLE)
        parts = F.pad(weight_OI.detach(), padding).split(OUTPUTS_AT_A_TIME)
        fitted = [_fit_groups(part.float()) for part in parts]
        quarters_OI = torch.cat([quarters for quarters, _, _ in fitted])
        scale_GO, zero_GO = (torch.cat([part[index] for part in fitted], dim=1) for index in (1, 2))
        self.register_buffer("packed", torch._convert_weight_to_int4pack_for_cpu(quarters_OI, 1))
        self.register_buffer("scale_and_zero_GO2", torch.stack([scale_GO, zero_GO], dim=-1).contiguous())
        self.register_buffer("bias_O", None if bias_O is None else bias_O.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        x_RI = F.pad(x.reshape(-1, x.shape[-1]).float(), (0, -self.num_in % GROUP))
        out_RO: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x_RI, self.packed, GROUP, self.scale_and_zero_GO2)
        out_RO = out_RO[:, : self.num_out]
        out_RO = out_RO if self.bias_O is None else out_RO + self.bias_O
        return out_RO.to(x.dtype).reshape(*x.shape[:-1], -1)


def quantize(module: nn.Module, mode: QuantizeMode) -> None:
    """Replace every `Linear` inside `module` by a quantised one; embeddings, norms and everything else stay.

    A head that is tied to an embedding gets its own 8- or 4-bit copy, while the lookup keeps the table; a narrow head
    has 8 bits in either mode, since it decides between words and rounds too coarsely in 4 (docs/training.md).
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


def _fit_groups(weight_OI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per group: the range that gives the least squared error, then q int32 [O, I], scale [G, O], zero [G, O]."""
    grouped = weight_OI.unflatten(1, (-1, GROUP))
    low, high = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
    middle, half = (low + high) / 2, (high - low) / 2
    best_error = torch.full_like(middle, torch.inf)
    best_scale, best_quarters = torch.ones_like(middle), torch.zeros_like(grouped)
    for shrink in SHRINKS:
        scale = (half * (2 * shrink / 15)).clamp_min(1e-8)
        quarters = ((grouped - middle) / scale + 7.5).round_().clamp_(0, 15)
        error = ((quarters - 7.5) * scale + middle - grouped).square_().sum(-1, keepdim=True)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale = torch.where(better, scale, best_scale)
        best_quarters = torch.where(better, quarters, best_quarters)
    zero = middle + 0.5 * best_scale  # (q - 7.5) * scale + middle, written around 8
    flat = best_quarters.flatten(1).to(torch.int32)
    return flat, best_scale.squeeze(-1).t().contiguous(), zero.squeeze(-1).t().contiguous()
