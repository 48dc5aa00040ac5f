"""TMX, the exchange format of translation memories: a translation unit for each document of parallel text.

Source: TMX 1.4b specification.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from xml.sax.saxutils import escape, quoteattr

from data_pipelines.errors import DocumentError
from data_pipelines.targets.target import Place, WriteDocument
from data_pipelines.targets.translations import lost_translation, translations
from data_pipelines.whole_file import whole_file
from text.document import Document

__all__ = ["open_tmx"]

HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<tmx version="1.4">
<header creationtool="kosmos" creationtoolversion="1" segtype="block" o-tmf="shards" adminlang="en" srclang="*all*" \
datatype="plaintext"/>
<body>
"""
TAIL = "</body>\n</tmx>\n"
RESPELT = "changed: a language is spelt in small letters"
_NO_FORM = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters XML 1.0 has no form for, not even an escaped one."""


@contextmanager
def open_tmx(place: Place) -> Iterator[WriteDocument]:
    """`NAME.tmx`. Holds parallel text, each document in languages of its own."""
    with whole_file(place.folder / f"{place.name}.tmx") as file:
        file.write(HEAD.encode())

        def write(key: str, document: Document) -> Sequence[str]:
            texts = translations(key, document)
            spelt = {_spelt(language): text for language, text in texts.items()}
            if any(map(_NO_FORM.search, (*spelt, *spelt.values()))):
                raise DocumentError(key, "cannot hold: a character that XML has no form for")
            variants = "".join(_variant(language, text) for language, text in spelt.items())
            file.write(f"<tu tuid={quoteattr(key)}>\n{variants}</tu>\n".encode())
            return [*lost_translation(document), *([RESPELT] if list(spelt) != list(texts) else [])]

        yield write
        file.write(TAIL.encode())


def _spelt(language: str) -> str:
    return language.lower().replace("_", "-")


def _variant(language: str, text: str) -> str:
    words = escape(text, {"\r": "&#13;"})  # a bare one would be read as a line feed
    return f"<tuv xml:lang={quoteattr(language)}><seg>{words}</seg></tuv>\n"
