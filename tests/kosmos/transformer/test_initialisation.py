"""Stacks start as their papers say for their assembly, or as the released code really does."""

import math

import pytest
import torch

from kosmos.transformer.config import DecoderConfig, Initialisation, Norms
from kosmos.transformer.initialisation import Scales, decoder_scales, encoder_scales, initialise
from kosmos.transformer.stack import Decoder

LAYERS, WIDTH, FFN = 3, 256, 512
SCALED = ("attention.v_proj", "attention.out_proj", "feedforward.fc1", "feedforward.fc2")
PLAIN = ("attention.q_proj", "attention.k_proj")
SHAPE = {"vocab_size": 2000, "num_layers": LAYERS, "width": WIDTH, "num_heads": 4, "ffn_width": FFN}
# By layers: an encoder or a decoder alone; encoder and decoder of an encoder-decoder of equal depths.
GAINS = {
    6: (1.5764, 1.5473, 1.7001),
    12: (1.7827, 1.9484, 1.8930),
    24: (1.9675, 2.3492, 2.0680),
    48: (2.1364, 2.7498, 2.2293),
}
DEEPNORM = {  # alpha, beta
    6: ((1.861, 0.380), (1.418, 0.497), (2.060, 0.343)),
    12: ((2.213, 0.319), (1.761, 0.400), (2.450, 0.289)),
    24: ((2.632, 0.269), (2.187, 0.322), (2.913, 0.243)),
    48: ((3.130, 0.226), (2.716, 0.260), (3.464, 0.204)),
}


@pytest.fixture(scope="module")
def decoders() -> dict[Initialisation, Decoder]:
    torch.manual_seed(0)
    return {
        "magneto": Decoder(DecoderConfig(**SHAPE, initialisation="magneto")),
        "released": Decoder(DecoderConfig(**SHAPE, initialisation="released")),
    }


@pytest.mark.parametrize("num_layers", [6, 12, 24, 48])
def test_the_gains_of_sub_ln_are_those_of_each_assembly(num_layers: int) -> None:
    alone, encoder, decoder = GAINS[num_layers]
    assert encoder_scales("subln", num_layers).gain == pytest.approx(alone, abs=6e-5)
    assert decoder_scales("subln", num_layers).gain == pytest.approx(alone, abs=6e-5)
    assert encoder_scales("subln", num_layers, num_layers).gain == pytest.approx(encoder, abs=6e-5)
    assert decoder_scales("subln", num_layers, num_layers).gain == pytest.approx(decoder, abs=6e-5)


@pytest.mark.parametrize("num_layers", [6, 12, 24, 48])
def test_alpha_and_beta_of_deepnorm_are_those_of_each_assembly(num_layers: int) -> None:
    alone, encoder, decoder = DEEPNORM[num_layers]
    for scales, (alpha, beta) in [
        (encoder_scales("deepnorm", num_layers), alone),
        (decoder_scales("deepnorm", num_layers), alone),
        (encoder_scales("deepnorm", num_layers, num_layers), encoder),
        (decoder_scales("deepnorm", num_layers, num_layers), decoder),
    ]:
        assert (scales.alpha, scales.gain) == (pytest.approx(alpha, abs=6e-4), pytest.approx(beta, abs=6e-4))


@pytest.mark.parametrize(("encoder", "decoder"), [(6, 24), (24, 6), (3, 1)])
def test_sides_of_different_depth_each_enter_as_the_formulas_say(encoder: int, decoder: int) -> None:
    log = math.log
    assert encoder_scales("subln", encoder, decoder).gain ** 2 * 3 == pytest.approx(log(3 * decoder) * log(2 * encoder))
    assert math.exp(decoder_scales("subln", decoder, encoder).gain ** 2) == pytest.approx(3 * decoder)
    reader, writer = decoder_scales("deepnorm", decoder, encoder), encoder_scales("deepnorm", encoder, decoder)
    assert 16 * log(writer.alpha / 0.81) == pytest.approx(4 * log(encoder) + log(decoder))
    assert 16 * log(writer.gain / 0.87) == pytest.approx(-4 * log(encoder) - log(decoder))
    assert (reader.alpha**4, reader.gain**-4) == (pytest.approx(3 * decoder), pytest.approx(12 * decoder))


