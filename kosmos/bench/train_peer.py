"""The peer of `step-100m`: Kosmos-2 of transformers under the training loop that people write for it.

Needs transformers, an extra of the development set-up. Legend: N sequences, T rows of each.
"""

from __future__ import annotations

from itertools import cycle

import torch
from torch import Tensor, nn

from kosmos.bench.own_process import Contestant
from kosmos.bench.peer import peer_config
from kosmos.bench.train_step import OPTIMISER, StepWork
from kosmos.packed import Packed
from kosmos.training.precision import autocast
from vision.config import TowerConfig

__all__ = ["model_inputs", "peer_steps", "trained_peer"]

NO_LOSS = -100


def peer_steps(work: StepWork) -> Contestant:
    """Forward with labels, backward, clip, AdamW."""
    torch.manual_seed(0)
    model = trained_peer(work)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        trained,
        lr=OPTIMISER.learning_rate,
        betas=OPTIMISER.betas,
        eps=OPTIMISER.eps,
        weight_decay=OPTIMISER.weight_decay,
        fused=True,
    )
    batches = cycle([model_inputs(work, batch) for batch in work.batches()])

    def step(number_format: str) -> None:
        with autocast(number_format):
            loss = model(**next(batches)).loss
        loss.backward()
        nn.utils.clip_grad_norm_(trained, OPTIMISER.clip_norm)
        optimiser.step()
        optimiser.zero_grad()

    return step


def trained_peer(work: StepWork) -> nn.Module:
    """The model in training, its eye frozen."""
    from transformers import Kosmos2ForConditionalGeneration

    model = Kosmos2ForConditionalGeneration(peer_config(work.config)).train()
    model.vision_model.requires_grad_(False)
    return model  # type: ignore[no-any-return]


def model_inputs(work: StepWork, batch: Packed) -> dict[str, Tensor]:
    """The same sequences as it takes them: all of one length, so nothing is padded."""
    assert batch.pixels is not None
    assert batch.image_rows is not None
    assert batch.loss_weight is not None
    pictured = torch.zeros_like(batch.tokens)
    pictured[batch.image_rows.flatten()] = 1
    tokens_NT = batch.tokens.view(-1, work.length)
    return {
        "pixel_values": _normalised(batch.pixels, work.config.tower),
        "input_ids": tokens_NT,
        "attention_mask": torch.ones_like(tokens_NT),
        "image_embeds_position_mask": pictured.view(-1, work.length),
        "labels": torch.where(batch.loss_weight > 0, batch.tokens, NO_LOSS).view(-1, work.length),
    }


def _normalised(pixels_N3HW: Tensor, tower: TowerConfig) -> Tensor:
    """As its image processor hands pictures over."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (tower.mean, tower.std))
    return (pixels_N3HW / 255 - mean) / std
