"""Beam search over many prompts at once, by the field's rules: 2K candidates a step, scores over length ** penalty.

A beam ends with the end token (or a stop string) while it ranks among the first K; a prompt is done when K beams ended
and no running one can still beat the worst of them. The same tokens as transformers' search (parity test).
Legend: N prompts, K beams, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kosmos.answer import FinishReason, Generation, finish, text_of
from kosmos.model import KosmosModel
from kosmos.options import GenerationOptions
from kosmos.processor import Encoded, Processor
from kosmos.sampling import constrain
from kosmos.session import PAGE_SIZE, Session

__all__ = ["search_beams"]


@dataclass(frozen=True)
class _Beam:
    """One way to go on; `score` is the sum of its log-probabilities, `row` where its past is cached."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    score: float
    row: int


@dataclass
class _Search:
    """One prompt's beams."""

    prompt: Encoded
    seen: list[int]
    running: list[_Beam]
    finished: list[tuple[float, _Beam, FinishReason]] = field(default_factory=list)
    done: bool = False


@torch.inference_mode()
def search_beams(
    model: KosmosModel, processor: Processor, prompts: Sequence[Encoded], options: GenerationOptions
) -> list[Generation]:
    """The best beam of each prompt; results do not depend on which prompts go together."""
    if not prompts:
        return []
    tokenizer, width = processor.tokenizer, options.num_beams
    spare = len(prompts) * width * (options.max_new_tokens + 2 * PAGE_SIZE)
    session = Session(model, [len(prompt.ids) for prompt in prompts], spare_tokens=spare)
    logits_NV = session.prefill(processor.collate(list(prompts)))
    searches = [
        _Search(prompt, [i for i in prompt.ids if i != tokenizer.image_id], [_Beam((), (), 0.0, index)])
        for index, prompt in enumerate(prompts)
    ]
    active = searches
    while active:
        logprobs_NV = _logprobs(logits_NV, active, options, tokenizer.eos_id)
        counts = [len(search.running) for search in active]
        for search, own_KV in zip(active, logprobs_NV.split(counts), strict=True):
            _advance(search, own_KV, processor, options)
        active = [search for search in active if not search.done]
        if active:
            logits_NV = _continue(session, active)
    return [_best(processor, search, options.stop) for search in searches]


def _logprobs(logits_NV: Tensor, active: Sequence[_Search], options: GenerationOptions, eos_id: int) -> Tensor:
    """Log-probabilities after penalties, of every running beam."""
    beams = [(search, beam) for search in active for beam in search.running]
    return constrain(
        torch.log_softmax(logits_NV.float(), dim=-1),
        [options] * len(beams),
        [search.seen + list(beam.ids) for search, beam in beams],
        [len(beam.ids) for _, beam in beams],
        eos_id,
    )


def _advance(search: _Search, logprobs_KV: Tensor, processor: Processor, options: GenerationOptions) -> None:
    """One more token: rank 2K candidates, end those that end, keep K running."""
    width, vocabulary = options.num_beams, logprobs_KV.shape[-1]
    sums = torch.tensor([beam.score for beam in search.running], device=logprobs_KV.device)[:, None] + logprobs_KV
    scores, places = sums.flatten().topk(min(2 * width, sums.numel()))
    running: list[_Beam] = []
    for rank, (score, place) in enumerate(zip(scores.tolist(), places.tolist(), strict=True)):
        parent, token = search.running[place // vocabulary], place % vocabulary
        if score == -math.inf:
            break
        step = float(logprobs_KV[place // vocabulary, token])
        beam = _Beam((*parent.ids, token), (*parent.logprobs, step), score, parent.row)
        reason = _ended(beam, processor, options)
        if reason is None:
            running.append(beam)
        elif rank < width:
            search.finished.append((score / len(beam.ids) ** options.length_penalty, beam, reason))
    search.finished = sorted(search.finished, key=lambda entry: -entry[0])[:width]
    search.running = running[:width]
    search.done = not search.running or _is_settled(search, options)


def _ended(beam: _Beam, processor: Processor, options: GenerationOptions) -> FinishReason | None:
    if beam.ids[-1] == processor.tokenizer.eos_id:
        return "stop"
    if options.stop and any(stop in processor.decode(beam.ids) for stop in options.stop):
        return "stop"
    return "length" if len(beam.ids) >= options.max_new_tokens else None


def _is_settled(search: _Search, options: GenerationOptions) -> bool:
    """K beams ended and the best running one, judged at its present length, is no better than the worst of them."""
    if len(search.finished) < options.num_beams:
        return False
    possible: float = search.running[0].score / len(search.running[0].ids) ** options.length_penalty
    return possible <= search.finished[-1][0]


def _continue(session: Session, active: Sequence[_Search]) -> Tensor:
    """Give every running beam a cached past of its own and read its last token."""
    beams = [beam for search in active for beam in search.running]
    session.reorder([beam.row for beam in beams])
    row = 0
    for search in active:
        search.running = [
            _Beam(beam.ids, beam.logprobs, beam.score, row + place) for place, beam in enumerate(search.running)
        ]
        row += len(search.running)
    return session.decode(range(len(beams)), [beam.ids[-1] for beam in beams])


def _best(processor: Processor, search: _Search, stop: Sequence[str]) -> Generation:
    _, beam, reason = search.finished[0]
    text = text_of(processor, beam.ids, stop)
    return finish(processor, search.prompt, ids=beam.ids, logprobs=beam.logprobs, text=text, reason=reason)
