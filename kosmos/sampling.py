"""Logits to the next token: pure functions over one row a sequence, shared by generation and serving.

Order of the steps as in the field: repetition penalty, forbidden tokens, temperature, top-k, top-p, min-p.
Sources: nucleus sampling (arXiv 1904.09751), repetition penalty (CTRL, arXiv 1909.05858), min-p (arXiv 2407.01082).
Legend: N sequences, V vocabulary. A row's choice never depends on the other rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from kosmos.options import GenerationOptions

__all__ = ["choose_tokens", "constrain", "repeated_ngram_endings", "top_logprobs"]

SMALLEST_TEMPERATURE = 1e-6  # colder ones draw the same token; a division by them is not a number


def repeated_ngram_endings(ids: Sequence[int], size: int) -> list[int]:
    """Tokens that would complete an n-gram of `size` tokens that `ids` already holds."""
    if size <= 0 or len(ids) < size:
        return []
    tail = tuple(ids[len(ids) - size + 1 :])
    return [ids[end] for end in range(size - 1, len(ids)) if tuple(ids[end - size + 1 : end]) == tail]


def constrain(
    logits_NV: Tensor,
    options: Sequence[GenerationOptions],
    seen: Sequence[Sequence[int]],
    num_new: Sequence[int],
    eos_id: int,
) -> Tensor:
    """Penalise and forbid tokens, row by row where a row asks for it.

    Args:
        seen: words of each sequence so far, prompt included, pictures not.
        num_new: tokens each sequence has generated.
    Returns: float32 logits; the input is not changed.
    """
    logits_NV = logits_NV.float()
    plain = logits_NV
    for row, option in enumerate(options):
        banned = repeated_ngram_endings(seen[row], option.no_repeat_ngram_size)
        if num_new[row] < option.min_new_tokens:
            banned.append(eos_id)
        if option.repetition_penalty == 1.0 and not banned:
            continue
        if logits_NV is plain:
            logits_NV = plain.clone()
        if option.repetition_penalty != 1.0:
            _penalise(logits_NV[row], seen[row], option.repetition_penalty)
        if banned:
            logits_NV[row, torch.tensor(banned, device=logits_NV.device)] = float("-inf")
    return logits_NV


def _penalise(logits_V: Tensor, seen: Iterable[int], penalty: float) -> None:
    ids = torch.tensor(sorted(set(seen)), dtype=torch.long, device=logits_V.device)
    values = logits_V[ids]
    logits_V[ids] = torch.where(values > 0, values / penalty, values * penalty)


def choose_tokens(
    logits_NV: Tensor, options: Sequence[GenerationOptions], generators: Sequence[torch.Generator]
) -> list[int]:
    """One token a row: the largest logit where temperature is 0, else a draw with the row's own generator."""
    best = logits_NV.argmax(dim=-1).tolist()
    drawing = [row for row, option in enumerate(options) if option.temperature > 0]
    if drawing:
        drawn = _draw(logits_NV[drawing], [options[row] for row in drawing], [generators[row] for row in drawing])
        for row, token in zip(drawing, drawn, strict=True):
            best[row] = token
    return [int(token) for token in best]


def _draw(logits_NV: Tensor, options: Sequence[GenerationOptions], generators: Sequence[torch.Generator]) -> list[int]:
    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=logits_NV.device)[:, None]

    vocabulary = logits_NV.shape[-1]
    # Measured from the best logit, so that even the smallest temperature cannot overflow.
    below_NV = logits_NV - logits_NV.amax(dim=-1, keepdim=True)
    temperatures = column([max(option.temperature, SMALLEST_TEMPERATURE) for option in options])
    sorted_NV, ids_NV = torch.sort(below_NV / temperatures, dim=-1, descending=True, stable=True)
    rank = torch.arange(vocabulary, device=logits_NV.device)
    sorted_NV = sorted_NV.masked_fill(
        rank >= column([float(option.top_k or vocabulary) for option in options]), float("-inf")
    )
    probabilities_NV = sorted_NV.softmax(dim=-1)
    before_NV = probabilities_NV.cumsum(dim=-1) - probabilities_NV
    beyond = before_NV >= column([option.top_p if option.top_p < 1.0 else 2.0 for option in options])
    beyond[:, 0] = False
    probabilities_NV = probabilities_NV.masked_fill(beyond, 0.0)
    # The floor is relative to the best, so it may be applied before renormalising.
    floor = column([option.min_p for option in options]) * probabilities_NV[:, :1]
    probabilities_NV = probabilities_NV.masked_fill(probabilities_NV < floor, 0.0)
    sums_NV = probabilities_NV.double().cumsum(dim=-1)
    uniform = torch.tensor(
        [float(torch.rand((), generator=generator, dtype=torch.float64)) for generator in generators]
    )
    wanted = (uniform.to(sums_NV.device) * sums_NV[:, -1])[:, None]
    place = torch.searchsorted(sums_NV, wanted, right=True).clamp(max=vocabulary - 1)
    return [int(token) for token in ids_NV.gather(1, place)[:, 0].tolist()]


def top_logprobs(logprobs_V: Tensor, count: int) -> tuple[tuple[int, float], ...]:
    """The `count` most probable tokens of a row, best first, with their natural log-probabilities."""
    if not count:
        return ()
    values, ids = logprobs_V.topk(count)
    return tuple(zip((int(i) for i in ids.tolist()), (float(v) for v in values.tolist()), strict=True))
