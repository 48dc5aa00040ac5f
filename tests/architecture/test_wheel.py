"""The wheel holds the five packages with their data, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import kosmos
from tests.architecture.house import PACKAGES, ROOT

DATA = ("kosmos/tiny/", "serving/web/", "data_pipelines/preview/")


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=240)
    (wheel,) = folder.glob("*.whl")
    assert wheel.name.startswith(f"kosmos_mllm-{kosmos.__version__}-")
    return set(zipfile.ZipFile(wheel).namelist())


def _files(folder: Path) -> set[str]:
    found = {path.relative_to(ROOT).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if "__pycache__" not in name}


def test_only_the_five_packages_go_to_the_top(members: set[str]) -> None:
    tops = {name.split("/")[0] for name in members}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


@pytest.mark.parametrize("folder", DATA)
def test_data_a_package_needs_travels_with_it(members: set[str], folder: str) -> None:
    wanted = _files(ROOT / folder)
    assert wanted
    assert wanted <= members


def test_the_licence_travels_with_it(members: set[str]) -> None:
    assert any(name.endswith("licenses/LICENSE") for name in members)
