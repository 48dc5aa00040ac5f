"""The peer: Kosmos-2 of transformers with random weights, driven step by step as its own `generate` drives it.

Needs transformers, an extra of the development set-up. Legend: N sequences, T positions, L latents of an image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kosmos.bench.random_weights import fill_randomly
from kosmos.config import KosmosConfig

__all__ = ["build_peer", "peer_config", "peer_decoding", "peer_prefill"]


def build_peer(config: KosmosConfig, dtype: torch.dtype) -> Any:
    """`Kosmos2ForConditionalGeneration` in the shape of our preset.

    Raises: ValueError if transformers is not installed.
    """
    theirs = peer_config(config)
    from transformers import Kosmos2ForConditionalGeneration

    with torch.device("meta"):
        model = Kosmos2ForConditionalGeneration(theirs)
    fill_randomly(model, dtype)
    model.tie_weights()
    return model.eval()


def peer_config(config: KosmosConfig) -> Any:
    """Our shape as transformers writes it, rates of dropout included.

    Raises: ValueError if transformers is not installed.
    """
    try:
        from transformers import Kosmos2Config
    except ImportError:
        raise ValueError("the peer needs transformers; install kosmos-mllm[dev], or give --without-peers") from None
    decoder = config.decoder
    eye = {
        "hidden_size": config.tower.width,
        "image_size": config.tower.image_size,
        "num_hidden_layers": config.tower.num_layers,
        "num_attention_heads": config.tower.num_heads,
        "intermediate_size": config.tower.mlp_width,
        "patch_size": config.tower.patch_size,
    }
    return Kosmos2Config(
        text_config={
            "vocab_size": decoder.vocab_size,
            "embed_dim": decoder.width,
            "layers": decoder.num_layers,
            "ffn_dim": decoder.ffn_width,
            "attention_heads": decoder.num_heads,
            "dropout": decoder.dropout,
            "attention_dropout": decoder.attention_dropout,
            "activation_dropout": decoder.activation_dropout,
        },
        vision_config={name: value for name, value in eye.items() if value is not None},
        latent_query_num=config.resampler.num_latents,
        attn_implementation="sdpa",
    )


def peer_decoding(model: Any, config: KosmosConfig, length: int, batch: int, steps: int) -> Callable[[], None]:
    """Each call of the result decodes `steps` tokens greedily, `batch` sequences at a time.

    Their past of `length` tokens is random keys and values: the time of a step does not depend on what they are, and
    bf16 prefill of transformers takes minutes on a processor without a bf16 unit.
    """
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config.text_config)
    decoder = config.decoder
    for layer in range(decoder.num_layers):
        keys, values = torch.randn(2, batch, decoder.num_heads, length, decoder.head_dim, dtype=model.dtype)
        cache.update(keys, values, layer)
    state = {"tokens": torch.full((batch, 1), 3)}

    def run() -> None:
        with torch.inference_mode():
            for _ in range(steps):
                mask = torch.ones(batch, cache.get_seq_length() + 1, dtype=torch.long)
                # generate() hands over the text model once the picture is inside the cache
                step = model.text_model(
                    input_ids=state["tokens"], attention_mask=mask, cache=cache, use_cache=True, logits_to_keep=1
                )
                state["tokens"] = step.logits[:, -1].argmax(-1, keepdim=True)

    return run


def peer_prefill(model: Any, tokens_T: Tensor, image_T: Tensor, image_size: int) -> Callable[[], None]:
    """Tower, resampler and prefill of one prompt with one image; logits of the last row only, as `generate` asks."""
    pixels = torch.rand(1, 3, image_size, image_size).to(model.dtype)

    def run() -> None:
        with torch.inference_mode():
            model(
                pixel_values=pixels,
                input_ids=tokens_T[None],
                image_embeds_position_mask=image_T[None],
                attention_mask=torch.ones(1, len(tokens_T), dtype=torch.long),
                use_cache=True,
                logits_to_keep=1,
            )

    return run
