"""The same tokens as `Kosmos2ForConditionalGeneration.generate`.

Where transformers errs, ours are right and a test names the difference: positions under left padding, and beams over
several pictures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import Kosmos2ForConditionalGeneration

from kosmos.processor import Encoded
from tests.models import picture
from tests.parity.kosmos2 import peer_inputs

if TYPE_CHECKING:
    from kosmos.pretrained import Kosmos

PROMPTS: list[Any] = [
    "a man",
    "the old sailor looked over a wall",
    [picture(1), "A photo of"],
    [picture(2), picture(3), "two dogs"],
    [picture(6)],
]
SEARCHES: list[dict[str, Any]] = [
    {"num_beams": 2},
    {"num_beams": 4},
    {"num_beams": 3, "length_penalty": 0.4},
    {"num_beams": 3, "length_penalty": 2.5},
    {"num_beams": 3, "length_penalty": -1.0},
    {"num_beams": 4, "min_new_tokens": 6},
]
TEXT_ONLY: list[dict[str, Any]] = [
    {"num_beams": 3, "no_repeat_ngram_size": 2},
    {"num_beams": 3, "repetition_penalty": 1.4},
    {"no_repeat_ngram_size": 2},
    {"repetition_penalty": 1.4},
]


@torch.inference_mode()
def peer_tokens(
    peer: Kosmos2ForConditionalGeneration, prompt: Encoded, *, max_new_tokens: int = 14, **options: Any
) -> tuple[int, ...]:
    """What transformers adds to a prompt, up to and with the end token.

    Its pictures' latents are handed over as one row, because a search would mix up several (see the last test).
    """
    inputs = vars(peer_inputs([prompt]))
    pixels = inputs.pop("pixel_values")
    if pixels is not None:
        inputs["image_embeds"] = peer.get_image_features(pixels, return_dict=True).pooler_output.flatten(0, 1)[None]
    model = peer.text_model if pixels is None else peer
    ids = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, **options)
    return until_end(ids[0, prompt.length :].tolist())


def until_end(ids: list[int]) -> tuple[int, ...]:
    return tuple(ids[: ids.index(2) + 1] if 2 in ids else ids)


@pytest.mark.parametrize("prompt", range(len(PROMPTS)))
def test_greedy_tokens_equal_those_of_transformers(
    ours: Kosmos, peer: Kosmos2ForConditionalGeneration, prompt: int
) -> None:
    encoded = ours.encode(PROMPTS[prompt])
    expected = peer_tokens(peer, encoded, max_new_tokens=40)
    assert ours.generate([PROMPTS[prompt]], max_new_tokens=40)[0].ids == expected


@pytest.mark.parametrize("options", SEARCHES, ids=str)
@pytest.mark.parametrize("prompt", range(len(PROMPTS)))
def test_beam_search_tokens_equal_those_of_transformers(
    ours: Kosmos, peer: Kosmos2ForConditionalGeneration, prompt: int, options: dict[str, Any]
) -> None:
    expected = peer_tokens(peer, ours.encode(PROMPTS[prompt]), **options)
    assert ours.generate([PROMPTS[prompt]], max_new_tokens=14, **options)[0].ids == expected


@pytest.mark.parametrize("options", TEXT_ONLY, ids=str)
@pytest.mark.parametrize("prompt", [0, 1])
def test_penalties_choose_the_tokens_of_transformers(
    ours: Kosmos, peer: Kosmos2ForConditionalGeneration, prompt: int, options: dict[str, Any]
) -> None:
    expected = peer_tokens(peer, ours.encode(PROMPTS[prompt]), **options)
    assert ours.generate([PROMPTS[prompt]], max_new_tokens=14, **options)[0].ids == expected


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_a_mixed_batch_gets_what_transformers_gives_each_prompt_alone(
    ours: Kosmos, peer: Kosmos2ForConditionalGeneration, options: dict[str, Any]
) -> None:
    alone = [peer_tokens(peer, ours.encode(prompt), **options) for prompt in PROMPTS]
    together = ours.generate(PROMPTS, max_new_tokens=14, **options)
    assert [answer.ids for answer in together] == alone


def test_the_searches_compared_end_at_many_lengths_and_differ(ours: Kosmos) -> None:
    """Otherwise the parity above would prove little."""
    found = [answer for options in SEARCHES for answer in ours.generate(PROMPTS, max_new_tokens=14, **options)]
    assert len({answer.ids for answer in found}) >= 12
    assert len({len(answer.ids) for answer in found if answer.finish_reason == "stop"}) >= 4
    assert any(answer.finish_reason == "length" for answer in found)


@torch.inference_mode()
def peer_scores(peer: Kosmos2ForConditionalGeneration, prompts: list[Encoded], steps: int) -> torch.Tensor:
    """Scores [steps, prompts, words] along the same path for all: the end token forbidden, greedy."""
    inputs = peer_inputs(prompts, left=True)
    result = peer.generate(
        **vars(inputs),
        max_new_tokens=steps,
        min_new_tokens=steps,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return torch.stack(result.logits)


def test_left_padding_shifts_the_positions_of_transformers_and_ours_stay_right(
    ours: Kosmos, peer: Kosmos2ForConditionalGeneration
) -> None:
    """transformers counts padding as past once it decodes from its cache, so a padded row stands too far.

    The first step, which has no past yet, agrees; later ones do not. Ours in a batch equals transformers alone.
    """
    prompts = [[picture(1), "A"], [picture(2), "the old sailor looked over a wall near the water"]]
    short, long = (ours.encode(prompt) for prompt in prompts)
    padding = long.length - short.length
    assert padding > 5
    alone, batched = peer_scores(peer, [short], 6)[:, 0], peer_scores(peer, [short, long], 6)[:, 0]
    torch.testing.assert_close(batched[0], alone[0], atol=1e-4, rtol=0)
    assert (batched[1] - alone[1]).abs().max() > 0.1

    ids = peer_tokens(peer, short, max_new_tokens=6, min_new_tokens=6)
    answer = ours.generate(prompts, max_new_tokens=6, min_new_tokens=6)[0]
    assert answer.ids == ids
    expected = alone.log_softmax(-1)[torch.arange(6), torch.tensor(ids)]
    torch.testing.assert_close(torch.tensor(answer.logprobs), expected, atol=1e-4, rtol=0)


def test_beams_of_transformers_see_the_first_of_two_pictures_twice_and_ours_see_both(
    ours: Kosmos, peer: Kosmos2ForConditionalGeneration
) -> None:
    """transformers repeats each picture once a beam, not each prompt's pictures together.

    The first beam, from which the search starts, then reads the first picture in both places.
    """
    prompt, mistaken = PROMPTS[3], [PROMPTS[3][0], PROMPTS[3][0], PROMPTS[3][2]]
    encoded = ours.encode(prompt)
    with torch.inference_mode():
        ids = peer.generate(**vars(peer_inputs([encoded])), max_new_tokens=14, do_sample=False, num_beams=4)
    theirs = until_end(ids[0, encoded.length :].tolist())
    right, wrong = ours.generate([prompt, mistaken], max_new_tokens=14, num_beams=4)
    assert theirs == wrong.ids != right.ids
    assert right.ids == peer_tokens(peer, encoded, num_beams=4)
