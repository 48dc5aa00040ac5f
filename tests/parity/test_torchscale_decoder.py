"""Sub-LN with xPos gives the logits of torchscale 0.3.0's decoder, with copied weights, whole and token by token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from kosmos.transformer.attention import PackedAttention
from kosmos.transformer.cache import CachedSequence
from kosmos.transformer.config import DecoderConfig
from kosmos.transformer.stack import Decoder
from tests.kosmos.transformer.small import cache_for, run_cached

REASON = "torchscale 0.3.0 and fairscale 0.4.0 are NOT installed; pip install --no-deps -r requirements-peers.lock"
pytest.importorskip("fairscale", reason=REASON, exc_type=ImportError)
pytest.importorskip("torchscale.architecture.decoder", reason=REASON, exc_type=ImportError)

VOCABULARY, WIDTH, HEADS, FFN, LAYERS, LENGTH = 100, 64, 4, 128, 3, 120
TOLERANCE = {"atol": 1e-5, "rtol": 0}
NAMES = {
    "embed_tokens": "embedding",
    "self_attn_layer_norm": "attention_norm",
    "self_attn.inner_attn_ln": "attention.norm",
    "self_attn": "attention",
    "final_layer_norm": "feedforward_norm",
    "ffn.ffn_layernorm": "feedforward.norm",
    "ffn": "feedforward",
    "layer_norm": "norm",
}


@pytest.fixture(scope="module")
def peer() -> Any:
    """Random everywhere, norms and biases included; the head is the embedding, as in Kosmos."""
    from torchscale.architecture.config import DecoderConfig as PeerConfig
    from torchscale.architecture.decoder import Decoder as PeerDecoder
    from torchscale.component.embedding import TextEmbedding

    config = PeerConfig(
        vocab_size=VOCABULARY,
        decoder_embed_dim=WIDTH,
        decoder_attention_heads=HEADS,
        decoder_ffn_embed_dim=FFN,
        decoder_layers=LAYERS,
        subln=True,
        xpos_rel_pos=True,
        share_decoder_input_output_embed=True,
    )
    torch.manual_seed(0)
    decoder = PeerDecoder(config, embed_tokens=TextEmbedding(VOCABULARY, WIDTH)).eval().requires_grad_(False)
    for name, parameter in decoder.named_parameters():
        if parameter.ndim == 1:
            parameter.add_(torch.randn_like(parameter) * 0.2)
        elif "embed_tokens" in name:
            parameter.copy_(torch.randn_like(parameter) * 0.15)
        else:
            parameter.mul_(1.5)
    return decoder


def copy_of(peer: Any, block: int) -> Decoder:
    decoder = Decoder(
        DecoderConfig(
            vocab_size=VOCABULARY,
            num_layers=LAYERS,
            width=WIDTH,
            num_heads=HEADS,
            ffn_width=FFN,
            xpos_block=block,
            scale_embedding=False,
        )
    )
    state = {}
    for name, tensor in peer.state_dict().items():
        if name.endswith("xpos.scale") or name.startswith("output_projection"):
            continue
        prefix, _, rest = name.partition("layers.")
        number, inner = (rest.partition(".")[0] + ".", rest.partition(".")[2]) if rest else ("", prefix)
        known = next(known for known in NAMES if inner.startswith(known + "."))
        state[("blocks." if rest else "") + number + NAMES[known] + inner.removeprefix(known)] = tensor
    missing = decoder.load_state_dict(state, strict=False)
    assert missing.unexpected_keys == []
    assert missing.missing_keys == ["head.weight"]
    return decoder.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(2, VOCABULARY, (LENGTH,), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def expected(peer: Any, ids: Tensor) -> Tensor:
    logits: Tensor = peer(ids[None])[0][0]
    assert logits.std() > 1, "logits near zero would agree whatever the decoder does"
    return logits


@pytest.mark.parametrize("block", [32, 64, 2048])
def test_whole_sequences_give_the_logits_of_torchscale(peer: Any, ids: Tensor, expected: Tensor, block: int) -> None:
    decoder = copy_of(peer, block)
    hidden = decoder(decoder.embedding(ids), torch.arange(LENGTH), PackedAttention([LENGTH], rotation=decoder.rotation))
    assert_close(decoder.logits(hidden), expected, **TOLERANCE)


@pytest.mark.parametrize("block", [32, 2048])
def test_token_by_token_over_the_cache_gives_the_logits_of_torchscale(
    peer: Any, ids: Tensor, expected: Tensor, block: int
) -> None:
    decoder = copy_of(peer, block)
    cache, stored = cache_for(decoder, page_size=32), CachedSequence()
    rows = [run_cached(decoder, cache, [stored], [ids[step : step + 1]])[0] for step in range(LENGTH)]
    assert_close(decoder.logits(torch.cat(rows)), expected, **TOLERANCE)


def test_torchscale_token_by_token_gives_our_logits(peer: Any, ids: Tensor) -> None:
    """Its own incremental state, which rotates its whole cache anew at every step."""
    decoder, state = copy_of(peer, 32), {}
    cache, stored = cache_for(decoder, page_size=32), CachedSequence()
    for step in range(40):
        theirs = peer(ids[None, : step + 1], incremental_state=state)[0][0, -1]
        row = run_cached(decoder, cache, [stored], [ids[step : step + 1]])[0]
        assert_close(decoder.logits(row)[0], theirs, **TOLERANCE)


def test_batches_of_torchscale_equal_our_packed_rows(peer: Any) -> None:
    batch = torch.randint(2, VOCABULARY, (3, 70), generator=torch.Generator().manual_seed(2))
    decoder = copy_of(peer, 32)
    context = PackedAttention([70] * 3, rotation=decoder.rotation)
    hidden = decoder(decoder.embedding(batch.flatten()), context.positions_R, context)
    assert_close(decoder.logits(hidden).view(3, 70, -1), peer(batch)[0], **TOLERANCE)
