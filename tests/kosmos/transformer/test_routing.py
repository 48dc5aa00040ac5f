"""Each router gives the formulas of its paper, computed here row by row in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.testing import assert_close

from kosmos.transformer.config import ExpertsConfig
from kosmos.transformer.routing import ROUTERS, Routing, balance_total, choose_experts, route
from tests.kosmos.transformer.sparse import WIDTH, rows

Array = NDArray[np.float64]
R, E = 40, 6


def config(**fields: object) -> ExpertsConfig:
    return ExpertsConfig(**({"num_experts": E} | fields))  # type: ignore[arg-type]


def routed(experts: ExpertsConfig, *, training: bool = False) -> tuple[torch.nn.Module, Routing]:
    torch.manual_seed(0)
    router = ROUTERS[experts.router](WIDTH, experts).train(training)
    return router, route(router, rows(R), experts)


def softmax(x: Array) -> Array:
    shares = np.exp(x - x.max())
    return np.asarray(shares / shares.sum())


def best(scores_E: Array, top_k: int) -> list[int]:
    return sorted(range(len(scores_E)), key=lambda expert: (-scores_E[expert], expert))[:top_k]


def array(tensor: torch.Tensor) -> Array:
    return tensor.detach().double().numpy()


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
@pytest.mark.parametrize("top_k", [1, 3])
def test_xmoe_is_the_cosine_on_a_small_hypersphere(gate: str, top_k: int) -> None:
    router, routing = routed(config(gate=gate, top_k=top_k, temperature=0.07))
    with torch.no_grad():
        router.temperature.fill_(0.2)  # learned: no longer tau_0
        routing = route(router, rows(R), config(gate=gate, top_k=top_k))  # type: ignore[arg-type]
    reduction, experts = array(router.reduction), array(router.experts)
    assert reduction.shape == (E // 2, WIDTH), "half the number of experts, as in the paper"
    for row, x_D in enumerate(array(rows(R))):
        small = reduction @ x_D
        scores = np.array([small @ e / np.linalg.norm(small) / np.linalg.norm(e) for e in experts])
        chosen = best(scores, top_k)
        sharp = scores / 0.2
        gates = softmax(sharp)[chosen] if gate == "softmax" else 1 / (1 + np.exp(-sharp[chosen]))
        np.testing.assert_allclose(array(routing.scores_RE)[row], scores, atol=1e-6)
        assert routing.experts_RK[row].tolist() == chosen
        np.testing.assert_allclose(array(routing.gates_RK)[row], gates, atol=1e-6)


def test_the_scores_of_xmoe_ignore_the_lengths_of_rows_and_experts() -> None:
    router, routing = routed(config())
    with torch.no_grad():
        router.experts.mul_(torch.arange(1.0, E + 1)[:, None])
        assert_close(router(rows(R) * 100), routing.scores_RE)


def test_the_gate_of_xmoe_teaches_its_temperature_and_the_balance_loss_does_not() -> None:
    router, routing = routed(config())
    assert torch.autograd.grad(routing.gates_RK.sum(), router.temperature, retain_graph=True)[0].abs() > 0
    assert torch.autograd.grad(routing.balance, router.temperature, allow_unused=True)[0] is None


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
def test_switch_weighs_by_the_probability_of_a_dot_product(gate: str) -> None:
    router, routing = routed(config(router="switch", gate=gate))
    for row, x_D in enumerate(array(rows(R))):
        scores = array(router.experts) @ x_D
        (chosen,) = best(scores, 1)
        gates = softmax(scores) if gate == "softmax" else 1 / (1 + np.exp(-scores))
        assert routing.experts_RK[row].item() == chosen
        np.testing.assert_allclose(routing.gates_RK[row].item(), gates[chosen], atol=1e-6)


@pytest.mark.parametrize("name", ["gshard", "torchscale"])
def test_two_gates_are_their_shares_and_both_are_sent_in_evaluation(name: str) -> None:
    router, routing = routed(config(router=name, top_k=2))
    scores_RE = array(rows(R))
    if name == "torchscale":
        scores_RE = scores_RE @ array(router.reduction).T
        experts = array(router.experts) / np.linalg.norm(array(router.experts), axis=1, keepdims=True)
    else:
        experts = array(router.experts)
    for row, scores in enumerate(scores_RE @ experts.T):
        chosen = best(scores, 2)
        gates = softmax(scores)[chosen]
        assert routing.experts_RK[row].tolist() == chosen
        np.testing.assert_allclose(array(routing.gates_RK)[row], gates / gates.sum(), atol=1e-6)
    assert bool(routing.sent_RK.all())


@pytest.mark.parametrize("name", ["gshard", "torchscale"])
def test_in_training_a_second_choice_is_sent_with_twice_its_gate_as_probability(name: str) -> None:
    experts = config(router=name, top_k=2)
    torch.manual_seed(0)
    router = ROUTERS[experts.router](WIDTH, experts).train()
    sent = torch.stack([route(router, rows(4), experts).sent_RK for _ in range(4000)]).double().mean(0)
    wanted = (2 * route(router, rows(4), experts).gates_RK[:, 1].detach()).clamp(max=1)
    assert 0.1 < wanted.min() < 0.9
    assert bool((sent[:, 0] == 1).all())
    assert_close(sent[:, 1], wanted.double(), atol=0.04, rtol=0)  # five standard deviations


def test_torchscale_has_16_features_and_one_plain_probability() -> None:
    router, routing = routed(config(router="torchscale"))
    assert router.reduction.shape == (16, WIDTH)
    assert_close(routing.gates_RK, routing.scores_RE.softmax(1).max(1, keepdim=True).values)


def test_torchscale_rescales_its_experts_in_training_and_never_in_evaluation() -> None:
    router, _ = routed(config(router="torchscale"))
    before = router.experts.detach().clone()
    router(rows(3))
    assert torch.equal(router.experts, before)
    scores = [router.train()(rows(3, seed=seed)) for seed in (1, 2)]
    assert_close(router.experts.norm(dim=1), torch.full((E,), 1.5))
    torch.stack(scores).sum().backward()  # two forwards before one backward


def test_equal_scores_go_to_the_lowest_index() -> None:
    scores = torch.tensor([[0.0, 2.0, 1.0, 2.0, 1.0], [3.0, 3.0, 3.0, 3.0, 3.0]])
    assert choose_experts(scores, 1).tolist() == [[1], [0]]
    assert choose_experts(scores, 4).tolist() == [[1, 3, 2, 4], [0, 1, 2, 3]]


def test_routing_is_fp32_under_bf16_rows_and_weights() -> None:
    for name in ROUTERS:
        experts = config(router=name, top_k=2)
        router = ROUTERS[name](WIDTH, experts).bfloat16().eval()
        scores = router(rows(5, dtype=torch.bfloat16))
        assert scores.dtype == torch.float32
        assert_close(scores, router.float()(rows(5, dtype=torch.bfloat16).float()))


@pytest.mark.parametrize(
    ("name", "top_k", "tau"), [("xmoe", 1, 0.07), ("xmoe", 2, 0.3), ("switch", 1, 1.0), ("gshard", 2, 1.0)]
)
def test_the_balance_loss_is_equations_8_and_9(name: str, top_k: int, tau: float) -> None:
    _, routing = routed(config(router=name, top_k=top_k, temperature=tau if name == "xmoe" else 0.3))
    scores, chosen = array(routing.scores_RE), routing.experts_RK
    counted = chosen[:, :1] if name == "gshard" else chosen
    share = [float((counted == expert).double().mean()) for expert in range(E)]
    expected = E / R * sum(share[i] * softmax(scores[row] / tau)[i] for row in range(R) for i in range(E))
    np.testing.assert_allclose(routing.balance.item(), expected, rtol=1e-5)


def test_the_balance_loss_is_1_when_even_and_the_number_of_experts_when_collapsed() -> None:
    assert_close(balance_total(torch.zeros(12, E), torch.full((E,), 2), 0.3), torch.tensor(12.0))
    one = torch.zeros(12, E)
    one[:, 2] = 100.0
    assert_close(balance_total(one, torch.tensor([0, 0, 12, 0, 0, 0]), 0.3), torch.tensor(12.0 * E))


def test_a_router_that_would_learn_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="top_k 2 or more"):
        ROUTERS["gshard"](WIDTH, config(router="gshard"))
    for name in ("gshard", "torchscale"):
        with pytest.raises(ValueError, match="knows no gate 'sigmoid'"):
            ROUTERS[name](WIDTH, config(router=name, gate="sigmoid", top_k=2))


def test_routers_need_no_process_group() -> None:
    assert not dist.is_initialized() or dist.get_world_size() == 1
    for name in ROUTERS:
        _, routing = routed(config(router=name, top_k=2), training=True)
        assert math.isfinite(routing.balance.item())
