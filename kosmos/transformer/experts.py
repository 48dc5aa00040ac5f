"""Experts: many feed-forwards in the place of one, of which each row uses the few its router chooses.

Source: X-MoE (arXiv 2204.09179). One expert is exactly the dense feed-forward of `feedforward.py`; what a row gets does
not depend on its neighbours, as long as none is dropped for lack of room. Legend: R rows, D width, F feed-forward
width, E experts, K choices of a row, S choices that are sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from kosmos.transformer.config import ExpertsConfig, Initialisation, LayerShape
from kosmos.transformer.dispatch import dispatch
from kosmos.transformer.expert_products import Stack, by_groups, by_tiles, groups_suit
from kosmos.transformer.expert_slices import by_slices
from kosmos.transformer.gradient_room import GradientRoom
from kosmos.transformer.linear import DETERMINISTIC_ROWS
from kosmos.transformer.routing import ROUTERS, Routing, balance_total, route

__all__ = ["BalanceSum", "Exchange", "Experts", "StackedLinear", "StackedNorm", "balance_losses", "experts_of"]


class StackedLinear(nn.Module):
    """Weights of one linear layer for each expert; `Experts` multiplies."""

    def __init__(self, num_experts: int, num_in: int, num_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, num_out, num_in))
        self.bias = nn.Parameter(torch.empty(num_experts, num_out))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Each expert by itself, as `nn.Linear` starts."""
        bound = self.weight.shape[-1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)


class StackedNorm(nn.Module):
    """Scale and shift of one LayerNorm for each expert."""

    def __init__(self, num_experts: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_experts, width))
        self.bias = nn.Parameter(torch.zeros(num_experts, width))

    def reset_parameters(self) -> None:
        """Scale 1, shift 0."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)


class Exchange(Protocol):
    """Carries sorted rows to the ranks that hold their experts, and the outputs back."""

    def __call__(self, x_SD: Tensor, counts_E: Tensor, multiply: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """[S, D] -> [S, D]; `multiply` takes rows sorted by this rank's experts and their counts."""
        ...


