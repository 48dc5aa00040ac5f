"""A file says what it is, by its name and its first sentence; a module's public names are the ones it lists."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import kosmos
import kosmos.transformer
from tests.architecture.house import ROOT, SOURCES, TESTS, place

MEANINGLESS = {"util", "utils", "helper", "helpers", "common", "misc", "base", "manager"}


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _listed(tree: ast.Module) -> set[str] | None:
    """The names in `__all__`, or None where a module has none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == "__all__" for to in node.targets):
            return set(ast.literal_eval(node.value))
    return None


def _assigned(tree: ast.Module) -> set[str]:
    """The names a module binds by assignment, `A, B = 1, 2` included."""
    plain = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    annotated = [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    inner = [part for target in [*plain, *annotated] for part in ast.walk(target)]
    return {part.id for part in inner if isinstance(part, ast.Name)}


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=place)
def test_a_file_is_named_after_what_it_holds_and_opens_by_saying_so(path: Path) -> None:
    assert not MEANINGLESS & set(path.relative_to(ROOT).with_suffix("").parts), f"{place(path)}: name it by its idea"
    empty_test_package = path in TESTS and path.name == "__init__.py" and not path.read_bytes()
    assert empty_test_package or ast.get_docstring(_tree(path)), f"{place(path)} has no header docstring"


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name != "__init__.py"], ids=place)
def test_all_lists_exactly_the_public_names(path: Path) -> None:
    tree = _tree(path)
    listed = _listed(tree)
    assert listed is not None, f"{place(path)} has no __all__"
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    defined = {node.name for node in tree.body if isinstance(node, kinds)}
    public = {name for name in defined if not name.startswith("_")}
    assert public <= listed, f"{place(path)}: public but not in __all__: {sorted(public - listed)}"
    unknown = listed - defined - _assigned(tree)
    assert not unknown, f"{place(path)}: in __all__ but not defined here: {sorted(unknown)}"


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name == "__init__.py"], ids=place)
def test_a_package_front_holds_its_contents_page_and_no_code(path: Path) -> None:
    if place(path) in ("kosmos/__init__.py", "kosmos/transformer/__init__.py"):
        return  # public names, resolved lazily: the next tests
    rest = [node for node in _tree(path).body if not isinstance(node, ast.Expr)]
    assert not rest, f"{place(path)}:{rest[0].lineno} has code; a package's front is a docstring"


@pytest.mark.parametrize("name", kosmos.__all__)
def test_every_public_name_resolves(name: str) -> None:
    value = getattr(kosmos, name)
    home = getattr(value, "__module__", None)
    assert name == "__version__" or getattr(importlib.import_module(str(home)), name) is value


@pytest.mark.parametrize("name", kosmos.transformer.__all__)
def test_every_public_name_of_the_transformer_resolves(name: str) -> None:
    value = getattr(kosmos.transformer, name)
    assert value.__module__.startswith("kosmos.transformer.")
    assert getattr(importlib.import_module(value.__module__), name) is value


def test_a_name_that_the_transformer_lacks_is_answered_with_those_it_has() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Retention'; it has .*Decoder"):
        kosmos.transformer.Retention  # noqa: B018
