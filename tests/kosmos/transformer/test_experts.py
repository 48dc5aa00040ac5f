"""A sparse layer gives each row its chosen dense feed-forwards, weighed, whatever comes with it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from kosmos.transformer.config import Norms
from kosmos.transformer.dispatch import dispatch
from kosmos.transformer.expert_products import by_groups, by_tiles, groups_suit
from kosmos.transformer.expert_slices import by_slices
from kosmos.transformer.experts import Experts, balance_losses
from kosmos.transformer.feedforward import FeedForward
from kosmos.transformer.linear import set_deterministic
from tests.kosmos.transformer.sparse import FFN, WIDTH, margin, rows, small_experts, sparse_shape

VARIANTS = [
    {"router": "xmoe", "top_k": 1},
    {"router": "xmoe", "top_k": 3, "gate": "sigmoid"},
    {"router": "switch", "top_k": 1},
    {"router": "gshard", "top_k": 2},
    {"router": "torchscale", "top_k": 2},
]


def dense_of(layer: Experts, expert: int, norms: Norms = "subln") -> FeedForward:
    """One expert as the house's dense feed-forward."""
    dense = FeedForward(sparse_shape(norms))
    own = {name: value for name, value in layer.state_dict().items() if not name.startswith("router")}
    dense.load_state_dict({name: value[expert] for name, value in own.items()})
    return dense.eval()


def row_by_row(layer: Experts, x_RD: Tensor, norms: Norms = "subln") -> Tensor:
    assert layer.last is not None
    dense = [dense_of(layer, expert, norms) for expert in range(layer.config.num_experts)]
    chosen = zip(x_RD, layer.last.experts_RK.tolist(), layer.last.gates_RK, strict=True)
    return torch.stack([sum(g * dense[e](x[None])[0] for e, g in zip(es, gs, strict=True)) for x, es, gs in chosen])


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v['router']}-{v['top_k']}")
@pytest.mark.parametrize("norms", ["subln", "pre", "post", "deepnorm"])
def test_a_row_gets_its_chosen_feedforwards_weighed(variant: dict[str, Any], norms: Norms) -> None:
    layer, x = small_experts(norms, **variant), rows(50)
    with torch.no_grad():
        assert_close(layer(x), row_by_row(layer, x, norms))
    assert_close(layer(x), layer(x, torch.zeros(50, dtype=torch.long)), rtol=0, atol=0)
    assert (layer.norm is not None) == (norms == "subln")


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v['router']}-{v['top_k']}")
def test_gradients_are_those_of_the_feedforwards_one_by_one(variant: dict[str, Any]) -> None:
    layer = small_experts(**variant).double()
    x = rows(30, dtype=torch.float64).requires_grad_()
    weights = torch.randn(30, WIDTH, dtype=torch.float64)
    mine = torch.autograd.grad((layer(x) * weights).sum(), [x, *layer.parameters()], allow_unused=True)
    slow = small_experts(**variant).double()
    slow.load_state_dict(layer.state_dict())
    expected_out = torch.stack([_by_plain_operations(slow, x[row : row + 1])[0] for row in range(30)])
    expected = torch.autograd.grad((expected_out * weights).sum(), [x, *slow.parameters()], allow_unused=True)
    for got, wanted in zip(mine, expected, strict=True):
        assert (got is None) == (wanted is None)
        if got is not None and wanted is not None:
            assert_close(got, wanted, atol=1e-5, rtol=1e-4)  # scores are fp32


def _by_plain_operations(layer: Experts, x_RD: Tensor) -> Tensor:
    """The same by torch's own autograd: every expert on every row, masked."""
    stack, (scores_RE, top_k) = layer.stack(), (layer.router(x_RD), layer.config.top_k)
    chosen = scores_RE.sort(dim=1, descending=True, stable=True).indices[:, :top_k]
    gates, _ = layer.router.weigh(scores_RE, chosen)
    weight_RE = torch.zeros_like(scores_RE).scatter(1, chosen, gates)
    wide = torch.einsum("rd,efd->ref", x_RD, stack.widen_EFD) + stack.widen_bias_EF
    wide = torch.nn.functional.layer_norm(torch.nn.functional.gelu(wide), (FFN,), eps=layer.norm_eps)
    wide = wide * stack.scale_EF + stack.shift_EF
    out = torch.einsum("ref,edf->red", wide, stack.narrow_EDF) + stack.narrow_bias_ED
    return (out * weight_RE.to(out.dtype)[..., None]).sum(1)


