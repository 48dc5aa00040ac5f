"""Activation checkpointing: what a block computed is forgotten after the forward pass and computed again for backward.

Sources: arXiv 1604.06174 (the whole block again, `full`), arXiv 2205.05198 (`selective`: products and attention are
kept, as they take most of the time, and what stands between them is done again). A block keeps its name and place;
what it reads beside its rows, attention's context above all, is made outside of it and once. Random numbers are drawn
again from the same state, so gradients are those of a step that forgets nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any  # Any: arguments of whatever is called again

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from kosmos.training.recipe import Checkpointing

__all__ = ["KEPT", "checkpoint_blocks"]

KEPT = (
    "aten.mm",
    "aten.addmm",
    "aten._grouped_mm",
    "aten._scaled_dot_product_flash_attention",
    "aten._scaled_dot_product_efficient_attention",
    "aten._scaled_dot_product_cudnn_attention",
    "aten._scaled_dot_product_flash_attention_for_cpu",
    "torch_attn._varlen_attn",
)
"""What `selective` does not do twice: products of rows and weights, and attention unless it draws random numbers.

Batches of products are not among them: where attention has no kernel of its own they make its squares of scores.
"""


def checkpoint_blocks(blocks: Iterable[nn.Module], how: Checkpointing) -> None:
    """Let each block forget what it computed, in place; calls without gradients are as before."""
    if how == "none":
        return
    again: dict[str, Any] = {"use_reentrant": False}
    if how == "selective":
        again["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _policy)
    for block in blocks:
        setattr(block, "forward", _forgetful(block.forward, again))  # noqa: B010  (a method, as typing sees it)


def _forgetful(forward: Callable[..., Any], again: dict[str, Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, **again, **kwargs)

    return call


def _policy(
    context: SelectiveCheckpointContext, operator: torch._ops.OpOverload, *args: Any, **kwargs: Any
) -> CheckpointPolicy:
    # What is not computed again draws no random numbers either, and all dropout after it would draw other ones.
    if str(operator.overloadpacket) in KEPT and not _drops(operator, args, kwargs):
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def _drops(operator: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether this call draws random numbers: attention with dropout."""
    for place, argument in enumerate(operator._schema.arguments):
        if argument.name == "dropout_p":
            given = args[place] if place < len(args) else kwargs.get("dropout_p", argument.default_value)
            return bool(given)
    return False
