"""A small random Kosmos-2 of transformers, the folder it saves, and inputs assembled for it by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import Kosmos2Config, Kosmos2ForConditionalGeneration

from kosmos.processor import Encoded
from text.tokenizer import Tokenizer
from vision.config import CLIP_MEAN, CLIP_STD

__all__ = ["Inputs", "peer_inputs", "save_peer", "small_peer"]

LATENTS = 6
END_LOGIT = 8.0  # raises the end token so far that searches end at many lengths


def small_peer(tokenizer: Tokenizer, *, seed: int = 0) -> Kosmos2ForConditionalGeneration:
    """Two layers on either side; weights wide enough that answers differ, the end token often among the first."""
    config = Kosmos2Config(
        text_config={
            "vocab_size": tokenizer.vocab_size,
            "embed_dim": 64,
            "layers": 3,
            "ffn_dim": 96,
            "attention_heads": 4,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 42,
            "patch_size": 14,
        },
        latent_query_num=LATENTS,
    )
    model = Kosmos2ForConditionalGeneration(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("embed_tokens.weight"):
            parameter.copy_(noise * 0.15)
        elif parameter.ndim > 1:
            parameter.copy_(noise / math.sqrt(parameter[0].numel()))
        elif name.endswith("bias"):
            parameter.copy_(noise * 0.1)
        else:
            parameter.copy_(1 + noise * 0.3)
    # Signs at random: with the head tied to the words, a plain norm would make every word follow itself for ever.
    last, end = model.text_model.model.layer_norm, model.text_model.model.embed_tokens.weight[tokenizer.eos_id]
    last.weight.mul_(2 * torch.randn(64, generator=generator).sign())
    last.bias.add_(END_LOGIT * end / end.dot(end))
    return model


def save_peer(model: Kosmos2ForConditionalGeneration, folder: Path, tokenizer: Tokenizer) -> Path:
    """What the hub holds of a Kosmos-2: config, safetensors, SentencePiece model."""
    model.save_pretrained(folder)
    (folder / "sentencepiece.bpe.model").write_bytes(tokenizer.model)
    return folder


@dataclass(frozen=True)
class Inputs:
    """Keyword arguments of the peer's forward, sequences padded on one side."""

    input_ids: Tensor
    attention_mask: Tensor
    image_embeds_position_mask: Tensor
    pixel_values: Tensor | None


def peer_inputs(prompts: Sequence[Encoded], *, pad_id: int = 1, left: bool = False) -> Inputs:
    """Our rows as transformers takes them: slots by a mask, pictures normalised and stacked in reading order."""
    longest = max(prompt.length for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad_id)
    real, slots = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        start = longest - prompt.length if left else 0
        ids[row, start : start + prompt.length] = torch.tensor(prompt.ids)
        real[row, start : start + prompt.length] = 1
        for first in prompt.image_starts:
            slots[row, start + first : start + first + prompt.num_latents] = 1
    pictures = [torch.from_numpy(image) for prompt in prompts for image in prompt.images]  # type: ignore[arg-type]
    pixels = None
    if pictures:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
        pixels = (torch.stack(pictures) / 255 - mean) / std
    return Inputs(ids, real, slots, pixels)
