"""Captions in lockstep equal the general way to generate; the reward's gradient follows the formula."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from kosmos.training.builtin.recipe import RewardRecipe
from kosmos.training.builtin.reward import RewardObjective
from kosmos.training.builtin.rollout import Layout, caption_rollout
from tests.models import picture, small_kosmos
from text.document import Document, Image
from text.tokenizer import Tokenizer


def _layout(tokenizer: Tokenizer, num_latents: int) -> Layout:
    return Layout(
        begin=tokenizer.bos_id,
        end=tokenizer.eos_id,
        image=tokenizer.image_id,
        image_end=tokenizer.end_image_id,
        num_latents=num_latents,
    )


@pytest.mark.parametrize("positions", ["xpos", "sinusoidal"])
def test_greedy_captions_equal_generate(small_tokenizer: Tokenizer, positions: str) -> None:
    kosmos = small_kosmos(small_tokenizer, positions=positions)  # type: ignore[arg-type]
    pictures = [Document((Image(picture(seed)),)) for seed in range(3)]
    expected = [generation.ids for generation in kosmos.generate(pictures, max_new_tokens=8)]
    encoded = [kosmos.encode(document) for document in pictures]
    with torch.inference_mode():
        latents = kosmos.network.encode_images(kosmos.processor.collate(encoded))
    assert latents is not None
    found = caption_rollout(kosmos.network, _layout(small_tokenizer, latents.shape[1]), latents.clone(), max_tokens=8)
    for ids, length, wanted in zip(found.ids, found.lengths, expected, strict=True):
        spoken = [token for token in ids[: int(length)].tolist() if token != small_tokenizer.eos_id]
        assert spoken == [token for token in wanted if token != small_tokenizer.eos_id]


def _reward(tokenizer: Tokenizer, judged: Sequence[float]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The reward loss and its gradients when the judge gives these scores in turn."""
    kosmos = small_kosmos(tokenizer, sharpness=1.0)
    network = kosmos.network
    draw = np.random.default_rng(0)
    features = torch.from_numpy(draw.normal(size=(2, 17, 32)).astype(np.float32))
    scores = iter(judged)
    objective = RewardObjective(
        network,
        _layout(tokenizer, network.config.resampler.num_latents),
        RewardRecipe(steps=1, pictures=2, samples=3, max_tokens=5),
        lambda caption, number: next(scores),
        tokenizer.decode,
    )
    total = objective.losses([0, 1], features, seed=0)["reward"].total
    total.backward()
    return total.detach(), [p.grad for p in network.parameters() if p.grad is not None]


def test_equal_rewards_teach_nothing(small_tokenizer: Tokenizer) -> None:
    total, gradients = _reward(small_tokenizer, [0.7] * 6)
    assert float(total) == pytest.approx(0, abs=1e-4)
    assert all(float(gradient.abs().max()) < 1e-3 for gradient in gradients)


def test_only_differences_among_siblings_count(small_tokenizer: Tokenizer) -> None:
    total, _ = _reward(small_tokenizer, [1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    shifted, _ = _reward(small_tokenizer, [1.0, 0.0, 0.0, 5.0, 5.0, 5.0])
    torch.testing.assert_close(total, shifted, atol=1e-4, rtol=1e-4)
    assert abs(float(total)) > 1e-3
