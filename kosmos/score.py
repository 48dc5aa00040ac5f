"""How probable a continuation is: per token, in sum, and whether greedy decoding would have said it.

Prompt and continuation are read together in one `Packed` forward, many pairs end to end; logits are computed for the
continuation's rows alone. Legend: R rows, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from kosmos.model import KosmosModel
from kosmos.processor import Encoded, Processor

__all__ = ["Score", "embed", "score"]

MAX_ROWS = 4096  # packed rows of one forward: bounds memory, changes nothing else


@dataclass(frozen=True, kw_only=True)
class Score:
    """One continuation after its prompt.

    Attributes:
        ids: tokens of the continuation.
        logprobs: natural log-probability of each, given all before it.
        total: their sum.
        greedy: whether each was the most probable token at its place.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    total: float
    greedy: bool


@torch.inference_mode()
def score(
    model: KosmosModel, processor: Processor, wholes: Sequence[Encoded], num_continuation: Sequence[int]
) -> list[Score]:
    """Score the last `num_continuation[i]` tokens of `wholes[i]`, which is prompt and continuation.

    Raises: ValueError for a continuation without tokens or one that leaves no prompt.
    """
    for whole, count in zip(wholes, num_continuation, strict=True):
        if not 0 < count < len(whole.ids):
            raise ValueError(
                f"a continuation of {count} tokens in a sequence of {len(whole.ids)}; give both some tokens"
            )
    scores: list[Score] = []
    for start, stop in _batches(wholes):
        packed = processor.collate(list(wholes[start:stop]))
        hidden_RD = model(packed)
        rows: list[int] = []
        targets: list[int] = []
        end = 0
        for whole, count in zip(wholes[start:stop], num_continuation[start:stop], strict=True):
            end += len(whole.ids)
            rows += range(end - count - 1, end - 1)
            targets += whole.ids[-count:]
        logprobs_RV = torch.log_softmax(model.logits(hidden_RD[rows]).float(), dim=-1)
        chosen = logprobs_RV.gather(1, torch.tensor(targets, device=logprobs_RV.device)[:, None])[:, 0].tolist()
        best = logprobs_RV.argmax(dim=-1).tolist()
        first = 0
        for count in num_continuation[start:stop]:
            part = slice(first, first + count)
            scores.append(_score(targets[part], chosen[part], best[part]))
            first += count
    return scores


@torch.inference_mode()
def embed(model: KosmosModel, processor: Processor, prompts: Sequence[Encoded]) -> torch.Tensor:
    """Mean hidden state of each prompt, pictures included, float32 [prompts, D]."""
    means = [torch.empty(0, model.config.decoder.width)]
    for start, stop in _batches(prompts):
        packed = processor.collate(list(prompts[start:stop]))
        means += [rows_RD.float().mean(dim=0, keepdim=True).cpu() for rows_RD in model(packed).split(packed.lengths)]
    return torch.cat(means)


def _score(ids: list[int], logprobs: list[float], best: list[int]) -> Score:
    return Score(ids=tuple(ids), logprobs=tuple(logprobs), total=sum(logprobs), greedy=ids == best)


def _batches(wholes: Sequence[Encoded]) -> Iterator[tuple[int, int]]:
    """Neighbours whose rows together stay under `MAX_ROWS`; a longer one goes alone."""
    start, rows = 0, 0
    for index, whole in enumerate(wholes):
        if index > start and rows + len(whole.ids) > MAX_ROWS:
            yield start, index
            start, rows = index, 0
        rows += len(whole.ids)
    if wholes:
        yield start, len(wholes)
