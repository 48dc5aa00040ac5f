"""Tensor parallelism of a decoder: each device of a group holds a share of every matrix, and all see the same rows.

Source: Megatron-LM (arXiv 1909.08053): queries, keys, values and the first matrix of a feed-forward are split by
columns, the two that follow by rows, so a block adds over the group twice forward and twice backward. Sub-LN (arXiv
2210.06423) has a norm between the two of each pair, over an axis that is split: its statistics are those of all
devices, forward and backward. Embedding, head, and the norms and biases of the stream stay whole.
Dropout draws the same numbers on all devices of a group, also for the heads and features that each has of its own.
Legend: R rows, D width, S share of a split axis, H heads, Q queries, T keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast  # Any: the context that torch hands to an autograd function

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn import functional as F

from kosmos.transformer.block import Block, SelfAttention
from kosmos.transformer.feedforward import FeedForward, Multiway
from kosmos.transformer.linear import Linear
from kosmos.transformer.positions import PositionBias
from kosmos.transformer.stack import Decoder

__all__ = ["ColumnLinear", "RowLinear", "SplitNorm", "split_decoder"]


def split_decoder(decoder: Decoder, mesh: DeviceMesh) -> None:
    """Leave on each device of a one-dimensional `mesh` its share of every block, in place; names stay.

    Split parameters become DTensors. All devices must hold the same values before.

    Raises: ValueError for heads or features that do not divide, sparse layers, layers with adapters, and decoders that
        read a memory.
    """
    _check(decoder, mesh.size())
    for block in _blocks(decoder):
        _split_attention(block.attention, mesh)
        for feedforward in _feedforwards(block):
            _split_feedforward(feedforward, mesh)


class ColumnLinear(nn.Module):
    """This device's output features of a `Linear`: whole rows in, a share of each row out."""

    def __init__(self, whole: Linear, mesh: DeviceMesh) -> None:
        super().__init__()
        self.weight, self.bias = _share(whole.weight, mesh, 0), _share(whole.bias, mesh, 0)

    def forward(self, x_RD: Tensor) -> Tensor:
        """[R, D] -> [R, S]."""
        return F.linear(x_RD, _alike(x_RD, self.weight), _alike(x_RD, self.bias))


class RowLinear(nn.Module):
    """This device's input features of a `Linear`: a share of each row in, whole rows out, the bias added once."""

    def __init__(self, whole: Linear, mesh: DeviceMesh) -> None:
        super().__init__()
        self.weight, self.bias = _share(whole.weight, mesh, 1), whole.bias
        self.group = mesh.get_group()

    def forward(self, x_RS: Tensor) -> Tensor:
        """[R, S] -> [R, D]."""
        out_RD: Tensor = _Leave.apply(F.linear(x_RS, _alike(x_RS, self.weight)), self.group)
        return out_RD if self.bias is None else out_RD + self.bias.to(out_RD.dtype)


class SplitNorm(nn.Module):
    """LayerNorm over an axis that is split: mean and variance are those of whole rows, scale and shift are shares."""

    def __init__(self, whole: nn.LayerNorm, mesh: DeviceMesh) -> None:
        super().__init__()
        self.weight, self.bias = _share(whole.weight, mesh, 0), _share(whole.bias, mesh, 0)
        self.eps, self.group = whole.eps, mesh.get_group()

    def forward(self, x_RS: Tensor) -> Tensor:
        """[R, S] -> [R, S], computed in fp32 or better."""
        normed_RS: Tensor = _Normalise.apply(x_RS, _local(self.weight), _local(self.bias), self.eps, self.group)
        return normed_RS


def _check(decoder: Decoder, size: int) -> None:
    config = decoder.config
    for name, count in (("heads", config.num_heads), ("features of a feed-forward", config.ffn_width)):
        if count % size:
            raise ValueError(
                f"{count} {name} do not divide over {size} devices; give a tensor_parallel that divides"
                f" {config.num_heads} heads and {config.ffn_width} features"
            )
    if decoder.encoder_layers:
        raise ValueError("tensor parallelism splits no cross-attention; give tensor_parallel=1")
    for layer, block in enumerate(_blocks(decoder)):
        for feedforward in _feedforwards(block):
            if not isinstance(feedforward, FeedForward):
                raise ValueError(
                    f"layer {layer} is sparse, and tensor parallelism splits dense feed-forwards only; give"
                    " tensor_parallel=1"
                )
        parts = [part for part in block.modules() if hasattr(part, "base_layer")]
        if parts:
            raise ValueError(
                f"layer {layer} has adapters, which tensor parallelism does not split; give tensor_parallel=1"
            )


def _blocks(decoder: Decoder) -> Iterator[Block]:
    return (block for block in decoder.blocks if isinstance(block, Block))


def _feedforwards(block: Block) -> list[nn.Module]:
    """Dense ones, where they are dense."""
    inner = block.feedforward
    return list(inner.modalities) if isinstance(inner, Multiway) else [inner]


