"""One request and the model: prompt checked, words sent as they come, the finished answer put into records.

Runs in the engine process. Knows nothing of pipes or HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from kosmos.answer import Generation
from kosmos.generate import StreamPiece, stream
from kosmos.pretrained import Kosmos
from serving.engine.settings import excess_of_beams
from serving.engine.wire import Answered, Ask, Begun, GroundedPhrase, Ready, Refused, Said, TokenScore
from text.tokenizer import Tokenizer

__all__ = ["answer", "describe"]


def describe(model: Kosmos) -> Ready:
    """What HTTP must know of the model."""
    config = model.network.config
    return Ready(
        name=model.name,
        context_length=config.decoder.max_length,
        grounding=model.processor.tokenizer.has_locations,
        chat_template=model.chat_template,
        image_size=config.tower.image_size,
        resize=config.tower.resize,
    )


def answer(
    model: Kosmos, ask: Ask, *, cancelled: Callable[[], bool], max_beam_tokens: int
) -> Iterator[Begun | Said | Answered | Refused]:
    """Answer: Begun, any number of Said, Answered; or a Refused instead of any of them.

    Args:
        cancelled: asked before every token, of a beam search too; when it says yes, work ends with a Refused.
        max_beam_tokens: as in `EngineSettings`.
    """
    gone = Refused(request=ask.request, code="cancelled", message="the request was cancelled")
    if cancelled():
        yield gone
        return
    try:
        encoded = model.encode(ask.document)
    except ValueError as error:  # words and pictures were checked before they were sent, so it is their number
        yield Refused(
            request=ask.request, code="context_length_exceeded", message=f"messages: {error}", param="messages"
        )
        return
    num_prompt, length = len(encoded.ids), model.network.config.decoder.max_length
    room = length - num_prompt
    if room < 1 or (ask.options.max_new_tokens > room and not ask.shorten):
        yield _no_room(ask, num_prompt, length)
        return
    options = ask.options
    if options.max_new_tokens > room:
        options = replace(options, max_new_tokens=room, min_new_tokens=min(options.min_new_tokens, room))
    excess = excess_of_beams(options, prompt_tokens=num_prompt, most=max_beam_tokens)
    if excess:
        yield Refused(request=ask.request, code="too_many_beams", message=excess, param="num_beams")
        return
    yield Begun(request=ask.request, prompt_tokens=num_prompt)
    for piece in stream(model.network, model.processor, encoded, options):
        if cancelled():
            yield gone
            return
        scores = tuple(_scores(piece, model.processor.tokenizer))
        if piece.text:
            yield Said(request=ask.request, text=piece.text, scores=scores)
        if piece.generation is not None:
            yield _answered(ask, piece.generation, () if piece.text else scores)


def _no_room(ask: Ask, num_prompt: int, length: int) -> Refused:
    wanted = 1 if ask.shorten else ask.options.max_new_tokens
    message = f"the prompt has {num_prompt} tokens and {wanted} are wanted; the model has room for {length} together"
    param = "messages" if num_prompt >= length else "max_tokens"
    return Refused(request=ask.request, code="context_length_exceeded", message=message, param=param)


def _answered(ask: Ask, generation: Generation, scores: tuple[TokenScore, ...]) -> Answered:
    phrases = tuple(
        GroundedPhrase(phrase=entity.phrase, start=entity.span[0], end=entity.span[1], boxes=entity.boxes)
        for entity in generation.boxes
    )
    return Answered(
        request=ask.request,
        text=generation.text,
        finish_reason=generation.finish_reason,
        tokens=len(generation.ids),
        scores=scores,
        phrases=phrases,
    )


def _scores(piece: StreamPiece, tokenizer: Tokenizer) -> Iterator[TokenScore]:
    others: Sequence[tuple[tuple[int, float], ...]] = piece.alternatives or [()] * len(piece.ids)
    for token, logprob, best in zip(piece.ids, piece.logprobs, others, strict=True):
        yield replace(_score(tokenizer, token, logprob), top=tuple(_score(tokenizer, *other) for other in best))


def _score(tokenizer: Tokenizer, token: int, logprob: float) -> TokenScore:
    spelling = tokenizer.name_of(token).encode() if tokenizer.is_special(token) else tokenizer.word_bytes(token)
    return TokenScore(token=spelling.decode(errors="replace"), spelling=tuple(spelling), logprob=logprob)
