"""Packed: what a model eats. Sequences of any lengths laid end to end, so nothing depends on a neighbour or on padding.

The same record is a training batch, a scored prompt, a prefill chunk and a decode step (one row a request).
Legend: R rows (all tokens of all sequences), N images, L latents of an image, P features of an image, W feature width.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

__all__ = ["Packed"]


@dataclass(frozen=True, kw_only=True)
class Packed:
    """One forward's input.

    Attributes:
        tokens: int64 [R]. Ids on image rows are ignored.
        lengths: rows of each sequence, in order; sums to R. Plain integers: the host plans with them.
        positions: int64 [R], each token's index in its own sequence, from 0.
        image_rows: int64 [N, L], the rows that image n's latents overwrite; -1: not in this chunk.
        pixels: uint8 [N, 3, H, W]; or
        features: float [N, P, W], the tower's output; or
        latents: float [N, L, D], the resampler's output. At most one of the three.
        loss_weight: float [R], weight of predicting the token at that row (so row 0 of a sequence is never used).
    """

    tokens: Tensor
    lengths: tuple[int, ...]
    positions: Tensor
    image_rows: Tensor | None = None
    pixels: Tensor | None = None
    features: Tensor | None = None
    latents: Tensor | None = None
    loss_weight: Tensor | None = None

    def __post_init__(self) -> None:
        rows = self.tokens.shape[0]
        if sum(self.lengths) != rows or self.positions.shape[0] != rows:
            raise ValueError(
                f"{rows} tokens, lengths summing to {sum(self.lengths)} and {self.positions.shape[0]} positions;"
                " they must agree"
            )
        pictures = [part for part in (self.pixels, self.features, self.latents) if part is not None]
        if len(pictures) > 1:
            raise ValueError("give one of pixels, features, latents, not several")
        given, wanted = (
            pictures[0].shape[0] if pictures else 0,
            0 if self.image_rows is None else self.image_rows.shape[0],
        )
        if given != wanted:
            raise ValueError(f"{given} pictures but rows for {wanted}")

    def to(self, device: torch.device | str) -> Packed:
        """The same with every tensor on `device`; nothing is copied that is there already."""
        values: dict[str, Any] = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        for name, part in values.items():
            if isinstance(part, Tensor):
                values[name] = part.to(device, non_blocking=True)
        return Packed(**values)
