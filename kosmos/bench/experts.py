"""The bench `experts`: what sparse layers cost beside torchscale's, beside a dense layer, and with more experts.

X-MoE, one expert a row, all sides fp32 with random weights, the same threads and flushed denormals, in turn in one
process. Cases: `experts-16` (a training step), `experts-16-eval` (a forward), `experts-64` (a training step of four
times the weights, beside `experts-16`). Legend: R rows, D width.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kosmos.bench.figure import Figure
from kosmos.bench.timing import Timed, in_turn
from kosmos.transformer.config import DecoderConfig, ExpertsConfig
from kosmos.transformer.experts import Experts
from kosmos.transformer.feedforward import FeedForward

__all__ = ["CASES", "ExpertsBench", "has_torchscale", "process_group_of_one", "run_experts", "torchscale_layer"]

CASES = ("experts-16", "experts-16-eval", "experts-64")
PEERS: Mapping[str, Mapping[str, str]] = {  # of each case: the name shown and the contestant
    "experts-16": {"torchscale": "torchscale", "dense": "dense"},
    "experts-16-eval": {"torchscale": "torchscale-eval"},
    "experts-64": {"experts-16": "experts-16"},
}
PRODUCTS = {"experts-16": 6, "experts-16-eval": 2, "experts-64": 6}  # of rows, width and feed-forward width
RATE_WIDTH = 2048


@dataclass(frozen=True, kw_only=True)
class ExpertsBench:
    """What to measure.

    Attributes:
        rounds: how often every contestant takes its turn.
        rows: tokens of a step.
        peers: run torchscale beside us, where it is installed.
        cases: which cases to measure.
        clock: `time.process_time` on a machine that others use too.
    """

    rounds: int = 5
    rows: int = 4096
    width: int = 512
    ffn_width: int = 2048
    peers: bool = True
    cases: tuple[str, ...] = CASES
    clock: Callable[[], float] = time.perf_counter


def run_experts(bench: ExpertsBench) -> Iterator[Figure]:
    """Measure and give one figure a case."""
    torch.set_flush_denormal(True)
    beside = bench.peers and has_torchscale()
    with process_group_of_one() if beside else nullcontext():
        wanted = {"square": _square()} | dict(_contestants(bench, beside=beside))
        timed = in_turn(wanted, bench.rounds, bench.clock)
    for case in bench.cases:
        yield _figure(bench, case, timed)


def _contestants(bench: ExpertsBench, *, beside: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    """Ours and every peer that a wanted case is held against."""
    needed = {*bench.cases} | {name for case in bench.cases for name in PEERS[case].values()}
    torch.manual_seed(0)
    for name, num_experts in {"experts-16": 16, "experts-64": 64, "experts-16-eval": 16}.items():
        if name in needed:
            shape = _shape(bench, num_experts)
            assert shape.experts is not None
            layer = Experts(shape, shape.experts)
            yield name, _forward(layer, bench) if name.endswith("eval") else _step(layer, bench, _our_balance)
    if "dense" in needed:
        yield "dense", _step(FeedForward(_shape(bench, None)), bench, None)
    for name in ("torchscale", "torchscale-eval"):
        if beside and name in needed:
            peer = _Alone(torchscale_layer(bench.width, bench.ffn_width, 16, top_k=1))
            yield (
                name,
                _forward(peer, bench) if name.endswith("eval") else _step(peer, bench, lambda peer: peer.balance),
            )


def _shape(bench: ExpertsBench, num_experts: int | None) -> DecoderConfig:
    experts = None if num_experts is None else ExpertsConfig(num_experts=num_experts)
    return DecoderConfig(
        vocab_size=2, num_layers=2, width=bench.width, num_heads=1, ffn_width=bench.ffn_width, experts=experts
    )


def _our_balance(layer: Any) -> Tensor:
    balance: Tensor = layer.last.balance
    return balance


def _step(layer: nn.Module, bench: ExpertsBench, balance: Callable[[Any], Tensor] | None) -> Callable[[], None]:
    """Forward and backward of a training step, the balance loss included; gradients start as None."""
    x_RD = torch.randn(bench.rows, bench.width, requires_grad=True)
    grad_RD = torch.randn(bench.rows, bench.width)
    layer.train()

    def run() -> None:
        layer.zero_grad(set_to_none=True)
        x_RD.grad = None
        out_RD = layer(x_RD)
        roots, grads = [out_RD], [grad_RD]
        if balance is not None:
            roots.append(balance(layer))
            grads.append(torch.ones(()))
        torch.autograd.backward(roots, grads)

    return run


def _forward(layer: nn.Module, bench: ExpertsBench) -> Callable[[], None]:
    x_RD = torch.randn(bench.rows, bench.width)
    layer.eval()

    def run() -> None:
        with torch.no_grad():
            layer(x_RD)

    return run


def _square() -> Callable[[], object]:
    square = torch.ones(RATE_WIDTH, RATE_WIDTH)
    return lambda: square @ square


def _figure(bench: ExpertsBench, case: str, timed: Mapping[str, Timed]) -> Figure:
    peers = {shown: timed[name] for shown, name in PEERS[case].items() if name in timed}
    multiply_adds = PRODUCTS[case] * bench.rows * bench.width * bench.ffn_width
    return Figure(
        bench="experts",
        case=case,
        unit="s",
        ours=timed[case].median,
        peers={shown: entry.median for shown, entry in peers.items()},
        spread={"ours": timed[case].spread} | {shown: entry.spread for shown, entry in peers.items()},
        limit=multiply_adds * timed["square"].median / RATE_WIDTH**3,
    )


def has_torchscale() -> bool:
    """Whether the peer is installed: requirements-peers.lock says which."""
    return find_spec("torchscale") is not None and find_spec("fairscale") is not None


@contextmanager
def process_group_of_one() -> Iterator[None]:
    """torchscale's experts cannot be built without a process group; its subgroups must not outlive ours."""
    from torchscale.component.xmoe import global_groups

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        dist.destroy_process_group()
        for function in (global_groups.get_moe_group, global_groups.get_all2all_group):
            vars(function).clear()


