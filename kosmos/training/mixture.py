"""Which sequences a step sees: captions of pictures, captions alone, pieces of books, pieces of pages with pictures.

A batch is a pure function of the seed and the step, so a resumed run sees what an unbroken one would have seen.
Knows how ids are laid out (`<s> <image> latents </image> words </s>`) and nothing of optimising.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kosmos.packed import Packed
from kosmos.training.features import Bytes, restored
from kosmos.training.objective import Batch
from kosmos.training.recipe import MixtureRecipe

__all__ = [
    "PROMPTS",
    "CaptionSet",
    "Layout",
    "Example",
    "Mixture",
    "caption_sequence",
    "mirrored_words",
    "packed",
    "page_pieces",
]

PROMPTS = (
    "A photo of",
    "A photo of",
    "An image of",
    "A picture of",
    "This is",
    "Describe this picture.",
    "Describe this image.",
    "What is in this picture?",
    "What do you see?",
    "Caption:",
)
Encode = Callable[[str], list[int]]
Draw = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The ids every sequence is built of.  `num_latents` rows stand for a picture."""

    begin: int
    end: int
    image: int
    image_end: int
    num_latents: int

    def picture(self) -> list[int]:
        """The rows of one picture."""
        return [self.image, *[self.image] * self.num_latents, self.image_end]


@dataclass(frozen=True)
class Example:
    """Ids of one sequence, which rows are asked for, where its pictures' latents start, and their features."""

    ids: tuple[int, ...]
    asked: tuple[bool, ...]
    image_starts: tuple[int, ...] = ()
    features: tuple[Bytes, ...] = ()


@dataclass(frozen=True)
class CaptionSet:
    """Pictures with captions; `views[v]` holds the features of all pictures in view v, one array a shard.

    All shards but the last hold equally many pictures.
    """

    captions: Sequence[tuple[str, ...]]
    views: Sequence[Sequence[Bytes]]

    def features(self, picture: int, view: int) -> Bytes:
        """Stored features [49, 1280] of one view."""
        shards = self.views[view]
        shard, place = divmod(picture, len(shards[0]))
        found: Bytes = shards[shard][place]
        return found


_SIDES = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}


def mirrored_words(caption: str) -> str:
    """The caption of the mirrored picture: left and right change places."""
    return re.sub(r"\b([Ll]eft|[Rr]ight)\b", lambda match: _SIDES[match[0]], caption)


def packed(sequences: Sequence[Example], num_latents: int) -> Packed:
    """Sequences laid end to end, with the features of their pictures."""
    lengths = tuple(len(sequence.ids) for sequence in sequences)
    rows: list[int] = []
    start = 0
    for sequence, length in zip(sequences, lengths, strict=True):
        rows.extend(start + image for image in sequence.image_starts)
        start += length
    pictures = [features for sequence in sequences for features in sequence.features]
    return Packed(
        tokens=torch.tensor([token for sequence in sequences for token in sequence.ids]),
        lengths=lengths,
        positions=torch.cat([torch.arange(length) for length in lengths]),
        image_rows=torch.tensor(rows)[:, None] + torch.arange(num_latents) if rows else None,
        features=restored(np.stack(pictures)) if pictures else None,
        loss_weight=torch.tensor([asked for sequence in sequences for asked in sequence.asked], dtype=torch.float32),
    )


def caption_sequence(layout: Layout, encode: Encode, caption: str, features: Bytes, prompt: str = "") -> Example:
    """`<s> <image> latents </image> [prompt] caption </s>`; words are asked for, the prompt is not."""
    head = [layout.begin, *layout.picture()]
    before = encode(prompt) if prompt else []
    if prompt and prompt[-1] not in ".?:":
        caption = caption[0].lower() + caption[1:]
    words = encode(f"{prompt} {caption}" if prompt else caption)[len(before) :]
    ids = (*head, *before, *words, layout.end)
    asked = (False,) * (len(head) + len(before)) + (True,) * (len(words) + 1)
    return Example(ids, asked, (2,), (features,))


def _piece(layout: Layout, units: Sequence[int | Bytes], start: int, length: int) -> tuple[Example, int]:
    """The units from `start` on that fit into `length` rows, and the place of the first that did not."""
    ids, asked, starts, features = [layout.begin], [False], [], []
    for place in range(start, len(units)):
        unit = units[place]
        rows = [unit] if isinstance(unit, int) else layout.picture()
        if len(ids) + len(rows) >= length:
            break
        if not isinstance(unit, int):
            starts.append(len(ids) + 1)
            features.append(unit)
        ids.extend(rows)
        asked.extend([isinstance(unit, int)] * len(rows))
    else:
        place = len(units)
        ids.append(layout.end)
        asked.append(True)
    return Example(tuple(ids), tuple(asked), tuple(starts), tuple(features)), place


