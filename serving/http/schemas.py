"""What may be asked: the body of POST /v1/chat/completions, as OpenAI's clients send it, plus our own sampling fields.

A field that would be ignored is refused by name, unless its value asks for nothing (`n: 1`, `logit_bias: {}`, null).
Knows nothing of models or the engine. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kosmos.options import GenerationOptions

__all__ = [
    "ChatRequest",
    "ImagePart",
    "ImageUrl",
    "Message",
    "Part",
    "ResponseFormat",
    "Shape",
    "StreamOptions",
    "TextPart",
]

MAX_MESSAGES, MAX_PARTS, MAX_STOPS, MAX_STOP_CHARACTERS, MAX_TOKENS = 256, 256, 16, 256, 1_000_000
DEFAULT_MAX_TOKENS = 64


class Shape(BaseModel):
    """Strict about names and types; null means absent, as in OpenAI's own API."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, values: object) -> object:
        if isinstance(values, Mapping):
            return {name: value for name, value in values.items() if value is not None}
        return values


class TextPart(Shape):
    """Words."""

    type: Literal["text"]
    text: str


class ImageUrl(Shape):
    """A picture's address, always a data: URL. `detail` is accepted and has no effect: every picture has one size."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(Shape):
    """A picture, in its place among the words."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part: TypeAlias = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(Shape):
    """One turn. A string is short for one text part; fields an answer of ours carries may come back unread."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[Part], Field(max_length=MAX_PARTS)] = []
    boxes: list[object] = []

    @model_validator(mode="before")
    @classmethod
    def _words_are_a_part(cls, values: object) -> object:
        if isinstance(values, Mapping) and isinstance(values.get("content"), str):
            return {**values, "content": [{"type": "text", "text": values["content"]}]}
        return values


class StreamOptions(Shape):
    """`include_usage`: one more event with the token counts before the end."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class ResponseFormat(Shape):
    """Only plain text."""

    type: Literal["text"]


class ChatRequest(Shape):
    """The body. Names and meanings are OpenAI's; the second block is ours, the third is taken and changes nothing."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    stop: str | list[str] = []
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0

    min_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] = 0
    top_k: Annotated[int, Field(le=1_000_000)] = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: Annotated[int, Field(le=1_000)] = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    grounding: bool = False

    n: Literal[1] = 1
    presence_penalty: Annotated[float, Field(ge=0, le=0)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] = 0.0
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] = {}
    tools: Annotated[list[object], Field(max_length=0)] = []
    tool_choice: Literal["none", "auto"] = "none"
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] = ["text"]
    store: Literal[False] = False
    user: str | None = None
    metadata: dict[str, str] | None = None

    @model_validator(mode="after")
    def _check(self) -> ChatRequest:
        stops = self.stops
        if len(stops) > MAX_STOPS or any(not 1 <= len(stop) <= MAX_STOP_CHARACTERS for stop in stops):
            raise ValueError(f"stop: give at most {MAX_STOPS} strings of 1 to {MAX_STOP_CHARACTERS} characters")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs: needs logprobs: true")
        if self.stream_options and not self.stream:
            raise ValueError("stream_options: needs stream: true")
        self.options()  # raises ValueError that names the option
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings, however they were given."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def length(self) -> int | None:
        """Tokens the answer may have; None where the request leaves it open."""
        return self.max_completion_tokens or self.max_tokens

    def options(self) -> GenerationOptions:
        """The generation options; where the length is left open, 64 tokens."""
        return GenerationOptions(
            max_new_tokens=self.length or max(DEFAULT_MAX_TOKENS, self.min_tokens),
            min_new_tokens=self.min_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            num_beams=self.num_beams,
            length_penalty=self.length_penalty,
            stop=self.stops,
            seed=self.seed,
            logprobs=self.top_logprobs,
        )
