"""The linear layer: torch's own by default, row-independent to the bit when asked, wide sums over narrow weights."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from kosmos.transformer.kernels.plan import ProductPlan
from kosmos.transformer.linear import Linear, set_deterministic, set_plan


def layer(num_in: int, num_out: int, dtype: torch.dtype = torch.float32) -> Linear:
    torch.manual_seed(num_in * num_out)
    return Linear(num_in, num_out, dtype=dtype).eval()


def test_it_is_torchs_linear_layer_by_default() -> None:
    linear, x = layer(70, 33), torch.randn(2, 5, 70)
    assert torch.equal(linear(x), F.linear(x, linear.weight, linear.bias))


@given(
    rows=st.integers(1, 100),
    others=st.integers(0, 100),
    place=st.integers(0, 100),
    shape=st.sampled_from([(64, 96), (257, 33), (40, 1)]),
)
def test_a_deterministic_row_has_the_same_bits_in_any_company(
    rows: int, others: int, place: int, shape: tuple[int, int]
) -> None:
    linear = layer(*shape)
    set_deterministic(linear, True)
    torch.manual_seed(rows)
    mine, company = torch.randn(rows, shape[0]), torch.randn(others, shape[0])
    start = min(place, others)
    together = linear(torch.cat([company[:start], mine, company[start:]]))
    assert torch.equal(together[start : start + rows], linear(mine))
    assert torch.equal(linear(mine[:1]), linear(mine)[:1])
    assert_close(linear(mine), F.linear(mine, linear.weight, linear.bias))


def test_determinism_is_switched_for_every_layer_inside_and_back() -> None:
    stack = nn.Sequential(layer(8, 8), nn.Sequential(layer(8, 8)))
    set_deterministic(stack, True)
    assert all(part.deterministic for part in stack.modules() if isinstance(part, Linear))
    set_deterministic(stack, False)
    assert not any(part.deterministic for part in stack.modules() if isinstance(part, Linear))


def test_no_rows_give_no_rows() -> None:
    linear = layer(8, 3)
    for on in (False, True):
        set_deterministic(linear, on)
        assert linear(torch.empty(0, 8)).shape == (0, 3)


@pytest.mark.parametrize("method", ["torch", "upcast", "widen", "dpbf16"])
def test_weights_stored_in_bf16_serve_fp32_rows_by_every_method(method: str) -> None:
    linear, x = layer(96, 50, torch.bfloat16), torch.randn(3, 7, 96)
    set_plan(linear, ProductPlan(beyond=method))  # type: ignore[arg-type]
    with torch.inference_mode():
        made = linear(x)
    wanted = F.linear(x, linear.weight.float(), linear.bias.float())
    assert made.dtype == torch.float32
    assert_close(made, wanted, atol=0.03, rtol=0.02)
    if method in ("upcast", "widen"):
        assert_close(made, wanted, atol=0.03 if method == "widen" and not _compiled() else 1e-5, rtol=1e-5)


def test_gradients_flow_whatever_the_plan() -> None:
    linear, x = layer(16, 4, torch.bfloat16), torch.randn(2, 16)
    set_plan(linear, ProductPlan(beyond="torch"))
    linear(x).sum().backward()
    assert linear.weight.grad is not None
    assert linear.weight.grad.abs().sum() > 0


def test_a_plan_picks_its_method_by_the_number_of_rows() -> None:
    plan = ProductPlan(steps=((1, "dpbf16"), (8, "widen")), beyond="torch")
    assert [plan.method(rows) for rows in (1, 2, 8, 9, 500)] == ["dpbf16", "widen", "widen", "torch", "torch"]


def _compiled() -> bool:
    from kosmos.transformer.kernels.products import load_products

    return load_products() is not None
