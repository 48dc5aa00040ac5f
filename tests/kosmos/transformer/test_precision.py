"""Number formats: what is asked for is given, small models stay exact, tied tensors stay tied."""

import pytest
import torch
from torch import nn

from kosmos.transformer import precision
from kosmos.transformer.kernels.plan import ProductPlan
from kosmos.transformer.linear import Linear
from kosmos.transformer.precision import Dtypes, choose_dtypes, store_weights

LARGE = 1 << 30


def test_float32_is_float32_everywhere() -> None:
    assert choose_dtypes("float32") == Dtypes(tower=torch.float32, hidden=torch.float32, weights=torch.float32)


def test_a_small_model_stays_exact() -> None:
    assert choose_dtypes("auto", weight_bytes=1 << 20).weights == torch.float32


@pytest.mark.parametrize("multiplies", [False, True])
@pytest.mark.parametrize("reads", [False, True])
def test_eye_and_decoder_are_decided_apart(monkeypatch: pytest.MonkeyPatch, reads: bool, multiplies: bool) -> None:
    plan = ProductPlan(beyond="torch")
    monkeypatch.setattr(precision, "_reads_faster_in_bf16", lambda: reads)
    monkeypatch.setattr(precision, "_multiplies_faster_in_bf16", lambda: multiplies)
    monkeypatch.setattr(precision, "probe_bf16_plan", lambda: plan)
    chosen = choose_dtypes("auto", weight_bytes=LARGE)
    assert chosen.tower == (torch.bfloat16 if multiplies else torch.float32)
    assert chosen.weights == (torch.bfloat16 if reads else torch.float32)
    assert chosen.hidden == torch.float32
    assert chosen.plan == (plan if reads else None)


def test_another_wish_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown dtype 'float16'; known: auto, float32, bfloat16"):
        choose_dtypes("float16")  # type: ignore[arg-type]


def test_storing_keeps_ties_and_leaves_norms_and_biases_wide() -> None:
    decoder = nn.ModuleDict({"embedding": nn.Embedding(8, 4), "head": Linear(4, 8), "norm": nn.LayerNorm(4)})
    decoder["head"].weight = decoder["embedding"].weight
    plan = ProductPlan(beyond="torch")
    store_weights(decoder, Dtypes(tower=torch.float32, hidden=torch.float32, weights=torch.bfloat16, plan=plan))
    assert decoder["head"].weight is decoder["embedding"].weight
    assert decoder["head"].weight.dtype == torch.bfloat16
    assert decoder["head"].bias.dtype == decoder["norm"].weight.dtype == torch.float32
    assert decoder["head"].plan == plan
