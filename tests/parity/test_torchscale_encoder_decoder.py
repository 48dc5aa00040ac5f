"""Our encoder-decoder gives the logits of torchscale 0.3.0's, whole and token by token; its faults, where we differ."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from kosmos.transformer.cache import CachedSequence
from kosmos.transformer.config import DecoderConfig, EncoderConfig, EncoderDecoderConfig, Norms
from kosmos.transformer.encoder_decoder import EncoderDecoder
from kosmos.transformer.paged_attention import PagedAttention
from tests.kosmos.transformer.small import cache_for
from tests.parity.torchscale import LAYERS, REASON, SIZES, VOCABULARY, WIDTH, load_side, randomised, side_fields

pytest.importorskip("fairscale", reason=REASON, exc_type=ImportError)
pytest.importorskip("torchscale.architecture.encoder_decoder", reason=REASON, exc_type=ImportError)

TOLERANCE = {"atol": 1e-5, "rtol": 0}
SOURCES, TARGETS = [23, 9, 30], [20, 20, 20]
ROOM = 42  # rows of its position tables, of which it can use 40
KINDS: list[tuple[dict[str, bool], Norms]] = [
    ({"subln": True}, "subln"),
    ({"subln": False, "deepnorm": True}, "deepnorm"),
    ({"subln": False}, "pre"),
]


def peer_of(*, shared: bool = False, **fields: Any) -> Any:
    from torchscale.architecture.config import EncoderDecoderConfig as PeerConfig
    from torchscale.architecture.encoder_decoder import EncoderDecoder as PeerEncoderDecoder
    from torchscale.component.embedding import PositionalEmbedding, TextEmbedding

    config = PeerConfig(
        vocab_size=VOCABULARY,
        share_decoder_input_output_embed=True,
        share_all_embeddings=shared,
        **side_fields("encoder"),
        **side_fields("decoder"),
        **fields,
    )
    torch.manual_seed(0)
    return PeerEncoderDecoder(
        config,
        encoder_embed_tokens=TextEmbedding(VOCABULARY, WIDTH),
        encoder_embed_positions=PositionalEmbedding(ROOM, WIDTH),
        decoder_embed_tokens=None if shared else TextEmbedding(VOCABULARY, WIDTH),
        decoder_embed_positions=PositionalEmbedding(ROOM, WIDTH),
    )


def ours_of(*, shared: bool = False, **fields: Any) -> EncoderDecoder:
    both = {**SIZES, "positions": "learned", "max_length": ROOM - 2, "vocab_size": VOCABULARY, "scale_embedding": False}
    both |= fields
    config = EncoderDecoderConfig(encoder=EncoderConfig(**both), decoder=DecoderConfig(**both), share_embeddings=shared)
    torch.manual_seed(0)
    return EncoderDecoder(config).eval()


def copy_of(peer: Any, norms: Norms, *, shared: bool = False) -> EncoderDecoder:
    model = ours_of(norms=norms, shared=shared)
    load_side(model.encoder, peer.encoder.state_dict())
    load_side(model.decoder, peer.decoder.state_dict())
    return model


def sequences(lengths: list[int], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, VOCABULARY, (length,), generator=generator) for length in lengths]


def padded() -> tuple[Tensor, Tensor]:
    """Sources, and True where there is nothing."""
    ids = torch.nn.utils.rnn.pad_sequence(sequences(SOURCES, 1), batch_first=True, padding_value=1)
    return ids, torch.arange(max(SOURCES)) >= torch.tensor(SOURCES)[:, None]


def expected_of(peer: Any) -> Tensor:
    """[N, T, V]; the mask of padding must go through its encoder."""
    ids, nothing = padded()
    encoded = peer.encoder(ids, encoder_padding_mask=nothing)
    logits: Tensor = peer.decoder(torch.stack(sequences(TARGETS, 2)), encoder_out=encoded)[0]
    assert logits.std() > 0.5
    return logits


def whole(model: EncoderDecoder, sources: list[Tensor]) -> Tensor:
    """[N, T, V]."""
    rows = model.encoder.embed(torch.cat(sources))
    hidden = model(rows, [len(source) for source in sources], torch.cat(sequences(TARGETS, 2)), TARGETS)
    return model.decoder.logits(hidden).unflatten(0, (len(TARGETS), -1))


@pytest.mark.parametrize(("theirs", "ours"), KINDS)
def test_whole_targets_give_the_logits_of_torchscale(theirs: dict[str, bool], ours: Norms) -> None:
    peer = randomised(peer_of(**theirs))
    assert_close(whole(copy_of(peer, ours), sequences(SOURCES, 1)), expected_of(peer), **TOLERANCE)


@pytest.mark.parametrize(("theirs", "ours"), KINDS)
def test_token_by_token_with_the_memory_kept_both_agree(theirs: dict[str, bool], ours: Norms) -> None:
    """Torchscale in its incremental state, which makes keys and values of the encoder anew at every step; ours once."""
    peer = randomised(peer_of(**theirs))
    model = copy_of(peer, ours)
    ids, nothing = padded()
    encoded, state = peer.encoder(ids, encoder_padding_mask=nothing), {}
    memory = model.remember(model.encoder.embed(torch.cat(sequences(SOURCES, 1))), SOURCES)
    cache, stored = cache_for(model.decoder), [CachedSequence() for _ in TARGETS]
    targets = torch.stack(sequences(TARGETS, 2))
    for step in range(TARGETS[0]):
        theirs_now = peer.decoder(targets[:, : step + 1], encoder_out=encoded, incremental_state=state)[0][:, -1]
        context = PagedAttention(cache, stored, [1] * 3)
        hidden = model.write(targets[:, step], context.positions_R, context, memory.read_by([1] * 3))
        context.advance()
        assert_close(model.decoder.logits(hidden), theirs_now, **TOLERANCE)


def test_one_table_for_both_sides_and_the_head_gives_the_logits_of_torchscale() -> None:
    peer = randomised(peer_of(shared=True, subln=True))
    model = copy_of(peer, "subln", shared=True)
    assert model.encoder.embedding is not None
    assert model.encoder.embedding.weight is model.decoder.head.weight
    assert_close(whole(model, sequences(SOURCES, 1)), expected_of(peer), **TOLERANCE)


def test_torchscale_forgets_the_mask_of_padding_that_its_forward_is_given() -> None:
    """So its decoder reads padding; ours has none to read."""
    peer = randomised(peer_of(subln=True))
    ids, nothing = padded()
    targets = torch.stack(sequences(TARGETS, 2))
    masked = peer(ids, targets, encoder_padding_mask=nothing)[0]
    assert torch.equal(masked, peer(ids, targets)[0])
    mine = whole(copy_of(peer, "subln"), sequences(SOURCES, 1))
    assert (masked - mine).abs().amax((1, 2))[:2].min() > 0.1
    assert_close(masked[2], mine[2], **TOLERANCE)  # the longest source has no padding


def spread(blocks: Any, name: str) -> float:
    """Standard deviation of a matrix of all layers, as a multiple of torch's default."""
    weight = torch.cat([block.get_submodule(name).weight for block in blocks])
    return weight.std().item() * math.sqrt(3 * weight.shape[1])


@pytest.mark.parametrize(("theirs", "ours"), KINDS)
def test_released_starts_a_reading_decoder_as_torchscale_does_cross_attention_included(
    theirs: dict[str, bool], ours: Norms
) -> None:
    peer, model = peer_of(**theirs), ours_of(norms=ours, initialisation="released")
    for their_name, our_name in [
        ("self_attn.v_proj", "attention.v_proj"),
        ("encoder_attn.q_proj", "cross_attention.q_proj"),
        ("encoder_attn.v_proj", "cross_attention.v_proj"),
        ("encoder_attn.out_proj", "cross_attention.out_proj"),
        ("ffn.fc2", "feedforward.fc2"),
    ]:
        expected = spread(peer.decoder.layers, their_name)
        assert spread(model.decoder.blocks, our_name) == pytest.approx(expected, rel=0.03)
    beta = (12 * LAYERS) ** -0.25
    crossed = {"subln": 1.0, "pre": 1.0, "deepnorm": beta}[ours]
    assert spread(model.decoder.blocks, "cross_attention.v_proj") == pytest.approx(crossed, rel=0.03)
