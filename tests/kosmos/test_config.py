"""A config comes back from JSON as it went, experts included, and says what does not belong in it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from kosmos.checkpoint import check_config
from kosmos.config import KosmosConfig
from kosmos.presets import preset
from kosmos.transformer.config import ExpertsConfig


def sparse() -> KosmosConfig:
    config = preset("tiny")
    experts = ExpertsConfig(num_experts=8, every=3, router="switch", capacity_factor=1.25)
    return replace(config, decoder=replace(config.decoder, experts=experts, causal_block=2048, norms="pre"))


def with_experts(experts: Any) -> str:
    values = json.loads(sparse().to_json())
    values["decoder"]["experts"] = experts
    return json.dumps(values)


def test_experts_survive_json() -> None:
    read = KosmosConfig.from_json(sparse().to_json())
    assert read == sparse()
    assert isinstance(read.decoder.experts, ExpertsConfig)
    check_config(read)


def test_a_config_from_before_experts_is_dense() -> None:
    values = json.loads(preset("tiny").to_json())
    for name in ("experts", "norms", "num_modalities", "drop_path"):
        del values["decoder"][name]
    assert KosmosConfig.from_json(json.dumps(values)) == preset("tiny")


@pytest.mark.parametrize(
    ("experts", "complaint"),
    [
        ({"num_experts": 8, "rooter": "xmoe"}, "ExpertsConfig has unknown fields.*rooter"),
        ({"router": "xmoe"}, "ExpertsConfig.*num_experts"),
        ({"num_experts": 8, "router": "dice"}, "unknown router 'dice'"),
        ({"num_experts": 2, "top_k": 3}, "top_k=3 of num_experts=2"),
        ({"num_experts": "many"}, "ExpertsConfig"),
        ([8, 2], "ExpertsConfig is '\\[8, 2\\]'"),
        ("many", "must be an object"),
        (True, "must be an object"),
    ],
)
def test_experts_that_cannot_be_are_refused_in_a_sentence(experts: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        KosmosConfig.from_json(with_experts(experts))
