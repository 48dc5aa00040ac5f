"""How the built-in model is trained, as plain values: mixture, stages, validation. No torch here.

docs/models/tiny.md says what came of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kosmos.training.recipe import OptimiserRecipe

__all__ = ["TINY", "MixtureRecipe", "RewardRecipe", "TinyRecipe"]


@dataclass(frozen=True, kw_only=True)
class MixtureRecipe:
    """What one step sees, over all ranks; Kosmos-1 mixes text, captions and interleaved pages the same way.

    Attributes:
        caption_rows: of picture and caption pairs.
        text_rows: of captions without pictures and, for `book_share` of them, pieces of books.
        page_rows: of pieces of pages with pictures.   piece_rows: of the longest piece of a book or a page.
        views: how many stored views of a photograph are drawn from (the first is the photograph itself).
        prompted: share of captions that follow a prompt (no loss on the prompt).
    """

    caption_rows: int = 2400
    text_rows: int = 456
    book_share: float = 0.2
    page_rows: int = 192
    piece_rows: int = 96
    views: int = 6
    prompted: float = 0.15


@dataclass(frozen=True, kw_only=True)
class RewardRecipe:
    """Second stage: the model's own samples, weighted by how much better than their siblings CIDEr-D finds them.

    Source: self-critical sequence training (arXiv 1612.00563), with the mean of the other samples as the baseline.

    Attributes:
        pictures: a step.  samples: captions drawn for each.  max_tokens: of a sample.
        cross_entropy: weight of the ordinary losses kept beside the reward.
    """

    steps: int
    pictures: int = 40
    samples: int = 5
    max_tokens: int = 20
    learning_rate: float = 2e-4
    warmup_steps: int = 10
    cross_entropy: float = 0.2
    average_decay: float = 0.98
    validate_every: int = 20
    log_every: int = 5
    save_every: int = 10


@dataclass(frozen=True, kw_only=True)
class TinyRecipe:
    """Everything `kosmos train NAME` decides."""

    name: str
    optimiser: OptimiserRecipe
    reward: RewardRecipe
    mixture: MixtureRecipe = field(default_factory=MixtureRecipe)
    seed: int = 0
    log_every: int = 20
    validate_every: int = 250
    validation_pictures: int = 300
    save_every: int = 250


TINY = TinyRecipe(name="tiny", optimiser=OptimiserRecipe(steps=2600), reward=RewardRecipe(steps=80))
