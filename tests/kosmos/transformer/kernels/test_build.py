"""Building the products: once, whole, and never a reason to fail. Every test has a cache folder of its own."""

import logging
from pathlib import Path

import pytest

from kosmos.transformer.kernels import build


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(build.SWITCH, raising=False)
    return build.cache_folder()


@pytest.fixture
def built(cache: Path) -> Path:
    if build.load_library.__wrapped__() is None:
        pytest.skip("NOT proved: this machine has no compiler or no AVX2, so nothing can be built")
    (library,) = cache.glob("*.so")
    return library


def test_the_switch_turns_it_off_and_says_so(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(build.SWITCH, "off")
    with caplog.at_level(logging.INFO):
        assert build.load_library.__wrapped__() is None
    assert f"{build.SWITCH} is off" in caplog.text
    assert not cache.exists()


def test_without_a_compiler_there_is_none_and_it_says_so(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(build, "_processor_flags", tuple)
    monkeypatch.setenv("PATH", str(cache))
    monkeypatch.delenv("CXX", raising=False)
    with caplog.at_level(logging.INFO):
        assert build.load_library.__wrapped__() is None
    assert "no C++ compiler" in caplog.text


def test_a_compiler_that_fails_is_no_reason_to_fail(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken-compiler"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "no space left" >&2\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setattr(build, "_processor_flags", tuple)
    monkeypatch.setenv("CXX", str(broken))
    with caplog.at_level(logging.INFO):
        assert build.load_library.__wrapped__() is None
    assert "no space left" in caplog.text
    assert not list(cache.iterdir())


@pytest.mark.slow
def test_a_library_is_built_once_again_when_damaged_and_never_taken_from_a_folder_of_others(
    built: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written = built.stat().st_mtime_ns
    assert build.load_library.__wrapped__() is not None
    assert built.stat().st_mtime_ns == written
    whole = built.read_bytes()
    built.unlink()  # it is mapped into this process: cut short in place, it would end it
    built.write_bytes(whole[: len(whole) // 2])
    assert build.load_library.__wrapped__() is not None
    assert len(built.read_bytes()) > len(whole) // 2
    built.parent.chmod(0o777)
    with caplog.at_level(logging.INFO):
        assert build.load_library.__wrapped__() is None
    assert "can be written by, somebody else" in caplog.text
