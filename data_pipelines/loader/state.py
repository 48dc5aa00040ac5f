"""What a loader remembers: batches used, where each lane is, and what was passed over; a few kilobytes of JSON.

Every rank knows its own lanes. `merge_states` puts the states of all ranks together; from that a run goes on with any
number of ranks and workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from data_pipelines.loader.blend import Taken
from data_pipelines.loader.lane import LaneState
from data_pipelines.report import Report

__all__ = ["LoaderState", "merge_states"]

VERSION = 1
NAMED = 3  # differences told


@dataclass(frozen=True, kw_only=True)
class LoaderState:
    """A point of a run, between two steps.

    Attributes:
        batches: used by all ranks together.
        shapes: of each stream (`OpenStream.shape`), to know another run by.
        states: of lanes that have begun, by stream and lane.
        before, here: what became of documents until this process began, and in it.
    """

    seed: int
    lanes: int
    shapes: Mapping[str, Mapping[str, object]]
    batches: int = 0
    states: Mapping[str, Mapping[int, LaneState]] = field(default_factory=dict)
    before: Report = field(default_factory=Report)
    here: Report = field(default_factory=Report)

    def to_record(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "version": VERSION,
            "seed": self.seed,
            "lanes": self.lanes,
            "shapes": {name: dict(shape) for name, shape in self.shapes.items()},
            "batches": self.batches,
            "states": {
                name: {str(lane): _lane_record(state) for lane, state in sorted(states.items())}
                for name, states in self.states.items()
            },
            "before": self.before.to_record(),
            "here": self.here.to_record(),
        }

    def check_same_run(self, other: LoaderState) -> None:
        """Raises: ValueError where streams or lanes are not those of `other`, with what differs."""
        mine, others = ({"lanes": state.lanes, **_flat(state.shapes)} for state in (self, other))
        names = [name for name in {**mine, **others} if mine.get(name) != others.get(name)]
        if names:
            seen = "; ".join(f"{name} was {mine.get(name)}, now {others.get(name)}" for name in names[:NAMED])
            raise ValueError(f"the state is of another run: {seen}; a run keeps its lanes, streams and documents")

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> LoaderState:
        """What `to_record` gave. Raises: ValueError for anything else."""
        if record.get("version") != VERSION:
            raise ValueError(f"a loader's state of version {record.get('version')!r}; this one reads version {VERSION}")
        try:
            return _read(record)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"this is no state of a loader ({type(error).__name__}: {error})") from None


def merge_states(records: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """One state from those of all ranks after the same step.

    Raises: ValueError for states of different runs or steps.
    """
    states = [LoaderState.from_record(record) for record in records]
    first = states[0]
    runs = {(state.seed, state.lanes, state.batches) for state in states}
    if len(runs) > 1:
        raise ValueError(f"states of different runs or steps (seed, lanes, batches): {sorted(runs)}")
    merged: dict[str, dict[int, LaneState]] = {name: {} for name in first.shapes}
    here = Report()
    for state in states:
        here = here + state.here
        for name, lanes in state.states.items():
            for lane, found in lanes.items():
                # Where several ranks pack one lane, the one that gave its last batch is furthest.
                merged[name][lane] = max(merged[name].get(lane, found), found, key=lambda lane: lane.used)
    return replace(first, states=merged, here=here).to_record()


def _flat(shapes: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    return {f"{stream}.{name}": value for stream, shape in shapes.items() for name, value in shape.items()}


def _lane_record(state: LaneState) -> list[object]:
    return [list(state.start.documents), list(state.start.rows), state.gone, state.used]


def _read(record: Mapping[str, Any]) -> LoaderState:
    states = {
        name: {
            int(lane): LaneState(Taken(tuple(documents), tuple(rows)), gone, used)
            for lane, (documents, rows, gone, used) in lanes.items()
        }
        for name, lanes in record["states"].items()
    }
    return LoaderState(
        seed=record["seed"],
        lanes=record["lanes"],
        shapes=record["shapes"],
        batches=record["batches"],
        states=states,
        before=Report.from_record(record["before"]),
        here=Report.from_record(record["here"]),
    )
