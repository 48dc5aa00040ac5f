"""LLaVA's JSON: turns of a person (pictures, and words that are not learnt) and of the model (words that are)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from data_pipelines.errors import DocumentError
from data_pipelines.targets.files import put_picture, to_json
from data_pipelines.targets.target import Place, WriteDocument, lost, pictures_of
from data_pipelines.whole_file import whole_file
from text.document import Document, Image, Text
from text.specials import IMAGE

__all__ = ["open_llava"]

HUMAN, MODEL = "human", "gpt"


@contextmanager
def open_llava(place: Place) -> Iterator[WriteDocument]:
    """`NAME.json`, pictures under `images/`. Holds documents that begin with a person's turn and end with an answer."""
    with whole_file(place.folder / f"{place.name}.json") as file:
        written = 0

        def write(key: str, document: Document) -> Sequence[str]:
            nonlocal written
            turns = _turns(key, document)
            pictures = pictures_of(key, document)
            names = [put_picture(place, key, number, picture) for number, picture in enumerate(pictures)]
            image = {"image": names[0] if len(names) == 1 else names} if names else {}
            meta = {name: value for name, value in document.meta.items() if name not in ("image", "images")}
            record = {"id": key, **meta, **image, "conversations": turns}
            file.write(f"{',' if written else '['}\n{to_json(record)}".encode())
            written += 1
            return lost(document, turns=True)

        yield write
        file.write(b"\n]\n" if written else b"[]\n")


def _turns(key: str, document: Document) -> list[dict[str, str]]:
    """Who says what, in turn. Raises: DocumentError for what is no exchange."""
    turns: list[tuple[str, list[str]]] = []
    for segment in document.segments:
        if not isinstance(segment, (Image, Text)):
            continue
        speaker = MODEL if isinstance(segment, Text) and segment.loss else HUMAN
        if not turns or turns[-1][0] != speaker:
            turns.append((speaker, []))
        turns[-1][1].append(segment.text.strip() if isinstance(segment, Text) else IMAGE)
    if not turns or turns[0][0] != HUMAN:
        raise DocumentError(key, "cannot hold: begins with an answer")
    if turns[-1][0] != MODEL:
        raise DocumentError(key, "cannot hold: ends without an answer")
    if any(IMAGE in segment.text for segment in document.segments if isinstance(segment, Text)):
        raise DocumentError(key, "cannot hold: an image tag among the words")
    return [{"from": speaker, "value": "\n".join(words)} for speaker, words in turns]
