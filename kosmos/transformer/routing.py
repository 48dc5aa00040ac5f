"""Routers: which experts a row goes to and how much each one counts. Four of them, one table.

Sources: X-MoE (arXiv 2204.09179, equations 1 to 9) with the constants of the authors' code, Switch (arXiv 2101.03961),
GShard (arXiv 2006.16668), torchscale 0.3.0's own variant of X-MoE. Scores are fp32, whatever the rows are.
Knows nothing of what an expert computes. Legend: R rows, D width, E experts, K choices of a row, W routing width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kosmos.transformer.config import ExpertsConfig
from kosmos.transformer.config import Router as RouterName

__all__ = [
    "ROUTERS",
    "CosineRouter",
    "GShardRouter",
    "Router",
    "Routing",
    "SwitchRouter",
    "TorchscaleRouter",
    "balance_total",
    "choose_experts",
    "route",
]

NORM_EPS = 1e-4  # smallest length a row or an expert is divided by; authors' code
LOWEST_TEMPERATURE = 1e-4  # authors' code
EMBEDDING_GAIN = 0.1  # of the orthogonal expert embeddings at the start; authors' code
FEWEST_FEATURES = 2  # in one feature a cosine is only a sign
TORCHSCALE_WIDTH, TORCHSCALE_GAIN, TORCHSCALE_LENGTH = 16, 0.32, 1.5  # torchscale 0.3.0, routing.py


@dataclass(frozen=True, kw_only=True)
class Routing:
    """What one forward decided.

    Attributes:
        scores_RE: fp32, before any temperature, with their gradient.
        experts_RK: int64, best first; ties went to the lower index.
        gates_RK: fp32, what each chosen expert's output is multiplied by; 0 where it is not sent.
        sent_RK: bool, choices that reach their expert.
        counts_E: int64, choices of each expert that the balance loss counts.
        balance_temperature: of the softmax inside the balance loss; a constant.
        overflow: int64 [], choices dropped because their expert was full.
    """

    scores_RE: Tensor
    experts_RK: Tensor
    gates_RK: Tensor
    sent_RK: Tensor
    counts_E: Tensor
    balance_temperature: float
    overflow: Tensor

    @property
    def loads_E(self) -> Tensor:
        """Rows each expert computed: int64 [E]."""
        return _count(self.experts_RK[self.sent_RK], self.scores_RE.shape[1])

    @property
    def balance(self) -> Tensor:
        """The balance loss of these rows alone, a mean: 1 where experts share evenly, E where one takes all."""
        return balance_total(self.scores_RE, self.counts_E, self.balance_temperature) / max(len(self.scores_RE), 1)


class CosineRouter(nn.Module):
    """X-MoE: rows reduced to a small hypersphere, compared with the experts by their angle alone."""

    def __init__(self, width: int, experts: ExpertsConfig) -> None:
        super().__init__()
        features = experts.routing_width or max(experts.num_experts // 2, FEWEST_FEATURES)
        self.reduction = nn.Parameter(torch.empty(features, width))
        self.experts = nn.Parameter(torch.empty(experts.num_experts, features))
        self.temperature = nn.Parameter(torch.empty(()))
        self.sigmoid = experts.gate == "sigmoid"
        self.start_temperature = self.balance_temperature = experts.temperature
        self.balances_first_choice = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As at the start of training."""
        _fill_like_linear(self.reduction)
        _fill_orthogonal(self.experts, EMBEDDING_GAIN)
        nn.init.constant_(self.temperature, self.start_temperature)

    def forward(self, x_RD: Tensor) -> Tensor:
        """Cosines, fp32: [R, D] -> [R, E] (equation 6)."""
        point_RW = F.normalize(F.linear(x_RD.float(), self.reduction.float()), dim=-1, eps=NORM_EPS)
        return F.linear(point_RW, F.normalize(self.experts.float(), dim=-1, eps=NORM_EPS))

    def weigh(self, scores_RE: Tensor, experts_RK: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gates [R, K] by the learned temperature (equations 2, 3, 7); every choice is sent."""
        sharp_RE = scores_RE / self.temperature.float().clamp(min=LOWEST_TEMPERATURE)
        return _gates(sharp_RE, experts_RK, sigmoid=self.sigmoid), None


class SwitchRouter(nn.Module):
    """Dot products; the gate is the probability itself. The paper's baseline, with softmax or sigmoid."""

    def __init__(self, width: int, experts: ExpertsConfig) -> None:
        super().__init__()
        self.experts = nn.Parameter(torch.empty(experts.num_experts, width))
        self.sigmoid = experts.gate == "sigmoid"
        self.balance_temperature = 1.0
        self.balances_first_choice = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As at the start of training."""
        _fill_like_linear(self.experts)

    def forward(self, x_RD: Tensor) -> Tensor:
        """Dot products, fp32: [R, D] -> [R, E]."""
        return F.linear(x_RD.float(), self.experts.float())

    def weigh(self, scores_RE: Tensor, experts_RK: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gates [R, K]; every choice is sent."""
        return _gates(scores_RE, experts_RK, sigmoid=self.sigmoid), None


class GShardRouter(nn.Module):
    """Dot products; gates sum to 1; in training a later choice g is sent with probability 2 g only."""

    def __init__(self, width: int, experts: ExpertsConfig) -> None:
        super().__init__()
        _check_softmax(experts)
        if experts.top_k < 2:
            raise ValueError("router 'gshard' normalises the gates of a row, so one choice would teach it nothing;"
                             " give top_k 2 or more, or router 'switch'")  # fmt: skip
        self.experts = nn.Parameter(torch.empty(experts.num_experts, width))
        self.balance_temperature = 1.0
        self.balances_first_choice = True
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As at the start of training."""
        _fill_like_linear(self.experts)

    def forward(self, x_RD: Tensor) -> Tensor:
        """Dot products, fp32: [R, D] -> [R, E]."""
        return F.linear(x_RD.float(), self.experts.float())

    def weigh(self, scores_RE: Tensor, experts_RK: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gates [R, K] that sum to 1 before any choice is left out, and which choices are sent."""
        gates_RK = _sum_to_one(_gates(scores_RE, experts_RK, sigmoid=False))
        return gates_RK, _sometimes(gates_RK) if self.training else None


class TorchscaleRouter(nn.Module):
    """torchscale 0.3.0's `use_xmoe`: experts normalised but rows not, no temperature, 16 features for any E.

    Two of its faults are left out: evaluation changes no weight and draws no random number.
    """

    def __init__(self, width: int, experts: ExpertsConfig) -> None:
        super().__init__()
        _check_softmax(experts)
        self.reduction = nn.Parameter(torch.empty(TORCHSCALE_WIDTH, width))
        self.experts = nn.Parameter(torch.empty(experts.num_experts, TORCHSCALE_WIDTH))
        self.balance_temperature = 1.0
        self.balances_first_choice = True
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As at the start of training."""
        _fill_like_linear(self.reduction)
        _fill_orthogonal(self.experts, TORCHSCALE_GAIN)

    def forward(self, x_RD: Tensor) -> Tensor:
        """Length of the reduced row times the cosine, fp32: [R, D] -> [R, E]."""
        if self.training:
            with torch.no_grad():
                self.experts.mul_(TORCHSCALE_LENGTH / self.experts.norm(dim=1, keepdim=True))
        point_RW = F.linear(x_RD.float(), self.reduction.float())
        # a copy, for the graph must not hold what the next forward overwrites
        return F.linear(point_RW, F.normalize(self.experts.float().clone(), dim=-1, eps=NORM_EPS))

    def weigh(self, scores_RE: Tensor, experts_RK: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gates [R, K]: the probability of one choice; of several, their shares, and which of them are sent."""
        gates_RK = _gates(scores_RE, experts_RK, sigmoid=False)
        if experts_RK.shape[1] == 1:
            return gates_RK, None
        gates_RK = _sum_to_one(gates_RK)
        return gates_RK, _sometimes(gates_RK) if self.training else None


Router = CosineRouter | SwitchRouter | GShardRouter | TorchscaleRouter

ROUTERS: Mapping[RouterName, Callable[[int, ExpertsConfig], Router]] = {
    "xmoe": CosineRouter,
    "switch": SwitchRouter,
    "gshard": GShardRouter,
    "torchscale": TorchscaleRouter,
}


def choose_experts(scores_RE: Tensor, top_k: int) -> Tensor:
    """The `top_k` best of each row, best first, int64 [R, K]; of equal scores the lower index wins."""
    if top_k == 1:
        return scores_RE.argmax(dim=1, keepdim=True)
    order_RE = torch.sort(scores_RE, dim=1, descending=True, stable=True).indices  # topk promises nothing about ties
    return order_RE[:, :top_k]


def route(router: Router, x_RD: Tensor, experts: ExpertsConfig, *, tile: int | None = None) -> Routing:
    """Score, choose and weigh; nothing is dropped for lack of room yet.

    Args:
        tile: rows that are decided on together, zeros filling the last ones, for bits that do not depend on company.
    """
    if tile is None:
        scores_RE, experts_RK, gates_RK, sent_RK = _decide(router, x_RD, experts.top_k)
    else:
        tiles = F.pad(x_RD, (0, 0, 0, -len(x_RD) % tile)).split(tile)
        decided = zip(*(_decide(router, x_TD, experts.top_k) for x_TD in tiles), strict=True)
        scores_RE, experts_RK, gates_RK, sent_RK = (torch.cat(parts)[: len(x_RD)] for parts in decided)
    counted = experts_RK[:, :1] if router.balances_first_choice else experts_RK
    return Routing(
        scores_RE=scores_RE,
        experts_RK=experts_RK,
        gates_RK=gates_RK,
        sent_RK=sent_RK,
        counts_E=_count(counted, experts.num_experts),
        balance_temperature=router.balance_temperature,
        overflow=torch.zeros((), dtype=torch.int64, device=x_RD.device),
    )


def balance_total(scores_RE: Tensor, counts_E: Tensor, temperature: float) -> Tensor:
    """Rows times the balance loss: E * sum_i t_i * sum_rows softmax(s / tau_0)_i (equations 8 and 9).

    Args:
        counts_E: choices of each expert, over all ranks that train together; only their shares t_i matter.
        temperature: tau_0, a constant.
    Returns: a sum over rows [], so that what ranks and micro-batches give adds up.
    """
    share_E = counts_E.to(scores_RE.dtype) / counts_E.sum().clamp(min=1)
    return scores_RE.shape[1] * (F.softmax(scores_RE / temperature, dim=1).sum(0) * share_E).sum()


def _decide(router: Router, x_RD: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores, chosen experts, their gates and whether each is sent."""
    scores_RE: Tensor = router(x_RD)
    experts_RK = choose_experts(scores_RE.detach(), top_k)
    gates_RK, sent_RK = router.weigh(scores_RE, experts_RK)
    return (
        scores_RE,
        experts_RK,
        gates_RK,
        torch.ones_like(experts_RK, dtype=torch.bool) if sent_RK is None else sent_RK,
    )


def _gates(sharp_RE: Tensor, experts_RK: Tensor, *, sigmoid: bool) -> Tensor:
    if sigmoid:
        return torch.sigmoid(sharp_RE.gather(1, experts_RK))
    return F.softmax(sharp_RE, dim=1).gather(1, experts_RK)


def _sum_to_one(gates_RK: Tensor) -> Tensor:
    return gates_RK / gates_RK.sum(1, keepdim=True).clamp(min=torch.finfo(gates_RK.dtype).eps)


def _sometimes(gates_RK: Tensor) -> Tensor:
    """The first choice always, another with probability 2 g, drawn as dropout draws."""
    sent_RK = 2 * gates_RK > torch.rand_like(gates_RK)
    sent_RK[:, 0] = True
    return sent_RK


def _count(experts: Tensor, num_experts: int) -> Tensor:
    return torch.bincount(experts.reshape(-1), minlength=num_experts)


def _check_softmax(experts: ExpertsConfig) -> None:
    if experts.gate != "softmax":
        raise ValueError(f"router {experts.router!r} knows no gate {experts.gate!r}; give gate 'softmax'")


def _fill_like_linear(weight: nn.Parameter) -> None:
    nn.init.uniform_(weight, -(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5)


def _fill_orthogonal(weight: nn.Parameter, gain: float) -> None:
    if not weight.is_meta:
        nn.init.orthogonal_(cast(Tensor, weight), gain=gain)
