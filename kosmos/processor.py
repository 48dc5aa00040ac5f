"""Documents to what a model eats, and its ids back to words and boxes: the one place where segments become rows.

`encode` and `collate` are all that training, evaluation and serving know of it, so what a model is asked can never
differ from what it was taught. A picture is `<image>`, one row a latent, `</image>`; a Text is literal words; a Control
is one id. Sequences are laid end to end, never padded, never cut.
Source: Kosmos-1 (arXiv 2302.14045, section 2.1 and table 21), Kosmos-2 (arXiv 2306.14824, section 3).
Knows nothing of networks. Legend: R rows, N images, L latents of an image, P features of an image, W and D widths.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kosmos.config import KosmosConfig
from kosmos.grounding import Grounded, entities_of, pair_names, pair_of_box, phrase_rows, training_pair_of_box
from kosmos.packed import Packed
from text.document import Control, Document, Image, Phrase, Prompt, Segment, Text, document_of
from text.specials import BEGIN, END_IMAGE, END_PHRASE, IMAGE, PADDING, PHRASE
from text.tokenizer import Piece, Tokenizer
from vision.image import open_image, resize

__all__ = ["Encoded", "Pixels", "Processor"]

Pixels: TypeAlias = NDArray[np.uint8]
"""A picture of the tower's size, uint8 [3, side, side]."""

_OWN = {BEGIN, PADDING, IMAGE, END_IMAGE}  # tokens the processor alone puts


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """One document as rows.

    Attributes:
        ids: one a row; on picture rows `<image>`, which nobody reads.
        loss_weights: one a row, of predicting the id at that row from the rows before: 1 for words asked for, their
            tags and `</s>`; 0 for the first row, pictures and words with `loss=False`.
        images: the pictures in reading order; not yet opened ones are `Image` segments.
        image_starts: the row of each picture's first latent.
        num_latents: rows of each picture.
        borders: the first row of each segment, where a long document may be cut.
        phrases: first row and last + 1 of each grounded phrase with its places, which a cut leaves whole.
        image_hashes: what the Document says of each picture's content; a key for caches of the caller's own pictures.
    """

    ids: tuple[int, ...]
    loss_weights: tuple[float, ...]
    images: tuple[Pixels | Image, ...] = ()
    image_starts: tuple[int, ...] = ()
    num_latents: int = 0
    borders: tuple[int, ...] = ()
    phrases: tuple[tuple[int, int], ...] = ()
    image_hashes: tuple[str | None, ...] = ()

    @property
    def length(self) -> int:
        """Rows, pictures included."""
        return len(self.ids)


@dataclass
class _Rows:
    """What becomes an `Encoded`."""

    ids: list[int]
    weights: list[float]
    images: list[Image]
    starts: list[int]
    borders: list[int]

    def add(self, ids: Iterable[int], weight: float) -> None:
        new = list(ids)
        self.ids += new
        self.weights += [weight] * len(new)


