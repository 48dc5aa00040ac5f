"""Flickr30k Entities: sentences that mark their phrases, `[/EN#7/people A man] runs .`, and XML with the places.

Both folders of the release are given at once (`Sentences/ID.txt`, `Annotations/ID.xml`); pictures are `ID.jpg`. Where
a thing has no box, or is nothing to be seen (`EN#0`), its phrase is words alone.
Source: BryanPlummer/flickr30k_entities.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from data_pipelines.errors import DocumentError
from data_pipelines.naming import clean_key
from data_pipelines.sources.draft import Draft
from data_pipelines.sources.glimpse import Glimpse
from data_pipelines.sources.keys import unique_keys
from data_pipelines.sources.lines import read_beginning, stem
from data_pipelines.sources.pictures import Pictures
from data_pipelines.sources.record_files import pictures_of
from data_pipelines.sources.rows import Row
from data_pipelines.sources.source import Converted, Entry, Opened, Options
from data_pipelines.sources.written import written
from text.document import Box, Phrase
from text.specials import GROUNDING

__all__ = ["Entities", "is_marked"]

MAX_BYTES = 2**20  # of a file: the longest of the release has some thousands
SENTENCES, PLACES = "sentences", "places"
_MARK = re.compile(r"\[/EN#(\d+)(?:/\w+)* ([^\[\]]*)\]")
_NUMBERED = re.compile("\ue000(\\d+)\ue002([^\ue000]*)\ue001")  # marks that survive when a sentence is put in order
_PRIVATE = re.compile("[\ue000-\ue002]")


class Entities:
    """A picture, `<grounding>`, and its first sentence with places; or every sentence a document."""

    def matches(self, first: Glimpse) -> bool:
        """See Source."""
        return not first.parts and is_marked(first.line)

    def open(self, first: Glimpse, options: Options) -> Opened:
        """See Source. Raises: ValueError for sentences without the XML of their places."""
        places = {stem(path): path for path in first.having("xml")}
        sentences = first.having("txt")
        if missing := [path.name for path in sentences if stem(path) not in places]:
            raise ValueError(
                f"{missing[0]} has no {stem(Path(missing[0]))}.xml; give Sentences and Annotations at once"
            )
        keys = unique_keys(clean_key(stem(path)) for path in sentences)
        rows = _Sentences(tuple((key, path, places[stem(path)]) for key, path in zip(keys, sentences, strict=True)))
        return Converted(rows, partial(_entries, options=options, pictures=pictures_of(first, options)))


def is_marked(line: str) -> bool:
    """Whether a line marks its phrases so."""
    return _MARK.search(line) is not None


@dataclass(frozen=True)
class _Sentences:
    """Pictures by number: key, sentences, places."""

    files: tuple[tuple[str, Path, Path], ...]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, start: int, stop: int) -> Iterator[Row | DocumentError]:
        """See Rows."""
        for key, sentences, places in self.files[start:stop]:
            try:
                lines = _text(key, sentences).splitlines()
                found = _places(key, places)
            except DocumentError as error:
                yield error
                continue
            yield Row(key, {"image": f"{stem(sentences)}.jpg", SENTENCES: lines, PLACES: found})


def _entries(row: Row, options: Options, pictures: Pictures) -> Iterator[Entry]:
    sentences, places = row.record[SENTENCES], row.record[PLACES]
    assert isinstance(sentences, list)
    assert isinstance(places, Mapping)
    said = [sentence for sentence in sentences if sentence.strip()]
    if not said:
        raise DocumentError(row.key, "no words", "no sentence has any")
    for number, sentence in enumerate(said if options.each == "caption" else said[:1]):
        draft = Draft(clean_key(f"{row.key}-{number}") if options.each == "caption" else row.key, pictures)
        draft.picture(str(row.record["image"]))
        draft.control(GROUNDING)
        words, phrases = _read(sentence, places, verbatim=options.verbatim)
        draft.words(words, phrases=phrases)
        yield draft.entry({"image": row.record["image"]})


def _read(sentence: str, places: Mapping[str, tuple[Box, ...]], *, verbatim: bool) -> tuple[str, tuple[Phrase, ...]]:
    """Words without marks, and the phrases that have places."""
    marked = _MARK.sub("\ue000\\1\ue002\\2\ue001", _PRIVATE.sub("", sentence))
    marked = marked.strip() if verbatim else written(marked)
    words, phrases, end = "", [], 0
    for mark in _NUMBERED.finditer(marked):
        words += marked[end : mark.start()]
        start, end = len(words), mark.end()
        words += mark[2]
        if (boxes := places.get(mark[1])) and mark[2].strip():
            phrases.append(Phrase(start=start, end=len(words), boxes=boxes))
    words += marked[end:]
    first = words[:1].upper()
    # A sentence that begins with a mark could not begin with a large letter before.
    return (words if verbatim or len(first) != 1 else first + words[1:]), tuple(phrases)


def _places(key: str, path: Path) -> dict[str, tuple[Box, ...]]:
    """The boxes of each thing by its number, as fractions.

    Raises: DocumentError for XML of another form.
    """
    root = _parsed(key, path)
    try:
        width, height = (float(root.findtext(f"size/{name}") or 0) for name in ("width", "height"))
        found: dict[str, list[Box]] = defaultdict(list)
        for thing in root.iter("object"):
            for box in thing.iter("bndbox"):
                left, top, right, bottom = (float(box.findtext(name) or 0) for name in ("xmin", "ymin", "xmax", "ymax"))
                corners = (left / width, top / height, right / width, bottom / height)
                x0, y0, x1, y1 = (min(max(corner, 0.0), 1.0) for corner in corners)
                if x0 < x1 and y0 < y1:
                    for name in thing.iter("name"):
                        found[str(name.text).strip()].append((x0, y0, x1, y1))
    except (ValueError, ZeroDivisionError) as error:
        raise DocumentError(key, "malformed phrases", f"{path.name}: {error}") from None
    return {name: tuple(boxes) for name, boxes in found.items()}


def _parsed(key: str, path: Path) -> Element:
    try:
        from defusedxml import DefusedXmlException
        from defusedxml.ElementTree import fromstring
    except ImportError:
        raise ValueError("reading places in XML needs the extra `data`: pip install 'kosmos-mllm[data]'") from None
    try:
        root: Element = fromstring(_text(key, path), forbid_dtd=True)
    except (DefusedXmlException, ParseError) as error:
        raise DocumentError(key, "malformed phrases", f"{path.name}: {error}") from None
    return root


def _text(key: str, path: Path) -> str:
    data = read_beginning(path, MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise DocumentError(key, "file too large", f"{path.name}: more than {MAX_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(key, "text is not UTF-8", f"{path.name}: {error}") from None
