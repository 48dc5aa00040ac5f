"""What a visitor reads: short, true to the files, and free of any one machine."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

import kosmos
from tests.architecture.house import ROOT, place

MAX_README_WORDS = 600
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# Reversed, so that this file does not find itself.
MACHINE_WORDS = tuple(
    word[::-1] for word in ("/krow/", "/toor/", "sboj_hsab/pmt/", "gro.ipyp", "detsohnohtyp", "sleehw/tpo/")
)


@cache
def _tracked() -> tuple[Path, ...]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: the list of the repository's own files is not known")
    return tuple(path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file())


def test_the_readme_is_read_in_three_minutes() -> None:
    words = (ROOT / "README.md").read_text(encoding="utf-8").split()
    assert len(words) <= MAX_README_WORDS


def test_the_changelog_opens_with_the_version_of_the_code() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == kosmos.__version__


@pytest.mark.parametrize("page", PAGES, ids=place)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    local = [target.partition("#")[0] for target in targets if "://" not in target and not target.startswith("#")]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_the_index_lists_every_page_of_docs() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = [page for page in (ROOT / "docs").rglob("*.md") if page != ROOT / "docs" / "README.md"]
    missing = [name for page in pages if f"({(name := page.relative_to(ROOT / 'docs').as_posix())})" not in index]
    assert missing == []


def test_no_file_speaks_of_one_machine() -> None:
    found = []
    for path in _tracked():
        text = path.read_bytes()
        if path.suffix != ".lock" and b"\0" not in text[:8192]:
            found += [f"{place(path)}: {word}" for word in MACHINE_WORDS if word.encode() in text]
    assert found == []
