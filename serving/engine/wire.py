"""What the HTTP process and the engine process say to each other: small frozen records, sent as JSON and raw pixels.

No pickle: a frame is one JSON object, followed by the bytes of each picture it names. Knows nothing of models, queues
or HTTP. No torch here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

import numpy as np
from PIL import Image as PillowImage

from kosmos.options import GenerationOptions
from text.document import Box, Control, Document, Image, Segment, Text
from vision.image import Picture, ResizeRule

__all__ = [
    "Answered",
    "Ask",
    "Begun",
    "Cancel",
    "FromEngine",
    "GroundedPhrase",
    "LoadFailed",
    "Ready",
    "Refused",
    "Said",
    "Stop",
    "ToEngine",
    "TokenScore",
    "receive",
    "send",
]


@dataclass(frozen=True, kw_only=True)
class Ask:
    """Continue this document. `shorten`: where the context has no room for `max_new_tokens`, take what there is."""

    request: int
    document: Document
    options: GenerationOptions
    shorten: bool


@dataclass(frozen=True, kw_only=True)
class Cancel:
    """Nobody waits for this answer any more."""

    request: int


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Leave now."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The model is loaded; what HTTP must know of it.

    Attributes:
        context_length: tokens a prompt and its answer may have together.
        grounding: whether the model can mark phrases with boxes.
        chat_template: the checkpoint's own template; None: the default.
        image_size, resize: the square picture the tower takes, and how it is made; HTTP sends pictures in that size.
    """

    name: str
    context_length: int
    image_size: int
    resize: ResizeRule
    grounding: bool
    chat_template: str | None


@dataclass(frozen=True, kw_only=True)
class LoadFailed:
    """The model could not be loaded; the engine ends."""

    message: str


@dataclass(frozen=True, kw_only=True)
class Begun:
    """The prompt was accepted and has this many tokens."""

    request: int
    prompt_tokens: int


@dataclass(frozen=True, kw_only=True)
class Said:
    """More words of the answer; `scores` as in Answered, of the tokens that end in them."""

    request: int
    text: str
    scores: tuple[TokenScore, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TokenScore:
    """A token of the answer, its natural-log probability, and the best tokens at its place.

    Attributes:
        spelling: its UTF-8 bytes; one token may be a part of a character only.
    """

    token: str
    spelling: tuple[int, ...]
    logprob: float
    top: tuple[TokenScore, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GroundedPhrase:
    """Words `text[start:end]` of the answer and the places they stand for, as fractions of the picture."""

    phrase: str
    start: int
    end: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True, kw_only=True)
class Answered:
    """The whole answer; `tokens` counts what was generated, `scores` are of the tokens that no Said had."""

    request: int
    text: str
    finish_reason: str
    tokens: int
    scores: tuple[TokenScore, ...] = ()
    phrases: tuple[GroundedPhrase, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Refused:
    """No answer: the request is at fault (`code` names how), or with code `internal_error` the engine is."""

    request: int
    code: str
    message: str
    param: str | None = None


ToEngine: TypeAlias = Ask | Cancel | Stop
FromEngine: TypeAlias = Ready | LoadFailed | Begun | Said | Answered | Refused
Record: TypeAlias = ToEngine | FromEngine


def send(connection: Connection, record: Record) -> None:
    """Write one record: a JSON frame, then one frame of raw bytes for each picture."""
    pictures: list[Picture] = []
    if isinstance(record, Ask):
        segments = [_plain(segment, pictures) for segment in record.document.segments]
        values: Mapping[str, Any] = {
            "request": record.request,
            "segments": segments,
            "shapes": [picture.shape for picture in pictures],
            "options": asdict(record.options),
            "shorten": record.shorten,
        }
    else:
        values = asdict(record)
    connection.send_bytes(json.dumps({"kind": type(record).__name__, **values}).encode())
    for picture in pictures:
        connection.send_bytes(np.ascontiguousarray(picture).data.cast("B"))


def receive(connection: Connection) -> Record:
    """Read the next record. Raises: EOFError when the other side is gone."""
    values = json.loads(connection.recv_bytes())
    kind = values.pop("kind")
    if kind == "Ask":
        pictures = [_picture(connection.recv_bytes(), shape) for shape in values["shapes"]]
        options = dict(values["options"], stop=tuple(values["options"]["stop"]))
        segments = tuple(_segment(plain, pictures) for plain in values["segments"])
        return Ask(
            request=values["request"],
            document=Document(segments),
            options=GenerationOptions(**options),
            shorten=values["shorten"],
        )
    if kind in ("Said", "Answered"):
        values["scores"] = tuple(_score(score) for score in values["scores"])
    if kind == "Answered":
        values["phrases"] = tuple(_phrase(phrase) for phrase in values["phrases"])
    return _PLAIN_KINDS[kind](**values)


_PLAIN_KINDS: Mapping[str, type[Cancel | Stop | Ready | LoadFailed | Begun | Said | Answered | Refused]] = {
    kind.__name__: kind for kind in (Cancel, Stop, Ready, LoadFailed, Begun, Said, Answered, Refused)
}


def _plain(segment: Segment, pictures: list[Picture]) -> dict[str, object]:
    if isinstance(segment, Text):
        return {"text": segment.text}
    if isinstance(segment, Control):
        return {"control": segment.name}
    if not isinstance(segment.source, PillowImage.Image):
        raise TypeError(f"only opened pictures travel to the engine, not {type(segment.source).__name__}")
    pictures.append(np.asarray(segment.source.convert("RGB"), dtype=np.uint8))
    return {"image": len(pictures) - 1}


def _segment(plain: Mapping[str, Any], pictures: list[PillowImage.Image]) -> Segment:
    if "text" in plain:
        return Text(plain["text"], loss=False)
    if "control" in plain:
        return Control(plain["control"])
    return Image(pictures[plain["image"]])


def _picture(pixels: bytes, shape: tuple[int, int, int]) -> PillowImage.Image:
    return PillowImage.fromarray(np.frombuffer(pixels, dtype=np.uint8).reshape(shape))


def _score(values: Mapping[str, Any]) -> TokenScore:
    return TokenScore(
        token=values["token"],
        spelling=tuple(values["spelling"]),
        logprob=values["logprob"],
        top=tuple(_score(other) for other in values["top"]),
    )


def _phrase(values: Mapping[str, Any]) -> GroundedPhrase:
    boxes = tuple((box[0], box[1], box[2], box[3]) for box in values["boxes"])
    return GroundedPhrase(phrase=values["phrase"], start=values["start"], end=values["end"], boxes=boxes)
