"""A caption list as Flickr30k's: `picture.jpg#0<tab>caption`, a line a caption, pictures in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from data_pipelines.targets.captions import BROKEN_LINES, captions_of, on_one_line
from data_pipelines.targets.files import put_picture
from data_pipelines.targets.target import Place, WriteDocument, lost, the_pair
from data_pipelines.whole_file import whole_file
from text.document import Document

__all__ = ["open_flickr"]


@contextmanager
def open_flickr(place: Place) -> Iterator[WriteDocument]:
    """`NAME.txt`. Holds documents of one picture and words after it, with the other captions of their meta."""
    with whole_file(place.folder / f"{place.name}.txt") as file:

        def write(key: str, document: Document) -> Sequence[str]:
            picture, words = the_pair(key, document)
            captions = captions_of(document, words)
            lines = [on_one_line(caption) for caption in captions]
            name = put_picture(place, key, 0, picture)
            file.write("".join(f"{name}#{number}\t{line}\n" for number, line in enumerate(lines)).encode())
            broken = any(line != caption.strip() for line, caption in zip(lines, captions, strict=True))
            meta = ["lost: meta"] if set(document.meta) - {"captions"} else []
            return [*lost(document), *meta, *([BROKEN_LINES] if broken else [])]

        yield write
