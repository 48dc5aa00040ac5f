"""Packed, alone, cached in any chunks, forked: every way to attend gives the same numbers; tiled, the same bits."""

import math
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from kosmos.transformer import paged_attention
from kosmos.transformer.attention import CrossAttention, PackedAttention
from kosmos.transformer.cache import CachedSequence, CacheFull, PagedCache
from kosmos.transformer.kernels.paged_attention import load_paged_rows
from kosmos.transformer.paged_attention import PagedAttention
from kosmos.transformer.positions import XPos
from tests.kosmos.transformer.small import cache_for, run_cached, run_packed, small_decoder, words

Positions = Literal["xpos", "sinusoidal"]
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
SCHEMES: list[Positions] = ["xpos", "sinusoidal"]
lengths = st.lists(st.integers(1, 100), min_size=1, max_size=5)
draws = settings(max_examples=25, deadline=None)


def in_chunks(sequences: list[Tensor], data: st.DataObject) -> list[list[tuple[int, Tensor]]]:
    """Steps of a scheduler: each gives some of the sequences their next rows, until all are through."""
    left = dict(enumerate(sequences))
    steps = []
    while left:
        chosen = data.draw(st.lists(st.sampled_from(sorted(left)), min_size=1, unique=True))
        step = []
        for index in chosen:
            size = data.draw(st.integers(1, min(len(left[index]), 40)))
            step.append((index, left[index][:size]))
            left[index] = left[index][size:]
            if not len(left[index]):
                del left[index]
        steps.append(step)
    return steps


def run_in_chunks(
    positions: Positions, sequences: list[Tensor], data: st.DataObject, *, deterministic: bool = False
) -> list[Tensor]:
    decoder = small_decoder(positions, deterministic=deterministic)
    cache = cache_for(decoder, page_size=data.draw(st.sampled_from([8, 16, 32])))
    stored = [CachedSequence() for _ in sequences]
    outputs: list[list[Tensor]] = [[] for _ in sequences]
    for step in in_chunks(sequences, data):
        pieces = [piece for _, piece in step]
        hidden = run_cached(decoder, cache, [stored[index] for index, _ in step], pieces, tiled=deterministic)
        for (index, _), rows in zip(step, hidden, strict=True):
            outputs[index].append(rows)
    return [torch.cat(rows) for rows in outputs]


@draws
@given(lengths=lengths)
@pytest.mark.parametrize("positions", SCHEMES)
def test_a_packed_sequence_gets_what_it_gets_alone(positions: Positions, lengths: list[int]) -> None:
    decoder = small_decoder(positions)
    sequences = [words(length, seed) for seed, length in enumerate(lengths)]
    for together, sequence in zip(run_packed(decoder, sequences), sequences, strict=True):
        assert_close(together, run_packed(decoder, [sequence])[0], **TOLERANCE)


@draws
@given(lengths=lengths, data=st.data())
@pytest.mark.parametrize("positions", SCHEMES)
def test_any_chunking_over_a_cache_gives_what_the_whole_gives(
    positions: Positions, lengths: list[int], data: st.DataObject
) -> None:
    sequences = [words(length, seed) for seed, length in enumerate(lengths)]
    cached = run_in_chunks(positions, sequences, data)
    for rows, sequence in zip(cached, sequences, strict=True):
        assert_close(rows, run_packed(small_decoder(positions), [sequence])[0], **TOLERANCE)


@draws
@given(lengths=lengths, data=st.data())
@pytest.mark.parametrize("positions", SCHEMES)
def test_tiled_rows_have_the_same_bits_whatever_stands_around_them(
    positions: Positions, lengths: list[int], data: st.DataObject
) -> None:
    decoder = small_decoder(positions, deterministic=True)
    sequences = [words(length, seed) for seed, length in enumerate(lengths)]
    alone = [run_packed(decoder, [sequence], tiled=True)[0] for sequence in sequences]
    for rows, expected in zip(run_packed(decoder, sequences, tiled=True), alone, strict=True):
        assert torch.equal(rows, expected)
    for rows, expected in zip(run_in_chunks(positions, sequences, data, deterministic=True), alone, strict=True):
        assert torch.equal(rows, expected)
    for rows, sequence in zip(alone, sequences, strict=True):
        assert_close(rows, run_packed(small_decoder(positions), [sequence])[0], **TOLERANCE)


