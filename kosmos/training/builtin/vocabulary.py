"""The words of `tiny`: a SentencePiece unigram model with byte fallback, trained on the training texts alone.

Knows nothing of special tokens beyond SentencePiece's own three; `text.tokenizer` adds them and shifts the ids.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece

__all__ = ["train_vocabulary"]

LONGEST_LINE = 4000  # characters; SentencePiece skips longer lines, so they are cut


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in text.splitlines():
            for start in range(0, len(line), LONGEST_LINE):
                piece = line[start : start + LONGEST_LINE].strip()
                if piece:
                    yield piece


def train_vocabulary(texts: Iterable[str], path: Path, *, num_words: int) -> None:
    """Write a SentencePiece model of `num_words` pieces (`<unk>`, `<s>`, `</s>` and 256 bytes included) to `path`."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_lines(texts),
        model_writer=written,
        model_type="unigram",
        vocab_size=num_words,
        byte_fallback=True,
        character_coverage=0.9995,
        max_sentence_length=4 * LONGEST_LINE,
        num_threads=2,
        minloglevel=2,
    )
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(written.getvalue())
    unfinished.replace(path)
