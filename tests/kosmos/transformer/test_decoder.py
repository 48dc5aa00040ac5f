"""The decoder computes what the papers' equations say, and nothing else."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from kosmos.transformer.attention import PackedAttention
from kosmos.transformer.block import Block
from kosmos.transformer.config import DecoderConfig
from kosmos.transformer.stack import Decoder
from tests.kosmos.transformer.small import run_packed, small_config, small_decoder, words


def norm(x: Tensor, part: torch.nn.LayerNorm) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5) * part.weight + part.bias


def attention_by_hand(x: Tensor, block: Block) -> Tensor:
    """Head by head, row by row."""
    part = block.attention
    heads = []
    for q, k, v in zip(
        part.q_proj(x).chunk(4, -1), part.k_proj(x).chunk(4, -1), part.v_proj(x).chunk(4, -1), strict=True
    ):
        rows = [((k[: i + 1] @ q[i]) / math.sqrt(q.shape[-1])).softmax(0) @ v[: i + 1] for i in range(len(x))]
        heads.append(torch.stack(rows))
    return torch.cat(heads, dim=-1)


def test_a_block_is_sub_ln_by_the_equations() -> None:
    decoder = small_decoder("sinusoidal")
    block = decoder.blocks[0]
    x = torch.randn(7, 32)
    mixed = norm(attention_by_hand(norm(x, block.attention_norm), block), block.attention.norm)
    middle = x + block.attention.out_proj(mixed)
    wide = block.feedforward.fc1(norm(middle, block.feedforward_norm))
    wide = wide * 0.5 * (1 + torch.erf(wide / math.sqrt(2)))
    expected = middle + block.feedforward.fc2(norm(wide, block.feedforward.norm))
    assert_close(block(x, 0, PackedAttention([7])), expected, atol=2e-6, rtol=1e-5)


def test_embeddings_are_scaled_by_the_root_of_the_width_before_sinusoids_are_added() -> None:
    decoder = small_decoder("sinusoidal")
    sinusoids = decoder.positions.added(torch.arange(5))
    assert sinusoids is not None
    embedded = decoder.embedding(words(5, 0))
    seen: list[Tensor] = []
    hook = decoder.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    decoder(embedded, torch.arange(5), PackedAttention([5]))
    hook.remove()
    assert_close(seen[0], embedded * math.sqrt(32) + sinusoids)
    unscaled = Decoder(replace(small_config("xpos"), scale_embedding=False)).eval()
    hook = unscaled.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    unscaled(embedded, torch.arange(5), PackedAttention([5]))
    hook.remove()
    assert torch.equal(seen[1], embedded)


def test_the_head_is_the_embedding_and_has_no_bias() -> None:
    decoder = small_decoder()
    hidden = torch.randn(3, 32)
    assert_close(decoder.logits(hidden), hidden @ decoder.embedding.weight.T)
    assert decoder.head.bias is None


def test_a_head_separated_by_empty_memory_is_tied_again() -> None:
    with torch.device("meta"):
        decoder = Decoder(small_config())
    decoder.to_empty(device="cpu")
    decoder.tie_head()
    assert decoder.head.weight is decoder.embedding.weight


@pytest.mark.parametrize("positions", ["xpos", "sinusoidal"])
def test_the_order_of_words_matters(positions: str) -> None:
    decoder = small_decoder(positions)  # type: ignore[arg-type]
    first, second = torch.tensor([5, 6, 7]), torch.tensor([6, 5, 7])
    assert not torch.allclose(run_packed(decoder, [first])[0][-1], run_packed(decoder, [second])[0][-1], atol=1e-3)


def test_dropout_acts_in_training_and_never_in_eval() -> None:
    decoder = Decoder(replace(small_config(), dropout=0.5))
    ids = words(20, 0)
    assert not torch.equal(run_packed(decoder, [ids])[0], run_packed(decoder, [ids])[0])
    decoder.eval()
    assert torch.equal(run_packed(decoder, [ids])[0], run_packed(decoder, [ids])[0])


@pytest.mark.parametrize("rate", ["attention", "activation"])
def test_inner_dropouts_are_where_the_config_puts_them(rate: str) -> None:
    rates = {"dropout": 0.0, "activation_dropout": 0.9 if rate == "activation" else 0.0}
    decoder = Decoder(replace(small_config("sinusoidal"), **rates))
    ids = words(20, 0)
    context = PackedAttention([20], dropout=0.9 if rate == "attention" else 0.0)
    first, second = (decoder(decoder.embedding(ids), torch.arange(20), context) for _ in range(2))
    assert not torch.equal(first, second)


def test_every_parameter_learns() -> None:
    decoder = Decoder(replace(small_config(), dropout=0.0))
    ids = words(40, 0)
    hidden = run_packed(decoder, [ids])[0]
    F.cross_entropy(decoder.logits(hidden[:-1]), ids[1:]).backward()
    idle = [
        name
        for name, parameter in decoder.named_parameters()
        # A key's bias adds the same to all scores of a query without xPos; with it, it must learn, too.
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert idle == []


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"width": 30}, "not divisible"),
        ({"positions": "nowhere"}, "unknown positions"),
        ({"initialisation": "zero"}, "unknown initialisation"),
    ],
)
def test_an_impossible_shape_is_refused(fields: dict[str, object], complaint: str) -> None:
    shape = {"vocab_size": 9, "num_layers": 1, "width": 32, "num_heads": 4, "ffn_width": 8}
    with pytest.raises(ValueError, match=complaint):
        DecoderConfig(**{**shape, **fields})  # type: ignore[arg-type]