def test_cross_attention_is_scaled_by_deepnorm_alone() -> None:
    assert decoder_scales("subln", 12, 12).cross_gain == 1
    assert decoder_scales("deepnorm", 12, 12).cross_gain == decoder_scales("deepnorm", 12, 12).gain


@pytest.mark.parametrize("norms", ["pre", "post"])
def test_other_norms_scale_nothing(norms: Norms) -> None:
    assert encoder_scales(norms, 12) == encoder_scales(norms, 12, 12) == decoder_scales(norms, 12, 12) == Scales()


@pytest.mark.parametrize("norms", ["subln", "deepnorm", "pre"])
def test_weights_behind_an_encoder_spread_by_the_gain_of_their_sublayer(norms: Norms) -> None:
    torch.manual_seed(0)
    scales = decoder_scales(norms, LAYERS, 5)
    decoder = Decoder(DecoderConfig(**SHAPE, norms=norms), encoder_layers=5)
    gains = {
        **dict.fromkeys(SCALED, scales.gain),
        **dict.fromkeys([*PLAIN, "cross_attention.q_proj", "cross_attention.k_proj"], 1.0),
        **dict.fromkeys(["cross_attention.v_proj", "cross_attention.out_proj"], scales.cross_gain),
    }
    for name, gain in gains.items():
        linear = decoder.blocks[0].get_submodule(name)
        expected = gain * math.sqrt(2 / (linear.in_features + linear.out_features))
        assert linear.weight.std().item() == pytest.approx(expected, rel=0.02)
        assert not linear.bias.any()


class Stacked(torch.nn.Module):
    """Two matrices in one parameter, drawn by the module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.inner = 0.0, torch.nn.Linear(4, 4)

    def initialise(self, gain: float, rule: Initialisation) -> None:
        self.gain = gain


def test_a_module_that_draws_its_own_weights_is_told_the_gain_and_left_alone() -> None:
    stack, scales = torch.nn.ModuleDict({"experts": Stacked(), "fc1": torch.nn.Linear(4, 4)}), Scales(gain=1.5)
    experts = stack["experts"]
    before = experts.inner.weight.clone()
    initialise(stack, embedding=None, scales=scales, rule="magneto")
    assert experts.gain == 1.5
    assert torch.equal(experts.inner.weight, before)
    assert not stack["fc1"].bias.any()


def test_the_released_spread_at_width_2048_is_the_published_one() -> None:
    unscaled = 1 / math.sqrt(3 * 2048)
    assert unscaled == pytest.approx(0.01276, abs=5e-6)
    assert decoder_scales("subln", 24).gain * unscaled == pytest.approx(0.02510, abs=5e-6)


@pytest.mark.parametrize("name", SCALED + PLAIN)
def test_magneto_is_xavier_normal_with_gains_and_zero_biases(decoders: dict[str, Decoder], name: str) -> None:
    gain = decoder_scales("subln", LAYERS).gain if name in SCALED else 1.0
    for block in decoders["magneto"].blocks:
        linear = block.get_submodule(name)
        expected = gain * math.sqrt(2 / (linear.in_features + linear.out_features))
        assert linear.weight.std().item() == pytest.approx(expected, rel=0.02)
        # A uniform draw would end at sqrt(3) standard deviations.
        assert linear.weight.abs().max().item() > 3 * expected
        assert not linear.bias.any()


@pytest.mark.parametrize("name", SCALED + PLAIN)
def test_released_is_torch_s_default_times_the_gain_biases_included(decoders: dict[str, Decoder], name: str) -> None:
    gain = decoder_scales("subln", LAYERS).gain if name in SCALED else 1.0
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