def page_pieces(layout: Layout, encode: Encode, parts: Sequence[str | Bytes], length: int) -> list[Example]:
    """Pieces of a page, at most `length` rows and each with a picture: words are asked for, pictures are not.

    Args:
        parts: words, and stored features of pictures, in reading order.
    """
    units: list[int | Bytes] = []
    for part in parts:
        units.extend(encode(part)) if isinstance(part, str) else units.append(part)
    pieces, taken = [], 0  # `taken`: units that earlier pieces hold
    for place in (place for place, unit in enumerate(units) if not isinstance(unit, int)):
        if place < taken:
            continue
        piece, taken = _piece(layout, units, max(taken, place - length // 4), length)
        if any(piece.asked):
            pieces.append(piece)
    return pieces


class Mixture:
    """Batches by number."""

    def __init__(
        self,
        recipe: MixtureRecipe,
        layout: Layout,
        encode: Encode,
        *,
        seed: int,
        captions: CaptionSet,
        caption_texts: Sequence[str],
        books: NDArray[np.int32],
        pages: Sequence[Example],
    ) -> None:
        """`books` is one long row of ids."""
        self.recipe, self.layout, self.encode, self.seed = recipe, layout, encode, seed
        self.captions, self.books, self.pages = captions, books, pages
        self.caption_texts = [tuple(encode(text)) for text in caption_texts]
        self.pairs = [(picture, text) for picture, texts in enumerate(captions.captions) for text in range(len(texts))]
        present = {
            "caption": recipe.captions,
            "text": (caption_texts and recipe.caption_texts) or recipe.book_chunks,
            "interleaved": pages and recipe.pages,
        }
        self.kinds = tuple(name for name, share in present.items() if share)
        self._orders: dict[tuple[str, int], NDArray[np.int64]] = {}

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        """The sequences of step `step`; of `ranks` shares, share number `rank`."""
        draw = np.random.default_rng((self.seed, 0, step))
        recipe = self.recipe
        batch = {"caption": self._captions(step, draw)}
        text = [
            self._caption_text(index)
            for index in self._turn("text", len(self.caption_texts), recipe.caption_texts, step)
        ]
        text += [self._book(draw) for _ in range(recipe.book_chunks)]
        pages = [self.pages[index] for index in self._turn("pages", len(self.pages), recipe.pages, step)]
        if text:
            batch["text"] = text
        if pages:
            batch["interleaved"] = pages
        shares = {name: sequences[rank::ranks] for name, sequences in batch.items()}
        return {name: packed(share, self.layout.num_latents) for name, share in shares.items() if share}

    def pictures(self, step: int, count: int, rank: int = 0, ranks: int = 1) -> tuple[list[int], Tensor]:
        """Numbers of (a share of) `count` training pictures and the features [N, 49, 1280] of a drawn view of each."""
        draw = np.random.default_rng((self.seed, 1, step))
        turn = self._turn("pictures", len(self.captions.captions), count, step)
        views = draw.integers(0, self.recipe.views, len(turn))[rank::ranks]
        chosen = turn[rank::ranks]
        stored = [self.captions.features(picture, int(view)) for picture, view in zip(chosen, views, strict=True)]
        return chosen, restored(np.stack(stored))

    def _captions(self, step: int, draw: Draw) -> list[Example]:
        sequences = []
        for index in self._turn("caption", len(self.pairs), self.recipe.captions, step):
            picture, text = self.pairs[index]
            view = int(draw.integers(0, self.recipe.views))
            caption = self.captions.captions[picture][text]
            caption = mirrored_words(caption) if view % 2 else caption
            prompt = str(draw.choice(PROMPTS)) if draw.random() < self.recipe.prompted else ""
            features = self.captions.features(picture, view)
            sequences.append(caption_sequence(self.layout, self.encode, caption, features, prompt))
        return sequences

    def _caption_text(self, index: int) -> Example:
        words = self.caption_texts[index]
        return Example((self.layout.begin, *words, self.layout.end), (False, *[True] * (len(words) + 1)))

    def _book(self, draw: Draw) -> Example:
        length = self.recipe.chunk_length
        start = int(draw.integers(0, len(self.books) - length))
        ids = self.books[start : start + length].tolist()
        return Example((self.layout.begin, *ids), (False, *[True] * length))

    def _turn(self, name: str, size: int, count: int, step: int) -> list[int]:
        """`count` indices of a walk through shuffled epochs of `size` things, each epoch in an order of its own."""
        found: list[int] = []
        if not size:
            return found
        for place in range(step * count, (step + 1) * count):
            epoch, at = divmod(place, size)
            if (name, epoch) not in self._orders:
                kept = {key: value for key, value in self._orders.items() if key[0] != name or key[1] >= epoch - 1}
                salt = int.from_bytes(name.encode()[:7], "little")
                self._orders = {
                    **kept,
                    (name, epoch): np.random.default_rng((self.seed, 2, salt, epoch)).permutation(size),
                }
            found.append(int(self._orders[name, epoch][at]))
        return found
