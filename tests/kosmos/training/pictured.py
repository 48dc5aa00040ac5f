"""A small training batch with pictures: sequences of a first token, a picture's latents, and drawn words."""

from __future__ import annotations

import torch

from kosmos.config import KosmosConfig
from kosmos.packed import Packed

__all__ = ["pictured_batch"]


def pictured_batch(config: KosmosConfig, *, sequences: int = 3, words: int = 12, seed: int = 0) -> Packed:
    """Every word carries loss; pictures do not."""
    draw = torch.Generator().manual_seed(seed)
    latents, size = config.resampler.num_latents, config.tower.image_size
    rows = 1 + latents + words
    weight_R = torch.ones(sequences, rows)
    weight_R[:, : 1 + latents] = 0.0
    starts = torch.arange(sequences)[:, None] * rows + 1
    return Packed(
        tokens=torch.randint(10, config.decoder.vocab_size, (sequences * rows,), generator=draw),
        lengths=(rows,) * sequences,
        positions=torch.arange(rows).repeat(sequences),
        image_rows=starts + torch.arange(latents),
        pixels=torch.randint(0, 256, (sequences, 3, size, size), dtype=torch.uint8, generator=draw),
        loss_weight=weight_R.flatten(),
    )
