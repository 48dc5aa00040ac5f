"""The same words in several languages, as a document of parallel text has them: a text for each of its languages."""

from __future__ import annotations

from collections.abc import Mapping

from data_pipelines.errors import DocumentError
from data_pipelines.targets.target import lost
from text.document import Document, Text

__all__ = ["lost_translation", "translations"]


def translations(key: str, document: Document) -> Mapping[str, str]:
    """Words by language, in the order of `languages` in its meta.

    Raises: DocumentError for a document that is no parallel text.
    """
    languages = document.meta.get("languages")
    texts = [segment.text.strip() for segment in document.segments if isinstance(segment, Text)]
    if not isinstance(languages, (list, tuple)) or not all(isinstance(one, str) for one in languages):
        raise DocumentError(key, "cannot hold: no languages in its meta")
    if document.images:
        raise DocumentError(key, "cannot hold: pictures")
    if len(languages) < 2 or len({one.lower().replace("_", "-") for one in languages}) != len(languages):
        raise DocumentError(key, "cannot hold: not several languages", str(languages)[:80])
    if len(texts) != len(languages) or not all(texts):
        raise DocumentError(key, "cannot hold: not a text for each language", f"{len(texts)} texts, {languages}"[:80])
    return dict(zip(languages, texts, strict=True))


def lost_translation(document: Document) -> list[str]:
    """What parallel text without more loses."""
    return [*lost(document), *(["lost: meta"] if set(document.meta) - {"languages"} else [])]