class Processor:
    """A tokenizer and the shapes of a model. Immutable; pickles, so that worker processes can have it."""

    def __init__(self, tokenizer: Tokenizer, config: KosmosConfig, *, pictures: Literal["now", "late"] = "now") -> None:
        """
        Args:
            pictures: `now` opens them in `encode`, so that a broken picture fails with its own document; `late` leaves
                that to `open_pictures` or `collate`, for callers who may already have a picture's features.
        Raises: ValueError if the tokenizer is not the one `config` speaks of.
        """
        if tokenizer.specials != config.tokenizer.specials or tokenizer.vocab_size > config.decoder.vocab_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.vocab_size} ids with the special tokens of {tokenizer.specials}, but the"
                f" model {config.name!r} has {config.decoder.vocab_size} with those of {config.tokenizer.specials};"
                " give the tokenizer.model that came with it"
            )
        self.tokenizer = tokenizer
        self.config = config
        self.pictures = pictures

    def encode(self, prompt: Prompt, *, training: bool = False, end_document: bool | None = None) -> Encoded:
        """Rows of a document, or of what a Python caller wrote for one; `<s>` first.

        Args:
            training: boxes are quantised as the released training code does, and the document is ended.
            end_document: whether `</s>` follows, unless it is there; as `training` says where None.
        Raises: ValueError for pictures that cannot be read, tokens the model does not have, and documents longer than
            the model reads: nothing is ever cut off.
        """
        rows = self._rows(document_of(prompt), training=training, end_document=end_document)
        self._check_length(rows)
        encoded = self._encoded(rows)
        return self.open_pictures(encoded) if self.pictures == "now" else encoded

    def encode_whole(self, document: Document) -> Encoded:
        """Rows of a training document of any length, pictures closed; `kosmos.pieces` cuts it to what a model reads.

        Raises: ValueError for tokens the model does not have.
        """
        return self._encoded(self._rows(document, training=True, end_document=None))

    def open_pictures(self, encoded: Encoded) -> Encoded:
        """The same rows with every picture decoded and resized.

        Raises: ValueError for a picture that cannot be read, with its number.
        """
        return replace(encoded, images=tuple(self._pixels(image, place) for place, image in enumerate(encoded.images)))

    def collate(
        self, batch: Sequence[Encoded], *, features: Tensor | None = None, latents: Tensor | None = None
    ) -> Packed:
        """Lay documents end to end.

        Args:
            features: float [N, P, W], the tower's output for all pictures of the batch in reading order, or
            latents: float [N, L, D], the resampler's; then no picture is opened.
        Raises: ValueError for an empty batch, or another number of features than of pictures.
        """
        if not batch:
            raise ValueError("cannot collate an empty batch; give at least one encoded document")
        lengths = tuple(encoded.length for encoded in batch)
        images = [image for encoded in batch for image in encoded.images]
        pixels = None
        if images and features is None and latents is None:
            opened = [self._pixels(image, place) for place, image in enumerate(images)]
            pixels = torch.from_numpy(np.stack(opened))
        return Packed(
            tokens=torch.tensor([id for encoded in batch for id in encoded.ids], dtype=torch.long),
            lengths=lengths,
            positions=torch.cat([torch.arange(length) for length in lengths]),
            image_rows=_image_rows(batch),
            pixels=pixels,
            features=features,
            latents=latents,
            loss_weight=torch.tensor([weight for encoded in batch for weight in encoded.loss_weights]),
        )

    def decode(self, ids: Iterable[int]) -> str:
        """The words of `ids`, without special tokens."""
        return self.tokenizer.decode(ids)

    def ground(self, prompt: Encoded, ids: Sequence[int]) -> Grounded | None:
        """Words and entities of an answer; a phrase that the prompt began or named counts with the boxes it got.

        Returns: None if the model cannot say where things are.
        """
        if not self.tokenizer.has_locations:
            return None
        return entities_of(ids, self.tokenizer, after=prompt.ids)

    def _rows(self, document: Document, *, training: bool, end_document: bool | None) -> _Rows:
        rows = _Rows([self.tokenizer.bos_id], [0.0], [], [], [])
        for index, segment in enumerate(document.segments):
            rows.borders.append(len(rows.ids))
            if isinstance(segment, Image):
                self._add_image(rows, segment)
            elif isinstance(segment, Control):
                rows.add([self._control_id(segment)], _control_weight(document.segments, index))
            else:
                rows.add(self._text_ids(segment, training=training), float(segment.loss))
        if (training if end_document is None else end_document) and rows.ids[-1] != self.tokenizer.eos_id:
            rows.add([self.tokenizer.eos_id], _control_weight(document.segments, len(document.segments)))
        return rows

    def _encoded(self, rows: _Rows) -> Encoded:
        return Encoded(
            ids=tuple(rows.ids),
            loss_weights=tuple(rows.weights),
            images=tuple(rows.images),
            image_starts=tuple(rows.starts),
            num_latents=self.config.resampler.num_latents,
            borders=tuple(rows.borders),
            phrases=tuple(phrase_rows(rows.ids, self.tokenizer)),
            image_hashes=tuple(image.content_hash for image in rows.images),
        )

    def _add_image(self, rows: _Rows, image: Image) -> None:
        rows.starts.append(len(rows.ids) + 1)
        rows.images.append(image)
        image_id = self.tokenizer.image_id
        rows.add([image_id] * (1 + self.config.resampler.num_latents) + [self.tokenizer.end_image_id], 0.0)

    def _control_id(self, control: Control) -> int:
        if control.name in _OWN:
            advice = "put an Image segment there" if "image" in control.name else "leave it out"
            raise ValueError(f"a document cannot hold the control {control.name}, which the processor puts: {advice}")
        return self.tokenizer.id_of(control.name)

    def _text_ids(self, text: Text, *, training: bool) -> list[int]:
        """Words; phrases in their tags, with their places after them.

        The words are cut to pieces as if there were no phrases, as in the released training code: a full stop after a
        phrase is then the same id as everywhere else. A phrase that ends within a piece takes the whole piece.
        """
        if not text.phrases:
            return self.tokenizer.encode(text.text)
        pieces = self.tokenizer.pieces(text.text)
        ranges = _piece_ranges(text, pieces, space_id=self.tokenizer.space_id)
        ids, end = [], 0
        for phrase, (first, last) in zip(text.phrases, ranges, strict=True):
            ids += [piece.id for piece in pieces[end:first]]
            ids.append(self.tokenizer.id_of(PHRASE))
            ids += [piece.id for piece in pieces[first:last]]
            ids += [self.tokenizer.id_of(name) for name in (END_PHRASE, *_place_names(phrase, training=training))]
            end = last
        return ids + [piece.id for piece in pieces[end:]]

    def _check_length(self, rows: _Rows) -> None:
        longest = self.config.decoder.max_length
        if len(rows.ids) > longest:
            pictures = len(rows.images)
            share = f", {pictures * (self.config.resampler.num_latents + 2)} of them for {pictures} pictures"
            raise ValueError(
                f"the document has {len(rows.ids)} tokens{share if pictures else ''}, but the model reads {longest};"
                f" shorten it{' or leave pictures out' if pictures else ''}"
            )

    def _pixels(self, image: Pixels | Image, place: int) -> Pixels:
        if isinstance(image, np.ndarray):
            return image
        tower = self.config.tower
        try:
            picture = resize(open_image(image.source), tower.image_size, tower.resize)
        except (ValueError, TypeError, OSError) as error:
            raise ValueError(f"picture {place + 1} of the prompt: {error}") from error
        return np.ascontiguousarray(picture.transpose(2, 0, 1))


