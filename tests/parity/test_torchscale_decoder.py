"""Our decoder gives the logits of torchscale 0.3.0's, with copied weights, whole and token by token.

Sub-LN with xPos, as Kosmos-1 has it, and DeepNorm.
"""

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
from tests.parity.torchscale import REASON, SIZES, VOCABULARY, WIDTH, load_side, randomised, side_fields

pytest.importorskip("fairscale", reason=REASON, exc_type=ImportError)
pytest.importorskip("torchscale.architecture.decoder", reason=REASON, exc_type=ImportError)

LENGTH = 120
TOLERANCE = {"atol": 1e-5, "rtol": 0}


def peer_of(**fields: object) -> Any:
    """The head is the embedding, as in Kosmos."""
    from torchscale.architecture.config import DecoderConfig as PeerConfig
    from torchscale.architecture.decoder import Decoder as PeerDecoder
    from torchscale.component.embedding import TextEmbedding

    config = PeerConfig(
        vocab_size=VOCABULARY, share_decoder_input_output_embed=True, **side_fields("decoder"), **fields
    )
    torch.manual_seed(0)
    return randomised(PeerDecoder(config, embed_tokens=TextEmbedding(VOCABULARY, WIDTH)))


def copy_of(peer: Any, **fields: Any) -> Decoder:
    decoder = Decoder(DecoderConfig(**SIZES, vocab_size=VOCABULARY, scale_embedding=False, **fields))
    load_side(decoder, peer.state_dict())
    return decoder


@pytest.fixture(scope="module")
def peer() -> Any:
    return peer_of(subln=True, xpos_rel_pos=True)


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
    decoder = copy_of(peer, xpos_block=block)
    hidden = decoder(decoder.embedding(ids), torch.arange(LENGTH), PackedAttention([LENGTH], rotation=decoder.rotation))
    assert_close(decoder.logits(hidden), expected, **TOLERANCE)


@pytest.mark.parametrize("block", [32, 2048])
def test_token_by_token_over_the_cache_gives_the_logits_of_torchscale(
    peer: Any, ids: Tensor, expected: Tensor, block: int
) -> None:
    decoder = copy_of(peer, xpos_block=block)
    cache, stored = cache_for(decoder, page_size=32), CachedSequence()
    rows = [run_cached(decoder, cache, [stored], [ids[step : step + 1]])[0] for step in range(LENGTH)]
    assert_close(decoder.logits(torch.cat(rows)), expected, **TOLERANCE)


def test_torchscale_token_by_token_gives_our_logits(peer: Any, ids: Tensor) -> None:
    """Its own incremental state, which rotates its whole cache anew at every step."""
    decoder, state = copy_of(peer, xpos_block=32), {}
    cache, stored = cache_for(decoder, page_size=32), CachedSequence()
    for step in range(40):
        theirs = peer(ids[None, : step + 1], incremental_state=state)[0][0, -1]
        row = run_cached(decoder, cache, [stored], [ids[step : step + 1]])[0]
        assert_close(decoder.logits(row)[0], theirs, **TOLERANCE)


def test_batches_of_torchscale_equal_our_packed_rows(peer: Any) -> None:
    batch = torch.randint(2, VOCABULARY, (3, 70), generator=torch.Generator().manual_seed(2))
    decoder = copy_of(peer, xpos_block=32)
    context = PackedAttention([70] * 3, rotation=decoder.rotation)
    hidden = decoder(decoder.embedding(batch.flatten()), context.positions_R, context)
    assert_close(decoder.logits(hidden).view(3, 70, -1), peer(batch)[0], **TOLERANCE)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"deepnorm": True, "subln": False}, "deepnorm"),
        ({"subln": False}, "pre"),
        ({"subln": False, "decoder_normalize_before": False}, "post"),
    ],
)
def test_other_norms_give_the_logits_of_torchscale_whole_and_cached(
    theirs: dict[str, bool], ours: Any, ids: Tensor
) -> None:
    peer = peer_of(xpos_rel_pos=True, **theirs)
    expected = peer(ids[None])[0][0]
    assert expected.std() > 0.5
    decoder = copy_of(peer, norms=ours, xpos_block=32)
    context = PackedAttention([LENGTH], rotation=decoder.rotation)
    hidden = decoder(decoder.embedding(ids), torch.arange(LENGTH), context)
    assert_close(decoder.logits(hidden), expected, **TOLERANCE)
    cache, stored = cache_for(decoder, page_size=32), CachedSequence()
    rows = [run_cached(decoder, cache, [stored], [piece])[0] for piece in ids.split([50, 1, 1, 1, 67])]
    assert_close(decoder.logits(torch.cat(rows)), expected, **TOLERANCE)
