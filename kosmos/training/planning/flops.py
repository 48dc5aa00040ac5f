"""FLOPs of training a Kosmos on one sequence: products alone, two operations a multiply-add, as the field counts.

The backward pass costs twice the forward one, once where a product's input needs no gradient. Attention counts whole
squares although half of them is masked (PaLM, arXiv 2204.02311, appendix B), and no recomputation, so that a share of
the peak is an MFU. Left out, below 0.01 % for `kosmos1`: norms, activations, the latents' own projections.
Legend: T rows of a sequence, D width, V vocabulary, P features of a picture, W their width, L latents, M feed-forward.
"""

from __future__ import annotations

from dataclasses import dataclass

from kosmos.training.planning.activations import Load
from kosmos.training.planning.inventory import Inventory

__all__ = ["Flops", "sequence_flops"]


@dataclass(frozen=True, kw_only=True)
class Flops:
    """FLOPs; of a sequence, or of a token after `over`.

    Attributes:
        forward, backward: everything but the decoder's attention, pictures included.
        attention: the decoder's scores and mixtures forward, which grow with the square of the length; backward twice.
        blocks: the part of `forward` in decoder blocks, which full checkpointing does once more.
    """

    forward: float
    backward: float
    attention: float
    blocks: float

    @property
    def total(self) -> float:
        """Forward and backward, attention included."""
        return self.forward + self.backward + 3 * self.attention

    def over(self, rows: int) -> Flops:
        """The same a row."""
        return Flops(
            forward=self.forward / rows,
            backward=self.backward / rows,
            attention=self.attention / rows,
            blocks=self.blocks / rows,
        )


def sequence_flops(inventory: Inventory, load: Load) -> Flops:
    """FLOPs of one sequence with its pictures; experts count as many as a row goes to."""
    decoder = inventory.config.decoder
    rows, width = load.rows, decoder.width
    matrices = sum(p.numel * p.active for p in inventory.parameters if p.multiplies)
    blocks = 2 * rows * matrices
    head = 2 * load.asked_rows(inventory.config) * decoder.vocab_size * width
    seen = rows if decoder.causal_block is None else min(rows, 2 * decoder.causal_block)
    looked, looked_backward = _picture(inventory)
    return Flops(
        forward=blocks + head + load.pictures * looked,
        backward=2 * (blocks + head) + load.pictures * looked_backward,
        attention=4 * rows * seen * width * decoder.num_layers,
        blocks=blocks,
    )


def _picture(inventory: Inventory) -> tuple[float, float]:
    """Forward and backward of one picture through tower and resampler."""
    config, eye = inventory.config, inventory.eye
    features, wide, width = config.tower.num_features, config.tower.width, config.decoder.width
    latents = config.resampler.num_latents
    dense = 2 * features * wide * width
    rest = 4 * features * width**2 + 2 * latents * width**2 + 4 * latents * (features + latents) * width
    backward = (2 if eye.trained_layers else 1) * dense + 2 * rest
    if eye.whole:
        backward += 2 * eye.flops
    elif eye.trained_layers:
        layer = 2 * features * (4 * wide**2 + 2 * wide * eye.mlp_width) + 4 * features**2 * wide
        backward += 2 * layer - 2 * features * 3 * wide**2  # what enters the layer needs no gradient
    return eye.flops + dense + rest, backward
