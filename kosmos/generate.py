"""Continue prompts: owns the step, which is one `Packed` forward that gives one token to every unfinished sequence.

Prompts of any shape are prefilled end to end, in chunks, and decoded together; what one prompt gets does not depend on
the others. Beam search lives in `beam.py` and stands on the same `Session`.
Legend: N sequences of a step, R rows, V vocabulary.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from kosmos.answer import FinishReason, Generation, StopWatch, finish
from kosmos.beam import begin_search, best_answer, search_steps
from kosmos.model import KosmosModel
from kosmos.options import GenerationOptions
from kosmos.processor import Encoded, Processor
from kosmos.sampling import choose_tokens, constrain, top_logprobs
from kosmos.session import Session

__all__ = ["StreamPiece", "generate", "stream"]


@dataclass(frozen=True)
class StreamPiece:
    """One step of an answer.

    Attributes:
        text: words that became certain; often none.
        ids, logprobs, alternatives: as in `Generation`, of the tokens whose text has now been given to its end.
        generation: the whole answer, with the last piece.
    """

    text: str
    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    alternatives: tuple[tuple[tuple[int, float], ...], ...] = ()
    generation: Generation | None = None


@dataclass
class _Request:
    """One prompt on its way."""

    encoded: Encoded
    options: GenerationOptions
    generator: torch.Generator
    watch: StopWatch
    seen: list[int]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    alternatives: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    reason: FinishReason | None = None


def generate(
    model: KosmosModel,
    processor: Processor,
    prompts: Sequence[Encoded],
    options: GenerationOptions | Sequence[GenerationOptions],
    *,
    batch_size: int = 64,
) -> list[Generation]:
    """Continue every prompt; results in the order of the prompts.

    Args:
        options: one for all, or one a prompt.
        batch_size: prompts decoded together; memory grows with it, results do not depend on it.
    Raises: ValueError if options and prompts do not match in number or a prompt leaves no room for an answer.
    """
    each = [options] * len(prompts) if isinstance(options, GenerationOptions) else list(options)
    if len(each) != len(prompts):
        raise ValueError(f"{len(each)} options for {len(prompts)} prompts; give one for all or one each")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; give at least 1")
    each = [_fit(model, prompt, option) for prompt, option in zip(prompts, each, strict=True)]
    results: dict[int, Generation] = {}
    searching = [index for index in range(len(prompts)) if each[index].num_beams > 1]
    plain = [index for index in range(len(prompts)) if each[index].num_beams == 1]
    for start in range(0, len(plain), batch_size):
        members = plain[start : start + batch_size]
        requests = [_request(processor, prompts[index], each[index]) for index in members]
        for _ in _steps(model, processor, requests):
            pass
        results.update(zip(members, (_answer(processor, request) for request in requests), strict=True))
    for members in _alike(searching, each, batch_size):
        together = [begin_search(processor, prompts[index]) for index in members]
        for _ in search_steps(model, processor, together, each[members[0]]):
            pass
        found = [best_answer(processor, search, each[members[0]].stop) for search in together]
        results.update(zip(members, found, strict=True))
    return [results[index] for index in range(len(prompts))]


def stream(
    model: KosmosModel, processor: Processor, prompt: Encoded, options: GenerationOptions
) -> Iterator[StreamPiece]:
    """Continue one prompt, giving words as they come; stop strings are never shown, not even in part.

    One piece a token, so that whoever reads may leave at any of them; the pieces hold every token of the answer once. A
    beam search has nothing to show before its last piece.
    """
    options = _fit(model, prompt, options)
    if options.num_beams > 1:
        search = begin_search(processor, prompt)
        for _ in search_steps(model, processor, [search], options):
            yield StreamPiece("")
        found = best_answer(processor, search, options.stop)
        yield StreamPiece(found.text, found.ids, found.logprobs, found.alternatives, found)
        return
    request = _request(processor, prompt, options)
    told = 0
    for _ in _steps(model, processor, [request]):
        if request.reason is None:
            text = request.watch.take()
            first, told = told, request.watch.num_told if text else told
            yield _piece(request, text, slice(first, told))
    yield _piece(request, request.watch.take(), slice(told, None), _answer(processor, request))


def _steps(model: KosmosModel, processor: Processor, requests: list[_Request]) -> Iterator[None]:
    """Prefill, then a token for every unfinished request a step, until all are done."""
    with torch.inference_mode():
        rooms = [len(request.encoded.ids) + request.options.max_new_tokens for request in requests]
        session = Session(model, rooms)
        logits_NV = session.prefill(processor.collate([request.encoded for request in requests]))
    live = list(range(len(requests)))
    while True:
        with torch.inference_mode():
            tokens = _take_tokens([requests[index] for index in live], logits_NV, processor.tokenizer.eos_id)
        yield
        going = [place for place, index in enumerate(live) if requests[index].reason is None]
        for index in live:
            if requests[index].reason is not None:
                session.free(index)
        if not going:
            return
        live = [live[place] for place in going]
        with torch.inference_mode():
            logits_NV = session.decode(live, [tokens[place] for place in going])


def _take_tokens(requests: list[_Request], logits_NV: Tensor, eos_id: int) -> list[int]:
    options = [request.options for request in requests]
    constrained_NV = constrain(
        logits_NV, options, [request.seen for request in requests], [len(request.ids) for request in requests], eos_id
    )
    tokens = choose_tokens(constrained_NV, options, [request.generator for request in requests])
    logprobs_NV = torch.log_softmax(logits_NV.float(), dim=-1)
    chosen = logprobs_NV.gather(1, torch.tensor(tokens, device=logits_NV.device)[:, None])[:, 0].tolist()
    for row, request in enumerate(requests):
        request.ids.append(tokens[row])
        request.seen.append(tokens[row])
        request.logprobs.append(chosen[row])
        if request.options.logprobs:
            request.alternatives.append(top_logprobs(logprobs_NV[row], request.options.logprobs))
        _check_end(request, tokens[row], eos_id)
    return tokens


def _check_end(request: _Request, token: int, eos_id: int) -> None:
    if token == eos_id or request.watch.push(token):
        request.reason = "stop"
    elif len(request.ids) >= request.options.max_new_tokens:
        request.reason = "length"
    if request.reason is not None:
        request.watch.close()


def _request(processor: Processor, prompt: Encoded, options: GenerationOptions) -> _Request:
    generator = torch.Generator().manual_seed(options.seed if options.seed is not None else secrets.randbits(63))
    image_id = processor.tokenizer.image_id
    return _Request(
        encoded=prompt,
        options=options,
        generator=generator,
        watch=StopWatch(processor.tokenizer, options.stop),
        seen=[token for token in prompt.ids if token != image_id],
    )


def _fit(model: KosmosModel, prompt: Encoded, options: GenerationOptions) -> GenerationOptions:
    """The options with `max_new_tokens` cut to what the model's length leaves; the answer then ends by `length`."""
    room = model.config.decoder.max_length - len(prompt.ids)
    if room < 1:
        raise ValueError(
            f"the prompt has {len(prompt.ids)} tokens and the model reads {model.config.decoder.max_length}; shorten it"
        )
    longest = min(options.max_new_tokens, room)
    return replace(options, max_new_tokens=longest, min_new_tokens=min(options.min_new_tokens, longest))


def _alike(members: list[int], options: list[GenerationOptions], batch_size: int) -> Iterator[list[int]]:
    """Searches that share their options go together."""
    groups: dict[GenerationOptions, list[int]] = {}
    for index in members:
        groups.setdefault(options[index], []).append(index)
    for group in groups.values():
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]


def _piece(request: _Request, text: str, part: slice, generation: Generation | None = None) -> StreamPiece:
    return StreamPiece(
        text,
        tuple(request.ids[part]),
        tuple(request.logprobs[part]),
        tuple(request.alternatives[part]),
        generation,
    )


def _answer(processor: Processor, request: _Request) -> Generation:
    return finish(
        processor,
        request.encoded,
        ids=request.ids,
        logprobs=request.logprobs,
        alternatives=request.alternatives,
        text=request.watch.text,
        reason=request.reason or "length",
    )
