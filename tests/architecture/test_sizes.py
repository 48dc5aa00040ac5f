"""Files end at 400 lines and functions at 60; the median function stays under 15."""

from __future__ import annotations

import ast
from pathlib import Path
from statistics import median

import pytest

from tests.architecture.house import SOURCES, TESTS, place

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MEDIAN_FUNCTION_LINES = 15


def _functions(path: Path) -> list[tuple[str, int, int]]:
    """Name, first line and number of lines of every function of a file, methods and inner ones included."""
    return [
        (node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=place)
def test_a_file_is_short_and_so_are_its_functions(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, f"{place(path)} has {lines} lines, limit {MAX_FILE_LINES}; split it by idea"
    long = [
        f"{place(path)}:{first} {name} has {length} lines, limit {MAX_FUNCTION_LINES}"
        for name, first, length in _functions(path)
        if length > MAX_FUNCTION_LINES
    ]
    assert not long, "\n".join(long)


def test_the_median_function_is_a_paragraph() -> None:
    lengths = [length for path in SOURCES for _, _, length in _functions(path)]
    assert median(lengths) < MEDIAN_FUNCTION_LINES
