"""fp32 products are the same by every way, and gradients never leave `F.linear`."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from kosmos.transformer.kernels import fp32
from kosmos.transformer.kernels.fp32 import fp32_linear
from kosmos.transformer.kernels.products import load_products


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every product that oneDNN was asked for; it counts as the faster one."""
    rows: list[int] = []
    by_onednn = fp32._by_onednn

    def counted(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        rows.append(x.numel() // x.shape[-1])
        return by_onednn(x, weight, bias)

    monkeypatch.setattr(fp32, "_by_onednn", counted)
    monkeypatch.setattr(fp32, "is_onednn_faster", lambda: True)
    monkeypatch.setattr(fp32, "is_compiled_faster", lambda: False)
    return rows


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="NOT proved: torch was built without oneDNN")
@pytest.mark.parametrize("shape", [(16,), (3, 7), (1, 74), (257,)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_both_libraries_multiply_alike(used: list[int], shape: tuple[int, ...], with_bias: bool) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(1024, 1024), torch.randn(1024) if with_bias else None
    x = torch.randn(*shape, 2 * 1024)[..., ::2]  # not contiguous
    with torch.inference_mode():
        assert_close(fp32_linear(x, weight, bias), F.linear(x, weight, bias), atol=2e-4, rtol=1e-4)
    assert used == [x.numel() // 1024]


@pytest.mark.parametrize("why", ["gradient", "few rows", "small weight", "another dtype", "autocast", "bias"])
def test_what_does_not_suit_stays_with_torch(used: list[int], why: str) -> None:
    width = 512 if why == "small weight" else 1024
    dtype = torch.bfloat16 if why == "another dtype" else torch.float32
    x, weight = torch.ones(4 if why == "few rows" else 64, width, dtype=dtype), torch.ones(1024, width, dtype=dtype)
    bias = torch.zeros(1, dtype=dtype).expand(1024) if why == "bias" else None
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=why == "autocast")
    with torch.set_grad_enabled(why == "gradient"), autocast:
        assert fp32_linear(x, weight, bias).dtype == F.linear(x, weight).dtype
    assert not used


@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize("num_in", [256, 259, 1000])
def test_few_rows_by_the_compiled_product_are_the_same(monkeypatch: pytest.MonkeyPatch, rows: int, num_in: int) -> None:
    if load_products() is None:
        pytest.skip("NOT proved: this machine has no compiler or no AVX2, so there are no compiled products")
    monkeypatch.setattr(fp32, "is_compiled_faster", lambda: True)
    torch.manual_seed(0)
    x, weight, bias = torch.randn(rows, num_in), torch.randn(333, num_in), torch.randn(333)
    with torch.inference_mode():
        made = fp32_linear(x, weight, bias)
        assert_close(made, F.linear(x, weight, bias), atol=1e-4, rtol=1e-4)
        assert torch.equal(fp32_linear(x[:1], weight, bias), made[:1])