def _control_weight(segments: Sequence[Segment], index: int) -> float:
    """A control is asked for if the words after it are, or those before where none follow, or if there are no words."""
    after = (segment for segment in segments[index:] if isinstance(segment, Text))
    before = (segment for segment in reversed(segments[:index]) if isinstance(segment, Text))
    nearest = next(after, None) or next(before, None)
    return float(nearest is None or nearest.loss)


def _place_names(phrase: Phrase, *, training: bool) -> list[str]:
    quantise = training_pair_of_box if training else pair_of_box
    return pair_names([quantise(box) for box in phrase.boxes]) if phrase.boxes else []


def _piece_ranges(text: Text, pieces: Sequence[Piece], *, space_id: int) -> list[tuple[int, int]]:
    """First and last + 1 of the pieces each phrase touches, with the space before its first word.

    Raises: ValueError for a phrase without a piece of its own.
    """
    # The first bytes of a character have no width of their own; they reach to its end.
    reaches: list[int] = []
    for piece in reversed(pieces):
        reaches.insert(0, piece.end if piece.end > piece.start or not reaches else reaches[0])
    ranges, done = [], 0
    for phrase in text.phrases:
        words = text.text[phrase.start : phrase.end]
        start, end = phrase.end - len(words.lstrip()), phrase.start + len(words.rstrip())
        inside = [place for place in range(done, len(pieces)) if reaches[place] > start and pieces[place].start < end]
        if not inside:
            raise ValueError(
                f"the phrase at characters {phrase.start} to {phrase.end} holds no words of its own (only white space,"
                " or a word that another phrase has already); move its ends"
            )
        first = inside[0] - (inside[0] > done and pieces[inside[0] - 1].id == space_id)
        done = inside[-1] + 1
        ranges.append((first, done))
    return ranges


def _image_rows(batch: Sequence[Encoded]) -> Tensor | None:
    """int64 [N, L] in the packed rows; None without pictures."""
    rows, first = [], 0
    for encoded in batch:
        rows += [torch.arange(first + start, first + start + encoded.num_latents) for start in encoded.image_starts]
        first += encoded.length
    return torch.stack(rows) if rows else None