@pytest.mark.parametrize("norms", ["subln", "pre"])
def test_slices_groups_and_tiles_agree_forward_and_backward(norms: Norms) -> None:
    layer = small_experts(norms)
    counts = [7, 0, 35, 1, 0, 20]
    grads = []
    for way in ("slices", "groups", "tiles"):
        x = rows(63).requires_grad_()
        stack = layer.stack()
        assert groups_suit(x, stack)
        if way == "groups":
            out = by_groups(x, torch.tensor(counts), stack, eps=layer.norm_eps, dropout=0.0)
        else:
            out = (by_slices if way == "slices" else by_tiles)(x, counts, stack, eps=layer.norm_eps, dropout=0.0)
        wanted = [part for part in stack if part is not None]
        grads.append([out, *torch.autograd.grad((out * rows(63, seed=5)).sum(), [x, *wanted])])
    for other in grads[1:]:
        for got, wanted in zip(other, grads[0], strict=True):
            assert_close(got, wanted, atol=1e-5, rtol=1e-4)


def test_grouped_products_are_not_asked_for_what_they_refuse() -> None:
    stack = small_experts().stack()
    assert not groups_suit(rows(3).double(), stack)
    odd = stack._replace(widen_EFD=torch.zeros(2, 41, 24), narrow_EDF=torch.zeros(2, 24, 41))
    assert not groups_suit(rows(3), odd)
    assert by_groups(rows(0), torch.zeros(6, dtype=torch.long), stack, eps=1e-5, dropout=0.0).shape == (0, WIDTH)


def test_frozen_experts_get_no_gradient_and_pass_it_on() -> None:
    layer, x = small_experts(), rows(20).requires_grad_()
    (free,) = torch.autograd.grad(layer(x).square().sum(), x)
    layer.requires_grad_(False)
    layer(x).square().sum().backward()
    assert_close(x.grad, free)
    assert all(parameter.grad is None for parameter in layer.parameters())


@given(count=st.integers(1, 60), others=st.integers(0, 60), place=st.integers(0, 60), variant=st.sampled_from(VARIANTS))
def test_a_row_does_not_depend_on_its_neighbours(count: int, others: int, place: int, variant: dict[str, Any]) -> None:
    layer, mine, company = small_experts(**variant), rows(count), rows(others, seed=9)
    start = min(place, others)
    with torch.no_grad():
        alone = layer(mine)
        assert margin(layer) > 1e-6, "a near tie would make the comparison meaningless"
        together = layer(torch.cat([company[:start], mine, company[start:]]))
    assert_close(together[start : start + count], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v['router']}-{v['top_k']}")