@draws
@given(past=st.integers(1, 80), branches=st.lists(st.integers(1, 40), min_size=2, max_size=4), data=st.data())
@pytest.mark.parametrize("positions", SCHEMES)
def test_a_fork_continues_as_if_it_had_read_the_past_itself(
    positions: Positions, past: int, branches: list[int], data: st.DataObject
) -> None:
    decoder = small_decoder(positions)
    cache = cache_for(decoder, page_size=data.draw(st.sampled_from([8, 16, 32])))
    trunk = CachedSequence()
    run_cached(decoder, cache, [trunk], [words(past, 0)])
    forks = [cache.fork(trunk) for _ in branches]
    ends = [words(length, seed) for seed, length in enumerate(branches, start=1)]
    outputs: list[list[Tensor]] = [[] for _ in branches]
    for step in range(max(branches)):
        alive = [index for index, length in enumerate(branches) if step < length]
        rows = run_cached(
            decoder, cache, [forks[index] for index in alive], [ends[index][step : step + 1] for index in alive]
        )
        for index, row in zip(alive, rows, strict=True):
            outputs[index].append(row)
    for end, rows in zip(ends, outputs, strict=True):
        expected = run_packed(decoder, [torch.cat([words(past, 0), end])])[0][past:]
        assert_close(torch.cat(rows), expected, **TOLERANCE)


@pytest.mark.parametrize("positions", SCHEMES)
def test_the_compiled_decode_step_gives_what_torch_gives_over_scattered_pages(
    positions: Positions, monkeypatch: pytest.MonkeyPatch
) -> None:
    if load_paged_rows() is None:
        pytest.skip("NOT proved: this machine has no compiler or no AVX2, so there is no compiled attention")
    outputs = []
    for kernel in (load_paged_rows(), None):
        monkeypatch.setattr(paged_attention, "load_paged_rows", lambda kernel=kernel: kernel)
        decoder, stored = small_decoder(positions), [CachedSequence() for _ in range(3)]
        cache = cache_for(decoder, page_size=8)
        for piece in range(6):  # sequences grow in turn, so their pages lie among each other's
            for index, sequence in enumerate(stored):
                run_cached(decoder, cache, [sequence], [words(1 + 7 * index, seed=piece)])
        steps = [run_cached(decoder, cache, stored, [words(1, seed) for seed in range(3)]) for _ in range(20)]
        outputs.append(torch.stack([torch.cat(rows) for rows in steps]))
    assert_close(outputs[0], outputs[1], **TOLERANCE)


@pytest.mark.parametrize("positions", SCHEMES)
def test_no_row_sees_a_later_one(positions: Positions) -> None:
    decoder = small_decoder(positions)
    sequence = words(80, 0)
    changed = torch.cat([sequence[:50], words(30, 9)])
    before, after = (run_packed(decoder, [ids])[0] for ids in (sequence, changed))
    assert torch.equal(before[:50], after[:50])
    assert not torch.allclose(before[50:], after[50:], atol=1e-2)


def test_xpos_attention_over_several_blocks_follows_the_formula() -> None:
    """Head by head, pair by pair in float64: scores decay with zeta^(distance / base) and turn with the distance."""
    length, width, base, block = 75, 8, 64, 16
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, length, 2, width, generator=generator)
    context = PackedAttention([length], rotation=XPos(width, block, base))
    ours = context.attend(0, query, key, value)
    pairs = torch.arange(0, width, 2, dtype=torch.float64)
    distance = (torch.arange(length)[:, None] - torch.arange(length)[None, :]).double()
    decay = ((pairs / width + 0.4) / 1.4) ** (distance.clamp(min=0)[..., None] / base)
    factors = torch.polar(decay, distance[..., None] * 10000 ** (-pairs / width))
    complex_query, complex_key = (
        torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous()) for x in (query, key)
    )
    scores = torch.einsum("qhp,khp,qkp->hqk", complex_query, complex_key.conj(), factors).real / math.sqrt(width)
    weights = scores.masked_fill(distance < 0, float("-inf")).softmax(dim=-1)
    expected = torch.einsum("hqk,khd->qhd", weights, value.double())
    assert_close(ours.double(), expected, **TOLERANCE)


