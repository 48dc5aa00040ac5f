"""Every preset builds without memory and has exactly the parameters its papers and its arithmetic say."""

import pytest
import torch

from kosmos.checkpoint import empty_model
from kosmos.config import KosmosConfig
from kosmos.model import KosmosModel
from kosmos.presets import PRESETS, preset
from kosmos.transformer.config import DecoderConfig

# Unique parameters, the head being the embedding: Kosmos-2's as published, Kosmos-1's of the same modules.
TOTALS = {"tiny": 10_794_736, "base": 307_673_600, "kosmos1": 1_662_375_936, "kosmos2": 1_664_485_376}
TOWERS = {"tiny": 3_350_000, "base": 85_799_424, "kosmos1": 303_179_776, "kosmos2": 303_179_776}


@pytest.fixture(scope="module")
def models() -> dict[str, KosmosModel]:
    return {name: empty_model(config) for name, config in PRESETS.items()}


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def layer_size(config: DecoderConfig) -> int:
    """Four projections, two feed-forward matrices, four norms, every one with a bias."""
    width, ffn = config.width, config.ffn_width
    return 4 * (width * width + width) + (width * ffn + ffn) + (ffn * width + width) + 3 * 2 * width + 2 * ffn


def decoder_size(config: DecoderConfig) -> int:
    return config.vocab_size * config.width + config.num_layers * layer_size(config) + 2 * config.width


def resampler_size(config: KosmosConfig) -> int:
    width = config.decoder.width
    return config.resampler.num_latents * width + (config.tower.width + 1) * width + 4 * (width + 1) * width


@pytest.mark.parametrize("name", TOTALS)
def test_a_preset_has_its_exact_number_of_parameters(models: dict[str, KosmosModel], name: str) -> None:
    model, config = models[name], PRESETS[name]
    assert all(parameter.is_meta for parameter in model.parameters())
    assert count(model) == TOTALS[name]
    assert count(model.tower) == TOWERS[name]
    assert count(model.resampler) == resampler_size(config)
    assert count(model.decoder) == decoder_size(config.decoder)
    assert TOTALS[name] == TOWERS[name] + resampler_size(config) + decoder_size(config.decoder)


def test_the_parts_of_kosmos_2_are_the_published_ones(models: dict[str, KosmosModel]) -> None:
    model = models["kosmos2"]
    assert count(model.decoder.embedding) == 133_195_776
    assert {count(block) for block in model.decoder.blocks} == {50_378_752}
    assert count(model.decoder.norm) == 4_096
    assert count(model.decoder) == 1_342_289_920
    assert count(model.resampler) == 19_015_680
    assert count(models["kosmos1"].decoder) == 1_340_180_480


def test_all_presets_are_counted() -> None:
    assert set(TOTALS) == set(PRESETS)


def test_base_is_about_a_third_of_a_billion() -> None:
    assert 0.28e9 < TOTALS["base"] < 0.34e9


def test_tiny_trains_less_than_ten_million_and_its_eye_is_frozen(models: dict[str, KosmosModel]) -> None:
    model = models["tiny"]
    assert TOTALS["tiny"] - TOWERS["tiny"] < 10_000_000
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained == TOTALS["tiny"] - TOWERS["tiny"]


def test_presets_differ_in_positions_words_and_start_as_the_papers_say() -> None:
    first, second = preset("kosmos1").decoder, preset("kosmos2").decoder
    assert (first.vocab_size, first.positions, first.initialisation) == (64_007, "xpos", "magneto")
    assert (second.vocab_size, second.positions, second.initialisation) == (65_037, "sinusoidal", "released")
    assert (first.num_layers, first.width, first.ffn_width, first.num_heads) == (24, 2048, 8192, 32)


@pytest.mark.parametrize("name", TOTALS)
def test_a_preset_survives_json(name: str) -> None:
    assert KosmosConfig.from_json(preset(name).to_json()) == preset(name)


def test_an_unknown_preset_is_refused_with_the_known_names() -> None:
    with pytest.raises(ValueError, match=r"'huge'.*tiny, base, kosmos1, kosmos2"):
        preset("huge")
