"""How one model lies on many devices: copies, shares of its weights (FSDP2, HSDP), shares of its matrices.

Sources: PyTorch FSDP (arXiv 2304.11277), its hybrid of shares within a node and copies across; `tensor_parallel.py`.
Gradients are sums over devices, never means: the loop divides once, by the targets of all. A mesh has three axes,
replica x shard x tensor; devices along the last see the same rows, all others see rows of their own.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast  # Any: what a block is called with

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from kosmos.model import KosmosModel
from kosmos.training.activation_checkpointing import checkpoint_blocks
from kosmos.training.distributed import Launch
from kosmos.training.recipe import ComputeRecipe, ParallelRecipe
from kosmos.training.tensor_parallel import split_decoder
from kosmos.transformer.attention import AttentionContext
from kosmos.transformer.block import Beside

__all__ = ["ALONE", "Layout", "Parallel", "lay_out", "share_out"]

ItemT = TypeVar("ItemT")
NUMBERS_AT_ONCE = 1 << 26  # of one message: 256 MB in fp32 beside the gradients, not a second set of them


@dataclass(frozen=True)
class Parallel:
    """This process among those that train one model.

    Attributes:
        rank, ranks: whose share of the batches this is, of how many; devices that split matrices share one.
        first: this process writes logs.
        group: the processes with other shares of the batches; None: all.
        root: the objective, where its weights are DTensors and add up their gradients themselves.
    """

    rank: int = 0
    ranks: int = 1
    first: bool = True
    group: dist.ProcessGroup | None = None
    root: FSDPModule | None = None

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Replace plain tensors by their sums over the shares of the batches, in as few messages as may be."""
        if self.ranks == 1:
            return
        for parts in _messages(tensors):
            message = torch.cat([part.reshape(-1) for part in parts])
            dist.all_reduce(message, group=self.group)
            for part, summed in zip(parts, message.split([part.numel() for part in parts]), strict=True):
                part.copy_(summed.view_as(part))

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Gradients of one part of a step; with the `last`, weights that are shared out add theirs over devices."""
        if self.root is not None:
            self.root.set_requires_gradient_sync(last)
            self.root.set_is_last_backward(last)
        loss.backward()

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """After the last backward: each `.grad` becomes the sum over the shares of the batches, where it is not yet."""
        plain = [parameter.grad for parameter in parameters if not isinstance(parameter, DTensor)]
        self.add([gradient for gradient in plain if gradient is not None])

    def gradient_norm(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """2-norm of all gradients together, over every device's shares; a plain fp32 scalar, equal everywhere."""
        shares: defaultdict[tuple[dist.ProcessGroup, ...], list[Tensor]] = defaultdict(list)
        for parameter in parameters:
            if parameter.grad is not None:
                groups, own = _share(parameter.grad)
                shares[groups].append(own)
        squares = []
        for groups, parts in shares.items():
            norms = torch.stack(torch._foreach_norm(parts, 2, dtype=torch.float32))
            square = norms.square().sum()
            for group in groups:
                dist.all_reduce(square, group=group)
            squares.append(square)
        return torch.stack(squares).sum().sqrt() if squares else torch.zeros(())

    def gathered(self, item: ItemT) -> list[ItemT]:
        """What each share of the batches hands in, in their order; plain values."""
        if self.ranks == 1:
            return [item]
        items: list[ItemT] = [item] * self.ranks
        dist.all_gather_object(items, item, group=self.group)
        return items


ALONE = Parallel()


class Layout(NamedTuple):
    """Axes of a mesh, by their sizes: whole copies, shares of weights, shares of each matrix."""

    replicas: int
    shards: int
    tensor: int

    @property
    def shared(self) -> bool:
        """Whether anything is not on every device."""
        return self.shards > 1 or self.tensor > 1


