"""What a mixture gives: documents, pictures and tokens of every component, its true share, its epochs over a budget.

Documents are counted by the indexes; pictures and tokens are estimated from documents spread evenly over a component.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from data_pipelines.errors import DocumentError
from data_pipelines.mixture import Component, Measure, Mixture
from data_pipelines.shard_set import ShardSet
from data_pipelines.stores import expand
from text.document import Document, Text
from text.tokenizer import Tokenizer

__all__ = ["Contents", "Share", "count_tokens", "measure", "shares"]

SAMPLE = 1000  # documents read of each component for the estimate
IMAGE_TOKENS = 64  # rows a picture takes in Kosmos-1 and Kosmos-2


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a component holds.

    Attributes:
        paths, counts: its shards, and the samples in each.
        documents: numbers of those its subset uses, out of all in `paths`.
        sampled: documents read for the estimate; all of them if they are few.   broken: of these, unreadable.
        pictures, tokens: of a document, on average over the readable ones.
    """

    component: Component
    paths: tuple[str, ...]
    counts: tuple[int, ...]
    documents: range
    sampled: int
    broken: int
    pictures: float
    tokens: float


@dataclass(frozen=True, kw_only=True)
class Share:
    """A component's part of the stream.

    Attributes:
        documents: it has.   pictures, tokens: in them, estimated where `sampled` is smaller than `documents`.
        by_document, by_token: its share of what the stream gives, 0..1.
        epochs: passes over it within the budget of tokens; None without a budget.
    """

    name: str
    documents: int
    sampled: int
    broken: int
    pictures: int
    tokens: int
    by_document: float
    by_token: float
    epochs: float | None

    def to_record(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


def count_tokens(document: Document, tokenizer: Tokenizer, image_tokens: int = IMAGE_TOKENS) -> int:
    """Rows a document takes: its words, each picture between its two tags, begin and end; places of boxes not."""
    words = sum(len(tokenizer.encode(part.text)) for part in document.segments if isinstance(part, Text))
    return words + len(document.images) * (image_tokens + 2) + 2


def measure(
    component: Component, tokenizer: Tokenizer, *, image_tokens: int = IMAGE_TOKENS, sample: int = SAMPLE
) -> Contents:
    """Count a component's documents and read some of them.

    Raises: OSError; ShardError for a torn shard; ValueError for a component without a readable document.
    """
    with ShardSet(expand(component.shards)) as samples:
        documents = component.documents(len(samples))
        if not documents:
            raise ValueError(f"component {component.name!r} has no document in the part it uses; widen its subset")
        seen = [documents[place * len(documents) // sample] for place in range(sample)]
        chosen = documents if len(documents) <= sample else seen
        pictures = tokens = broken = 0
        for number in chosen:
            try:
                document = samples[number].document()
            except DocumentError:
                broken += 1
                continue
            pictures += len(document.images)
            tokens += count_tokens(document, tokenizer, image_tokens)
        good = len(chosen) - broken
        if not good:
            raise ValueError(f"component {component.name!r} has no readable document; run `kosmos data lint`")
        return Contents(
            component=component,
            paths=samples.paths,
            counts=samples.counts,
            documents=documents,
            sampled=len(chosen),
            broken=broken,
            pictures=pictures / good,
            tokens=tokens / good,
        )


def shares(mixture: Mixture, contents: Sequence[Contents], token_budget: float | None = None) -> list[Share]:
    """What each component gives, in the order of the mixture.

    Args:
        contents: `measure` of every component.
        token_budget: tokens that training will see.
    """
    drawn = [_drawn(mixture.by, part) for part in contents]
    all_documents = sum(drawn)
    all_tokens = sum(count * part.tokens for count, part in zip(drawn, contents, strict=True))
    found = []
    for count, part in zip(drawn, contents, strict=True):
        documents, by_token = len(part.documents), count * part.tokens / all_tokens
        found.append(
            Share(
                name=part.component.name,
                documents=documents,
                sampled=part.sampled,
                broken=part.broken,
                pictures=round(part.pictures * documents),
                tokens=round(part.tokens * documents),
                by_document=count / all_documents,
                by_token=by_token,
                epochs=None if token_budget is None else token_budget * by_token / (part.tokens * documents),
            )
        )
    return found


def _drawn(by: Measure, part: Contents) -> float:
    """How many documents are drawn of a component, up to a factor that all have in common."""
    weight = part.component.weight
    if by == "epoch":
        return weight * len(part.documents)
    return weight if by == "document" else weight / part.tokens