def _split_attention(attention: SelfAttention, mesh: DeviceMesh) -> None:
    _replace(attention, mesh, columns=("q_proj", "k_proj", "v_proj"), rows="out_proj")
    attention.num_heads //= mesh.size()
    group, heads = mesh.get_group(), attention.num_heads
    own = slice(mesh.get_local_rank() * heads, (mesh.get_local_rank() + 1) * heads)

    def enter(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x_RD, layer, context, bias = args
        return _Enter.apply(x_RD, group), layer, context, None if bias is None else _of_heads(bias, own, group)

    attention.register_forward_pre_hook(enter)


def _split_feedforward(feedforward: nn.Module, mesh: DeviceMesh) -> None:
    _replace(feedforward, mesh, columns=("fc1",), rows="fc2")
    group = mesh.get_group()

    def enter(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return _Enter.apply(args[0], group), *args[1:]

    feedforward.register_forward_pre_hook(enter)


def _replace(module: nn.Module, mesh: DeviceMesh, *, columns: tuple[str, ...], rows: str) -> None:
    for name in columns:
        setattr(module, name, ColumnLinear(cast(Linear, getattr(module, name)), mesh))
    setattr(module, rows, RowLinear(cast(Linear, getattr(module, rows)), mesh))
    norm = getattr(module, "norm")  # noqa: B009  (a module's type does not say that it has one)
    if isinstance(norm, nn.LayerNorm):
        setattr(module, "norm", SplitNorm(norm, mesh))  # noqa: B010


def _of_heads(bias: PositionBias, own: slice, group: dist.ProcessGroup) -> PositionBias:
    def shares(query_positions: Tensor, key_positions: Tensor) -> Tensor:
        scores_HQT: Tensor = _Enter.apply(bias(query_positions, key_positions), group)
        return scores_HQT[own]

    return shares


def _share(parameter: Tensor | None, mesh: DeviceMesh, axis: int) -> nn.Parameter | None:
    """Every device has the same values, so nothing is sent."""
    if parameter is None:
        return None
    split = distribute_tensor(parameter.detach(), mesh, [Shard(axis)], src_data_rank=None)
    return nn.Parameter(split, requires_grad=parameter.requires_grad)


def _local(parameter: Tensor | None) -> Any:
    """The values of this device."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def _alike(x: Tensor, parameter: Tensor | None) -> Any:
    """The values of this device, in the dtype of x."""
    return None if parameter is None else _local(parameter).to(x.dtype)


class _Enter(torch.autograd.Function):
    """Rows go to all devices as they are; what the devices make of them adds up on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _summed(grad, ctx.group), None


class _Leave(torch.autograd.Function):
    """Shares of a sum become the sum; on the way back its gradient is every share's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        return _summed(x, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_RS: Tensor, scale_S: Tensor, shift_S: Tensor, eps: float, group: dist.ProcessGroup
    ) -> Tensor:
        wide_RS = _wide(x_RS)
        mean_R, variance_R = _statistics(wide_RS, group)
        inverse_R = torch.rsqrt(variance_R + eps)
        ctx.save_for_backward(x_RS, scale_S, mean_R, inverse_R)
        ctx.group = group
        normed_RS = (wide_RS - mean_R[:, None]) * inverse_R[:, None]
        return (normed_RS * scale_S + shift_S).to(x_RS.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RS: Tensor) -> tuple[Tensor | None, ...]:
        x_RS, scale_S, mean_R, inverse_R = ctx.saved_tensors
        normed_RS = (_wide(x_RS) - mean_R[:, None]) * inverse_R[:, None]
        wide_RS = _wide(grad_RS)
        slope_RS = wide_RS * scale_S
        mean_R, variance_R = _statistics_of_slopes(slope_RS, normed_RS, ctx.group)
        through_RS = (slope_RS - mean_R[:, None] - normed_RS * variance_R[:, None]) * inverse_R[:, None]
        scale, shift = (wide_RS * normed_RS).sum(0), wide_RS.sum(0)
        return through_RS.to(x_RS.dtype), scale.to(scale_S.dtype), shift.to(scale_S.dtype), None, None


def _statistics(x_RS: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """Mean and variance [R] of rows whose equal shares lie on the devices of a group.

    Shares of mean and variance are gathered and not sums of squares, which cancel where the mean is large.
    """
    variance_R, mean_R = torch.var_mean(x_RS, dim=-1, correction=0)
    own_2R = torch.stack([mean_R, variance_R])
    gathered = own_2R.new_empty(group.size() * 2, x_RS.shape[0])
    dist.all_gather_into_tensor(gathered, own_2R, group=group)
    means_PR, variances_PR = gathered.view(group.size(), 2, -1).unbind(1)
    mean_R = means_PR.mean(0)
    return mean_R, variances_PR.mean(0) + (means_PR - mean_R).square().mean(0)


def _statistics_of_slopes(slope_RS: Tensor, normed_RS: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """What reaches a row through its mean and through its variance [R]: means over all devices."""
    sums_2R = _summed(torch.stack([slope_RS.sum(-1), (slope_RS * normed_RS).sum(-1)]), group)
    mean_R, variance_R = (sums_2R / (slope_RS.shape[-1] * group.size())).unbind()
    return mean_R, variance_R


def _summed(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
