"""A block's norms stand where its papers put them; cross-attention and dropped paths join like any sublayer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from kosmos.transformer.attention import CrossAttention, PackedAttention
from kosmos.transformer.block import Beside, Block
from kosmos.transformer.config import DecoderConfig, Norms
from kosmos.transformer.stack import Decoder
from tests.kosmos.transformer.small import run_packed, small_config, words

ALPHA = 1.7
LENGTH, MEMORY = 6, 5


def shape(norms: Norms) -> DecoderConfig:
    return replace(small_config("sinusoidal"), norms=norms)


@pytest.fixture
def block(request: pytest.FixtureRequest) -> Block:
    """Norms that are not identity, so that their place shows."""
    torch.manual_seed(0)
    built = Block(shape(request.param), 0, alpha=ALPHA, cross=True).eval().requires_grad_(False)
    for name, parameter in built.named_parameters():
        if "norm" in name:
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return built


def remembered(block: Block) -> CrossAttention:
    assert block.cross_attention is not None
    memory = block.cross_attention.remember(torch.randn(MEMORY, 32, generator=torch.Generator().manual_seed(3)))
    return CrossAttention([memory], query_lengths=[LENGTH], memory_lengths=[MEMORY])


def mixed(block: Block, x: Tensor) -> Tensor:
    """Self-attention before its inner norm."""
    part, heads = block.attention, (4, -1)
    q, k, v = (projection(x).unflatten(-1, heads) for projection in (part.q_proj, part.k_proj, part.v_proj))
    return PackedAttention([LENGTH]).attend(0, q, k, v).flatten(-2)


def crossed(block: Block, x: Tensor) -> Tensor:
    part = block.cross_attention
    assert part is not None
    return part.out_proj(remembered(block).attend(0, part.q_proj(x).unflatten(-1, (4, -1))).flatten(-2))


def fed(block: Block, x: Tensor) -> Tensor:
    return block.feedforward.fc2(block.feedforward.norm(nn.functional.gelu(block.feedforward.fc1(x))))


@pytest.mark.parametrize("block", ["subln", "pre"], indirect=True)
def test_norms_before_leave_the_stream_as_it_is(block: Block) -> None:
    x = torch.randn(LENGTH, 32)
    expected = x + block.attention.out_proj(block.attention.norm(mixed(block, block.attention_norm(x))))
    expected = expected + crossed(block, block.cross_attention_norm(expected))
    expected = expected + fed(block, block.feedforward_norm(expected))
    assert_close(block(x, 0, PackedAttention([LENGTH]), Beside(memory=remembered(block))), expected)


@pytest.mark.parametrize("block", ["deepnorm", "post"], indirect=True)
def test_norms_behind_see_the_stream_times_alpha(block: Block) -> None:
    x = torch.randn(LENGTH, 32)
    expected = block.attention_norm(ALPHA * x + block.attention.out_proj(mixed(block, x)))
    expected = block.cross_attention_norm(ALPHA * expected + crossed(block, expected))
    expected = block.feedforward_norm(ALPHA * expected + fed(block, expected))
    assert_close(block(x, 0, PackedAttention([LENGTH]), Beside(memory=remembered(block))), expected)


@pytest.mark.parametrize(
    ("norms", "inner", "last"), [("subln", 2, 1), ("pre", 0, 1), ("post", 0, 0), ("deepnorm", 0, 0)]
)
def test_only_sub_ln_norms_inside_and_only_norms_before_need_a_last_one(norms: Norms, inner: int, last: int) -> None:
    decoder = Decoder(shape(norms))
    insides = [
        name for name, part in decoder.blocks[0].named_modules() if isinstance(part, nn.LayerNorm) and "." in name
    ]
    assert len(insides) == inner
    assert isinstance(decoder.norm, nn.LayerNorm) == bool(last)


def test_cross_attention_has_one_norm_for_sub_ln_too() -> None:
    names = [name for name, _ in Block(shape("subln"), 0, cross=True).named_parameters() if "cross" in name]
    assert [name for name in names if "norm" in name] == ["cross_attention_norm.weight", "cross_attention_norm.bias"]


def test_paths_are_dropped_more_often_the_deeper_the_layer() -> None:
    config = replace(small_config(), num_layers=5, drop_path=0.4)
    rates = [Block(config, layer).drop_path for layer in range(5)]
    assert_close(torch.tensor(rates), torch.linspace(0, 0.4, 5))


def test_a_dropped_path_leaves_a_row_as_it_was_and_keeps_the_expectation() -> None:
    rows = 4000
    config = replace(small_config("sinusoidal"), dropout=0.0, drop_path=0.25)
    torch.manual_seed(0)
    block = Block(config, config.num_layers - 1)
    block.feedforward_norm = nn.Identity()  # type: ignore[assignment]
    block.feedforward = One()
    block.attention = Zero()  # type: ignore[assignment]
    added = block(torch.zeros(rows, 32), 1, PackedAttention([rows]))
    assert added.mean().item() == pytest.approx(1, abs=0.05)
    assert added.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    # A row is dropped as a whole.
    assert bool((added == added[:, :1]).all())
    assert bool((block.eval()(torch.zeros(rows, 32), 1, PackedAttention([rows])) == 1).all())


class One(nn.Module):
    def forward(self, x_RD: Tensor, kinds_R: Tensor | None = None) -> Tensor:
        return torch.ones_like(x_RD)


class Zero(nn.Module):
    def forward(self, x_RD: Tensor, *others: object) -> Tensor:
        return torch.zeros_like(x_RD)


@pytest.mark.parametrize("norms", ["subln", "deepnorm", "pre", "post"])
def test_every_arrangement_learns_everywhere(norms: Norms) -> None:
    torch.manual_seed(0)
    decoder = Decoder(replace(small_config(), norms=norms, dropout=0.0))
    ids = words(40, 0)
    hidden = run_packed(decoder, [ids])[0]
    nn.functional.cross_entropy(decoder.logits(hidden[:-1]), ids[1:]).backward()
    idle = [name for name, part in decoder.named_parameters() if part.grad is None or not part.grad.any()]
    assert idle == []
