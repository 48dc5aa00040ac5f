"""Shards anywhere: files and patterns here, a real S3 server, a web server, standard input, pipes that are allowed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data_pipelines import stores
from data_pipelines.errors import ShardError
from data_pipelines.shard import ShardWriter, open_shard, read_documents
from data_pipelines.stores import expand, is_local, local_copy
from tests.conftest import REPOSITORY
from text.document import Document, Text

NAMES = ("train-000000.tar", "train-000001.tar", "val-000000.tar")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of two documents, one of them in a folder below, and things that are no shards."""
    folder = tmp_path_factory.mktemp("shards")
    for name in (*NAMES[:2], f"below/{NAMES[2]}"):
        with ShardWriter(folder / name) as writer:
            for number in range(2):
                writer.write(f"{Path(name).stem}-{number}", Document((Text(f"words {number} of {name}"),)))
    (folder / "notes.txt").write_text("no shard")
    return folder


def keys(path: str, *, allow_pipe: bool = False) -> list[str]:
    return [key for key, _ in read_documents(path, allow_pipe=allow_pipe)]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("train-000000.tar", ["train-000000.tar"]),
        ("train-{000000..000001}.tar", ["train-000000.tar", "train-000001.tar"]),
        ("{below/val,train}-000000.tar", ["below/val-000000.tar", "train-000000.tar"]),
        ("*.tar", ["train-000000.tar", "train-000001.tar"]),
        ("train-00000?.tar", ["train-000000.tar", "train-000001.tar"]),
        ("**/*.tar", ["below/val-000000.tar", "train-000000.tar", "train-000001.tar"]),
        ("", ["below/val-000000.tar", "train-000000.tar", "train-000001.tar"]),
    ],
)
def test_patterns_stand_for_shards_in_order(pattern: str, wanted: list[str], folder: Path) -> None:
    assert expand([f"{folder}/{pattern}"]) == [f"{folder}/{name}" for name in wanted]


@pytest.mark.parametrize("pattern", ["train-000009.tar", "train-{000001..000002}.tar", "*.tgz", "nowhere/"])
def test_patterns_for_nothing_are_an_error(pattern: str, folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        expand([f"{folder}/{pattern}"])


def test_a_pattern_for_too_many_names_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "MAX_BRACES", 100)
    assert len(expand(["s3://bucket/{0..99}.tar"])) == 100
    with pytest.raises(ValueError, match="more than 100 names"):
        expand(["s3://bucket/{0..100}.tar"])


def test_files_of_this_machine_are_read_where_they_are(folder: Path) -> None:
    assert is_local(str(folder))
    with local_copy(str(folder / NAMES[0])) as path:
        assert path == folder / NAMES[0]


@pytest.fixture
def web(folder: Path) -> Iterator[str]:
    """The folder behind a web server."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_web_server_gives_shards(web: str) -> None:
    (*first, last) = expand([f"{web}/train-{{000000..000001}}.tar", f"{web}/below/val-000000.tar"])
    assert first == [f"{web}/train-000000.tar", f"{web}/train-000001.tar"]
    assert keys(last) == ["val-000000-0", "val-000000-1"]
    with open_shard(first[1]) as shard:
        assert shard.name == first[1]
        assert shard[1].key == "train-000001-1"


def test_what_a_web_server_does_not_have_is_an_os_error(web: str) -> None:
    with pytest.raises(FileNotFoundError):
        keys(f"{web}/absent.tar")


def test_copies_of_elsewhere_do_not_stay(web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with local_copy(f"{web}/train-000000.tar") as path:
        assert path.parent == tmp_path
    with pytest.raises(ShardError), open_shard(f"{web}/notes.txt") as shard:
        list(shard)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A real S3 server with an empty bucket, made known by the environment as users do."""
    boto3 = pytest.importorskip("boto3")
    server_module = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    s3fs.S3FileSystem.clear_instance_cache()
    boto3.client("s3").create_bucket(Bucket="pages")
    yield "s3://pages"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def upload(folder: Path, address: str) -> None:
    import fsspec

    for path in folder.rglob("*.tar"):
        with fsspec.open(f"{address}/{path.relative_to(folder)}", "wb") as remote:
            remote.write(path.read_bytes())


def test_an_s3_server_gives_shards(bucket: str, folder: Path) -> None:
    upload(folder, f"{bucket}/set")
    trains = [f"{bucket}/set/train-000000.tar", f"{bucket}/set/train-000001.tar"]
    assert expand([f"{bucket}/set/*.tar"]) == trains
    assert expand([f"{bucket}/set/train-{{000000..000001}}.tar"]) == trains
    assert expand([f"{bucket}/set/"]) == [f"{bucket}/set/below/val-000000.tar", *trains]
    assert [key for path in trains for key in keys(path)] == keys(str(folder / NAMES[0])) + keys(str(folder / NAMES[1]))
    with open_shard(trains[1]) as shard:
        assert len(shard) == 2
        assert shard[1].document() == Document((Text("words 1 of train-000001.tar"),), {})
    with pytest.raises(FileNotFoundError):
        expand([f"{bucket}/other/*.tar"])
    with pytest.raises(FileNotFoundError):
        keys(f"{bucket}/set/absent.tar")


def kosmos_data(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "kosmos.cli.main", "data", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, input=stdin, capture_output=True, check=False)


@pytest.mark.slow
def test_the_command_reads_from_s3(bucket: str, folder: Path) -> None:
    upload(folder, f"{bucket}/set")
    info = kosmos_data("info", f"{bucket}/set/*.tar", "--json")
    assert info.returncode == 0, info.stderr
    assert json.loads(info.stdout)["documents"] == 4


def test_the_command_reads_standard_input(folder: Path) -> None:
    info = kosmos_data("info", "-", "--json", stdin=(folder / NAMES[0]).read_bytes())
    assert info.returncode == 0, info.stderr
    assert json.loads(info.stdout)["documents"] == 2


@pytest.mark.slow
def test_an_index_is_only_put_beside_files_of_this_machine(bucket: str, folder: Path) -> None:
    upload(folder, f"{bucket}/set")
    refused = kosmos_data("index", f"{bucket}/set/*.tar")
    assert refused.returncode == 1
    assert b"is not a file of this machine" in refused.stderr


def test_standard_input_is_a_shard(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO((folder / NAMES[0]).read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert expand(["-"]) == ["-"]
    assert keys("-") == ["train-000000-0", "train-000000-1"]


def test_a_pipe_runs_only_when_allowed(folder: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    pipe = f"pipe:touch {ran}; cat {folder / NAMES[0]}"
    for attempt in (lambda: expand([pipe]), lambda: keys(pipe)):
        with pytest.raises(ValueError, match="--allow-pipe"):
            attempt()
    assert not ran.exists()
    assert expand([pipe], allow_pipe=True) == [pipe]
    assert keys(pipe, allow_pipe=True) == ["train-000000-0", "train-000000-1"]
    assert ran.exists()


def test_a_pipe_that_fails_is_no_empty_shard() -> None:
    with pytest.raises(OSError, match="command failed with code 3"):
        keys("pipe:exit 3", allow_pipe=True)


def test_braces_in_a_pipe_stay_its_own(folder: Path) -> None:
    pipe = f"pipe:cat {os.fspath(folder)}/train-{{000000,000001}}.tar"
    assert expand([pipe], allow_pipe=True) == [pipe]
