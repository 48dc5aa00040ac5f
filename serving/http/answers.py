"""Events of the engine become answers in OpenAI's shapes: one object, or server-sent chunks.

Extra fields: `boxes` in the message (in a stream: in the last delta), one entry a grounded phrase, with the phrase's
place in the text and its boxes as fractions of the picture. Knows nothing of HTTP connections.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypeAlias

from serving.engine.wire import Answered, Said, TokenScore

__all__ = ["DONE", "Completion", "JsonObject", "event"]

JsonObject: TypeAlias = dict[str, object]
DONE = b"data: [DONE]\n\n"


def event(values: Mapping[str, object]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What all parts of one answer share.

    Attributes:
        prompt_tokens: as counted by the engine.
        logprobs: whether the request wants them.  usage: whether a stream ends with the counts.
    """

    model: str
    prompt_tokens: int
    logprobs: bool
    usage: bool
    name: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answered: Answered) -> JsonObject:
        """The answer as one object; `answered` has all scores."""
        message: JsonObject = {"role": "assistant", "content": answered.text, "refusal": None}
        if answered.phrases:
            message["boxes"] = [asdict(phrase) for phrase in answered.phrases]
        choice = {
            "index": 0,
            "message": message,
            "logprobs": self._scores(answered.scores),
            "finish_reason": answered.finish_reason,
        }
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._counts(answered)}

    def first(self) -> bytes:
        """The event that says who speaks."""
        return self._chunk({"role": "assistant", "content": ""})

    def words(self, said: Said) -> bytes:
        """An event with more of the answer."""
        return self._chunk({"content": said.text}, scores=said.scores)

    def last(self, answered: Answered) -> bytes:
        """The events that close the stream: why it ended, the counts if wanted, the end mark."""
        delta: JsonObject = {"boxes": [asdict(phrase) for phrase in answered.phrases]} if answered.phrases else {}
        closing = self._chunk(delta, scores=answered.scores, finish_reason=answered.finish_reason)
        if self.usage:
            head = self._head("chat.completion.chunk")
            closing += event({**head, "choices": [], "usage": self._counts(answered)})
        return closing + DONE

    def _head(self, kind: str) -> JsonObject:
        return {"id": self.name, "object": kind, "created": self.created, "model": self.model}

    def _chunk(
        self, delta: JsonObject, *, scores: Sequence[TokenScore] = (), finish_reason: str | None = None
    ) -> bytes:
        logprobs = self._scores(scores) if scores else None
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        usage = {"usage": None} if self.usage else {}
        return event({**self._head("chat.completion.chunk"), "choices": [choice], **usage})

    def _counts(self, answered: Answered) -> JsonObject:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": answered.tokens,
            "total_tokens": self.prompt_tokens + answered.tokens,
        }

    def _scores(self, scores: Sequence[TokenScore]) -> JsonObject | None:
        return {"content": [_score(score) for score in scores], "refusal": None} if self.logprobs else None


def _score(score: TokenScore) -> JsonObject:
    return {**_token(score), "top_logprobs": [_token(other) for other in score.top]}


def _token(score: TokenScore) -> JsonObject:
    # JSON has no infinity; the floor is OpenAI's own value for "practically never".
    return {"token": score.token, "logprob": max(score.logprob, -9999.0), "bytes": list(score.spelling)}
