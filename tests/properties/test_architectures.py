"""Sparse layers, blocks and every position scheme generate, score and travel through a checkpoint like any decoder."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from kosmos.chat import DEFAULT_CHAT_TEMPLATE
from kosmos.config import KosmosConfig
from kosmos.model import KosmosModel
from kosmos.pretrained import Kosmos, load
from kosmos.processor import Processor
from kosmos.transformer.config import DecoderConfig, ExpertsConfig
from tests.models import picture, small_config
from text.tokenizer import Tokenizer

VARIANTS: dict[str, dict[str, object]] = {
    "experts": {"experts": ExpertsConfig(num_experts=4, every=1)},
    "two experts a row": {"experts": ExpertsConfig(num_experts=4, top_k=2, router="gshard", every=2)},
    "blocks": {"causal_block": 32, "xpos_block": 32},
    "rope": {"positions": "rope"},
    "alibi": {"positions": "alibi"},
    "t5": {"positions": "t5"},
    "learned": {"positions": "learned"},
    "post-norm": {"norms": "post"},
    "deepnorm": {"norms": "deepnorm"},
}


def kosmos_with(tokenizer: Tokenizer, changes: dict[str, object]) -> Kosmos:
    torch.manual_seed(3)
    base = small_config(tokenizer)
    decoder: DecoderConfig = replace(base.decoder, **changes)  # type: ignore[arg-type]
    config: KosmosConfig = replace(base, decoder=decoder)
    network = KosmosModel(config).eval()
    with torch.no_grad():
        network.decoder.embedding.weight.mul_(8)  # logits far apart: no ties
    processor = Processor(tokenizer, config)
    template, model = DEFAULT_CHAT_TEMPLATE, tokenizer.model
    return Kosmos(network, processor, name="variant", chat_template=template, tokenizer_model=model)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_a_batch_gives_what_each_prompt_gives_alone_and_a_checkpoint_too(
    name: str, small_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = kosmos_with(small_tokenizer, VARIANTS[name])
    prompts = [["A dog", picture(1), "and"], "Two men walk over a bridge in the rain", [picture(2), picture(3)]]
    options = {"max_new_tokens": 40, "min_new_tokens": 40}
    together = model.generate(prompts, **options)
    model.save(tmp_path / "saved")
    again = load(tmp_path / "saved", dtype="float32")
    for prompt, answer in zip(prompts, together, strict=True):
        (alone,) = model.generate([prompt], **options)
        assert alone.ids == answer.ids
        assert_close(torch.tensor(alone.logprobs), torch.tensor(answer.logprobs), atol=1e-4, rtol=1e-4)
        assert again.generate([prompt], **options)[0].ids == answer.ids


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_generated_is_scored_alike(name: str, small_tokenizer: Tokenizer) -> None:
    model = kosmos_with(small_tokenizer, VARIANTS[name])
    prompt, text = [picture(4), "A photo of"], " a man on a horse"
    (score,) = model.score([prompt], [text])
    (longer,) = model.score([prompt], [text + " in a field"])
    common = len(score.logprobs) - 1
    assert_close(torch.tensor(longer.logprobs[:common]), torch.tensor(score.logprobs[:common]), atol=1e-4, rtol=1e-4)