def lay_out(recipe: ParallelRecipe, ranks: int, local_ranks: int) -> Layout:
    """How so many devices share a model.

    Args:
        local_ranks: devices of a node, as the launcher says; the recipe's `node` goes before.
    Raises: ValueError for numbers that do not divide, and `hsdp` on one node.
    """
    tensor = recipe.tensor_parallel
    if ranks % tensor:
        raise ValueError(
            f"tensor_parallel={tensor} on {ranks} devices: they do not divide; start a multiple of {tensor} processes"
            " with torchrun, or give another tensor_parallel"
        )
    if recipe.sharding == "ddp":
        return Layout(ranks // tensor, 1, tensor)
    if recipe.sharding == "fsdp":
        return Layout(1, ranks // tensor, tensor)
    node = recipe.node or local_ranks
    if ranks % node or ranks == node:
        raise ValueError(
            f"sharding hsdp on {ranks} devices in nodes of {node}: it needs several whole nodes; take fsdp, or say by"
            " node how many devices share the weights"
        )
    if node % tensor:
        raise ValueError(f"tensor_parallel={tensor} does not divide a node of {node} devices; give one that does")
    return Layout(ranks // node, node // tensor, tensor)


def share_out(
    objective: nn.Module, recipe: ParallelRecipe, compute: ComputeRecipe, here: Launch | None = None
) -> Parallel:
    """Lay `objective`, which holds a Kosmos as `.model`, on the devices of this launch, in place.

    Blocks also get what `compute` says of checkpointing and compiling. Weights of rank 0 count. Weights that are shared
    out become DTensors under their old names; all devices must then call `objective` equally often, whether their rows
    have pictures or not.

    Args:
        here: what the launcher says; on several devices `joined` must have been entered.
    Raises: ValueError for a recipe that does not fit the devices or the model.
    """
    here = here or Launch()
    model = cast(KosmosModel, objective.model)
    layout = lay_out(recipe, here.ranks, here.local_ranks)
    device = next(model.parameters()).device
    _broadcast(model, here.ranks)
    mesh = _mesh(layout, device) if layout.shared else None
    if mesh is not None and layout.tensor > 1:
        split_decoder(model.decoder, mesh["tensor"])
        # Weights split twice over one axis are brought together in two steps, of which it would warn at every save.
        logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
    if compute.compile:
        _compile(model.decoder.blocks)
    checkpoint_blocks(model.decoder.blocks, compute.checkpointing)
    ranks = here.ranks // layout.tensor
    if mesh is None:
        return Parallel(rank=here.rank, ranks=ranks, first=here.rank == 0)
    root = _shard(objective, model, mesh, _policy(compute, device))
    return Parallel(
        rank=here.rank // layout.tensor,
        ranks=ranks,
        first=here.rank == 0,
        group=_data_group(mesh) if layout.tensor > 1 else None,
        root=root,
    )


def _messages(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one kind together, cut where a message is long enough."""
    kinds: defaultdict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        kinds[tensor.device, tensor.dtype].append(tensor)
    for parts in kinds.values():
        start, numbers = 0, 0
        for place, part in enumerate(parts):
            if place > start and numbers + part.numel() > NUMBERS_AT_ONCE:
                yield parts[start:place]
                start, numbers = place, 0
            numbers += part.numel()
        yield parts[start:]


def _share(gradient: Tensor) -> tuple[tuple[dist.ProcessGroup, ...], Tensor]:
    """The groups over which a gradient is split, and this device's share of it."""
    if not isinstance(gradient, DTensor):
        return (), gradient
    mesh = gradient.device_mesh
    split = [axis for axis, placement in enumerate(gradient.placements) if not placement.is_replicate()]
    return tuple(mesh.get_group(axis) for axis in split if mesh.size(axis) > 1), gradient.to_local()


@torch.no_grad()
def _broadcast(model: nn.Module, ranks: int) -> None:
    """Every device begins with the numbers of rank 0."""
    if ranks > 1:
        for tensor in (*model.parameters(), *model.buffers()):
            if not tensor.is_meta:
                dist.broadcast(tensor.data, src=0)


def _mesh(layout: Layout, device: torch.device) -> DeviceMesh:
    kind = "cpu" if device.type == "meta" else device.type
    return init_device_mesh(kind, tuple(layout), mesh_dim_names=("replica", "shard", "tensor"))


def _data_group(mesh: DeviceMesh) -> dist.ProcessGroup | None:
    """Devices that stand at the same place of the tensor axis, in order."""
    columns = [mesh.mesh[..., place].flatten().tolist() for place in range(mesh.size(2))]
    group, _ = dist.new_subgroups_by_enumeration(columns)
    return cast("dist.ProcessGroup | None", group)


def _policy(compute: ComputeRecipe, device: torch.device) -> MixedPrecisionPolicy:
    """On a GPU in bfloat16 weights are gathered and multiplied in it; elsewhere autocast does what is to be done."""
    if device.type == "cuda" and compute.precision != "float32":
        return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return MixedPrecisionPolicy()


def _shard(objective: nn.Module, model: KosmosModel, mesh: DeviceMesh, policy: MixedPrecisionPolicy) -> FSDPModule:
    """Units of FSDP: each block, and with the root all else: embedding and head, tied, tower and resampler.

    The root gathers for its forward, in which all of these are read, and adds its gradients after all others: rows
    without a picture pass the tower by, and devices that gathered or added in another order than others would wait for
    ever. It gives up what it gathered as blocks do: it would keep old values where weights are exchanged between two
    forwards. Numbers that stand alone, such as a router's temperature, stay whole on every device.
    """
    # One copy a row of the mesh is FSDP; several are HSDP, which with shares of 1 is data parallelism on DTensors.
    data = mesh["shard"] if mesh.size(0) == 1 else mesh["replica", "shard"]
    blocks = list(model.decoder.blocks)
    alone = {parameter for parameter in objective.parameters() if parameter.ndim == 0}
    for block in blocks:
        fully_shard(block, mesh=data, mp_policy=policy, reshard_after_forward=True, ignored_params=alone)
    # Weights of targets are counts; they are not to be rounded with the rows.
    inputs = MixedPrecisionPolicy(policy.param_dtype, policy.reduce_dtype, cast_forward_inputs=False)
    root = fully_shard(objective, mesh=data, mp_policy=inputs, reshard_after_forward=True, ignored_params=alone)
    for part in objective.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # other reductions that divide by 1 are NCCL's own
    root.set_reduce_scatter_unused_params(True)  # those of the eye, where rows have no picture
    if mesh.device_type == "cuda":
        _prefetch(root, cast("Sequence[FSDPModule]", blocks))
    return root


def _prefetch(root: FSDPModule, blocks: Sequence[FSDPModule]) -> None:
    """While one block computes, the next is gathered."""
    for before, after in zip((root, *blocks), blocks, strict=False):
        before.set_modules_to_forward_prefetch([after])
    for before, after in zip(blocks[1:], blocks, strict=False):
        before.set_modules_to_backward_prefetch([after])


class _Outside:
    """A context whose attention stays out of the compiler: what it plans with changes with every batch."""

    def __init__(self, context: AttentionContext, attend: Callable[..., Tensor]) -> None:
        self.context, self.outside = context, attend

    def attend(self, *args: Any) -> Tensor:
        return self.outside(self.context, *args)


def _compile(blocks: Iterable[nn.Module]) -> None:
    """Each block by torch.compile, all but its attention."""
    attend = torch.compiler.disable(_attend)
    for block in blocks:
        setattr(block, "forward", _compiled(block.forward, attend))  # noqa: B010  (a method, as typing sees it)


def _compiled(forward: Callable[..., Tensor], attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
    fast = torch.compile(forward)

    def call(x_RD: Tensor, layer: int, context: AttentionContext, beside: Beside = Beside()) -> Tensor:  # noqa: B008
        return fast(x_RD, layer, _Outside(context, attend), beside)

    return call


def _attend(context: AttentionContext, *args: Any) -> Tensor:
    return context.attend(*args)
