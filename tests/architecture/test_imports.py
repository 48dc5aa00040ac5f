"""Imports go down only, nobody imports the root, and what must be light stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from kosmos.cli.main import VERBS
from tests.architecture.house import ROOT, SOURCES, module_name, place, python

HEAVY = ("torch", "torchvision", "timm", "open_clip", "transformers", "rich", "fastapi", "numpy")
LIGHT_MODULES = ["kosmos.config", "kosmos.options", "kosmos.chat", "kosmos.presets", "text.document", "vision.config"]
PRINT_HEAVY = f"import sys; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"


def _imports_of_the_root(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        bare = isinstance(node, ast.Import) and any(alias.name == "kosmos" for alias in node.names)
        taken = isinstance(node, ast.ImportFrom) and node.module == "kosmos" and not _are_modules(node.names)
        if isinstance(node, ast.Import | ast.ImportFrom) and (bare or taken):
            found.append(f"{place(path)}:{node.lineno} {ast.unparse(node)}")
    return found


def _are_modules(names: list[ast.alias]) -> bool:
    """Whether `from kosmos import ...` takes modules only, which are judged by the contracts."""
    return all((ROOT / "kosmos" / f"{alias.name}.py").is_file() for alias in names)


def test_imports_follow_the_contracts() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-logo", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_module_of_the_house_imports_the_root() -> None:
    found = [line for path in SOURCES for line in _imports_of_the_root(path)]
    # The version is a plain string and has one home.
    assert [line for line in found if not line.endswith(" from kosmos import __version__")] == []


def test_help_imports_nothing_heavy() -> None:
    code = f"""
from kosmos.cli.main import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
print("loaded:", end=" ")
{PRINT_HEAVY}
"""
    assert python(code).endswith("loaded: \n")


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_imports_nothing_heavy(verb: str) -> None:
    code = f"""
import sys
from kosmos.cli.main import main
try:
    main([sys.argv[1], "--help"])
except SystemExit as end:
    assert end.code == 0
print("loaded:", end=" ")
{PRINT_HEAVY}
"""
    assert python(code, verb).endswith("loaded: \n")


def test_importing_the_root_is_free() -> None:
    assert python(f"import kosmos; {PRINT_HEAVY}") == "\n"


def test_the_http_side_and_plain_values_never_import_torch() -> None:
    modules = [module_name(path) for path in SOURCES if place(path).startswith("serving/http/")] + LIGHT_MODULES
    code = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    assert "torch" not in sys.modules, f"{name} imports torch"
"""
    python(code, *modules)
