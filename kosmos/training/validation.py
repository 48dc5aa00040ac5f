"""Held-out documents while a model trains: nats a word, with and without pictures, and what it goes on to say.

Every rank computes as many batches as the others, so that weights which are shared out can be gathered together.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from data_pipelines.shard import open_shard
from data_pipelines.stores import expand
from kosmos.pieces import pieces
from kosmos.pretrained import Kosmos
from kosmos.processor import Encoded, Processor
from kosmos.training.objective import KosmosObjective
from kosmos.training.parallel import Parallel
from text.document import Document, Image, Text

__all__ = ["HeldOut", "continuations", "prompt_of", "read_held_out"]

log = logging.getLogger(__name__)

ROWS = 4096  # of a batch
SHOWN = 64  # words of a sample, on either side of the place where the model goes on
KINDS = ("text", "pictures")


@dataclass(frozen=True)
class HeldOut:
    """Documents in batches of one kind each: words alone, or words and pictures."""

    documents: tuple[Document, ...]
    batches: tuple[tuple[str, tuple[Encoded, ...]], ...]

    @torch.no_grad()
    def figures(
        self, objective: KosmosObjective, processor: Processor, parallel: Parallel, device: torch.device
    ) -> dict[str, float]:
        """Nats a word over all ranks: `validation_loss`, and by kind where there are both."""
        sums = torch.zeros(len(KINDS), 2, dtype=torch.float64)
        smoothing, objective.label_smoothing = objective.label_smoothing, 0.0
        try:
            for turn in range(-(-len(self.batches) // parallel.ranks)):
                place = turn * parallel.ranks + parallel.rank
                kind, rows = self.batches[min(place, len(self.batches) - 1)]
                packed = processor.collate([processor.open_pictures(one) for one in rows])
                found = objective.losses({kind: packed.to(device)})[kind]
                if place < len(self.batches):
                    sums[KINDS.index(kind)] += torch.tensor([float(found.total), found.count])
        finally:
            objective.label_smoothing = smoothing
        parallel.add([sums])
        totals = {kind: sums[row] for row, kind in enumerate(KINDS) if sums[row, 1] > 0}
        whole = {"validation_loss": sum(float(total) for total, _ in totals.values()) / float(sums[:, 1].sum())}
        parts = {f"validation_{kind}": float(total / count) for kind, (total, count) in totals.items()}
        return whole | (parts if len(parts) > 1 else {})


def read_held_out(shards: Sequence[str], count: int, processor: Processor, max_length: int) -> HeldOut:
    """The first `count` documents of each entry of `shards`, cut to what the model reads and packed.

    Documents with a picture that cannot be opened are named and left out.
    Raises: OSError, ValueError for shards that cannot be read or ask for no word, and tokens the model does not have.
    """
    found = [document for entry in shards for document in islice(_documents(entry), count)]
    whole = [(document, processor.encode_whole(document)) for document in found]
    whole = [(document, rows) for document, rows in whole if _opens(rows, processor)]
    if not whole:
        raise ValueError(f"no document in {', '.join(shards)}; give held-out shards by --show.validation")
    documents = tuple(document for document, _ in whole)
    rows = [piece for _, one in whole for piece in pieces(one, max_length)]
    asked = [one for one in rows if any(one.loss_weights)]
    batches = []
    for kind, chosen in zip(KINDS, ([r for r in asked if not r.images], [r for r in asked if r.images]), strict=True):
        batches += [(kind, batch) for batch in _batches(chosen)]
    if not batches:
        raise ValueError(f"no word of {', '.join(shards)} is asked for: all its texts have `loss` off")
    return HeldOut(documents, tuple(batches))


@torch.no_grad()
def continuations(kosmos: Kosmos, documents: Sequence[Document], max_new_tokens: int) -> dict[str, str]:
    """What a model goes on to say greedily, beside what is written, by number of the document.

    Documents whose prompt leaves a model no room to go on are left out.
    """
    numbered = [(number, *prompt_of(document)) for number, document in enumerate(documents, 1)]
    asked = [one for one in numbered if _leaves_room(one[1], kosmos.processor, max_new_tokens)]
    found = kosmos.generate([prompt for _, prompt, _ in asked], max_new_tokens=max_new_tokens) if asked else []
    return {
        f"sample {number}": f"{_shown(prompt)}⟶{answer.text}\nwritten:{written}"
        for (number, prompt, written), answer in zip(asked, found, strict=True)
    }


def _shown(prompt: Document) -> str:
    return "".join(
        s.text if isinstance(s, Text) else "[picture]" if isinstance(s, Image) else "" for s in prompt.segments
    )


def prompt_of(document: Document) -> tuple[Document, str]:
    """What stands before the first words that are asked for, and those words; of words alone, their first half.

    No more than `SHOWN` words of either: a document may be a book.
    """
    place = next((i for i, s in enumerate(document.segments) if isinstance(s, Text) and s.loss), None)
    if place is None:
        return document, ""
    text = document.segments[place]
    assert isinstance(text, Text)
    before, words = document.segments[:place], text.text.split(" ")
    if before:
        return Document(before, document.meta), " ".join(words[:SHOWN])
    half = min(max(1, len(words) // 2), SHOWN)
    return Document((Text(" ".join(words[:half])),), document.meta), " " + " ".join(words[half : half + SHOWN])


def _leaves_room(prompt: Document, processor: Processor, max_new_tokens: int) -> bool:
    return processor.encode_whole(prompt).length + max_new_tokens <= processor.config.decoder.max_length


def _opens(rows: Encoded, processor: Processor) -> bool:
    try:
        processor.open_pictures(rows)
    except ValueError as error:
        log.warning("left out a held-out document: %s", error)
        return False
    return True


def _documents(entry: str) -> Iterator[Document]:
    for path in expand([entry]):
        with open_shard(path) as shard:
            yield from (sample.document() for sample in shard)


def _batches(rows: Sequence[Encoded]) -> Iterator[tuple[Encoded, ...]]:
    batch: list[Encoded] = []
    for one in sorted(rows, key=lambda rows: rows.length):
        if batch and sum(other.length for other in batch) + one.length > ROWS:
            yield tuple(batch)
            batch = []
        batch.append(one)
    if batch:
        yield tuple(batch)
