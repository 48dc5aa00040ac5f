"""The same weights give the same logits as `Kosmos2ForConditionalGeneration` of transformers, whatever the prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import Kosmos2ForConditionalGeneration

from kosmos.processor import Encoded
from tests.models import picture
from tests.parity.kosmos2 import peer_inputs

if TYPE_CHECKING:
    from kosmos.pretrained import Kosmos

TOLERANCE = {"atol": 1e-4, "rtol": 0}
PROMPTS = {
    "text": "the old sailor looked over a wall",
    "one image": [picture(1), "A photo of"],
    "two images in a row": [picture(2), picture(3), "two dogs on the beach"],
    "images among words": ["here", picture(4), "was a cat, and here", picture(5, width=30, height=60), "three girls"],
    "one word": "a",
}


@torch.inference_mode()
def our_logits(ours: Kosmos, prompts: list[Encoded]) -> list[Tensor]:
    packed = ours.processor.collate(prompts)
    return list(ours.network.logits(ours.network(packed)).split(packed.lengths))


@torch.inference_mode()
def peer_logits(peer: Kosmos2ForConditionalGeneration, prompts: list[Encoded]) -> list[Tensor]:
    """Padding stands on the right: real rows then have their right positions in transformers, too."""
    inputs = peer_inputs(prompts)
    if inputs.pixel_values is None:
        logits = peer.text_model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).logits
    else:
        logits = peer(**vars(inputs)).logits
    return [rows[: prompt.length] for rows, prompt in zip(logits, prompts, strict=True)]


@pytest.mark.parametrize("name", PROMPTS)
def test_logits_equal_those_of_transformers(ours: Kosmos, peer: Kosmos2ForConditionalGeneration, name: str) -> None:
    prompt = [ours.encode(PROMPTS[name])]
    expected = peer_logits(peer, prompt)[0]
    assert_close(our_logits(ours, prompt)[0], expected, **TOLERANCE)
    assert expected.std() > 1, "logits near zero would agree whatever the model does"


def test_logits_of_a_mixed_batch_equal_those_of_transformers(
    ours: Kosmos, peer: Kosmos2ForConditionalGeneration
) -> None:
    prompts = [ours.encode(prompt) for prompt in PROMPTS.values()]
    for here, there in zip(our_logits(ours, prompts), peer_logits(peer, prompts), strict=True):
        assert_close(here, there, **TOLERANCE)


def test_a_picture_changes_the_logits_after_it_and_none_before(ours: Kosmos) -> None:
    first, second = (ours.encode(["look", picture(seed), "and say"]) for seed in (1, 2))
    before, after = our_logits(ours, [first])[0], our_logits(ours, [second])[0]
    start = first.image_starts[0]
    assert torch.equal(before[:start], after[:start])
    assert (before[-1] - after[-1]).abs().max() > 0.1


def test_features_and_latents_equal_those_of_transformers(ours: Kosmos, peer: Kosmos2ForConditionalGeneration) -> None:
    prompts = [ours.encode([picture(seed)]) for seed in range(3)]
    pixels = peer_inputs(prompts).pixel_values
    assert pixels is not None
    with torch.inference_mode():
        packed = ours.processor.collate(prompts)
        assert packed.pixels is not None
        theirs = peer.get_image_features(pixels, return_dict=True)
        latents = ours.network.encode_images(packed)
        assert latents is not None
        assert_close(latents, theirs.pooler_output, **TOLERANCE)
        states = peer.vision_model.model.post_layernorm(theirs.last_hidden_state)
        features = ours.network.tower(packed.pixels)
        assert_close(features, torch.nn.functional.normalize(states, dim=-1), **TOLERANCE)
