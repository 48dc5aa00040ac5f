"""One encoder reads words, patches of pictures and frames of sound, each sequence as if it were alone."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from kosmos.transformer.config import EncoderConfig, ExpertsConfig, Norms, PositionScheme
from kosmos.transformer.encoder import Encoder

SCHEMES = [scheme for scheme in get_args(PositionScheme) if scheme != "xpos"]
SHAPE = EncoderConfig(
    num_layers=2, width=32, num_heads=4, ffn_width=48, max_length=64, dropout=0.0, attention_dropout=0.0
)


def encoder_of(**fields: object) -> Encoder:
    torch.manual_seed(0)
    return Encoder(replace(SHAPE, **fields)).eval()  # type: ignore[arg-type]


def run(encoder: Encoder, sequences: list[Tensor], kinds: Tensor | None = None) -> list[Tensor]:
    lengths = [len(rows) for rows in sequences]
    context = encoder.context(lengths)
    hidden = encoder(torch.cat(sequences), context.positions_R, context, kinds_R=kinds)
    return list(hidden.split(lengths))


def patches_of(pictures: Tensor, side: int) -> Tensor:
    """[N, 3, H, W] -> [N, patches, 3 * side * side]."""
    return F.unfold(pictures, side, stride=side).transpose(1, 2)


@pytest.mark.parametrize("norms", get_args(Norms))
@pytest.mark.parametrize("positions", SCHEMES)
def test_a_sequence_in_company_is_the_sequence_alone(positions: PositionScheme, norms: Norms) -> None:
    encoder = encoder_of(positions=positions, norms=norms)
    sequences = [torch.randn(length, 32) for length in (9, 2, 17, 9)]
    for together, alone in zip(run(encoder, sequences), sequences, strict=True):
        assert_close(together, run(encoder, [alone])[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", SCHEMES)
def test_every_row_sees_every_other(positions: PositionScheme) -> None:
    encoder = encoder_of(positions=positions)
    rows = torch.randn(6, 32)
    changed = rows.clone()
    changed[5] = -changed[5]
    assert bool((run(encoder, [rows])[0] - run(encoder, [changed])[0]).abs().amax(-1).gt(1e-4).all())


def test_rows_without_positions_are_a_set_and_with_them_a_sequence() -> None:
    rows, order = torch.randn(6, 32), torch.tensor([3, 1, 5, 0, 2, 4])
    for positions, same in [(scheme, scheme == "none") for scheme in SCHEMES]:
        encoder = encoder_of(positions=positions)
        moved = run(encoder, [rows[order]])[0]
        assert torch.allclose(moved, run(encoder, [rows])[0][order], atol=1e-5) == same, positions


def test_xpos_is_refused_where_rows_look_ahead() -> None:
    with pytest.raises(ValueError, match="amplifies"):
        replace(SHAPE, positions="xpos")


def test_a_rotated_sequence_longer_than_its_anchor_is_refused_and_a_larger_anchor_changes_nothing() -> None:
    rows = torch.randn(40, 32)
    with pytest.raises(ValueError, match=r"40 rows.*max_length=39"):
        encoder_of(positions="rope", max_length=39).context([3, 40])
    exact, roomy = encoder_of(positions="rope", max_length=40), encoder_of(positions="rope", max_length=500)
    assert_close(run(exact, [rows])[0], run(roomy, [rows])[0], atol=1e-5, rtol=1e-5)


def test_words_are_looked_up_and_an_encoder_without_any_says_so() -> None:
    encoder = encoder_of(vocab_size=50)
    ids = torch.tensor([5, 9, 7])
    assert run(encoder, [encoder.embed(ids)])[0].shape == (3, 32)
    assert encoder.embedding is not None
    assert_close(encoder.embed(ids), encoder.embedding.weight[ids])
    with pytest.raises(ValueError, match="set vocab_size"):
        encoder_of().embed(ids)


def test_pictures_become_classes_by_their_patches() -> None:
    """Where in a picture the bright square stands, learned from patches alone."""
    torch.manual_seed(0)
    pictures = torch.rand(16, 3, 16, 16) * 0.2
    labels = torch.arange(16) % 4
    for picture, label in zip(pictures, labels.tolist(), strict=True):
        row, column = divmod(label, 2)
        picture[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 0.8
    eye, encoder, head = nn.Linear(48, 32), encoder_of(max_length=16).train(), nn.Linear(32, 4)
    parts = nn.ModuleList([eye, encoder, head])
    optimiser = torch.optim.AdamW(parts.parameters(), lr=3e-3)
    context = encoder.context([16] * 16)
    for _ in range(40):
        hidden = encoder(eye(patches_of(pictures, 4).flatten(0, 1)), context.positions_R, context)
        loss = F.cross_entropy(head(hidden.view(16, 16, 32).mean(1)), labels)
        optimiser.zero_grad()
        loss.backward()
        assert all(part.grad is not None for part in parts.parameters())
        optimiser.step()
    assert loss.item() < 0.1


def test_frames_of_sounds_of_different_lengths_are_read_without_padding() -> None:
    """Log-energies of overlapping windows, some long, some short, in one forward."""
    torch.manual_seed(0)
    ear, encoder = nn.Linear(20, 32), encoder_of(positions="rope", max_length=128, norms="pre").train()
    sounds = [torch.randn(count).unfold(0, 40, 20).unfold(1, 2, 2).pow(2).mean(-1).log() for count in (400, 90, 1300)]
    frames = [ear(sound) for sound in sounds]
    hidden = run(encoder, frames)
    assert [len(rows) for rows in hidden] == [19, 3, 64]
    assert_close(hidden[1], run(encoder, [frames[1]])[0], atol=1e-5, rtol=1e-5)
    torch.cat(hidden).pow(2).sum().backward()
    silent = [name for name, part in encoder.named_parameters() if part.grad is None or not part.grad.any()]
    # A sum of squares behind a norm is constant but for the norm's own weights, so little else need be zero.
    assert silent == []
    assert ear.weight.grad is not None


@pytest.mark.parametrize("fields", [{}, {"num_modalities": 2}, {"norms": "deepnorm"}, {"vocab_size": 50}])
def test_every_parameter_of_an_encoder_learns(fields: dict[str, object]) -> None:
    encoder = encoder_of(**fields)
    rows = encoder.embed(torch.randint(2, 50, (30,))) if "vocab_size" in fields else torch.randn(30, 32)
    target = torch.randn(30, 32)
    kinds = torch.arange(30) % 2
    F.mse_loss(torch.cat(run(encoder, list(rows.split([30 - 4, 4])), kinds)), target).backward()
    idle = [
        name
        for name, part in encoder.named_parameters()
        # A key's bias adds the same to all scores of a query where nothing turns it.
        if not name.endswith("k_proj.bias") and (part.grad is None or not part.grad.any())
    ]
    assert idle == []


def test_an_encoder_may_hold_experts() -> None:
    encoder = encoder_of(experts=ExpertsConfig(num_experts=4, every=2))
    sequences = [torch.randn(9, 32), torch.randn(4, 32)]
    assert_close(run(encoder, sequences)[1], run(encoder, sequences[1:])[0], atol=1e-5, rtol=1e-5)


def test_attention_dropout_acts_while_training_alone() -> None:
    encoder = encoder_of(attention_dropout=0.5)
    assert encoder.context([3]).dropout == 0.0
    assert encoder.train().context([3]).dropout == 0.5
