"""Expert parallelism: experts split over the ranks of a mesh; rows travel to their experts and back (all-to-all).

Source: GShard (arXiv 2006.16668). Together, ranks compute what one process computes over all their rows: an expert's
gradient is whole on the rank that holds it, the router's and everything else's is each rank's share, to be added up.
Legend: S sorted rows, D width, E experts, L experts of this rank, P ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from kosmos.transformer.experts import Experts, experts_of

__all__ = ["MeshExchange", "join_experts", "split_experts", "split_parameters"]


class MeshExchange:
    """Sends sorted rows to the ranks that hold their experts."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self.group = mesh.get_group()
        self.size = mesh.size()

    def __call__(self, x_SD: Tensor, counts_E: Tensor, multiply: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """[S, D] -> [S, D]; every rank of the mesh must call, with rows or without."""
        sent_PL = counts_E.reshape(self.size, -1)
        taken_PL = torch.empty_like(sent_PL)
        dist.all_to_all_single(taken_PL, sent_PL.contiguous(), group=self.group)
        sent, taken = sent_PL.sum(1).tolist(), taken_PL.sum(1).tolist()
        arrived_SD = _AllToAll.apply(x_SD, sent, taken, self.group)
        order = _by_expert(taken_PL)
        out_SD = multiply(arrived_SD.index_select(0, order), taken_PL.sum(0))
        back_SD = torch.empty_like(out_SD).index_copy(0, order, out_SD)
        returned_SD: Tensor = _AllToAll.apply(back_SD, taken, sent, self.group)
        return returned_SD


def split_experts(module: nn.Module, mesh: DeviceMesh) -> None:
    """Leave on each rank of a one-dimensional `mesh` its share of the experts of every sparse layer, in place.

    Parameters become DTensors, `Shard(0)`; rank 0's values count. A capacity is then one of each rank's own rows.

    Raises: ValueError if the experts do not divide evenly.
    """
    for experts in experts_of(module):
        if experts.config.num_experts % mesh.size():
            raise ValueError(f"{experts.config.num_experts} experts do not divide over {mesh.size()} ranks")
        for part, name, parameter in list(_stacked(experts)):
            split = distribute_tensor(parameter.detach(), mesh, [Shard(0)])
            setattr(part, name, nn.Parameter(split, requires_grad=parameter.requires_grad))
        experts.exchange = MeshExchange(mesh)


def join_experts(module: nn.Module) -> None:
    """Bring all experts back to every rank, in place; all ranks must call."""
    for experts in experts_of(module):
        for part, name, parameter in list(_stacked(experts)):
            if isinstance(parameter, DTensor):
                whole = cast(DTensor, parameter.detach()).full_tensor()
                setattr(part, name, nn.Parameter(whole, requires_grad=parameter.requires_grad))
        experts.exchange = None


def split_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Parameters whose gradient is whole on their rank and must not be added up over the mesh."""
    return [
        parameter
        for experts in experts_of(module)
        for _, _, parameter in _stacked(experts)
        if isinstance(parameter, DTensor)
    ]


def _stacked(experts: Experts) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    for part in (experts.fc1, experts.norm, experts.fc2):
        if part is not None:
            for name, parameter in part.named_parameters(recurse=False):
                yield part, name, parameter


def _by_expert(taken_PL: Tensor) -> Tensor:
    """Order of rows that arrived rank after rank, each sorted by expert, that sorts all of them by expert."""
    experts_PL = torch.arange(taken_PL.shape[1], device=taken_PL.device).expand_as(taken_PL)
    return torch.argsort(experts_PL.reshape(-1).repeat_interleave(taken_PL.reshape(-1)), stable=True)


class _AllToAll(torch.autograd.Function):
    """Rows to ranks by the counts `sent`, from ranks by `taken`; gradients travel the other way."""

    @staticmethod
    def forward(ctx: Any, x_SD: Tensor, sent: list[int], taken: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.sent, ctx.taken, ctx.group = sent, taken, group
        return _exchange(x_SD, sent, taken, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_SD: Tensor) -> tuple[Tensor | None, ...]:
        return _exchange(grad_SD, ctx.taken, ctx.sent, ctx.group), None, None, None


def _exchange(x_SD: Tensor, sent: list[int], taken: list[int], group: dist.ProcessGroup) -> Tensor:
    out_SD = x_SD.new_empty(sum(taken), x_SD.shape[1])
    dist.all_to_all_single(out_SD, x_SD.contiguous(), taken, sent, group=group)
    return out_SD
