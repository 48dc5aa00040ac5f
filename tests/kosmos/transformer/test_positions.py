"""Sinusoids stand where fairseq puts them; xPos keeps its promises at any length and against every block."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kosmos.transformer.attention import PackedAttention
from kosmos.transformer.config import DecoderConfig
from kosmos.transformer.positions import Sinusoids, XPos, build_positions

# g[n] = sum over pairs of zeta^(n / 512) cos(n theta) at head width 64, from equations 5 to 10 of the paper.
XPOS_CURVE = {0: 32.0, 1: 30.89, 8: 22.30, 64: 13.68, 256: 10.36, 512: 6.29, 1024: 5.82, 2048: 2.46, 4096: 1.13}


def curve(head_dim: int, distances: torch.Tensor, block: int = 2048) -> torch.Tensor:
    """Scores between a query and a key that are (1, 0) in every pair, for each distance: the key stands at 0."""
    rotation = XPos(head_dim, block, 512)
    one = torch.zeros(1, 1, head_dim)
    one[..., ::2] = 1
    key = rotation.rotate_keys(one, torch.zeros(1, dtype=torch.long))
    queries = rotation.rotate_queries(one.expand(len(distances), 1, -1), distances, key_block=0)
    return (queries[:, 0].double() * key[0, 0].double()).sum(dim=-1)


def test_the_first_token_reads_row_two_of_a_table_of_sines_then_cosines() -> None:
    width, half = 8, 4
    rows = Sinusoids(width).at(torch.tensor([0, 5]))
    for row, position in zip(rows, (0, 5), strict=True):
        angles = [(position + 2) * math.exp(-j * math.log(10000) / (half - 1)) for j in range(half)]
        expected = [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
        torch.testing.assert_close(row, torch.tensor(expected), atol=1e-6, rtol=0)


def test_sinusoids_grown_on_demand_are_the_same_rows() -> None:
    grown = Sinusoids(16)
    before = grown.at(torch.arange(100))
    far = grown.at(torch.tensor([5000]))
    assert torch.equal(grown.at(torch.arange(100)), before)
    torch.testing.assert_close(far, Sinusoids(16).at(torch.tensor([5000])), atol=0, rtol=0)


def test_xpos_follows_the_paper_s_curve() -> None:
    scores = curve(64, torch.tensor(list(XPOS_CURVE)))
    torch.testing.assert_close(scores, torch.tensor(list(XPOS_CURVE.values()), dtype=torch.float64), atol=5e-3, rtol=0)


def test_xpos_is_smooth_where_plain_rotation_swings() -> None:
    scores = curve(64, torch.arange(1024, 2050))
    assert (scores[1:] - scores[:-1]).abs().mean().item() == pytest.approx(0.037, abs=5e-4)


@pytest.mark.parametrize(("head_dim", "expected"), [(64, 0.4207), (128, 0.6751)])
def test_attention_resolution_of_xpos_is_the_computed_one(head_dim: int, expected: float) -> None:
    scores = curve(head_dim, torch.arange(1025))
    weights = (scores - scores.max()).exp()
    resolution = (weights[:-1] * (weights[:-1] - weights[1:])).sum() / weights.sum() ** 2
    assert resolution.item() == pytest.approx(expected, abs=5e-5)


def test_a_stored_key_is_right_for_a_query_of_any_later_block() -> None:
    """Block 2, scale base 2, zeta 1/4, 30 degrees a token; the query stands at 5, the keys at 2 to 5."""
    rotation = XPos(2, 2, 2)
    rotation._angles = torch.tensor([math.radians(30)], dtype=torch.float64)
    rotation._log_decay = torch.tensor([math.log(1 / 4) / 2], dtype=torch.float64)
    one = torch.tensor([[[1.0, 0.0]]])
    for key_position, (factor, degrees) in {2: (1 / 8, 90), 3: (1 / 4, 60), 4: (1 / 2, 30), 5: (1, 0)}.items():
        key = torch.view_as_complex(rotation.rotate_keys(one, torch.tensor([key_position])))
        query = rotation.rotate_queries(one, torch.tensor([5]), key_block=key_position // 2)
        product = (torch.view_as_complex(query) * key.conj()).item()
        assert abs(product) == pytest.approx(factor)
        assert math.degrees(math.atan2(product.imag, product.real)) == pytest.approx(degrees, abs=1e-4)


@given(query=st.integers(0, 20_000), distance=st.integers(0, 3000), block=st.sampled_from([32, 256, 2048]))
def test_a_score_depends_on_the_distance_alone(query: int, distance: int, block: int) -> None:
    query = max(query, distance)
    key_position = torch.tensor([query - distance])
    rotation = XPos(32, block, 512)
    generator = torch.Generator().manual_seed(distance)
    q, k = torch.randn(2, 1, 1, 32, generator=generator)
    key = rotation.rotate_keys(k, key_position)
    here = rotation.rotate_queries(q, torch.tensor([query]), key_block=(query - distance) // block)
    pairs = torch.arange(0, 32, 2, dtype=torch.float64)
    decay = ((pairs / 32 + 0.4) / 1.4) ** (distance / 512)
    turn = torch.polar(decay, distance * 10000 ** (-pairs / 32))
    complex_q, complex_k = (torch.view_as_complex(x.double().view(-1, 2)) for x in (q, k))
    expected = (complex_q * complex_k.conj() * turn).real.sum().item()
    assert (here * key).sum().item() == pytest.approx(expected, abs=2e-5)


def test_keys_turned_toward_a_block_score_like_stored_keys() -> None:
    rotation = XPos(16, 32, 512)
    q, k = torch.randn(1, 2, 16), torch.randn(1, 2, 16)
    query_position, key_position = torch.tensor([70]), torch.tensor([5])
    stored = rotation.rotate_queries(q, query_position, key_block=0) * rotation.rotate_keys(k, key_position)
    toward = rotation.rotate_queries(q, query_position) * rotation.rotate_keys_toward(k, key_position, query_block=2)
    torch.testing.assert_close(stored.sum(-1), toward.sum(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_nothing_overflows_at_position_one_hundred_thousand(dtype: torch.dtype) -> None:
    rotation = XPos(64, 2048, 512)
    x = torch.ones(5, 2, 64, dtype=dtype)
    positions = torch.tensor([0, 1, 2047, 50_000, 100_000])
    assert rotation.rotate_keys(x, positions).isfinite().all()
    assert rotation.rotate_queries(x, positions).isfinite().all()
    far = rotation.rotate_queries(x, positions, key_block=0)
    assert far.isfinite().all()
    # The nearest key of that far block must not be amplified: the limit is 0.
    assert far[-1].abs().max() < 1


def test_rotation_is_done_in_float32_whatever_the_dtype() -> None:
    rotation = XPos(64, 2048, 512)
    x = torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    positions = torch.tensor([1999])
    exact = rotation.rotate_keys(x.float(), positions)
    assert torch.equal(rotation.rotate_keys(x, positions), exact.bfloat16())


def test_xpos_refuses_to_look_ahead() -> None:
    with pytest.raises(ValueError, match="causal"):
        PackedAttention([4], causal=False, rotation=XPos(16, 32, 512))


def test_an_odd_head_width_is_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        XPos(15, 32, 512)
    with pytest.raises(ValueError, match="odd"):
        DecoderConfig(vocab_size=9, num_layers=1, width=15, num_heads=1, ffn_width=8)


def test_only_xpos_rotates() -> None:
    shape = {"vocab_size": 9, "num_layers": 1, "width": 8, "num_heads": 2, "ffn_width": 8}
    assert build_positions(DecoderConfig(**shape, positions="sinusoidal")).rotation is None
    assert isinstance(build_positions(DecoderConfig(**shape, positions="xpos")).rotation, XPos)


def test_a_decay_too_fast_for_its_block_is_refused_with_the_base_that_is_not() -> None:
    with pytest.raises(ValueError, match="take a base of at least 17"):
        XPos(64, 2048, 8)
    table = XPos(64, 2048, 17).key_factors(torch.arange(2048))
    assert torch.isfinite(torch.view_as_real(table)).all()
