"""VQAv2's questions and answers, which are two files: `questions` and `annotations` with the same `question_id`s.

OK-VQA has the same form. Pictures are COCO's, by their number.
Source: visualqa.org, format of questions and annotations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_pipelines.errors import DocumentError
from data_pipelines.sources.captions import question_entries
from data_pipelines.sources.glimpse import Glimpse
from data_pipelines.sources.pictures import Pictures
from data_pipelines.sources.record_files import pictures_of
from data_pipelines.sources.records import list_of
from data_pipelines.sources.rows import Row
from data_pipelines.sources.source import Converted, Entry, Opened, Options
from data_pipelines.sources.whole_files import load_json, open_whole

__all__ = ["Vqa"]

QUESTIONS, ANNOTATIONS, ID, IMAGE, SUBTYPE = "questions", "annotations", "question_id", "image_id", "data_subtype"


class Vqa:
    """A picture and all its questions, or one of them a document; as `Captioned` has them."""

    def matches(self, first: Glimpse) -> bool:
        """See Source."""
        return not first.parts and any(_asks(first.record, name) for name in (QUESTIONS, ANNOTATIONS))

    def open(self, first: Glimpse, options: Options) -> Opened:
        """See Source. Raises: ValueError for questions without the file of their answers, or the other way round."""
        files = first.having("json")
        found = {path: load_json(path) for path in files}
        asked, answered = (
            tuple(path for path in files if _asks(_object(found[path]), name)) for name in (QUESTIONS, ANNOTATIONS)
        )
        if not asked or not answered:
            missing = "annotations (answers)" if asked else "questions"
            raise ValueError(f"{files[0]} comes without its file of {missing}; give both files")
        rows = open_whole(asked, _Joined(answered))
        return Converted(rows, partial(_entries, options=options, pictures=pictures_of(first, options)))


@dataclass(frozen=True)
class _Joined:
    """Pictures of a file of questions, with what is answered in other files; equal to another of the same files."""

    answers: tuple[Path, ...]

    def __call__(self, path: Path) -> Sequence[object]:
        """One record a picture. Raises: ValueError for a file of another form."""
        answered = {
            str(annotation.get(ID)): annotation
            for file in self.answers
            for annotation in map(_object, _listed(load_json(file), ANNOTATIONS))
        }
        parsed = _object(load_json(path))
        pictures: dict[object, list[object]] = {}
        for question in map(_object, _listed(parsed, QUESTIONS)):
            answer = answered.get(str(question.get(ID)), {})
            pictures.setdefault(str(question.get(IMAGE)), []).append({**answer, **question})
        return [{IMAGE: image, SUBTYPE: parsed.get(SUBTYPE), QUESTIONS: asked} for image, asked in pictures.items()]


def _entries(row: Row, options: Options, pictures: Pictures) -> Iterator[Entry]:
    questions = list_of(row.key, row.record, QUESTIONS)
    picture = _picture(row, pictures)
    yield from question_entries(row, questions, options, picture=picture)


def _picture(row: Row, pictures: Pictures) -> bytes:
    """COCO's file of a number, as 2014 and as 2017 call it; the number may be a name itself.

    Raises: DocumentError.
    """
    image = str(row.record[IMAGE])
    number = image.zfill(12)
    names = (f"COCO_{row.record[SUBTYPE]}_{number}.jpg", f"{number}.jpg", image)
    for name in names[:-1]:
        try:
            return pictures.find(row.key, name)
        except DocumentError:
            continue
    return pictures.find(row.key, names[-1])


def _asks(record: Mapping[str, object], name: str) -> bool:
    """Whether the first entry of a list has a question's number."""
    entries = record.get(name)
    return isinstance(entries, list) and bool(entries) and ID in _object(entries[0])


def _listed(parsed: object, name: str) -> Sequence[object]:
    found = _object(parsed).get(name)
    return found if isinstance(found, list) else []


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
