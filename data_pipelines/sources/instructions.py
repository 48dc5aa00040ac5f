"""Instructions with what they are about and what should come of them; only the outcome is learnt.

Alpaca's `instruction`, `input`, `output`; Unnatural Instructions, whose record has `instances` of one instruction;
Dolly's `context` and `response`; FLAN's `inputs` and `targets`; `prompt` and `completion`.
Source: Kosmos-1 (arXiv 2302.14045, section 3.3): no loss on instruction and input. Files: tatsu-lab/stanford_alpaca,
orhonovich/unnatural-instructions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from data_pipelines.errors import DocumentError
from data_pipelines.naming import clean_key
from data_pipelines.sources.draft import Draft
from data_pipelines.sources.glimpse import Glimpse
from data_pipelines.sources.picture_records import picture_of
from data_pipelines.sources.pictures import Pictures
from data_pipelines.sources.record_files import open_records, pictures_of
from data_pipelines.sources.records import kept, list_of, string_of
from data_pipelines.sources.rows import Row
from data_pipelines.sources.source import Converted, Entry, Opened, Options

__all__ = ["Instructions"]

INSTRUCTIONS = ("instruction", "inputs", "prompt")
ABOUT = ("input", "context", "constraints")
OUTCOMES = ("output", "response", "targets", "completion")
INSTANCES = "instances"
NOTHING = ("", "none", "none.", "<noinput>", "n/a")  # how the data sets say that there is no input or constraint


class Instructions:
    """A document for each outcome: picture if there is one, instruction and input on lines of their own, outcome."""

    def matches(self, first: Glimpse) -> bool:
        """See Source."""
        asks = any(name in first.record for name in INSTRUCTIONS)
        return asks and not first.parts and any(name in first.record for name in (*OUTCOMES, INSTANCES))

    def open(self, first: Glimpse, options: Options) -> Opened:
        """See Source."""
        return Converted(open_records(first), partial(_entries, pictures=pictures_of(first, options)))


def _entries(row: Row, pictures: Pictures) -> Iterator[Entry]:
    record = row.record
    instruction = string_of(row.key, record, next((name for name in INSTRUCTIONS if name in record), INSTRUCTIONS[0]))
    if INSTANCES not in record:
        yield _entry(row, row.key, instruction, record, pictures)
        return
    instances = list_of(row.key, record, INSTANCES)
    if not instances:
        raise DocumentError(row.key, "no words", "an instruction without instances")
    for number, instance in enumerate(instances):
        if not isinstance(instance, Mapping):
            raise DocumentError(row.key, "malformed record", "an instance is an object with `input` and `output`")
        key = clean_key(f"{row.key}-{number}") if len(instances) > 1 else row.key
        yield _entry(row, key, instruction, instance, pictures)


def _entry(row: Row, key: str, instruction: str, case: Mapping[str, object], pictures: Pictures) -> Entry:
    outcome = string_of(key, case, next((name for name in OUTCOMES if name in case), OUTCOMES[0]))
    draft = Draft(key, pictures)
    picture = picture_of(row)
    if picture is not None:
        draft.picture(picture)
    told = [instruction, *(str(case.get(name) or "") for name in ABOUT)]
    draft.words("\n".join(one.strip() for one in told if one.strip().lower() not in NOTHING), loss=False)
    draft.words(outcome.strip())
    return draft.entry(kept(row.record, besides=(*INSTRUCTIONS, *ABOUT, *OUTCOMES, "text")))
