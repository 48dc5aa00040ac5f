"""TMX, the exchange format of translation memories: XML from strangers, so entities and documents types are refused.

Source: TMX 1.4b specification (`tu` with a `tuv` a language, `seg` with the words; inline elements hold markup).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from data_pipelines.sources.glimpse import Glimpse
from data_pipelines.sources.lines import open_plain
from data_pipelines.sources.parallel import parallel_document
from data_pipelines.sources.rows import Row
from data_pipelines.sources.source import Converted, Entry, Opened, Options
from data_pipelines.sources.whole_files import open_whole

__all__ = ["Tmx"]

XML_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
MARKUP = frozenset(("bpt", "ept", "it", "ph", "ut"))  # codes of the original's format, not words


class Tmx:
    """A document for each translation unit."""

    def matches(self, first: Glimpse) -> bool:
        """See Source."""
        return first.only("tmx")

    def open(self, first: Glimpse, options: Options) -> Opened:
        """See Source."""
        return Converted(open_whole(first.files, _units), partial(_entries, wanted=options.languages))


def _entries(row: Row, wanted: tuple[str, ...]) -> Iterator[Entry]:
    yield parallel_document(row.key, row.record, wanted or tuple(row.record), {})


def _units(path: Path) -> Sequence[object]:
    """Words by language of every unit.

    Raises: ValueError for XML that is broken or declares entities.
    """
    try:
        from defusedxml import DefusedXmlException
        from defusedxml.ElementTree import iterparse
    except ImportError:
        raise ValueError("reading TMX needs the extra `data`: pip install 'kosmos-mllm[data]'") from None
    units: list[object] = []
    with open_plain(path) as stream:
        try:
            for _, element in iterparse(stream, forbid_dtd=False):
                if element.tag == "tu":
                    units.append(_unit(element))
                    element.clear()
        except DefusedXmlException as error:
            raise ValueError(f"{path} declares entities, which may be an attack; refused ({error})") from None
        except ParseError as error:
            raise ValueError(f"{path} is broken XML: {error}") from None
    return units


def _unit(unit: Element) -> dict[str, str]:
    found = {}
    for variant in unit.iter("tuv"):
        segment = variant.find("seg")
        language = variant.get(XML_LANGUAGE) or variant.get("lang") or ""
        if segment is not None:
            found[language.lower().replace("_", "-")] = _words(segment)
    return found


def _words(segment: Element) -> str:
    """The words of a segment; inline codes are passed over, what follows them is not."""
    for inner in list(segment.iter()):
        if inner.tag in MARKUP:
            after = inner.tail
            inner.clear()
            inner.tail = after
    return "".join(segment.itertext())