def test_without_causality_every_row_sees_all_of_its_own_sequence_only() -> None:
    query, key, value = torch.randn(3, 9, 2, 8)
    ours = PackedAttention([4, 5], causal=False).attend(0, query, key, value)
    for rows in (slice(0, 4), slice(4, 9)):
        scores = torch.einsum("qhk,thk->hqt", query[rows], key[rows]) / math.sqrt(8)
        assert_close(ours[rows], torch.einsum("hqt,thk->qhk", scores.softmax(-1), value[rows]), **TOLERANCE)


@pytest.mark.parametrize("causal", [True, False])
def test_a_learned_bias_is_added_to_the_scores(causal: bool) -> None:
    table = torch.randn(2, 12)
    query, key, value = torch.randn(3, 9, 2, 8)

    def bias(query_positions: Tensor, key_positions: Tensor) -> Tensor:
        return table[:, (query_positions[:, None] - key_positions[None, :]).clamp(min=0)]

    ours = PackedAttention([4, 5], causal=causal).attend(0, query, key, value, bias)
    for rows in (slice(0, 4), slice(4, 9)):
        steps = torch.arange(rows.stop - rows.start)
        scores = torch.einsum("qhk,thk->hqt", query[rows], key[rows]) / math.sqrt(8) + bias(steps, steps)
        if causal:
            scores = scores.masked_fill(steps[None, :] > steps[:, None], float("-inf"))
        assert_close(ours[rows], torch.einsum("hqt,thk->qhk", scores.softmax(-1), value[rows]), **TOLERANCE)


def test_cross_attention_mixes_the_memory_of_its_own_sequence() -> None:
    query = torch.randn(5, 2, 8)
    keys, values = torch.randn(2, 11, 2, 8)
    context = CrossAttention([(keys, values)], query_lengths=[2, 3], memory_lengths=[7, 4])
    ours = context.attend(0, query)
    for rows, memory in ((slice(0, 2), slice(0, 7)), (slice(2, 5), slice(7, 11))):
        scores = torch.einsum("qhk,thk->hqt", query[rows], keys[memory]) / math.sqrt(8)
        assert_close(ours[rows], torch.einsum("hqt,thk->qhk", scores.softmax(-1), values[memory]), **TOLERANCE)
    with pytest.raises(ValueError, match="one each"):
        CrossAttention([(keys, values)], query_lengths=[5], memory_lengths=[7, 4])


def test_a_page_may_not_straddle_two_rotation_blocks() -> None:
    cache = PagedCache(num_layers=1, num_heads=1, head_dim=8, num_pages=4, page_size=24)
    with pytest.raises(ValueError, match="does not divide"):
        PagedAttention(cache, [CachedSequence()], [3], rotation=XPos(8, 32, 64))


def test_a_tile_may_not_straddle_two_rotation_blocks() -> None:
    decoder = small_decoder(block=16)
    with pytest.raises(ValueError, match="do not divide"):
        run_packed(decoder, [words(40, 0)], tiled=True)


def test_a_full_cache_says_so_before_anything_is_computed() -> None:
    decoder = small_decoder()
    cache = cache_for(decoder, num_pages=2, page_size=16)
    stored = CachedSequence()
    run_cached(decoder, cache, [stored], [words(20, 0)])
    with pytest.raises(CacheFull):
        run_cached(decoder, cache, [stored], [words(20, 1)])
    rest = run_cached(decoder, cache, [stored], [words(12, 2)])[0]
    expected = run_packed(decoder, [torch.cat([words(20, 0), words(12, 2)])])[0][20:]
    assert_close(rest, expected, **TOLERANCE)


@pytest.mark.parametrize("learning", [0, 1, 2])
def test_a_decode_step_keeps_the_gradient_of_query_key_and_value(learning: int) -> None:
    rows = [torch.randn(1, 4, 8, requires_grad=number == learning) for number in range(3)]
    cache = PagedCache(num_layers=1, num_heads=4, head_dim=8, num_pages=1, page_size=16)
    cache.keys_LSHK.requires_grad_(False)
    assert PagedAttention(cache, [CachedSequence()], [1]).attend(0, *rows).requires_grad


def test_what_is_not_a_number_stays_visible_in_a_decode_step() -> None:
    cache = PagedCache(num_layers=1, num_heads=1, head_dim=8, num_pages=1, page_size=16)
    cache.keys_LSHK[0, 3] = float("nan")
    stored = cache.allocate(16)
    stored.length = 7
    assert PagedAttention(cache, [stored], [1]).attend(0, *torch.randn(3, 1, 1, 8)).isnan().all()
