"""Exact duplicates: one digest over the normalised words and the bytes of the pictures, in reading order."""

from __future__ import annotations

import re
import unicodedata

from blake3 import blake3

from data_pipelines.glance import encoded
from text.document import Document, Image, Text

__all__ = ["DIGEST_BYTES", "document_digest", "normalised_words"]

DIGEST_BYTES = 16
_WORD = re.compile(r"\w+")


def normalised_words(text: str) -> list[str]:
    """Words without case, punctuation and the different ways to write one letter (Unicode NFKC)."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def document_digest(document: Document) -> bytes:
    """BLAKE3 over words and pictures; how words are cut into segments and what `meta` says do not count."""
    digest, words = blake3(), list[str]()
    for segment in document.segments:
        if isinstance(segment, Text):
            words += normalised_words(segment.text)
        elif isinstance(segment, Image):
            digest.update(_joined(words) + blake3(encoded(segment)).digest())
            words = []
        else:
            words.append(segment.name)
    digest.update(_joined(words))
    return digest.digest(DIGEST_BYTES)


def _joined(words: list[str]) -> bytes:
    """Ended by a byte that is in no word: after it 32 bytes of a picture follow, or nothing."""
    return " ".join(words).encode() + b"\0"
