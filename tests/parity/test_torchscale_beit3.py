"""A BEiT-3 made of our encoder gives the hidden states of torchscale 0.3.0's, with copied weights.

BEiT-3 (arXiv 2208.10442) shares self-attention and gives each modality its own feed-forward, and so do we. Torchscale
also splits projections and norms by modality; with pictures and words together these are made equal here.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from kosmos.transformer.config import EncoderConfig
from kosmos.transformer.encoder import Encoder
from tests.parity.torchscale import REASON, SIZES, VOCABULARY, load_side, randomised, side_fields

pytest.importorskip("fairscale", reason=REASON, exc_type=ImportError)
pytest.importorskip("torchscale.model.BEiT3", reason=REASON, exc_type=ImportError)

TOLERANCE = {"atol": 1e-5, "rtol": 0}
LETTERS = {"picture": "A", "words": "B"}  # its names of the two modalities; ours are 0 and 1
SIDE, PATCH, PATCHES = 32, 16, 5  # one of them the class token
LENGTHS = [12, 7]


@pytest.fixture
def peer() -> Any:
    from torchscale.architecture.config import EncoderConfig as PeerConfig
    from torchscale.model.BEiT3 import BEiT3

    torch.manual_seed(0)
    config = PeerConfig(
        multiway=True, vocab_size=VOCABULARY, img_size=SIDE, patch_size=PATCH, no_output_layer=True,
        max_source_positions=64, **side_fields("encoder"),
    )  # fmt: skip
    peer = randomised(BEiT3(config))
    peer.vision_embed.cls_token.copy_(torch.randn_like(peer.vision_embed.cls_token))
    return peer


def tie_all_but_feedforwards(peer: Any) -> None:
    state = peer.encoder.state_dict()
    for name, tensor in state.items():
        if ".B." in name and ".ffn." not in name and "embed_positions" not in name:
            tensor.copy_(state[name.replace(".B.", ".A.")])


def state_of(peer: Any, letter: str) -> dict[str, Tensor]:
    """Weights of one modality, as a plain encoder of torchscale would name them."""
    mark = f".{letter}."
    state = peer.encoder.state_dict().items()
    return {name.replace(mark, "."): tensor for name, tensor in state if mark in name and "embed_positions" not in name}


def encoder_of(num_modalities: int) -> Encoder:
    """Positions are added outside: each modality has a table of its own."""
    return Encoder(EncoderConfig(**SIZES, positions="none", scale_embedding=False, num_modalities=num_modalities))


def both_modalities(peer: Any) -> Encoder:
    encoder, feedforwards = encoder_of(2), {}
    for kind, letter in enumerate(LETTERS.values()):
        for name, tensor in encoder_names(state_of(peer, letter)).items():
            if ".feedforward." in name:
                feedforwards[name.replace(".feedforward.", f".feedforward.modalities.{kind}.")] = tensor
    shared = {name: tensor for name, tensor in state_of(peer, "A").items() if ".ffn." not in name}
    load_side(encoder, shared, feedforwards)
    return encoder


def encoder_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    plain = encoder_of(1)
    load_side(plain, state)
    return dict(plain.state_dict())


def pictures() -> Tensor:
    return torch.rand(len(LENGTHS), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def texts() -> tuple[Tensor, Tensor]:
    """Ids, and True where there is nothing."""
    ids = torch.randint(2, VOCABULARY, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(2))
    return ids, torch.arange(max(LENGTHS)) >= torch.tensor(LENGTHS)[:, None]


def picture_rows(peer: Any) -> list[Tensor]:
    """The class token and the patches of each picture, with their positions."""
    weight, bias = peer.vision_embed.proj.weight.flatten(1), peer.vision_embed.proj.bias
    patches = F.unfold(pictures(), PATCH, stride=PATCH).transpose(1, 2) @ weight.T + bias
    positions = peer.encoder.embed_positions.A.weight[2 : 2 + PATCHES]
    return [torch.cat([peer.vision_embed.cls_token[0], own]) + positions for own in patches]


def word_rows(peer: Any) -> list[Tensor]:
    positions = peer.encoder.embed_positions.B.weight[2:]
    return [
        peer.text_embed.weight[ids[:length]] + positions[:length]
        for ids, length in zip(texts()[0], LENGTHS, strict=True)
    ]


def run(encoder: Encoder, sequences: list[Tensor], kinds: Tensor | None = None) -> Tensor:
    context = encoder.context([len(rows) for rows in sequences])
    hidden: Tensor = encoder(torch.cat(sequences), context.positions_R, context, kinds_R=kinds)
    return hidden


def test_pictures_alone_give_the_hidden_states_of_torchscale(peer: Any) -> None:
    encoder = encoder_of(1)
    load_side(encoder, state_of(peer, LETTERS["picture"]))
    expected = peer(visual_tokens=pictures())["encoder_out"]
    assert expected.std() > 0.5
    assert_close(run(encoder, picture_rows(peer)), expected.flatten(0, 1), **TOLERANCE)


def test_words_alone_give_the_hidden_states_of_torchscale(peer: Any) -> None:
    encoder = encoder_of(1)
    load_side(encoder, state_of(peer, LETTERS["words"]))
    ids, nothing = texts()
    expected = peer(textual_tokens=ids, text_padding_position=nothing)["encoder_out"]
    assert_close(run(encoder, word_rows(peer)), expected[~nothing], **TOLERANCE)


def test_pictures_and_words_together_give_the_hidden_states_of_torchscale(peer: Any) -> None:
    tie_all_but_feedforwards(peer)
    encoder = both_modalities(peer)
    ids, nothing = texts()
    expected = peer(textual_tokens=ids, visual_tokens=pictures(), text_padding_position=nothing)["encoder_out"]
    seen = torch.cat([torch.ones(len(LENGTHS), PATCHES, dtype=torch.bool), ~nothing], dim=1)
    rows = [torch.cat(pair) for pair in zip(picture_rows(peer), word_rows(peer), strict=True)]
    kinds = torch.cat([torch.arange(PATCHES + length) >= PATCHES for length in LENGTHS]).long()
    assert_close(run(encoder, rows, kinds), expected[seen], **TOLERANCE)
    assert (run(encoder, rows, 1 - kinds) - expected[seen]).abs().max() > 0.1, "each modality has its own feed-forward"


def test_one_forward_takes_sequences_of_any_modalities(peer: Any) -> None:
    """Torchscale has one split for a whole batch, kept in its modules."""
    tie_all_but_feedforwards(peer)
    encoder = both_modalities(peer)
    (picture, _), (words, _) = picture_rows(peer), word_rows(peer)
    kinds = torch.cat([torch.zeros(PATCHES), torch.ones(LENGTHS[0])]).long()
    mixed = run(encoder, [picture, words], kinds).split([PATCHES, LENGTHS[0]])
    assert_close(mixed[0], peer(visual_tokens=pictures())["encoder_out"][0], **TOLERANCE)
    assert_close(mixed[1], peer(textual_tokens=texts()[0][:1])["encoder_out"][0], **TOLERANCE)