class Experts(nn.Module):
    """x -> sum over the chosen experts of gate * W2 norm(gelu(W1 x)).

    Attributes:
        last: what the last forward decided.
        deterministic: each row's result has the same bits whatever rows come with it.
        exchange: set where experts are split over ranks.
        room: where gradients of experts are written.
    """

    deterministic: bool = False

    def __init__(self, shape: LayerShape, experts: ExpertsConfig) -> None:
        super().__init__()
        self.config = experts
        self.router = ROUTERS[experts.router](shape.width, experts)
        self.fc1 = StackedLinear(experts.num_experts, shape.width, shape.ffn_width)
        self.norm = StackedNorm(experts.num_experts, shape.ffn_width) if shape.norms == "subln" else None
        self.fc2 = StackedLinear(experts.num_experts, shape.ffn_width, shape.width)
        self.norm_eps, self.activation_dropout = shape.layer_norm_eps, shape.activation_dropout
        self.last: Routing | None = None
        self.exchange: Exchange | None = None
        self.room = GradientRoom()

    @torch.no_grad()
    def initialise(self, gain: float, rule: Initialisation) -> None:
        """Draw each expert as `initialisation.py` draws a dense feed-forward, the router by its own rule."""
        for linear in (self.fc1, self.fc2):
            if rule == "magneto":
                for weight_OI in linear.weight:
                    nn.init.xavier_normal_(weight_OI, gain=gain)
                nn.init.zeros_(linear.bias)
            else:
                linear.reset_parameters()
                linear.weight.mul_(gain)
                linear.bias.mul_(gain)
        self.router.reset_parameters()

    def forward(self, x_RD: Tensor, kinds_R: Tensor | None = None) -> Tensor:
        """[R, D] -> [R, D]; `kinds_R` is ignored: experts are chosen by what a row holds."""
        device = x_RD.device.type
        if torch.is_autocast_enabled(device):
            x_RD = x_RD.to(torch.get_autocast_dtype(device))
        with torch.autocast(device, enabled=False):
            tile = DETERMINISTIC_ROWS if self.deterministic else None
            routing = route(self.router, x_RD, self.config, tile=tile)
            sent = dispatch(routing.experts_RK, routing.sent_RK, self.config.num_experts, self._capacity(len(x_RD)))
            gates_RK = routing.gates_RK * sent.sent_RK
            if self.config.unit_gates:
                gates_RK = gates_RK / gates_RK.detach().sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
            overflow = routing.sent_RK.sum() - sent.counts_E.sum()
            self.last = replace(routing, gates_RK=gates_RK.detach(), sent_RK=sent.sent_RK, overflow=overflow)
            x_SD = sent.spread(x_RD)
            if self.exchange is None:
                out_SD = self._multiply(x_SD, sent.counts_E)
            else:
                out_SD = self.exchange(x_SD, sent.counts_E, self._multiply)
            return sent.gather(out_SD, gates_RK)

    def _capacity(self, num_rows: int) -> int | None:
        """Choices an expert takes of `num_rows` rows; None where none is dropped, as always outside training."""
        factor = self.config.capacity_factor
        if factor is None or not self.training:
            return None
        return math.ceil(factor * num_rows * self.config.top_k / self.config.num_experts)

    def _multiply(self, x_SD: Tensor, counts_E: Tensor) -> Tensor:
        """The experts that are here over rows sorted by them."""
        stack, dropout = self.stack(), self.activation_dropout if self.training else 0.0
        if self.deterministic:
            return by_tiles(x_SD, counts_E.tolist(), stack, eps=self.norm_eps, dropout=dropout)
        if x_SD.is_cuda and groups_suit(x_SD, stack):
            return by_groups(x_SD, counts_E, stack, eps=self.norm_eps, dropout=dropout)
        return by_slices(x_SD, counts_E.tolist(), stack, eps=self.norm_eps, dropout=dropout, room=self.room)

    def stack(self) -> Stack:
        """Parameters of the experts that this rank holds."""
        scale_EF, shift_EF = (None, None) if self.norm is None else (self.norm.weight, self.norm.bias)
        parts = (self.fc1.weight, self.fc1.bias, scale_EF, shift_EF, self.fc2.weight, self.fc2.bias)
        return Stack(*(part.to_local() if isinstance(part, DTensor) else part for part in parts))  # type: ignore[arg-type]

    def __getstate__(self) -> dict[str, object]:
        """Without the last forward, whose tensors hang on a graph and cannot be copied, and with room of its own."""
        return self.__dict__ | {"last": None, "room": GradientRoom()}


@dataclass(frozen=True)
class BalanceSum:
    """The balance loss before division, as a training objective adds losses.

    Attributes:
        total: the loss times rows, summed over rows and layers, with its gradient.
        count: rows, summed over layers: total / count is 1 where experts share evenly.
        weight: of this loss beside the task's.
    """

    total: Tensor
    count: float
    weight: float


def experts_of(module: nn.Module) -> list[Experts]:
    """Every sparse layer inside `module`."""
    return [part for part in module.modules() if isinstance(part, Experts)]


def balance_losses(module: nn.Module) -> BalanceSum:
    """The balance loss of the last forward of every sparse layer inside `module`.

    While training together, ranks add up their counts first (one message), so all must call this at the same step.

    Raises: ValueError if there is no sparse layer, one has not run, or they differ in weight.
    """
    layers = experts_of(module)
    lasts = [layer.last for layer in layers if layer.last is not None]
    weights = {layer.config.balance_weight for layer in layers}
    if not layers or len(lasts) < len(layers) or len(weights) > 1:
        raise ValueError(
            f"{len(layers)} sparse layers, of which {len(lasts)} have run, with balance weights {sorted(weights)};"
            " run the model before asking for its balance loss, and give all layers one weight"
        )
    counts = _over_ranks([last.counts_E for last in lasts], together=module.training)
    totals = [
        balance_total(last.scores_RE, counts_E, last.balance_temperature)
        for last, counts_E in zip(lasts, counts, strict=True)
    ]
    return BalanceSum(torch.stack(totals).sum(), float(sum(len(last.scores_RE) for last in lasts)), weights.pop())


def _over_ranks(counts: list[Tensor], *, together: bool) -> list[Tensor]:
    """Counts summed over all ranks; what one rank counted, where it is alone or not training."""
    if not together or not dist.is_initialized() or dist.get_world_size() == 1:
        return counts
    message = torch.cat(counts)
    dist.all_reduce(message)
    return list(message.split([len(part) for part in counts]))
