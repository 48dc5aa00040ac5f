"""Quantised layers: how far they may stray, what they replace, how small they are."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from kosmos.transformer.kernels import quantized
from kosmos.transformer.kernels.quantized import Int4Linear, Int8Linear, QuantizeMode, quantize, stored_bytes
from kosmos.transformer.linear import Linear

# Largest relative error of a normal weight times normal rows: half a step of 8 bits, of 4 bits in groups of 32.
BOUNDS: dict[QuantizeMode, float] = {"int8": 0.015, "int4": 0.11}


@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.parametrize("num_in, num_out", [(256, 64), (300, 129), (32, 1)])
def test_the_error_stays_within_the_step(mode: QuantizeMode, num_in: int, num_out: int) -> None:
    torch.manual_seed(0)
    linear = Linear(num_in, num_out)
    nn.init.normal_(linear.weight)
    stack, x = nn.Sequential(linear), torch.randn(20, num_in)
    wanted = linear(x)
    quantize(stack, mode)
    with torch.inference_mode():
        made = stack(x)
    assert ((made - wanted).norm() / wanted.norm()).item() < BOUNDS[mode]


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_weights_that_fit_the_steps_are_kept_exactly(mode: QuantizeMode) -> None:
    steps = torch.arange(-7.0, 8.0).repeat(3)[:32].tile(16, 2)
    steps[:, ::32] = 7.0 if mode == "int4" else 127.0
    steps[:, 1::32] = -8.0 if mode == "int4" else -127.0
    kind = Int4Linear if mode == "int4" else Int8Linear
    layer = kind(steps * 0.25, torch.zeros(16))
    x = torch.eye(64) * 3.0
    assert_close(layer(x), F.linear(x, steps * 0.25), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_weight_of_zeros_gives_the_bias(mode: QuantizeMode) -> None:
    kind = Int4Linear if mode == "int4" else Int8Linear
    bias = torch.randn(16)
    assert_close(kind(torch.zeros(16, 64), bias)(torch.randn(3, 64)), bias.expand(3, 16), atol=1e-5, rtol=1e-5)
    assert_close(kind(torch.randn(16, 64), bias)(torch.zeros(3, 64)), bias.expand(3, 16), atol=1e-5, rtol=1e-5)


def test_int8_means_the_same_without_the_compiled_product(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, x = Int8Linear(torch.randn(40, 96), None), torch.randn(2, 3, 96)
    made = layer(x)
    monkeypatch.setattr(quantized, "load_products", lambda: None)
    assert_close(layer(x), made, atol=1e-3, rtol=1e-3)
    assert layer(x).shape == (2, 3, 40)


def test_int4_means_the_same_without_the_compiled_product(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(40, 96), torch.randn(40), torch.randn(2, 3, 96)
    made = Int4Linear(weight, bias)(x)
    monkeypatch.setattr(quantized, "load_products", lambda: None)
    assert_close(Int4Linear(weight, bias)(x), made, atol=1e-3, rtol=1e-3)
    assert Int4Linear(weight, bias)(x).shape == (2, 3, 40)


def test_a_tied_head_gets_its_own_copy_and_the_lookup_keeps_its_table() -> None:
    stack = nn.ModuleDict({"embedding": nn.Embedding(48, 32), "head": Linear(32, 48, bias=False)})
    stack["head"].weight = stack["embedding"].weight
    table = stack["embedding"].weight.detach().clone()
    quantize(stack, "int8")
    assert isinstance(stack["head"], Int8Linear)
    assert torch.equal(stack["embedding"].weight, table)


def test_fewer_bits_are_fewer_bytes() -> None:
    sizes = {}
    for mode in (None, "int8", "int4"):
        stack = nn.Sequential(Linear(512, 512, dtype=torch.bfloat16))
        if mode is not None:
            quantize(stack, mode)  # type: ignore[arg-type]
        sizes[mode] = stored_bytes(stack)
    assert sizes["int8"] < 0.55 * sizes[None]
    assert sizes["int4"] < 0.40 * sizes[None]


def test_an_unknown_mode_is_refused_before_anything_changes() -> None:
    stack = nn.Sequential(Linear(4, 4))
    with pytest.raises(ValueError, match="unknown quantisation 'int3'; known: int4, int8"):
        quantize(stack, "int3")  # type: ignore[arg-type]
    assert isinstance(stack[0], Linear)


@pytest.mark.parametrize(("width", "kind"), [(256, Int8Linear), (512, Int4Linear)])
def test_a_narrow_head_keeps_eight_bits(width: int, kind: type[nn.Module]) -> None:
    stack = nn.ModuleDict({"head": Linear(width, 64, bias=False), "inner": Linear(width, 64)})
    quantize(stack, "int4")
    assert type(stack["head"]) is kind
    assert type(stack["inner"]) is Int4Linear
