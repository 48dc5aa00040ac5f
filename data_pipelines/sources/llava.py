"""Chats about pictures: LLaVA's `conversations`, and `messages` as chat APIs write them; JSON or JSON lines.

What a person or the system says is read and not learnt (`loss=False`); answers are learnt. A picture stands where its
`<image>` tag is, and before the first turn where no tag says. Source: haotian-liu/LLaVA, docs/Finetune_Custom_Data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from data_pipelines.errors import DocumentError
from data_pipelines.schema import PICTURE_PARTS
from data_pipelines.sources.draft import Draft
from data_pipelines.sources.glimpse import Glimpse
from data_pipelines.sources.pictures import Pictures
from data_pipelines.sources.record_files import open_records, pictures_of
from data_pipelines.sources.records import kept, list_of
from data_pipelines.sources.rows import Row
from data_pipelines.sources.source import Converted, Entry, Opened, Options
from text.specials import IMAGE

__all__ = ["Llava"]

CONVERSATIONS, MESSAGES = "conversations", "messages"
ROLES = {"human": "user", "user": "user", "system": "system", "gpt": "assistant", "assistant": "assistant"}


class Llava:
    """Turns of a person and an assistant."""

    def matches(self, first: Glimpse) -> bool:
        """See Source."""
        return CONVERSATIONS in first.record or MESSAGES in first.record

    def open(self, first: Glimpse, options: Options) -> Opened:
        """See Source."""
        return Converted(open_records(first), partial(_entries, pictures=pictures_of(first, options)))


class _Turn(NamedTuple):
    """Who speaks, and words (str) and pictures (their names or bytes, in a list of one) in order."""

    learnt: bool
    parts: Sequence[object]


def _entries(row: Row, pictures: Pictures) -> Iterator[Entry]:
    names = _pictures(row)
    turns = [_turn(row.key, turn) for turn in _turns(row)]
    tags = sum(part.count(IMAGE) for turn in turns for part in turn.parts if isinstance(part, str))
    if tags > len(names):
        raise DocumentError(row.key, "more image tags than pictures", f"{tags} tags, {len(names)} pictures")
    draft = Draft(row.key, pictures)
    for name in names[: len(names) - tags]:  # those without a tag come first
        draft.picture(name)
    left = iter(names[len(names) - tags :])
    for turn in turns:
        for part in turn.parts:
            if isinstance(part, str):
                _say(part, left, draft, learnt=turn.learnt)
            else:
                _show(row.key, part, draft)
    yield draft.entry(kept(row.record))


def _say(words: str, left: Iterator[str | bytes], draft: Draft, *, learnt: bool) -> None:
    for number, piece in enumerate(words.split(IMAGE)):
        if number:
            draft.picture(next(left))
        draft.words(piece.strip(), loss=learnt)


def _show(key: str, part: object, draft: Draft) -> None:
    """A picture that stands in a message itself."""
    if isinstance(part, Mapping):
        part = part.get("url") or part.get("path") or part.get("bytes")
    if isinstance(part, (str, bytes)):
        draft.picture(part)
    else:
        draft.miss(DocumentError(key, "picture not found", "a message's picture has neither url nor path"))


def _turns(row: Row) -> Sequence[object]:
    return list_of(row.key, row.record, CONVERSATIONS if CONVERSATIONS in row.record else MESSAGES)


def _turn(key: str, turn: object) -> _Turn:
    if not isinstance(turn, Mapping):
        raise DocumentError(key, "malformed record", "a turn is an object")
    role, content = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    if not isinstance(role, str) or role not in ROLES:
        raise DocumentError(key, "unknown role", f"{str(role)[:40]!r}; known: {', '.join(ROLES)}")
    if not isinstance(content, (str, list)):
        raise DocumentError(key, "malformed record", f"a turn says words or a list of parts, not {str(content)[:80]}")
    parts = [content] if isinstance(content, str) else [_part(key, part) for part in content]
    return _Turn(ROLES[role] == "assistant", parts)


def _part(key: str, part: object) -> object:
    """Words of a content part, or the object that says where its picture is."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    if isinstance(part, Mapping) and kind in ("image", "image_url"):
        found = part.get(kind, part)
        return {"path": found} if isinstance(found, (str, bytes)) else found
    raise DocumentError(key, "malformed record", f"a part of a message is text or a picture, not {str(part)[:80]}")


def _pictures(row: Row) -> list[str | bytes]:
    """Names of the pictures that turns have tags for; a sample's own picture where the record names none."""
    value = row.record.get("image", row.record.get("images"))
    if value is None:
        return [row.parts[part] for part in PICTURE_PARTS if part in row.parts]
    found = value if isinstance(value, list) else [value]
    names = [one for one in found if isinstance(one, (str, bytes))]
    if len(names) != len(found):
        raise DocumentError(row.key, "malformed record", f"`image` is a name or a list of names, not {str(value)[:80]}")
    return names
