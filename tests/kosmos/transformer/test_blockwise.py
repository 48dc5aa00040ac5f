"""Blockwise causal attention: own block and the one before, in prefill, chunks and decode alike, in constant memory."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from kosmos.transformer import paged_attention
from kosmos.transformer.attention import PackedAttention
from kosmos.transformer.cache import CachedSequence, PagedCache
from kosmos.transformer.paged_attention import PagedAttention
from kosmos.transformer.positions import SCHEMES, PositionBias, XPos

BLOCK, HEADS, WIDTH, SCALE = 32, 2, 8, 64
ROTATIONS = {"xpos": SCALE, "rope": None, "none": 0}
TOLERANCE = {"atol": 2e-5, "rtol": 1e-5}
draws = settings(max_examples=15, deadline=None)


def rotation_named(name: str) -> XPos | None:
    return None if name == "none" else XPos(WIDTH, BLOCK, ROTATIONS[name])


def by_formula(query: Tensor, key: Tensor, value: Tensor, scale_base: int | None) -> Tensor:
    """Every pair in float64, factors from the distance alone; 0 as `scale_base` means no rotation."""
    length = len(query)
    place = torch.arange(length)
    distance = (place[:, None] - place[None, :]).double()
    pairs = torch.arange(0, WIDTH, 2, dtype=torch.float64)
    decay = torch.ones(len(pairs), dtype=torch.float64)
    if scale_base:
        decay = ((pairs / WIDTH + 0.4) / 1.4) ** (1 / scale_base)
    angle = 0 if scale_base == 0 else 1
    factors = torch.polar(
        decay ** distance.clamp(min=0)[..., None], angle * distance[..., None] * 10000 ** (-pairs / WIDTH)
    )
    complex_query, complex_key = (
        torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous()) for x in (query, key)
    )
    scores = torch.einsum("qhp,khp,qkp->hqk", complex_query, complex_key.conj(), factors).real / math.sqrt(WIDTH)
    block = place // BLOCK
    seen = (distance >= 0) & (block[None, :] >= block[:, None] - 1)
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -math.inf).softmax(-1), value.double())


def in_pieces(
    rows: Tensor, lengths: list[int], rotation: XPos | None, *, tiled: bool = False, bias: PositionBias | None = None
) -> Tensor:
    cache = PagedCache(num_layers=1, num_heads=HEADS, head_dim=WIDTH, num_pages=40, page_size=16, causal_block=BLOCK)
    stored, outputs = CachedSequence(), []
    for piece in rows.split(lengths, dim=1):
        context = PagedAttention(cache, [stored], [piece.shape[1]], rotation=rotation, tiled=tiled)
        outputs.append(context.attend(0, *piece, bias))
        context.advance()
    return torch.cat(outputs)


@pytest.mark.parametrize("name", ROTATIONS)
@pytest.mark.parametrize("length", [1, 31, 32, 64, 65, 150])
@pytest.mark.parametrize("tiled", [False, True])
def test_whole_sequences_follow_the_formula(name: str, length: int, tiled: bool) -> None:
    torch.manual_seed(length)
    rows = torch.randn(3, length, HEADS, WIDTH)
    context = PackedAttention([length], causal_block=BLOCK, rotation=rotation_named(name), tiled=tiled)
    assert_close(context.attend(0, *rows).double(), by_formula(*rows, ROTATIONS[name]), **TOLERANCE)


@draws
@given(length=st.integers(1, 170), data=st.data())
@pytest.mark.parametrize("name", ROTATIONS)
@pytest.mark.parametrize("compiled", [True, False])
def test_any_chunks_and_single_steps_see_what_the_whole_sees(
    name: str, compiled: bool, length: int, data: st.DataObject
) -> None:
    lengths = []
    while sum(lengths) < length:
        most = min(length - sum(lengths), 70)
        lengths.append(data.draw(st.sampled_from([1, 1, most]) if most > 1 else st.just(1)))
    rows = torch.randn(3, length, HEADS, WIDTH, generator=torch.Generator().manual_seed(length))
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(paged_attention, "load_paged_rows", lambda: None)
        ours = in_pieces(rows, lengths, rotation_named(name))
    assert_close(ours.double(), by_formula(*rows, ROTATIONS[name]), **TOLERANCE)


@draws
@given(length=st.integers(1, 170), data=st.data())
def test_tiles_give_the_same_bits_whole_and_in_chunks(length: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, length))
    lengths = [first] + [1] * min(length - first, 20) + ([length - first - 20] if length - first > 20 else [])
    rows = torch.randn(3, length, HEADS, WIDTH, generator=torch.Generator().manual_seed(length))
    rotation = rotation_named("xpos")
    whole = PackedAttention([length], causal_block=BLOCK, rotation=rotation, tiled=True).attend(0, *rows)
    assert torch.equal(in_pieces(rows, lengths, rotation, tiled=True), whole)


def test_endless_text_needs_no_more_pages_than_two_blocks() -> None:
    cache = PagedCache(
        num_layers=1, num_heads=HEADS, head_dim=WIDTH, num_pages=2 * BLOCK // 16 + 1, page_size=16, causal_block=BLOCK
    )
    stored = CachedSequence()
    for _ in range(20 * BLOCK):
        context = PagedAttention(cache, [stored], [1], rotation=rotation_named("xpos"))
        context.attend(0, *torch.randn(3, 1, HEADS, WIDTH))
        context.advance()
    assert stored.length == 20 * BLOCK
    assert len(stored.pages) <= 2 * BLOCK // 16 + 1
    cache.free(stored)
    assert cache.num_free_pages == 2 * BLOCK // 16 + 1


@pytest.mark.parametrize("causal_block", [None, 512])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_hundred_thousand_tokens_overflow_nothing(causal_block: int | None, dtype: torch.dtype) -> None:
    """The last row equals the formula over the keys it can feel; farther ones have decayed to nothing."""
    length, block = 100_000, 512
    cache = PagedCache(
        num_layers=1,
        num_heads=1,
        head_dim=WIDTH,
        num_pages=length // 32 + 2,
        page_size=32,
        causal_block=causal_block,
        dtype=dtype,
    )
    rotation, stored = XPos(WIDTH, block, 512), CachedSequence()
    rows = torch.randn(3, length, 1, WIDTH, generator=torch.Generator().manual_seed(0)).to(dtype)
    for start in range(0, length, 20_000):
        piece = rows[:, start : start + 20_000]
        context = PagedAttention(cache, [stored], [20_000], rotation=rotation)
        # the past only: its own attention would be quadratic
        cache.keys_LSHK[0, context.slots_R] = rotation.rotate_keys(piece[1], context.positions_R)
        cache.values_LSHK[0, context.slots_R] = piece[2]
        context.advance()
    last = PagedAttention(cache, [stored], [1], rotation=rotation).attend(0, *rows[:, -1:])
    assert torch.isfinite(last).all()
    assert last.float().abs().max() < rows[2].float().abs().max()


def test_a_cache_of_blocks_and_one_of_everything_are_not_mixed_up() -> None:
    with pytest.raises(ValueError, match="blocks of 32 tokens, but keys are anchored to blocks of 64"):
        in_pieces(torch.randn(3, 2, HEADS, WIDTH), [2], XPos(WIDTH, 64, SCALE))
    with pytest.raises(ValueError, match="page size 24 does not divide"):
        PagedCache(num_layers=1, num_heads=1, head_dim=8, num_pages=4, page_size=24, causal_block=BLOCK)
    with pytest.raises(ValueError, match="blockwise attention is causal"):
        PackedAttention([3], causal=False, causal_block=BLOCK)


def test_a_fork_and_its_trunk_forget_their_blocks_apart() -> None:
    cache = PagedCache(num_layers=1, num_heads=1, head_dim=8, num_pages=12, page_size=16, causal_block=BLOCK)
    trunk = cache.allocate(BLOCK)
    trunk.length = BLOCK
    fork = cache.fork(trunk)
    cache.forget(trunk, BLOCK)
    assert (trunk.forgotten, len(trunk.pages)) == (BLOCK, 0)
    assert (fork.forgotten, len(fork.pages)) == (0, 2)
    assert cache.num_free_pages == 10


def test_every_scheme_is_one_of_the_table() -> None:
    assert {"xpos", "rope", "sinusoidal", "learned", "alibi", "t5", "none"} == set(SCHEMES)
