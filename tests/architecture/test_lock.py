"""The locks name versions and hashes and no address, and lock what the project asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.architecture.house import ROOT

LOCKS = ("requirements.lock", "requirements-uv.lock", "requirements-peers.lock")


def _entries(lock: str) -> list[str]:
    """One string a requirement: continuation lines joined."""
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _name(requirement: str) -> str:
    """The distribution's name as indexes normalise it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0]).lower()


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_one_version_and_a_hash(lock: str) -> None:
    entries = _entries(lock)
    assert entries
    for entry in entries:
        assert re.match(r"[A-Za-z0-9._-]+==[^\s;]+", entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_no_address(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"--(extra-)?index-url|--find-links|^-[if] |@ file", text, re.MULTILINE)


def test_the_lock_starts_from_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["test"], *extras["dev"]]
    assert (ROOT / "requirements.in").read_text(encoding="utf-8").split() == asked
    assert {_name(line) for line in asked} <= {_name(entry) for entry in _entries("requirements.lock")}


def test_no_lock_that_records_addresses_is_kept() -> None:
    assert "uv.lock" in Path(ROOT / ".gitignore").read_text(encoding="utf-8").split()
