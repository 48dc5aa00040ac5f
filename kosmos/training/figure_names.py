"""What the figures of a training log are called, and which belong together; log, trackers, curves and bar agree."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["GROUPS", "SAMPLES", "WHERE", "Group", "group_of", "is_loss"]

Group = Literal["loss", "validation", "reward", "optimiser", "speed", "experts"]
GROUPS: tuple[Group, ...] = get_args(Group)

WHERE = ("stage", "stage_number", "step")
"""Of a record: where in the run it belongs; the rest are figures."""
SAMPLES = "samples"
"""Of a record: words that the model wrote, by name."""

NOT_LOSSES: dict[str, Group] = {
    "reward": "reward",
    "score": "reward",
    "learning_rate": "optimiser",
    "gradient_norm": "optimiser",
    "skipped": "optimiser",
    "not_finite": "optimiser",
    "seconds": "speed",
    "seconds_per_step": "speed",
    "tokens_per_s": "speed",
    "images_per_s": "speed",
    "mfu": "speed",
    "balance": "experts",
}
VALIDATION, EXPERTS = "validation", "experts_"
IN_NATS = ("loss", "text", "caption", "pictures", "interleaved", "instruction")


def group_of(name: str) -> Group:
    """Where a figure belongs; what nobody knows is the loss of a kind of sequence."""
    if name.startswith(VALIDATION):
        return "validation"
    return "experts" if name.startswith(EXPERTS) else NOT_LOSSES.get(name, "loss")


def is_loss(name: str) -> bool:
    """Whether a figure is nats a word, in training or validation: those share a scale."""
    group = group_of(name)
    return group == "loss" or (group == "validation" and name.removeprefix(f"{VALIDATION}_") in IN_NATS)