def torchscale_layer(width: int, ffn_width: int, num_experts: int, *, top_k: int, eval_fraction: float = 0.25) -> Any:
    """torchscale 0.3.0's X-MoE as its decoder builds it; takes [N, T, D], gives output and balance loss.

    Args:
        eval_fraction: its `moe_eval_capacity_token_fraction`, with its default.
    """
    from torchscale.component.feedforward_network import make_experts
    from torchscale.component.xmoe import routing
    from torchscale.component.xmoe.moe_layer import MOELayer

    routing.torch = _FloatHistogram()
    arguments = SimpleNamespace(
        moe_expert_count=num_experts,
        ddp_rank=0,
        activation_fn="gelu",
        dropout=0.0,
        activation_dropout=0.0,
        layernorm_eps=1e-5,
        subln=True,
    )
    shared = {"moe_eval_capacity_token_fraction": eval_fraction, "use_xmoe": True}
    if top_k == 1:
        gate = routing.Top1Gate(width, num_experts, **shared)
    else:
        gate = routing.Top2Gate(width, num_experts, False, "random", True, **shared)
    return MOELayer(gate, make_experts(arguments, width, ffn_width), arguments)


class _FloatHistogram:
    """torch as torchscale's routing sees it: its histogram of whole numbers does not exist on a CPU."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def histc(self, values: Tensor, **limits: Any) -> Tensor:
        """`torch.histc` for whole numbers too."""
        return torch.histc(values.float(), **limits)


class _Alone(nn.Module):
    """A torchscale layer that takes rows and keeps its balance loss aside, as ours does."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.balance: Tensor | None = None

    def forward(self, x_RD: Tensor) -> Tensor:
        """[R, D] -> [R, D]."""
        out, self.balance = self.layer(x_RD[None])
        rows_RD: Tensor = out[0]
        return rows_RD
