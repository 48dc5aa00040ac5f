"""Where a block's norms stand: before a sublayer, behind its residual, and for Sub-LN once more inside it.

Sources: Foundation Transformers (arXiv 2210.06423, equations 1 to 5) for Sub-LN, DeepNet (arXiv 2203.00555)
for DeepNorm. A further arrangement is a line of `PLACEMENTS` and one of the tables in `initialisation.py`.
Legend: R rows, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from kosmos.transformer.config import Norms

__all__ = ["PLACEMENTS", "Add", "Placement", "Sublayer", "after", "before"]

Sublayer = Callable[[Tensor], Tensor]
Add = Callable[[Tensor, Tensor], Tensor]
"""How a sublayer's result is added to the stream: with dropout, in training."""


class Placement(NamedTuple):
    """One arrangement of norms.

    Attributes:
        residual: (x_RD, norm, sublayer, alpha, add) -> x_RD, how a sublayer's result joins the stream.
        inner: (width, eps) -> what stands before the output projection of self-attention and before W2.
        last: (width, eps) -> what stands behind the last block.
    """

    residual: Callable[[Tensor, nn.Module, Sublayer, float, Add], Tensor]
    inner: Callable[[int, float], nn.Module]
    last: Callable[[int, float], nn.Module]


def before(x_RD: Tensor, norm: nn.Module, sublayer: Sublayer, alpha: float, add: Add) -> Tensor:
    """x + f(norm(x)); the stream itself is never scaled, so `alpha` is 1."""
    return add(x_RD, sublayer(norm(x_RD)))


def after(x_RD: Tensor, norm: nn.Module, sublayer: Sublayer, alpha: float, add: Add) -> Tensor:
    """norm(alpha x + f(x))."""
    joined_RD: Tensor = norm(add(alpha * x_RD, sublayer(x_RD)))
    return joined_RD


def _norm(width: int, eps: float) -> nn.Module:
    return nn.LayerNorm(width, eps=eps)


def _nothing(width: int, eps: float) -> nn.Module:
    return nn.Identity()


PLACEMENTS: dict[Norms, Placement] = {
    "subln": Placement(residual=before, inner=_norm, last=_norm),
    "pre": Placement(residual=before, inner=_nothing, last=_norm),
    "post": Placement(residual=after, inner=_nothing, last=_nothing),
    "deepnorm": Placement(residual=after, inner=_nothing, last=_nothing),
}
