"""Which shards a pattern stands for, and shards of elsewhere."""

from __future__ import annotations

import functools
import http.server
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_pipelines.stores import expand, is_local, local_copy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("train-000000.tar", "train-000001.tar", "train-000002.tar", "deep/val-000000.tar", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def names(folder: Path, *patterns: str) -> list[str]:
    return [str(Path(path).relative_to(folder)) for path in expand([str(folder / pattern) for pattern in patterns])]


def test_patterns_stand_for_shards(folder: Path) -> None:
    train = [f"train-00000{n}.tar" for n in range(3)]
    assert names(folder, "train-{000000..000002}.tar") == train
    assert names(folder, "train-*.tar") == train
    assert names(folder, "train-00000[02].tar") == [train[0], train[2]]
    assert names(folder, "**/*.tar") == ["deep/val-000000.tar", *train]
    assert names(folder, "") == ["deep/val-000000.tar", *train]
    assert names(folder, "train-000002.tar", "train-000000.tar") == [train[2], train[0]]


@pytest.mark.parametrize("pattern", ["none.tar", "none-*.tar", "train-{000002..000004}.tar"])
def test_a_pattern_for_nothing_is_an_error_that_names_it(folder: Path, pattern: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such file, or no \.tar in it"):
        names(folder, pattern)


def test_a_pipe_runs_only_if_allowed(tmp_path: Path) -> None:
    command = f"pipe:touch {tmp_path / 'ran'}; printf words"
    for refused in (lambda: expand([command]), lambda: local_copy(command).__enter__()):
        with pytest.raises(ValueError, match="--allow-pipe"):
            refused()
    assert not (tmp_path / "ran").exists()
    assert expand([command], allow_pipe=True) == [command]
    with local_copy(command, allow_pipe=True) as copy:
        assert copy.read_bytes() == b"words"
    assert not copy.exists()


def test_a_pipe_that_fails_is_an_error() -> None:
    with pytest.raises(OSError, match="command failed with code 3"), local_copy("pipe:exit 3", allow_pipe=True):
        pass


def test_files_of_this_machine_are_not_copied(folder: Path) -> None:
    with local_copy(str(folder / "notes.txt")) as path:
        assert path == folder / "notes.txt"
    assert path.exists()
    assert is_local("train.tar")
    assert not any(is_local(path) for path in ("-", "pipe:cat", "s3://bucket/train.tar"))


def test_standard_input_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"words")))
    assert expand(["-"]) == ["-"]
    with local_copy("-") as copy:
        assert copy.read_bytes() == b"words"


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_shard_behind_an_address_is_fetched_and_goes_away(server: str) -> None:
    address = f"{server}/train-000001.tar"
    assert expand([address]) == [address]
    with local_copy(address) as copy:
        assert copy.read_bytes() == b"train-000001.tar"
    assert not copy.exists()
    with pytest.raises(FileNotFoundError), local_copy(f"{server}/none.tar"):
        pass


def test_shards_of_any_store_fsspec_knows_are_found(folder: Path) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    for name in ("b.tar", "a.tar", "notes.txt"):
        store.pipe(f"/set/{name}", name.encode())
    try:
        assert expand(["memory://set"]) == ["memory:///set/a.tar", "memory:///set/b.tar"]
        assert expand(["memory://set/b*.tar"]) == ["memory:///set/b.tar"]
        with local_copy("memory:///set/a.tar") as copy:
            assert copy.read_bytes() == b"a.tar"
        with pytest.raises(FileNotFoundError):
            expand(["memory://set/none*.tar"])
    finally:
        store.rm("/set", recursive=True)
