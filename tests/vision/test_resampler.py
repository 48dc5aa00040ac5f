"""The resampler is the formula of Kosmos, in transformers' numbers and head by head."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import Kosmos2Config
from transformers.models.kosmos2.modeling_kosmos2 import Kosmos2ImageToTextProjection

from kosmos.transformer.linear import set_deterministic
from vision.config import ResamplerConfig
from vision.resampler import Resampler

SMALL = ResamplerConfig(num_latents=5, num_heads=4, dropout=0.25)


@pytest.fixture
def resampler() -> Resampler:
    torch.manual_seed(0)
    return Resampler(24, 32, SMALL).eval()


def features(num_images: int = 3, num_features: int = 7) -> Tensor:
    return torch.randn(num_images, num_features, 24, generator=torch.Generator().manual_seed(1))


def resample_by_hand(resampler: Resampler, features_PW: Tensor) -> Tensor:
    """One picture, one head after the other."""
    keys_SD = torch.cat((resampler.dense(features_PW), resampler.latent_query))
    query_LD, key_SD, value_SD = (
        projection(rows)
        for projection, rows in (
            (resampler.q_proj, resampler.latent_query),
            (resampler.k_proj, keys_SD),
            (resampler.v_proj, keys_SD),
        )
    )
    heads = []
    for columns in torch.arange(32).split(32 // SMALL.num_heads):
        scores_LS = query_LD[:, columns] @ key_SD[:, columns].T / math.sqrt(len(columns))
        heads.append(scores_LS.softmax(dim=-1) @ value_SD[:, columns])
    return resampler.out_proj(torch.cat(heads, dim=-1))  # type: ignore[no-any-return]


@torch.no_grad()
def test_resampler_equals_the_formula_head_by_head(resampler: Resampler) -> None:
    latents = resampler(features())
    for fast_LD, features_PW in zip(latents, features(), strict=True):
        torch.testing.assert_close(fast_LD, resample_by_hand(resampler, features_PW), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_resampler_equals_transformers_with_the_same_weights(resampler: Resampler) -> None:
    text = {"embed_dim": 32, "attention_heads": 4, "layers": 1, "ffn_dim": 8, "vocab_size": 16}
    peer = Kosmos2ImageToTextProjection(
        Kosmos2Config(text_config=text, vision_config={"hidden_size": 24}, latent_query_num=5)
    ).eval()
    peer.load_state_dict(
        {f"x_attn.{name}" if "_proj" in name else name: weight for name, weight in resampler.state_dict().items()}
    )
    torch.testing.assert_close(resampler(features()), peer(features())[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_picture_gives_the_same_latents_alone_and_in_company(resampler: Resampler) -> None:
    alone = torch.cat([resampler(picture[None]) for picture in features(6)])
    torch.testing.assert_close(resampler(features(6)), alone, atol=1e-6, rtol=0)
    assert resampler(features(6)[:0]).shape == (0, 5, 32)


def test_dropout_acts_in_training_only(resampler: Resampler) -> None:
    assert torch.equal(resampler(features()), resampler(features()))
    resampler.train()
    assert not torch.equal(resampler(features()), resampler(features()))


def test_every_weight_learns(resampler: Resampler) -> None:
    resampler.train()(features()).square().sum().backward()
    for name, weight in resampler.named_parameters():
        assert weight.grad is not None, name
        assert name == "k_proj.bias" or weight.grad.abs().max() > 0, name  # a bias on all keys cancels in the softmax


def test_resampler_of_kosmos2_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        resampler = Resampler(1024, 2048, ResamplerConfig(num_latents=64, num_heads=32, dropout=0.1))
    assert sum(weight.numel() for weight in resampler.parameters()) == 19_015_680


def test_first_weights_are_drawn_as_the_release_draws_them() -> None:
    torch.manual_seed(0)
    resampler = Resampler(100, 400, ResamplerConfig(num_latents=64, num_heads=4))
    assert abs(resampler.latent_query.std().item() - 1) < 0.02
    xavier = math.sqrt(6 / (400 + 400))
    bounds = {
        "dense.weight": 1 / math.sqrt(100),
        "dense.bias": 1 / math.sqrt(100),
        "q_proj.weight": xavier / math.sqrt(2),
        "k_proj.weight": xavier / math.sqrt(2),
        "v_proj.weight": xavier / math.sqrt(2),
        "v_proj.bias": 1 / math.sqrt(400),
        "out_proj.weight": xavier,
    }
    for name, bound in bounds.items():
        largest = resampler.get_parameter(name).abs().max().item()
        assert 0.97 * bound < largest <= bound, name
    assert not resampler.out_proj.bias.any()


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="width=30 is not divisible by num_heads=4"):
        Resampler(24, 30, SMALL)


@pytest.mark.parametrize("num_features", [1, 3, 7, 15])
@torch.no_grad()
def test_deterministic_latents_have_the_same_bits_alone_and_in_company(resampler: Resampler, num_features: int) -> None:
    set_deterministic(resampler, True)
    for num_images in (2, 3, 5, 8):
        together = resampler(features(num_images, num_features))
        alone = torch.cat([resampler(picture[None]) for picture in features(num_images, num_features)])
        assert torch.equal(together, alone)
