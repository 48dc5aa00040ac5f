"""Our encoder gives the hidden states of torchscale 0.3.0's, with copied weights; its faults, where ours differs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from kosmos.transformer.config import EncoderConfig
from kosmos.transformer.encoder import Encoder
from tests.parity.torchscale import LAYERS, REASON, SIZES, VOCABULARY, WIDTH, load_side, randomised, side_fields

pytest.importorskip("fairscale", reason=REASON, exc_type=ImportError)
pytest.importorskip("torchscale.architecture.encoder", reason=REASON, exc_type=ImportError)

TOLERANCE = {"atol": 1e-5, "rtol": 0}
LENGTHS = [23, 9, 40]
ROOM = 42  # rows of its position table, of which it can use 40
KINDS = [
    ({"subln": True}, "subln"),
    ({"subln": False, "deepnorm": True}, "deepnorm"),
    ({"subln": False}, "pre"),
    ({"subln": False, "encoder_normalize_before": False}, "post"),
]


def peer_of(*, positions: bool = True, is_encoder_decoder: bool = False, **fields: Any) -> Any:
    from torchscale.architecture.config import EncoderDecoderConfig as PeerConfig
    from torchscale.architecture.encoder import Encoder as PeerEncoder
    from torchscale.component.embedding import PositionalEmbedding, TextEmbedding

    config = PeerConfig(
        vocab_size=VOCABULARY, no_output_layer=True, decoder_layers=LAYERS, **side_fields("encoder"), **fields
    )
    torch.manual_seed(0)
    return PeerEncoder(
        config,
        embed_tokens=TextEmbedding(VOCABULARY, WIDTH),
        embed_positions=PositionalEmbedding(ROOM, WIDTH) if positions else None,
        is_encoder_decoder=is_encoder_decoder,
    )


def copy_of(peer: Any, **fields: Any) -> Encoder:
    encoder = Encoder(
        EncoderConfig(**SIZES, **{"vocab_size": VOCABULARY, "scale_embedding": False, "max_length": ROOM - 2} | fields)
    )
    load_side(encoder, peer.state_dict())
    return encoder


def sequences() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(2, VOCABULARY, (length,), generator=generator) for length in LENGTHS]


def padded() -> tuple[Tensor, Tensor]:
    """Ids, and True where there is nothing."""
    ids = torch.nn.utils.rnn.pad_sequence(sequences(), batch_first=True, padding_value=1)
    return ids, torch.arange(max(LENGTHS)) >= torch.tensor(LENGTHS)[:, None]


def run(encoder: Encoder, rows: Tensor, lengths: list[int]) -> Tensor:
    context = encoder.context(lengths)
    hidden: Tensor = encoder(rows, context.positions_R, context)
    return hidden


@pytest.mark.parametrize(("theirs", "ours"), KINDS)
def test_padded_batches_of_torchscale_are_our_packed_rows(theirs: dict[str, bool], ours: str) -> None:
    peer = randomised(peer_of(**theirs))
    ids, nothing = padded()
    expected = peer(src_tokens=ids, encoder_padding_mask=nothing)["encoder_out"]
    assert expected.std() > 0.5
    encoder = copy_of(peer, norms=ours)
    hidden = run(encoder, encoder.embed(torch.cat(sequences())), LENGTHS)
    assert_close(hidden, expected[~nothing], **TOLERANCE)


def test_continuous_rows_are_read_as_torchscale_reads_token_embeddings() -> None:
    peer = randomised(peer_of(subln=True))
    peer.embed_tokens = None
    rows = torch.randn(2, 30, WIDTH)
    expected = peer(src_tokens=None, token_embeddings=rows)["encoder_out"]
    encoder = copy_of(peer, vocab_size=None)
    assert_close(run(encoder, rows.flatten(0, 1), [30, 30]), expected.flatten(0, 1), **TOLERANCE)


def test_buckets_of_relative_positions_are_those_of_torchscale() -> None:
    peer = randomised(peer_of(positions=False, subln=True, rel_pos_buckets=16, max_rel_pos=32))
    table = peer.relative_position.relative_attention_bias.weight
    table.mul_(3)
    ids, nothing = padded()
    expected = peer(src_tokens=ids, encoder_padding_mask=nothing)["encoder_out"]
    peer.relative_position = None
    encoder = Encoder(
        EncoderConfig(
            **SIZES, vocab_size=VOCABULARY, scale_embedding=False, positions="t5", position_buckets=16, max_distance=32
        )
    )
    load_side(encoder, peer.state_dict(), {"positions.table.weight": table})
    hidden = run(encoder, encoder.embed(torch.cat(sequences())), LENGTHS)
    assert_close(hidden, expected[~nothing], **TOLERANCE)


def spread(encoder: Any, name: str) -> float:
    """Standard deviation of a matrix of all layers."""
    blocks = encoder.layers if hasattr(encoder, "layers") else encoder.blocks
    return torch.cat([block.get_submodule(name).weight.flatten() for block in blocks]).std().item()


def test_torchscale_starts_an_encoder_of_deepnorm_a_third_too_wide_behind_its_paper() -> None:
    """It divides by (N^4 M)^(1/16) / 1.15 where DeepNet multiplies by 0.87 (N^4 M)^(-1/16)."""
    published = 0.87 * (LAYERS**4 * LAYERS) ** (-1 / 16)
    peer = peer_of(subln=False, deepnorm=True, is_encoder_decoder=True)
    default = 1 / math.sqrt(3 * WIDTH)
    assert spread(peer, "ffn.fc1") / default == pytest.approx(published * 1.15 / 0.87, rel=0.02)
    torch.manual_seed(0)
    encoder = Encoder(
        EncoderConfig(**SIZES, vocab_size=VOCABULARY, norms="deepnorm", initialisation="released"),
        decoder_layers=LAYERS,
    )
    assert spread(encoder, "feedforward.fc1") / default == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize("behind", [False, True])
def test_released_starts_a_sub_ln_encoder_as_torchscale_does(behind: bool) -> None:
    peer = peer_of(subln=True, is_encoder_decoder=behind)
    torch.manual_seed(0)
    config = EncoderConfig(**SIZES, vocab_size=VOCABULARY, initialisation="released")
    encoder = Encoder(config, decoder_layers=LAYERS if behind else 0)
    for theirs, ours in [
        ("self_attn.q_proj", "attention.q_proj"),
        ("self_attn.v_proj", "attention.v_proj"),
        ("self_attn.out_proj", "attention.out_proj"),
        ("ffn.fc1", "feedforward.fc1"),
        ("ffn.fc2", "feedforward.fc2"),
    ]:
        assert spread(encoder, ours) == pytest.approx(spread(peer, theirs), rel=0.02)
