"""Pictures with captions, or with questions and answers, in fields of a record: how either becomes documents.

Used by every format that holds such records. A picture and its first caption make a document (the others stay in
`captions` of its meta), or each caption makes one; questions follow a picture in turn, or each makes a document.
Source of the questions' wording: Kosmos-1 paper, section 4.2 and appendix ("Question: ... Answer: ...").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from data_pipelines.errors import DocumentError
from data_pipelines.naming import clean_key
from data_pipelines.schema import PICTURE_PARTS
from data_pipelines.sources.draft import Draft
from data_pipelines.sources.glimpse import Glimpse
from data_pipelines.sources.pictures import Pictures
from data_pipelines.sources.records import kept, list_of, strings_of
from data_pipelines.sources.rows import Row
from data_pipelines.sources.samples import open_samples
from data_pipelines.sources.source import Converted, Entry, Opened, Options
from data_pipelines.sources.written import written

__all__ = ["Captioned", "caption_entries", "question_entries"]

CAPTIONS, QUESTIONS = "captions", "qas"


class Captioned:
    """Tars (or folders) of `KEY.jpg` + `KEY.json` with lists of captions or of questions."""

    def matches(self, first: Glimpse) -> bool:
        """See Source."""
        named = any(isinstance(first.record.get(name), list) for name in (CAPTIONS, QUESTIONS))
        # Words beside the picture come first: then the lists are what else is known of a pair.
        return first.has_picture and named and "txt" not in first.parts and "segments" not in first.record

    def open(self, first: Glimpse, options: Options) -> Opened:
        """See Source."""
        if not options.captions and not options.questions and CAPTIONS not in first.record:
            if QUESTIONS not in first.record:
                raise ValueError(
                    f"no field {CAPTIONS!r} or {QUESTIONS!r} among {sorted(first.record)[:12]} of the first record; "
                    "say which it is by --captions FIELD or --questions FIELD"
                )
            return Converted(open_samples(first), partial(_sample_questions, name=QUESTIONS, options=options))
        if options.questions:
            return Converted(open_samples(first), partial(_sample_questions, name=options.questions, options=options))
        return Converted(open_samples(first), partial(_sample_captions, options=options))


class _Asked(NamedTuple):
    """A question and its answer as they are put into a document."""

    question: str
    answer: str


def caption_entries(
    row: Row, captions: list[str], options: Options, *, picture: bytes | str, pictures: Pictures | None = None
) -> Iterator[Entry]:
    """The documents of one picture.

    Args:
        captions: as released.   picture: its bytes, or its name in `pictures`.
    Raises: DocumentError.
    """
    texts = [text for caption in captions if (text := caption if options.verbatim else written(caption)).strip()]
    if not texts:
        raise DocumentError(row.key, "no words", "no caption has any")
    meta = kept(row.record)
    if options.each == "caption":
        for number, text in enumerate(texts):
            yield _pair(f"{row.key}-{number}", picture, text, meta, pictures)
    else:
        yield _pair(row.key, picture, texts[0], {**meta, "captions": texts} if len(texts) > 1 else meta, pictures)


def _pair(wanted: str, picture: bytes | str, text: str, meta: Mapping[str, object], pictures: Pictures | None) -> Entry:
    draft = Draft(clean_key(wanted), pictures)
    draft.picture(picture)
    draft.words(text)
    return draft.entry(meta)


def _sample_captions(row: Row, options: Options) -> Iterator[Entry]:
    captions = strings_of(row.key, row.record, options.captions or CAPTIONS)
    yield from caption_entries(row, captions, options, picture=_picture(row))


def question_entries(
    row: Row, questions: Sequence[object], options: Options, *, picture: bytes | str, pictures: Pictures | None = None
) -> Iterator[Entry]:
    """The documents of one picture: what is asked is read, answers are learnt.

    Args:
        questions: objects with `question` and `answer` or `answers`.   picture: its bytes, or its name in `pictures`.
    Raises: DocumentError.
    """
    asked = [_asked(row.key, one, options) for one in questions]
    if not asked:
        raise DocumentError(row.key, "no words", "no question has any")
    groups = [[one] for one in asked] if options.each == "caption" else [asked]
    for number, group in enumerate(groups):
        draft = Draft(clean_key(f"{row.key}-{number}") if options.each == "caption" else row.key, pictures)
        draft.picture(picture)
        for one in group:
            draft.words(f"Question: {one.question} Answer:", loss=False)
            draft.words(one.answer)
        yield draft.entry(kept(row.record))


def _sample_questions(row: Row, name: str, options: Options) -> Iterator[Entry]:
    yield from question_entries(row, list_of(row.key, row.record, name), options, picture=_picture(row))


def _asked(key: str, record: object, options: Options) -> _Asked:
    if not isinstance(record, Mapping):
        raise DocumentError(key, "malformed record", "a question is an object with `question` and `answers`")
    question = strings_of(key, record, "question")[0]
    return _Asked(question if options.verbatim else written(question), _answer(key, record))


def _answer(key: str, record: Mapping[str, object]) -> str:
    """All answers belong to it, as in DAQUAR; where some are equal, people were asked (VQAv2), and most say so."""
    if isinstance(agreed := record.get("multiple_choice_answer"), str):
        return agreed
    given = record.get("answers")
    if isinstance(given, list) and given and all(isinstance(one, Mapping) for one in given):
        record = {"answers": [one.get("answer") for one in given]}
    answers = strings_of(key, record, "answers" if "answers" in record else "answer")
    return ", ".join(answers) if len(set(answers)) == len(answers) else Counter(answers).most_common(1)[0][0]


def _picture(row: Row) -> bytes:
    part = next((part for part in PICTURE_PARTS if part in row.parts), None)
    if part is None:
        raise DocumentError(row.key, "no picture", f"parts are {', '.join(row.parts)}")
    return row.parts[part]
