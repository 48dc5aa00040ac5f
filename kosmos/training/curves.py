"""The curves of a run as one HTML file that holds its style, its script and its numbers, and asks for nothing.

A policy inside it lets run only this style and this script, by their hashes; what the log says is a block of JSON that
the script draws and shows as text. So nothing that a log holds, a model's own words included, can do more than be read.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from operator import itemgetter
from pathlib import Path
from typing import TypeGuard

from data_pipelines.whole_file import whole_file
from kosmos.training.figure_names import GROUPS, SAMPLES, WHERE, group_of, is_loss
from kosmos.training.run_log import Record, place_of, read_log

__all__ = ["CURVES", "write_curves"]

CURVES = "curves.html"
MOST_POINTS = 500  # of a curve; of a longer one, as many stretches with their mean, lowest and highest value
MOST_SAMPLES = 60
TITLES = {
    "learning_rate": "Learning rate",
    "gradient_norm": "Gradient norm",
    "skipped": "Steps passed over",
    "tokens_per_s": "Tokens a second",
    "images_per_s": "Pictures a second",
    "mfu": "Model FLOPs utilisation",
    "seconds": "Seconds of a step",
    "seconds_per_step": "Seconds a step, pauses included",
    "balance": "Balance loss of the experts",
    "validation_cider_d": "CIDEr-D in validation",
}
COLOURS = {"text": 0, "caption": 1, "pictures": 1, "interleaved": 2, "instruction": 3, "loss": 4}  # same kind, same hue
NO_CURVES = (*WHERE, SAMPLES, "not_finite")  # the last counts the nulls of its line, which stand in their curves
Json = dict[str, object]


@dataclass(frozen=True)
class _Point:
    """A figure at a step counted through all stages; None where it was not finite."""

    step: int
    value: float | None


def write_curves(log: Path, page: Path, title: str) -> None:
    """Draw a log, also of a run that goes on or has said nothing yet, into a page that appears whole or not at all.

    Raises: OSError; ValueError for a broken line of the log.
    """
    content = _content(read_log(log) if log.exists() else [], title)
    style, script = _file("curves.css"), _file("curves.js")
    rest = "img-src data:; base-uri 'none'; form-action 'none'"
    parts = {
        "POLICY": f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; {rest}",
        "TITLE": html.escape(title),
        "STYLE": style,
        "SCRIPT": script,
        "CONTENT": _inert(content),
    }
    with whole_file(page) as file:
        file.write("".join(_fill(_file("curves.html"), parts)).encode())


def _content(records: Sequence[Record], title: str) -> Json:
    stages = _stages(records)
    begins = {stage["number"]: stage["begins"] for stage in stages}
    series: dict[str, list[_Point]] = {}
    samples: list[Json] = []
    for record in records:
        number, step = place_of(record)
        overall = step + int(str(begins[number]))
        for name, value in record.items():
            if name not in NO_CURVES and (value is None or _is_number(value)):
                series.setdefault(name, []).append(_Point(overall, _finite(value)))
        written = record.get(SAMPLES)
        if isinstance(written, Mapping):
            where = {"step": overall, "stage": str(record.get("stage", ""))}
            samples += [{**where, "name": str(name), "words": str(words)} for name, words in written.items()]
    charts = [_chart(names, series) for names in _together(series)]
    last = max((point.step for points in series.values() for point in points), default=0)
    return {"title": title, "last": last, "stages": stages, "charts": charts, "samples": samples[-MOST_SAMPLES:]}


def _stages(records: Sequence[Record]) -> list[Json]:
    """In order: number, name, the steps before its first one, its last step; steps through all stages."""
    ends: Counter[int] = Counter()
    names: dict[int, str] = {}
    for record in records:
        number, step = place_of(record)
        ends[number] = max(ends[number], step)
        names[number] = str(record.get("stage", number))
    stages, before = list[Json](), 0
    for number in sorted(ends):
        stages.append({"number": number, "name": names[number], "begins": before, "ends": before + ends[number]})
        before += ends[number]
    return stages


def _together(names: Mapping[str, object]) -> Iterator[list[str]]:
    """Names that share a chart, chart by chart: losses in training, losses in validation; any other has its own."""
    for group in GROUPS:
        members = [name for name in names if group_of(name) == group]
        losses = [name for name in members if is_loss(name)]
        if losses:
            yield losses
        yield from ([name] for name in members if name not in losses)


def _chart(names: Sequence[str], series: Mapping[str, list[_Point]]) -> Json:
    group = group_of(names[0])
    free = iter(range(len(COLOURS), len(COLOURS) + len(names)))
    curves = []
    for name in names:
        kind = name.removeprefix("validation_")
        hue = COLOURS[kind] if kind in COLOURS else next(free)
        alone = len(names) == 1 and not is_loss(name)
        curves.append({"name": name, "hue": 0 if alone else hue, **_curve(series[name])})
    return {"group": group, "title": _title(names), "series": curves}


def _title(names: Sequence[str]) -> str:
    if is_loss(names[0]):
        return "Loss in validation" if group_of(names[0]) == "validation" else "Loss"
    return TITLES.get(names[0], names[0].replace("_", " ").capitalize())


def _curve(points: Sequence[_Point]) -> Json:
    """Its points as [step, value] or, condensed, [step, mean, lowest, highest]; beside them what condensing loses."""
    finite = [(point.step, point.value) for point in points if point.value is not None]
    found: Json = {"points": list(_condensed(points)), "count": len(points), "not_finite": len(points) - len(finite)}
    if finite:
        by_value = itemgetter(1)
        found |= {"latest": finite[-1], "lowest": min(finite, key=by_value), "highest": max(finite, key=by_value)}
    return found


def _condensed(points: Sequence[_Point]) -> Iterator[list[float | None]]:
    if len(points) <= MOST_POINTS:
        yield from ([point.step, point.value] for point in points)
        return
    for number in range(MOST_POINTS):
        stretch = points[number * len(points) // MOST_POINTS : (number + 1) * len(points) // MOST_POINTS]
        values = [point.value for point in stretch if point.value is not None]
        mean = _short(sum(values) / len(values)) if values else None
        yield [stretch[-1].step, mean, min(values, default=None), max(values, default=None)]


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _fill(template: str, parts: Mapping[str, str]) -> Iterator[str]:
    """The template with `{{NAME}}` filled in one pass: a part is never searched for names."""
    for place, piece in enumerate(template.split("{{")):
        name, closed, rest = piece.partition("}}") if place else ("", "", piece)
        yield parts[name] + rest if closed else rest


def _inert(content: Json) -> str:
    """JSON that no parser of HTML can take for markup: without `<`, `>` and `&`."""
    written = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _file(name: str) -> str:
    return (files("kosmos.training") / name).read_text("utf-8")
