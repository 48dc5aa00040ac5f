"""A small sparse layer with weights that differ everywhere, and rows whose routing has a margin."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kosmos.transformer.config import DecoderConfig, ExpertsConfig, Norms
from kosmos.transformer.experts import Experts

WIDTH, FFN = 24, 40


def sparse_shape(norms: Norms = "subln", *, dropout: float = 0.0, **experts: Any) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=50,
        num_layers=2,
        width=WIDTH,
        num_heads=2,
        ffn_width=FFN,
        norms=norms,
        activation_dropout=dropout,
        experts=ExpertsConfig(**({"num_experts": 6} | experts)),
    )


def small_experts(norms: Norms = "subln", *, seed: int = 0, dropout: float = 0.0, **experts: Any) -> Experts:
    """In evaluation mode; every parameter is random, norms and biases included."""
    torch.manual_seed(seed)
    shape = sparse_shape(norms, dropout=dropout, **experts)
    assert shape.experts is not None
    layer = Experts(shape, shape.experts)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if not name.startswith("router"):
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return layer.eval()


def rows(count: int, *, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed)).to(dtype)


def margin(layer: Experts) -> float:
    """Least distance between the last expert chosen and the first one not, over the last forward's rows."""
    assert layer.last is not None
    best_RE = layer.last.scores_RE.detach().sort(dim=1, descending=True).values
    top_k = layer.config.top_k
    return float((best_RE[:, top_k - 1] - best_RE[:, top_k]).min())
