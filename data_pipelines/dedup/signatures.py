"""Signatures: what has to be known of a shard's documents to find duplicates among millions, in arrays on disk.

About 50 bytes a short document with one picture, 512 more for a text that is long enough to be compared.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipelines.dedup.evaluation import EvaluationSet
from data_pipelines.dedup.exact import DIGEST_BYTES, document_digest, normalised_words
from data_pipelines.dedup.minhash import NUM_HASHES, text_signature
from data_pipelines.dedup.perceptual import PictureHash, picture_hash
from data_pipelines.errors import DocumentError
from data_pipelines.glance import encoded, reduced
from data_pipelines.shard import read_documents
from data_pipelines.whole_file import whole_file
from text.document import Document, Image, Text

__all__ = ["Signatures", "read_signatures", "sign_documents", "write_signatures"]


@dataclass(frozen=True, kw_only=True)
class Signatures:
    """Of the N documents of a shard, in order.

    Attributes:
        keys: their keys.   reasons: why a document goes whatever the others are (broken, contaminated); "" if not.
        digests: uint8 [N, 16], of `exact`.
        texts: int32 [T], numbers of the documents with enough words to be compared by them.
        minhashes: uint32 [T, 128].
        pictured: int32 [P], numbers of the other documents with pictures that can all be compared, once for each
            picture.   pictures: uint64 [P, 2], of `perceptual`.
    """

    keys: tuple[str, ...]
    reasons: tuple[str, ...]
    digests: NDArray[np.uint8]
    texts: NDArray[np.int32]
    minhashes: NDArray[np.uint32]
    pictured: NDArray[np.int32]
    pictures: NDArray[np.uint64]


def sign_documents(
    path: str, evaluation: Sequence[EvaluationSet], *, min_words: int, allow_pipe: bool = False
) -> Signatures:
    """Signatures of a shard's documents.

    Args:
        min_words: documents of at least so many words are compared by them, shorter ones by their pictures.
    """
    keys, reasons, digests = list[str](), list[str](), list[bytes]()
    texts, minhashes, pictured, pictures = list[int](), list[NDArray[np.uint32]](), list[int](), list[PictureHash]()
    for number, (key, document) in enumerate(read_documents(path, allow_pipe=allow_pipe)):
        keys.append(key)
        if isinstance(document, DocumentError):
            reasons.append(document.reason)
            digests.append(bytes(DIGEST_BYTES))
            continue
        words, hashes = _words(document), [_hash(image) for image in document.images]
        seen = [found for found in hashes if found is not None]
        digests.append(document_digest(document))
        reasons.append(next((f"contaminated: {one.name}" for one in evaluation if one.is_in(words, seen)), ""))
        if len(words) >= min_words:
            texts.append(number)
            minhashes.append(text_signature(words))
        elif len(seen) == len(hashes):
            pictured += [number] * len(seen)
            pictures += seen
    return Signatures(
        keys=tuple(keys),
        reasons=tuple(reasons),
        digests=np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, DIGEST_BYTES),
        texts=np.array(texts, dtype=np.int32),
        minhashes=np.array(minhashes, dtype=np.uint32).reshape(-1, NUM_HASHES),
        pictured=np.array(pictured, dtype=np.int32),
        pictures=np.array(pictures, dtype=np.uint64).reshape(-1, 2),
    )


def write_signatures(signatures: Signatures, path: Path) -> None:
    """Put them into a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {field.name: _array(getattr(signatures, field.name)) for field in fields(signatures)}
    with whole_file(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_signatures(path: Path) -> Signatures:
    """What `write_signatures` wrote. Raises: OSError."""
    with np.load(path, allow_pickle=False) as arrays:
        return Signatures(
            keys=tuple(json.loads(arrays["keys"].tobytes())),
            reasons=tuple(json.loads(arrays["reasons"].tobytes())),
            digests=arrays["digests"],
            texts=arrays["texts"],
            minhashes=arrays["minhashes"],
            pictured=arrays["pictured"],
            pictures=arrays["pictures"],
        )


def _array(value: object) -> NDArray[np.generic]:
    """Names as the bytes of a JSON list: arrays of strings would all be as wide as the longest."""
    return value if isinstance(value, np.ndarray) else np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)


def _words(document: Document) -> list[str]:
    return [
        word for segment in document.segments if isinstance(segment, Text) for word in normalised_words(segment.text)
    ]


def _hash(image: Image) -> PictureHash | None:
    try:
        return picture_hash(reduced(encoded(image)))
    except ValueError:  # a damaged picture is like no other; only equal bytes make it a duplicate
        return None
