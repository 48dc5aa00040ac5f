"""Words to ids and back: any SentencePiece model, with named special tokens before and after its words.

Ids follow the released models (fairseq's order): `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3; SentencePiece's own number i
becomes i + 1 from 3 on; then the names of `text.specials.TAGS`. A SentencePiece file of N pieces (its three controls
included) thus has words up to id N and special tokens from N + 1. Pieces of single bytes are words like all others.

What people type never becomes a special token: `encode` takes every character literally, and only a caller who trusts a
string hands it to `encode_tagged`. Knows nothing of pictures, boxes or models. No torch here.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import sentencepiece

from text.specials import (
    BEGIN,
    CONTROLS,
    END,
    END_IMAGE,
    IMAGE,
    PADDING,
    TAG,
    TAGS,
    UNKNOWN,
    SpecialTokens,
    location_name,
)

__all__ = ["Piece", "StreamDecoder", "Tokenizer"]

_OFFSET = 1  # SentencePiece has three pieces before its words, the models' vocabularies four
_FIRST_WORD = len(CONTROLS)
_SPACE = "\u2581"


class Piece(NamedTuple):
    """One word piece and where it stands: characters `start` to `end` of the text, its leading space included."""

    id: int
    start: int
    end: int


class Tokenizer:
    """A SentencePiece model and the special tokens around it. Immutable; pickles to its bytes and a name.

    Attributes:
        num_words: SentencePiece pieces, its three controls included.
        vocab_size: number of ids.
        specials: which special tokens follow the words.
    """

    def __init__(self, model: bytes | str | PathLike[str], *, specials: SpecialTokens) -> None:
        """Raises: ValueError if `model` is no SentencePiece model, or does not number its controls 0, 1, 2."""
        if specials not in TAGS:
            raise ValueError(f"unknown special tokens {specials!r}; known: {', '.join(TAGS)}")
        self.model = model if isinstance(model, bytes) else Path(model).read_bytes()
        self.specials: SpecialTokens = specials
        self._words = _processor(self.model, "bytes" if isinstance(model, bytes) else str(model))
        self.num_words: int = len(self._words)
        first = self.num_words + _OFFSET
        self._ids = {name: id for id, name in enumerate(CONTROLS)}
        self._ids |= {name: first + index for index, name in enumerate(TAGS[specials])}
        self._names = {id: name for name, id in self._ids.items()}
        self.vocab_size = first + len(TAGS[specials])

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuilt, (self.model, self.specials)

    bos_id, pad_id, eos_id, unk_id = (CONTROLS.index(name) for name in (BEGIN, PADDING, END, UNKNOWN))

    @property
    def image_id(self) -> int:
        """`<image>`: begins a picture, and stands on the rows its latents take."""
        return self._ids[IMAGE]

    @property
    def end_image_id(self) -> int:
        """`</image>`."""
        return self._ids[END_IMAGE]

    @property
    def space_id(self) -> int:
        """The word piece that is nothing but the space before a word; `<unk>` where there is none."""
        return self._id(self._words.piece_to_id(_SPACE))

    @property
    def has_locations(self) -> bool:
        """Whether the vocabulary can say where things are."""
        return self.specials == "kosmos2"

    def location_id(self, index: int) -> int:
        """The id of grid cell row * 32 + column, 0..1023.

        Raises: ValueError outside the grid, or if the vocabulary has no locations.
        """
        return self.id_of(location_name(index))

    def id_of(self, name: str) -> int:
        """The id of a special token by its printed name.

        Raises: ValueError for a name this vocabulary does not have.
        """
        try:
            return self._ids[name]
        except KeyError:
            raise ValueError(
                f"this vocabulary has no special token {name!r} (it has those of {self.specials}: "
                f"{', '.join([*CONTROLS, *TAGS[self.specials][:12]])}{' ...' if self.has_locations else ''}); "
                "leave it out, or put words that only look like one into Text(...)"
            ) from None

    def name_of(self, id: int) -> str:
        """What an id is called: a special token's name, or the word piece as SentencePiece prints it.

        Raises: ValueError outside the vocabulary.
        """
        self._check(id)
        name: str = self._names.get(id) or self._words.id_to_piece(id - _OFFSET)
        return name

    def is_special(self, id: int) -> bool:
        """Whether an id is a special token (`<unk>` included) and not a word."""
        self._check(id)
        return id in self._names

    def encode(self, text: str) -> list[int]:
        """Ids of literal words: no special token but `<unk>`, whatever is typed.

        Raises: ValueError for a lone surrogate, which is no character.
        """
        return [self._id(index) for index in self._words.encode(_characters(text))]

    def pieces(self, text: str) -> list[Piece]:
        """What `encode` gives, with the place of each piece in `text`."""
        found = self._words.encode(_characters(text), return_type="offset_mapping")
        return [Piece(self._id(index), *place) for index, place in zip(found["ids"], found["offsets"], strict=True)]

    def encode_tagged(self, text: str) -> list[int]:
        """Ids of a trusted string that may contain tags (`<grounding>`, `<phrase>`, `<patch_index_0044>` ...).

        White space left of a tag is dropped; the words between two tags are encoded on their own, so they begin a word.
        `<s>`, `<pad>`, `</s>` and `<unk>` are no tags and stay words, as in the released code.
        Raises: ValueError for a tag this vocabulary does not have.
        """
        ids, start = [], 0
        for tag in TAG.finditer(text):
            ids += self.encode(text[start : tag.start()].rstrip())
            ids.append(self.id_of(tag[0]))
            start = tag.end()
        return ids + self.encode(text[start:])

    def decode(self, ids: Iterable[int], *, keep_specials: bool = False) -> str:
        """The words of `ids`; special tokens vanish, or stand by name with `keep_specials`.

        The space that begins the first word is dropped, all others stay. Bytes that form no character become U+FFFD.
        Raises: ValueError for an id outside the vocabulary.
        """
        stream = StreamDecoder(self, keep_specials=keep_specials)
        return "".join([*map(stream.push, ids), stream.finish()])

    def word_bytes(self, id: int) -> bytes:
        """What a word piece spells, UTF-8: the space that begins a word is a space. A piece may be half a character.

        Raises: ValueError for a special token or an id outside the vocabulary.
        """
        if self.is_special(id):
            raise ValueError(f"{self._names[id]} is no word piece; ask name_of")
        index = id - _OFFSET
        piece: str = self._words.id_to_piece(index)
        if self._words.is_byte(index):
            return bytes([int(piece[3:5], 16)])  # printed <0xE4>
        return piece.replace(_SPACE, " ").encode()

    def _id(self, index: int) -> int:
        """From SentencePiece's number of a piece; its unknown piece is the only control it ever answers with."""
        return index + _OFFSET if index >= _FIRST_WORD - _OFFSET else self.unk_id

    def _check(self, id: int) -> None:
        if not 0 <= id < self.vocab_size:
            raise ValueError(f"id {id} is outside the vocabulary; give 0 to {self.vocab_size - 1}")


