"""Upcycling: a sparse model that starts as a trained dense one, every expert a copy of the dense feed-forward.

Source: sparse upcycling (arXiv 2212.05055). Copies give the dense output only if a row's gates weigh 1 in total, so the
sparse model needs `unit_gates`: gates are divided by their sum, which counts as a constant. A single gate is then 1 for
good, and its gradient that of its logarithm: the router learns which copy to prefer.
"""

from __future__ import annotations

import torch
from torch import nn

from kosmos.transformer.experts import experts_of

__all__ = ["upcycle"]


@torch.no_grad()
def upcycle(sparse: nn.Module, dense: nn.Module) -> None:
    """Fill `sparse` from `dense`, a model of the same shape without experts, in place; routers keep their start.

    Raises: ValueError if a sparse layer lacks `unit_gates`, or the shapes are not those of one model.
    """
    layers = experts_of(sparse)
    if not layers or not all(layer.config.unit_gates for layer in layers):
        raise ValueError("copies of a feed-forward give its output only if their gates weigh 1; set unit_gates=True")
    routers = {id(tensor) for layer in layers for tensor in layer.router.parameters()}
    known = dict(dense.state_dict())
    for name, tensor in sparse.state_dict(keep_vars=True).items():
        if id(tensor) in routers:
            continue
        value = known.pop(name, None)
        if value is None or value.shape not in (tensor.shape, tensor.shape[1:]):
            found = "nothing" if value is None else tuple(value.shape)
            raise ValueError(
                f"{name} is {tuple(tensor.shape)} here and {found} in the dense model; give one of its shape"
            )
        tensor.copy_(value.expand_as(tensor))
    if known:
        raise ValueError(f"the dense model also has {sorted(known)[:5]}; give one of the same shape")
