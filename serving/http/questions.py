"""A body becomes a question: JSON checked, pictures decoded, turns laid out as one Document. Runs in a worker thread.

Knows nothing of the engine's state. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from PIL import Image as PillowImage
from pydantic import ValidationError

from kosmos.chat import DEFAULT_CHAT_TEMPLATE, Turn, document_of_chat
from serving.engine.settings import excess_of_beams
from serving.engine.wire import Ready
from serving.http.errors import ApiError, error_of_validation
from serving.http.media import picture_of_url
from serving.http.schemas import ChatRequest, ImagePart, Message
from text.document import Document, Image, Text

__all__ = ["Question", "read_question"]

MAX_IMAGES, MAX_CHARACTERS = 16, 200_000


@dataclass(frozen=True, kw_only=True)
class Question:
    """What was asked, and the prompt it comes to."""

    request: ChatRequest
    document: Document


def read_question(body: bytes, *, served: tuple[str, ...], model: Ready, max_beam_tokens: int) -> Question:
    """Check a body and build its prompt.

    Args:
        served: names the model answers to.
        max_beam_tokens: as in `EngineSettings`; the engine checks it again once the prompt is counted.
    Raises: ApiError 400, or 404 for a model that is not served.
    """
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise error_of_validation(error) from None
    if request.model not in served:
        message = f"model {request.model[:100]!r} is not served here; served: {', '.join(served)}"
        raise ApiError(404, message, code="model_not_found", param="model")
    if request.grounding and not model.grounding:
        raise ApiError(400, f"model {model.name!r} marks no boxes", code="invalid_value", param="grounding")
    _check_amount(request)
    _check_beams(request, model, max_beam_tokens)
    turns = [_turn(message, f"messages.{index}", model) for index, message in enumerate(request.messages)]
    try:
        template = DEFAULT_CHAT_TEMPLATE if model.chat_template is None else model.chat_template
        document = document_of_chat(turns, template, grounding=request.grounding)
    except ValueError as error:
        raise ApiError(400, str(error), code="invalid_value", param="messages") from None
    return Question(request=request, document=document)


def _check_amount(request: ChatRequest) -> None:
    parts = [part for message in request.messages for part in message.content]
    images = sum(isinstance(part, ImagePart) for part in parts)
    if images > MAX_IMAGES:
        message = f"{images} pictures in one request; at most {MAX_IMAGES} are taken"
        raise ApiError(400, message, code="too_many_images", param="messages")
    characters = sum(len(part.text) for part in parts if not isinstance(part, ImagePart))
    if characters > MAX_CHARACTERS:
        message = f"{characters} characters in one request; at most {MAX_CHARACTERS} are taken"
        raise ApiError(400, message, code="too_much_text", param="messages")


def _check_beams(request: ChatRequest, model: Ready, max_beam_tokens: int) -> None:
    options = request.options()
    longest = min(options.max_new_tokens, model.context_length)
    options = replace(options, max_new_tokens=longest, min_new_tokens=min(options.min_new_tokens, longest))
    if excess := excess_of_beams(options, prompt_tokens=0, most=max_beam_tokens):
        raise ApiError(400, excess, code="too_many_beams", param="num_beams")


def _turn(message: Message, place: str, model: Ready) -> Turn:
    content: list[Text | Image] = []
    for index, part in enumerate(message.content):
        if isinstance(part, ImagePart):
            param = f"{place}.content.{index}.image_url"
            picture = picture_of_url(part.image_url.url, param=param, side=model.image_size, rule=model.resize)
            content.append(Image(PillowImage.fromarray(picture)))
        else:
            content.append(Text(part.text, loss=False))
    role = "system" if message.role == "developer" else message.role
    return Turn(role=role, content=tuple(content))