class StreamDecoder:
    """Text as ids arrive: what `push` and `finish` return, put together, is `Tokenizer.decode` of all ids.

    A character whose bytes come as several ids is held back until it is whole, so nothing returned is ever revised.
    """

    def __init__(self, tokenizer: Tokenizer, *, keep_specials: bool = False, after: Sequence[int] = ()) -> None:
        """Args: after: ids that went before and whose text is not wanted again; they decide about the first space."""
        self._tokenizer = tokenizer
        self._keep_specials = keep_specials
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = True
        for id in after:
            self.push(id)

    def push(self, id: int) -> str:
        """The text that has become certain by one more id; often a word, sometimes nothing.

        Raises: ValueError for an id outside the vocabulary.
        """
        tokenizer = self._tokenizer
        if not tokenizer.is_special(id):
            return self._without_first_space(self._decoder.decode(tokenizer.word_bytes(id)))
        # A special token ends whatever character was being spelt.
        broken = self._decoder.decode(b"", True)
        self._decoder.reset()
        return self._without_first_space(broken + (tokenizer.name_of(id) if self._keep_specials else ""))

    def finish(self) -> str:
        """What was held back: a character that never became whole, as U+FFFD."""
        return self._without_first_space(self._decoder.decode(b"", True))

    def _without_first_space(self, text: str) -> str:
        if text and self._at_start:
            self._at_start = False
            return text.removeprefix(" ")
        return text


def _rebuilt(model: bytes, specials: SpecialTokens) -> Tokenizer:
    return Tokenizer(model, specials=specials)


def _characters(text: str) -> str:
    """`text` itself, if it can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {error.start} of the text is a lone surrogate, not a character; remove it"
        ) from None
    return text


def _processor(model: bytes, name: str) -> sentencepiece.SentencePieceProcessor:
    words = sentencepiece.SentencePieceProcessor()
    try:
        loaded = bool(model) and words.LoadFromSerializedProto(model)
    except (RuntimeError, TypeError, OSError):
        loaded = False
    if not loaded:
        raise ValueError(f"{name} is no SentencePiece model; give a `tokenizer.model` file")
    if (words.unk_id(), words.bos_id(), words.eos_id()) != (0, 1, 2):
        raise ValueError(
            f"{name} numbers <unk>, <s>, </s> as {words.unk_id()}, {words.bos_id()}, {words.eos_id()};"
            " train it with SentencePiece's default 0, 1, 2"
        )
    return words
