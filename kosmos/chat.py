"""A chat becomes one Document: turns of words and pictures, laid out by the checkpoint's own `chat_template.jinja`.

What people write never enters the template: it sees a sealed mark for each text and picture, and the marks are
exchanged for the real segments afterwards. So a tag typed by a stranger stays words, and only
`control("<grounding>")`, written by the template's author, becomes a special token. The template runs in Jinja's
immutable sandbox, without `range`, bounded in source and output. Knows nothing of tokens, models, HTTP or torch.

A template gets `messages` (each `role` and `content`, a list of parts `{"type": "text", "text": mark}` or
`{"type": "image", "image": mark}`), `grounding` (whether the answer should say where things are) and `control(name)`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from text.document import Control, Document, Image, Segment, Text

__all__ = ["DEFAULT_CHAT_TEMPLATE", "Role", "Turn", "document_of_chat"]

Role: TypeAlias = Literal["system", "user", "assistant"]
MAX_TEMPLATE_CHARACTERS = 65_536
MAX_RENDERED_CHARACTERS = 1_048_576

# Private-use characters frame a mark; a template that writes one itself is refused, so no mark can be forged.
OPEN, CLOSE = "\ue000", "\ue001"
MARK = re.compile(f"{OPEN}([0-9]+){CLOSE}")

DEFAULT_CHAT_TEMPLATE = """\
{#- For models that continue text: pictures and words of all turns in order, no role words. -#}
{%- set state = namespace(after_text=false, ground=grounding) -%}
{%- for message in messages -%}
  {%- set last = loop.last -%}
  {%- for part in message.content -%}
    {%- if part.type == "image" -%}
      {{- part.image -}}
      {%- set state.after_text = false -%}
    {%- else -%}
      {%- if last and state.ground -%}
        {{- control("<grounding>") -}}
        {%- set state.ground = false -%}
        {%- set state.after_text = false -%}
      {%- endif -%}
      {%- if state.after_text -%}
        {{- " " if message.role == "assistant" else "\\n" -}}
      {%- endif -%}
      {{- part.text -}}
      {%- set state.after_text = true -%}
    {%- endif -%}
  {%- endfor -%}
{%- endfor -%}
{%- if state.ground -%}{{- control("<grounding>") -}}{%- endif -%}
"""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one side said: words and pictures in the order they were put."""

    role: Role
    content: tuple[Text | Image, ...]

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise ValueError(f"role {self.role!r} is unknown; give one of {', '.join(get_args(Role))}")


def document_of_chat(
    turns: Sequence[Turn], template: str = DEFAULT_CHAT_TEMPLATE, *, grounding: bool = False
) -> Document:
    """The prompt that the answer to these turns continues.

    White space around a turn's words is dropped: a model that continues text cannot go on from a dangling space.

    Args:
        template: Jinja source, usually the checkpoint's `chat_template.jinja`.
        grounding: handed to the template; grounding models then mark phrases with boxes.
    Raises: ValueError if there is nothing to continue, or the template is broken, too long or forges a mark.
    """
    sealed = _Sealed()
    messages = [{"role": turn.role, "content": [sealed.part(segment) for segment in _said(turn)]} for turn in turns]
    rendered = _render(template, messages=messages, grounding=grounding, control=sealed.control)
    segments = tuple(_joined(_unsealed(rendered, sealed.segments)))
    if not any(isinstance(segment, Text | Image) for segment in segments):
        raise ValueError("the messages hold neither words nor a picture; give at least one")
    return Document(segments)


class _Sealed:
    """The segments that a template may place but not read; a mark is the index of one."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []

    def mark(self, segment: Segment) -> str:
        self.segments.append(segment)
        return f"{OPEN}{len(self.segments) - 1}{CLOSE}"

    def part(self, segment: Text | Image) -> dict[str, str]:
        kind = "text" if isinstance(segment, Text) else "image"
        return {"type": kind, kind: self.mark(segment)}

    def control(self, name: str) -> str:
        return self.mark(Control(str(name)))


def _said(turn: Turn) -> Iterator[Text | Image]:
    for segment in turn.content:
        if isinstance(segment, Image):
            yield segment
        elif segment.text.strip():
            yield segment if segment.phrases else Text(segment.text.strip(), loss=segment.loss)


def _render(template: str, **names: object) -> str:
    if len(template) > MAX_TEMPLATE_CHARACTERS:
        raise ValueError(
            f"the chat template has {len(template)} characters; at most {MAX_TEMPLATE_CHARACTERS} are allowed"
        )
    if OPEN in template or CLOSE in template:
        raise ValueError("the chat template holds characters U+E000 or U+E001, which are reserved; remove them")
    environment = ImmutableSandboxedEnvironment(keep_trailing_newline=False)
    # Loops over what was said are enough; loops over numbers only serve to keep the server busy.
    for name in ("range", "lipsum", "cycler", "joiner"):
        environment.globals.pop(name, None)
    pieces, size = [], 0
    try:
        for piece in environment.from_string(template).generate(**names):
            size += len(piece)
            if size > MAX_RENDERED_CHARACTERS:
                raise ValueError(
                    f"the chat template wrote more than {MAX_RENDERED_CHARACTERS} characters; check its loops"
                )
            pieces.append(piece)
    except TemplateError as error:
        raise ValueError(f"the chat template is broken: {error}") from error
    except (TypeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"the chat template failed while laying out the messages: {error}") from error
    return "".join(pieces)


def _unsealed(rendered: str, segments: Sequence[Segment]) -> Iterator[Segment]:
    """Words of the template itself and, for each mark, its segment. Every second split is a mark's index."""
    for index, piece in enumerate(MARK.split(rendered)):
        if index % 2:
            if int(piece) >= len(segments):
                raise ValueError(f"the chat template placed part {piece}, but there are only {len(segments)} parts")
            yield segments[int(piece)]
        elif piece:
            if OPEN in piece or CLOSE in piece:
                raise ValueError("the chat template cut a part of a message to pieces; place each part whole")
            yield Text(piece, loss=False)


def _joined(segments: Iterator[Segment]) -> Iterator[Segment]:
    """Neighbouring words as one Text, so that the tokenizer sees them as they will be read."""
    waiting: Text | None = None
    for segment in segments:
        if isinstance(segment, Text) and not segment.phrases:
            waiting = Text(segment.text if waiting is None else waiting.text + segment.text, loss=False)
            continue
        if waiting is not None:
            yield waiting
            waiting = None
        yield segment
    if waiting is not None:
        yield waiting
