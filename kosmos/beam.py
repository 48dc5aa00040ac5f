"""Beam search over many prompts at once, by the field's rules: 2K candidates a step, scores over length ** penalty.

A beam ends with the end token (or a stop string) while it ranks among the first K; a prompt is done when K beams ended
and no running one can still beat the worst of them. The same tokens as transformers' search (parity test). Whoever
drives the search may leave it between two tokens; its cache goes with it.
Legend: N prompts, K beams, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from kosmos.answer import FinishReason, Generation, finish, text_of
from kosmos.model import KosmosModel
from kosmos.options import GenerationOptions
from kosmos.processor import Encoded, Processor
from kosmos.sampling import constrain, top_logprobs
from kosmos.session import PAGE_SIZE, Session

__all__ = ["Search", "begin_search", "best_answer", "search_steps"]


@dataclass(frozen=True)
class _Beam:
    """One way to go on.

    Attributes:
        logprobs, alternatives: as in `Generation`, under the model itself.
        score: the sum of its log-probabilities after penalties, by which beams rank.
        row: where its past is cached.
    """

    ids: tuple[int, ...]
    score: float
    row: int
    logprobs: tuple[float, ...] = ()
    alternatives: tuple[tuple[tuple[int, float], ...], ...] = ()


@dataclass
class Search:
    """One prompt's beams on their way."""

    prompt: Encoded
    seen: list[int]
    running: list[_Beam] = field(default_factory=list)
    finished: list[tuple[float, _Beam, FinishReason]] = field(default_factory=list)
    done: bool = False


def begin_search(processor: Processor, prompt: Encoded) -> Search:
    """A search that has found nothing yet."""
    return Search(prompt, [token for token in prompt.ids if token != processor.tokenizer.image_id])


@torch.inference_mode()
def search_steps(
    model: KosmosModel, processor: Processor, searches: Sequence[Search], options: GenerationOptions
) -> Iterator[None]:
    """Prefill, then a token for every beam a step, until all searches are done; they do not depend on each other."""
    spare = len(searches) * options.num_beams * (options.max_new_tokens + 2 * PAGE_SIZE)
    session = Session(model, [len(search.prompt.ids) for search in searches], spare_tokens=spare)
    logits_NV = session.prefill(processor.collate([search.prompt for search in searches]))
    for row, search in enumerate(searches):
        search.running = [_Beam(ids=(), score=0.0, row=row)]
    active = list(searches)
    while True:
        plain_NV = torch.log_softmax(logits_NV.float(), dim=-1)
        ranked_NV = _after_penalties(plain_NV, active, options, processor.tokenizer.eos_id)
        counts = [len(search.running) for search in active]
        for search, ranked_KV, plain_KV in zip(active, ranked_NV.split(counts), plain_NV.split(counts), strict=True):
            _advance(search, ranked_KV, plain_KV, processor, options)
        yield
        active = [search for search in active if not search.done]
        if not active:
            return
        logits_NV = _continue(session, active)


def best_answer(processor: Processor, search: Search, stop: Sequence[str]) -> Generation:
    """The best beam of a search that is done."""
    _, beam, reason = search.finished[0]
    return finish(
        processor,
        search.prompt,
        ids=beam.ids,
        logprobs=beam.logprobs,
        alternatives=beam.alternatives,
        text=text_of(processor, beam.ids, stop),
        reason=reason,
    )


def _after_penalties(plain_NV: Tensor, active: Sequence[Search], options: GenerationOptions, eos_id: int) -> Tensor:
    """What every running beam ranks by."""
    beams = [(search, beam) for search in active for beam in search.running]
    return constrain(
        plain_NV,
        [options] * len(beams),
        [search.seen + list(beam.ids) for search, beam in beams],
        [len(beam.ids) for _, beam in beams],
        eos_id,
    )


def _advance(
    search: Search, ranked_KV: Tensor, plain_KV: Tensor, processor: Processor, options: GenerationOptions
) -> None:
    """One more token: rank 2K candidates, end those that end, keep K running."""
    width, vocabulary = options.num_beams, ranked_KV.shape[-1]
    sums = torch.tensor([beam.score for beam in search.running], device=ranked_KV.device)[:, None] + ranked_KV
    scores, places = sums.flatten().topk(min(2 * width, sums.numel()))
    logprobs = plain_KV.flatten()[places].tolist()
    alternatives = [top_logprobs(row_V, options.logprobs) for row_V in plain_KV] if options.logprobs else []
    running: list[_Beam] = []
    for rank, (score, place) in enumerate(zip(scores.tolist(), places.tolist(), strict=True)):
        if score == -math.inf:
            break
        row, token = divmod(place, vocabulary)
        parent = search.running[row]
        beam = _Beam(
            ids=(*parent.ids, token),
            score=score,
            row=parent.row,
            logprobs=(*parent.logprobs, logprobs[rank]),
            alternatives=(*parent.alternatives, alternatives[row]) if alternatives else (),
        )
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


def _is_settled(search: Search, options: GenerationOptions) -> bool:
    """K beams ended and the best running one, judged at its present length, is no better than the worst of them."""
    if len(search.finished) < options.num_beams:
        return False
    possible: float = search.running[0].score / len(search.running[0].ids) ** options.length_penalty
    return possible <= search.finished[-1][0]


def _continue(session: Session, active: Sequence[Search]) -> Tensor:
    """Give every running beam a cached past of its own and read its last token."""
    beams = [beam for search in active for beam in search.running]
    session.reorder([beam.row for beam in beams])
    row = 0
    for search in active:
        search.running = [replace(beam, row=row + place) for place, beam in enumerate(search.running)]
        row += len(search.running)
    return session.decode(range(len(beams)), [beam.ids[-1] for beam in beams])
