"""Decoders start as the paper says, or as the released code really does."""

import math

import pytest
import torch

from kosmos.transformer.config import DecoderConfig, Initialisation
from kosmos.transformer.initialisation import decoder_gain
from kosmos.transformer.stack import Decoder

LAYERS, WIDTH, FFN = 3, 256, 512
SCALED = ("attention.v_proj", "attention.out_proj", "feedforward.fc1", "feedforward.fc2")
PLAIN = ("attention.q_proj", "attention.k_proj")


@pytest.fixture(scope="module")
def decoders() -> dict[Initialisation, Decoder]:
    torch.manual_seed(0)
    shape = {"vocab_size": 2000, "num_layers": LAYERS, "width": WIDTH, "num_heads": 4, "ffn_width": FFN}
    return {
        "magneto": Decoder(DecoderConfig(**shape, initialisation="magneto")),
        "released": Decoder(DecoderConfig(**shape, initialisation="released")),
    }


@pytest.mark.parametrize(("num_layers", "gain"), [(6, 1.5764), (12, 1.7827), (24, 1.9675), (48, 2.1364)])
def test_the_gain_of_a_decoder_is_the_root_of_the_log_of_its_sublayers(num_layers: int, gain: float) -> None:
    assert decoder_gain(num_layers) == pytest.approx(gain, abs=5e-5)


def test_the_released_spread_at_width_2048_is_the_published_one() -> None:
    unscaled = 1 / math.sqrt(3 * 2048)
    assert unscaled == pytest.approx(0.01276, abs=5e-6)
    assert decoder_gain(24) * unscaled == pytest.approx(0.02510, abs=5e-6)


@pytest.mark.parametrize("name", SCALED + PLAIN)
def test_magneto_is_xavier_normal_with_gains_and_zero_biases(decoders: dict[str, Decoder], name: str) -> None:
    gain = decoder_gain(LAYERS) if name in SCALED else 1.0
    for block in decoders["magneto"].blocks:
        linear = block.get_submodule(name)
        expected = gain * math.sqrt(2 / (linear.in_features + linear.out_features))
        assert linear.weight.std().item() == pytest.approx(expected, rel=0.02)
        # A uniform draw would end at sqrt(3) standard deviations.
        assert linear.weight.abs().max().item() > 3 * expected
        assert not linear.bias.any()


@pytest.mark.parametrize("name", SCALED + PLAIN)
def test_released_is_torch_s_default_times_the_gain_biases_included(decoders: dict[str, Decoder], name: str) -> None:
    gain = decoder_gain(LAYERS) if name in SCALED else 1.0
    for block in decoders["released"].blocks:
        linear = block.get_submodule(name)
        bound = gain / math.sqrt(linear.in_features)
        assert linear.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
        for part in (linear.weight, linear.bias):
            assert 0.9 * bound < part.abs().max().item() <= bound * (1 + 1e-6)


@pytest.mark.parametrize("rule", ["magneto", "released"])
def test_words_are_normal_with_the_padding_row_zero_and_the_head_tied(decoders: dict[str, Decoder], rule: str) -> None:
    decoder = decoders[rule]
    weight = decoder.embedding.weight
    assert not weight[1].any()
    assert weight[2:].std().item() == pytest.approx(WIDTH**-0.5, rel=0.02)
    assert decoder.head.weight is weight


@pytest.mark.parametrize("rule", ["magneto", "released"])
def test_norms_start_as_identity(decoders: dict[str, Decoder], rule: str) -> None:
    for module in decoders[rule].modules():
        if isinstance(module, torch.nn.LayerNorm):
            assert bool((module.weight == 1).all())
            assert not module.bias.any()
