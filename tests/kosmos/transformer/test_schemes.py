"""Position schemes behind one interface: each by its own formula, cached as whole, and a new one in a line."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from kosmos.transformer import positions
from kosmos.transformer.attention import PackedAttention
from kosmos.transformer.cache import CachedSequence
from kosmos.transformer.config import DecoderConfig, EncoderConfig
from kosmos.transformer.positions import SCHEMES, Positions, build_positions, relative_buckets
from kosmos.transformer.stack import Decoder
from tests.kosmos.transformer.small import cache_for, run_cached, run_packed, small_config, words

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
NAMES = list(SCHEMES)


def decoder_of(name: str, causal_block: int | None = None, num_layers: int = 2) -> Decoder:
    torch.manual_seed(2)
    config = replace(small_config(), positions=name, max_length=256, causal_block=causal_block, num_layers=num_layers)
    return Decoder(config).eval().requires_grad_(False)


def scheme(name: str, *, num_heads: int = 4, encoder: bool = False) -> Positions:
    shape = {"num_layers": 1, "width": 8 * num_heads, "num_heads": num_heads, "ffn_width": 8, "positions": name}
    return build_positions(EncoderConfig(**shape) if encoder else DecoderConfig(vocab_size=9, **shape))


@pytest.mark.parametrize("causal_block", [None, 32])
@pytest.mark.parametrize("name", NAMES)
def test_chunks_and_single_steps_over_a_cache_give_what_the_whole_gives(name: str, causal_block: int | None) -> None:
    decoder = decoder_of(name, causal_block)
    sequences = [words(150, 0), words(40, 1), words(77, 2)]
    lengths = [len(sequence) for sequence in sequences]
    context = decoder.context(lengths)
    whole = decoder(decoder.embed(torch.cat(sequences)), context.positions_R, context).split(lengths)
    cache, stored = cache_for(decoder), [CachedSequence() for _ in sequences]
    rows: list[list[Tensor]] = [[] for _ in sequences]
    done = 0
    for size in (33, 1, 1, 5, 37, 73):
        alive = [index for index, length in enumerate(lengths) if length > done]
        pieces = [sequences[index][done : done + size] for index in alive]
        for index, hidden in zip(alive, run_cached(decoder, cache, [stored[i] for i in alive], pieces), strict=True):
            rows[index].append(hidden)
        done += size
    for ours, expected in zip(rows, whole, strict=True):
        assert_close(torch.cat(ours), expected, **TOLERANCE)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "none"])
def test_a_scheme_knows_the_order_of_words_and_none_does_not(name: str) -> None:
    swapped = words(9, 3)[[1, 0, *range(2, 9)]]
    for used, same in ((name, False), ("none", True)):  # one layer: a second sees who saw whom
        decoder = decoder_of(used, num_layers=1)
        one, other = (run_packed(decoder, [ids])[0][-1] for ids in (words(9, 3), swapped))
        assert torch.allclose(one, other, atol=1e-5) == same


def test_rope_is_a_rotation_by_the_distance_without_decay() -> None:
    rotation = scheme("rope").rotation
    assert rotation is not None
    assert not rotation.decays
    query, key = torch.randn(2, 1, 4, 8, generator=torch.Generator().manual_seed(0))
    angles = 5 * 10000 ** (-torch.arange(0, 8, 2).double() / 8)
    pairs = [torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous()) for x in (query, key)]
    wanted = (pairs[0] * pairs[1].conj() * torch.polar(torch.ones(4).double(), angles)).real.sum(-1)
    for start in (0, 2045, 70_000):  # inside one block of 2048, over its edge, far away
        place = torch.tensor([start])
        turned = rotation.rotate_queries(query, place + 5, key_block=start // rotation.block)
        made = (turned * rotation.rotate_keys(key, place)).sum(-1)
        assert_close(made.double(), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("num_heads", [1, 4, 6, 8, 12])
def test_alibi_lowers_scores_by_slope_times_distance(num_heads: int) -> None:
    bias = scheme("alibi", num_heads=num_heads).bias
    assert bias is not None
    whole = 2 ** int(math.log2(num_heads))
    slopes = [2.0 ** (-8 * h / whole) for h in range(1, whole + 1)]
    slopes += [2.0 ** (-4 * h / whole) for h in range(1, 2 * whole, 2)][: num_heads - whole]
    made = bias(torch.tensor([700]), torch.tensor([700, 699, 0]))
    for head, slope in enumerate(slopes):
        assert_close(made[head, 0], torch.tensor([0.0, -slope, -700 * slope]))


@pytest.mark.parametrize("both_ways", [True, False])
def test_buckets_are_those_of_t5(both_ways: bool) -> None:
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5", reason="NOT proved: transformers is not installed")
    relative = torch.arange(-400, 400)[None]
    made = relative_buckets(relative, num_buckets=32, max_distance=128, both_ways=both_ways)
    wanted = t5.T5Attention._relative_position_bucket(relative, bidirectional=both_ways)
    assert torch.equal(made, wanted)
    assert scheme("t5", encoder=both_ways).both_ways == both_ways  # type: ignore[union-attr]


def test_a_learned_table_ends_where_it_ends() -> None:
    table = scheme("learned")
    assert table.added(torch.tensor([2047])).shape == (1, 32)  # type: ignore[union-attr]
    with pytest.raises(IndexError, match="position 2048 of a learned table of 2048"):
        table.added(torch.tensor([2048]))


def test_rotations_of_an_encoder_look_both_ways_and_xpos_may_not() -> None:
    rotation = scheme("rope", encoder=True).rotation
    rows = torch.randn(3, 9, 4, 8)
    mixed = PackedAttention([9], causal=False, rotation=rotation).attend(0, *rows)
    backwards = PackedAttention([9], causal=False, rotation=rotation).attend(0, *rows.flip(1))
    assert not torch.allclose(mixed.flip(0), backwards, atol=1e-3)
    with pytest.raises(ValueError, match="an encoder sees them"):
        scheme("xpos", encoder=True)
    with pytest.raises(ValueError, match="xPos amplifies"):
        PackedAttention([9], causal=False, rotation=scheme("xpos").rotation)


def test_a_new_scheme_is_one_class_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Parity(Positions):
        """Odd and even places differ, nothing else."""

        def __init__(self, shape: DecoderConfig | EncoderConfig) -> None:
            super().__init__()
            self.width = shape.width

        def added(self, positions_R: Tensor) -> Tensor:
            return torch.nn.functional.one_hot(positions_R % 2, self.width).float()

    monkeypatch.setitem(positions.SCHEMES, "sinusoidal", Parity)
    decoder = decoder_of("sinusoidal")
    ids = torch.full((6,), 7)
    hidden = run_packed(decoder, [ids])[0]
    assert isinstance(decoder.positions, Parity)
    assert not torch.allclose(hidden[0], hidden[1], atol=1e-3)
