"""Attention resolution: the curve and R as the paper's formulas print them, and measured scores against plain loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kosmos.science.resolution import measure, resolution, theoretical_score
from kosmos.science.resolution_report import roughness
from kosmos.transformer.blockwise import first_seen
from kosmos.transformer.config import DecoderConfig, PositionScheme
from kosmos.transformer.stack import Decoder

DISTANCES = (0, 1, 8, 64, 256, 512, 1024, 2048, 4096)
G_ROPE = (32, 30.92, 22.41, 13.91, 11.32, 5.93, 8.41, -1.27, 0.11)
G_XPOS = (32, 30.89, 22.30, 13.69, 10.36, 6.29, 5.82, 2.46, 1.13)
CONFIG = DecoderConfig(
    vocab_size=50, num_layers=1, width=16, num_heads=2, ffn_width=16, dropout=0.0, attention_dropout=0.0
)


def _curve(length: int, *, head_dim: int = 64, scale_base: int | None = None) -> Tensor:
    return theoretical_score(torch.arange(length + 1), head_dim=head_dim, scale_base=scale_base)


@pytest.mark.parametrize("scale_base, expected", [(None, G_ROPE), (512, G_XPOS)])
def test_scores_by_distance_are_those_of_the_formula_with_heads_of_64(
    scale_base: int | None, expected: tuple[float, ...]
) -> None:
    found = theoretical_score(torch.tensor(DISTANCES), head_dim=64, scale_base=scale_base)
    assert found.tolist() == pytest.approx(expected, abs=6e-3)  # printed to two digits


def test_far_scores_of_xpos_are_23_times_smoother() -> None:
    assert roughness(None) == pytest.approx(0.84, abs=5e-3)
    assert roughness(512) == pytest.approx(0.037, abs=5e-4)
    assert round(roughness(None) / roughness(512)) == 23


@pytest.mark.parametrize("length", [1024, 2048, 4096])
@pytest.mark.parametrize("head_dim, rope, xpos", [(64, 0.4116, 0.4207), (128, 0.6603, 0.6751)])
def test_resolution_of_the_theory_hardly_parts_the_schemes(
    length: int, head_dim: int, rope: float, xpos: float
) -> None:
    assert resolution(_curve(length, head_dim=head_dim)) == pytest.approx(rope, abs=5e-5)
    assert resolution(_curve(length, head_dim=head_dim, scale_base=512)) == pytest.approx(xpos, abs=5e-5)


@pytest.mark.parametrize("length, rope, xpos", [(1024, 1.3e-4, 1.5e-4), (2048, 6e-5, 7e-5)])
def test_resolution_of_scaled_scores(length: int, rope: float, xpos: float) -> None:
    assert resolution(_curve(length) / 8) == pytest.approx(rope, abs=5e-6)
    assert resolution(_curve(length, scale_base=512) / 8) == pytest.approx(xpos, abs=5e-6)


def test_resolution_is_equation_3_written_out() -> None:
    scores = torch.tensor([1.0, 0.5, -0.3, 2.0])
    e = [math.exp(s) for s in scores.tolist()]
    assert resolution(scores) == pytest.approx(sum(e[i] * (e[i] - e[i + 1]) for i in range(3)) / sum(e) ** 2)


@pytest.mark.parametrize("positions", ["rope", "xpos", "alibi", "sinusoidal"])
@pytest.mark.parametrize("block", [None, 4])
def test_measured_scores_are_means_by_distance(positions: PositionScheme, block: int | None) -> None:
    torch.manual_seed(0)
    config = replace(CONFIG, positions=positions, causal_block=block, xpos_block=block or 2048)
    model, texts = Decoder(config).eval(), list(torch.randint(2, 50, (2, 14)))
    found = measure(model, texts)
    expected = torch.stack([_scores_by_hand(model, text) for text in texts]).mean(dim=0)
    assert len(found.curve) == (14 if block is None else 8)
    assert found.curve == pytest.approx(expected.mean(dim=0).tolist(), abs=1e-5)
    assert found.value == pytest.approx(sum(resolution(head) for head in expected) / 2, abs=1e-6)


def _scores_by_hand(model: Decoder, text: Tensor) -> Tensor:
    """[H, N] of a single layer, pair after pair; rotations as complex numbers, by the distance alone."""
    config, attention = model.config, model.blocks[0].attention
    positions = torch.arange(len(text))
    with torch.inference_mode():
        rows = model.embed(text) * math.sqrt(config.width)
        added = model.positions.added(positions)
        rows = model.blocks[0].attention_norm(rows if added is None else rows + added)  # type: ignore[operator]
        query, key = (p(rows).unflatten(-1, (2, -1)).double() for p in (attention.q_proj, attention.k_proj))  # type: ignore[operator, union-attr]
    zeta = (torch.arange(0, 8, 2).double() / 8 + 0.4) / 1.4
    theta = 10000.0 ** (-torch.arange(0, 8, 2).double() / 8)
    sums: dict[int, list[Tensor]] = {}
    for m in range(len(text)):
        for n in range(first_seen(m, config.causal_block) if config.causal_block else 0, m + 1):
            q, k = (torch.view_as_complex(x.unflatten(-1, (-1, 2))) for x in (query[m], key[n]))
            turn = torch.exp(1j * (m - n) * theta) if config.positions in ("rope", "xpos") else torch.ones(4)
            decay = zeta ** ((m - n) / config.xpos_scale_base) if config.positions == "xpos" else torch.ones(4)
            score = (q * k.conj() * turn * decay).real.sum(dim=-1) / math.sqrt(8)
            if model.positions.bias is not None:
                score = score + model.positions.bias(torch.tensor([m]), torch.tensor([n]))[:, 0, 0]
            sums.setdefault(m - n, []).append(score)
    return torch.stack([torch.stack(sums[n]).mean(dim=0) for n in range(len(sums))], dim=1)
