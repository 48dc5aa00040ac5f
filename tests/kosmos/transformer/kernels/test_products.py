"""The compiled products against plain arithmetic, on shapes that fit no vector and no tile."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from kosmos.transformer.kernels.products import Products, load_products
from kosmos.transformer.kernels.quantized import Int4Linear, Int8Linear

ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 25, 40)
SHAPES = ((64, 48), (33, 7), (300, 129), (1, 1), (2048, 25), (127, 64))
METHODS = ("widen", "dpbf16")


@pytest.fixture(scope="module")
def products() -> Products:
    found = load_products()
    if found is None:
        pytest.skip("NOT proved: this machine has no compiler or no AVX2, so there are no compiled products")
    return found


def exact(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = x.double() @ weight.double().T
    return out if bias is None else out + bias.double()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_in, num_out", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bf16_products_equal_plain_arithmetic(
    products: Products, method: str, num_in: int, num_out: int, dtype: torch.dtype
) -> None:
    if method not in products.methods:
        pytest.skip("NOT proved: the processor has no bf16 dot product")
    torch.manual_seed(num_in)
    weight = torch.randn(num_out, num_in).bfloat16()
    for rows in ROWS:
        x, bias = torch.randn(rows, num_in).to(dtype), torch.randn(num_out)
        made = products.bf16(x, weight, bias, method)
        assert made.dtype == dtype
        assert made.shape == (rows, num_out)
        rounded = dtype == torch.bfloat16 or method == "dpbf16"
        tolerance = 0.02 * num_in**0.5 if rounded else 1e-5 * num_in**0.5
        assert_close(made.double(), exact(x, weight, bias), atol=tolerance, rtol=0.01 if rounded else 1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_row_has_the_same_bits_alone_and_in_any_batch(products: Products, method: str) -> None:
    if method not in products.methods:
        pytest.skip("NOT proved: the processor has no bf16 dot product")
    torch.manual_seed(0)
    x, weight = torch.randn(40, 300), torch.randn(129, 300).bfloat16()
    together = products.bf16(x, weight, None, method)
    for rows in ROWS:
        assert torch.equal(products.bf16(x[:rows], weight, None, method), together[:rows])


def test_results_do_not_depend_on_the_number_of_threads(products: Products) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(20, 1000), torch.randn(500, 1000).bfloat16()
    threads = torch.get_num_threads()
    alone = products.bf16(x, weight, None, "widen")
    try:
        torch.set_num_threads(3)
        assert torch.equal(products.bf16(x, weight, None, "widen"), alone)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("num_in, num_out", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_products_equal_the_same_rounding_in_torch(
    products: Products, num_in: int, num_out: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(num_out)
    linear = Int8Linear(torch.randn(num_out, num_in), torch.randn(num_out))
    for rows in ROWS:
        x = torch.randn(rows, num_in).to(dtype)
        assert_close(linear(x), linear.by_torch(x), atol=0.02 * num_in**0.5, rtol=0.01)


def dequantised(layer: Int4Linear) -> Tensor:
    """The weight that packed bytes and steps stand for, read by their description."""
    groups = layer.packed.unflatten(1, (-1, 16))
    values = torch.cat([groups & 15, groups >> 4], dim=-1).float()
    base, scale = layer.steps.view(torch.bfloat16).float().unflatten(1, (-1, 2)).unbind(-1)
    return (values * scale[..., None] + base[..., None]).flatten(1)[:, : layer.num_in]


@pytest.mark.parametrize("num_in, num_out", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int4_products_equal_plain_arithmetic(
    products: Products, num_in: int, num_out: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(num_out)
    layer = Int4Linear(torch.randn(num_out, num_in), torch.randn(num_out))
    for rows in ROWS:
        x = torch.randn(rows, num_in).to(dtype)
        rounded = dtype == torch.bfloat16
        wanted = exact(x, dequantised(layer), layer.bias_O)
        assert_close(layer(x).double(), wanted, atol=2e-5 * num_in**0.5, rtol=0.01 if rounded else 1e-5)


def test_a_row_has_the_same_bits_in_any_batch_with_small_weights(products: Products) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(40, 300), torch.randn(129, 300)
    for layer in (Int4Linear(weight, None), Int8Linear(weight, None)):
        together = layer(x)
        for rows in ROWS:
            assert torch.equal(layer(x[:rows]), together[:rows])


def test_inputs_of_another_width_are_refused(products: Products) -> None:
    with pytest.raises(ValueError, match="5 inputs for a weight of 4"):
        products.bf16(torch.ones(1, 5), torch.ones(2, 4).bfloat16(), None, "widen")
    with pytest.raises(ValueError, match="40 inputs for a weight of 1 groups of 32"):
        Int4Linear(torch.ones(2, 32), None)(torch.ones(1, 40))


def test_leading_shapes_and_strided_rows_are_kept(products: Products) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(9, 24).bfloat16(), torch.randn(24, 3, 2).permute(1, 2, 0)
    made = products.bf16(x, weight, None, "widen")
    assert made.shape == (3, 2, 9)
    assert_close(made, x @ weight.float().T, atol=1e-4, rtol=1e-4)


def test_numbers_that_are_not_finite_stay_visible(products: Products) -> None:
    weight = torch.ones(4, 32).bfloat16()
    x = torch.ones(2, 32)
    x[0, 3], x[1, 5] = float("nan"), float("inf")
    made = products.bf16(x, weight, None, "widen")
    assert made[0].isnan().all()
    assert made[1].isinf().all()
    assert products.bf16(x.bfloat16(), weight, None, "widen")[0].isnan().all()


def test_other_dtypes_are_refused(products: Products) -> None:
    with pytest.raises(TypeError, match=r"fp32 or bf16 on the cpu, not torch\.float64"):
        products.bf16(torch.ones(1, 4, dtype=torch.float64), torch.ones(2, 4).bfloat16(), None, "widen")


def test_no_rows_give_no_rows(products: Products) -> None:
    x, weight = torch.empty(0, 64), torch.ones(48, 64)
    for layer in (Int4Linear(weight, None), Int8Linear(weight, None)):
        assert layer(x).shape == (0, 48)
    assert products.bf16(x, weight.bfloat16(), None, "widen").shape == (0, 48)
    assert products.fp32(x, weight, None).shape == (0, 48)


def test_a_bias_is_read_as_it_stands_or_refused(products: Products) -> None:
    x, weight, bias = torch.randn(2, 64), torch.randn(48, 64), torch.randn(96)[::2]
    assert_close(products.fp32(x, weight, bias), x @ weight.T + bias, atol=1e-4, rtol=1e-4)
    for wrong in (torch.randn(3), torch.randn(48).double()):
        with pytest.raises(ValueError, match="for 48 outputs"):
            products.fp32(x, weight, wrong)