def test_later_rows_change_nothing_before_them(variant: dict[str, Any]) -> None:
    """The reference's top-2 gives second choices the places left by all first choices, later ones included."""
    layer, x, changed = small_experts(**variant), rows(32), rows(32)
    changed[24:] = rows(8, seed=7)
    with torch.no_grad():
        before, after = layer(x), layer(changed)
    assert margin(layer) > 1e-6
    assert_close(after[:24], before[:24], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(after[24:], before[24:], atol=1e-2)


@given(count=st.integers(1, 70), others=st.integers(0, 70), place=st.integers(0, 70), variant=st.sampled_from(VARIANTS))
def test_a_deterministic_row_has_the_same_bits_in_any_company(
    count: int, others: int, place: int, variant: dict[str, Any]
) -> None:
    layer, mine, company = small_experts(**variant), rows(count), rows(others, seed=9)
    set_deterministic(layer, True)
    start = min(place, others)
    with torch.no_grad():
        alone = layer(mine)
        together = layer(torch.cat([company[:start], mine, company[start:]]))
        assert torch.equal(together[start : start + count], alone)
        assert torch.equal(layer(mine[:1]), alone[:1])
        set_deterministic(layer, False)
        assert_close(layer(mine), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v['router']}-{v['top_k']}")
def test_evaluation_is_repeatable_and_leaves_the_weights_alone(variant: dict[str, Any]) -> None:
    layer, x = small_experts(**variant), rows(40)
    before = copy.deepcopy(layer.state_dict())
    with torch.no_grad():
        assert torch.equal(layer(x), layer(x))
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_full_expert_gives_zero_in_training_and_is_counted() -> None:
    layer, x = small_experts(capacity_factor=0.5), rows(60)
    with torch.no_grad():
        free = layer(x)
        loads = layer.last.loads_E.tolist()  # type: ignore[union-attr]
        full = layer.train()(x)
    assert layer.last is not None
    room = 5  # half of 60 rows over 6 experts
    taken = [0] * 6
    for row, expert in enumerate(layer.last.experts_RK[:, 0].tolist()):
        taken[expert] += 1
        assert_close(full[row], free[row] if taken[expert] <= room else torch.zeros(WIDTH))
    assert layer.last.loads_E.tolist() == [min(load, room) for load in loads]
    assert int(layer.last.overflow) == sum(max(load - room, 0) for load in loads) > 0
    assert layer.last.counts_E.tolist() == loads, "the balance loss counts what was asked for"


def test_first_choices_take_places_before_second_ones() -> None:
    experts_RK = torch.tensor([[0, 1], [1, 0], [0, 1], [2, 0]])
    sent = dispatch(experts_RK, torch.ones(4, 2, dtype=torch.bool), 3, capacity=2)
    assert sent.slots_S.tolist() == [
        0,
        2,
        1,
        4,
        3,
    ]  # expert 0: rows 0, 2; expert 1: row 1, then row 0's second; 2: row 3
    assert sent.counts_E.tolist() == [2, 2, 1]
    assert sent.sent_RK.tolist() == [[True, True], [True, False], [True, False], [True, False]]


def test_no_rows_give_no_rows() -> None:
    layer = small_experts()
    for on in (False, True):
        set_deterministic(layer, on)
        assert layer(rows(0)).shape == (0, WIDTH)


def test_activation_dropout_acts_in_training_alone_and_has_its_gradient() -> None:
    layer, x = small_experts(dropout=0.5), rows(400).requires_grad_()
    calm = layer(x)
    torch.manual_seed(0)
    loose = layer.train()(x)
    assert not torch.allclose(calm, loose, atol=1e-2)
    (grad,) = torch.autograd.grad(loose.square().sum(), x)
    direction = rows(400, seed=3)

    def loss(step: float) -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            return float(layer.double()((x + step * direction).double()).square().sum())

    torch.manual_seed(0)
    assert_close(float((grad * direction).sum()), (loss(1e-5) - loss(-1e-5)) / 2e-5, rtol=2e-2, atol=1e-2)


def test_weights_stored_in_bf16_serve_fp32_rows_and_autocast_trains() -> None:
    layer, x = small_experts(), rows(30)
    with torch.no_grad():
        expected = layer(x)
        for part in (layer.fc1, layer.norm, layer.fc2):
            part.bfloat16()  # type: ignore[union-attr]
        assert layer(x).dtype == torch.float32
        assert_close(layer(x), expected, atol=0.1, rtol=0.1)
    layer.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert layer.fc1.weight.grad is not None
    assert layer.fc1.weight.grad.dtype == torch.float32


def test_the_balance_losses_of_all_layers_add_up() -> None:
    model = torch.nn.Sequential(small_experts(), small_experts(num_experts=4, seed=3))
    with pytest.raises(ValueError, match="of which 0 have run"):
        balance_losses(model)
    model(rows(20))
    summed = balance_losses(model)
    assert (summed.count, summed.weight) == (40.0, 0.01)
    assert_close(summed.total, sum(20 * layer.last.balance for layer in model))
    (grad,) = torch.autograd.grad(summed.total, model[0].router.reduction)
    assert grad.abs().sum() > 0


def test_layers_are_copied_and_saved_without_their_last_forward() -> None:
    layer = small_experts()
    layer(rows(4))
    assert copy.deepcopy(layer).last is None
    assert layer.last is not None


@pytest.mark.parametrize("rule", ["magneto", "released"])
def test_each_expert_starts_as_a_dense_feedforward_does(rule: Any) -> None:
    layer = Experts(shape := sparse_shape(num_experts=32), shape.experts)  # type: ignore[arg-type]
    layer.initialise(3.0, rule)
    wanted = (2 / (WIDTH + FFN)) ** 0.5 if rule == "magneto" else (1 / 3 / WIDTH) ** 0.5
    assert_close(layer.fc1.weight.std(), torch.tensor(3.0 * wanted), rtol=0.03, atol=0)
    assert bool((layer.fc1.bias == 0).all()) == (rule == "magneto")
    assert layer.router.temperature.item() == pytest.approx(0.3)
