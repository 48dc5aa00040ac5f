"""`kosmos data preview` writes one page, or serves documents on this machine until it is interrupted."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from data_pipelines.shard import ShardWriter
from kosmos.cli.main import main
from text.document import Document, Text


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """12 documents."""
    with ShardWriter(tmp_path / "a.tar") as writer:
        for number in range(12):
            writer.write(f"{number:02d}", Document((Text("a dog on the beach"),)))
    return tmp_path / "a.tar"


def test_one_file_holds_the_documents_asked_for(shard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = shard.parent / "new" / "page.html"
    assert main(["data", "preview", str(shard), "--output", str(page), "--documents", "5"]) == 0
    assert capsys.readouterr().out == ""
    written = page.read_text("utf-8")
    assert written.count("a dog on the beach") == 5
    assert '"total":12' in written


def test_it_wants_a_file_or_a_server(shard: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["data", "preview", str(shard)])
    assert ended.value.code == 2


def test_a_torn_shard_is_one_sentence(shard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard.write_bytes(shard.read_bytes()[:540])
    shard.with_name("a.tar.idx").unlink()
    assert main(["data", "preview", str(shard), "--output", str(shard.parent / "page.html")]) == 1
    assert "a.tar" in capsys.readouterr().err
    assert not (shard.parent / "page.html").exists()


def _heeding_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_the_server_answers_at_the_address_it_prints_and_ends_when_interrupted(shard: Path) -> None:
    command = [sys.executable, "-m", "kosmos.cli.main", "data", "preview", str(shard), "--serve", "--port", "0"]
    # A shell starts what runs in the background deaf to Ctrl-C, and its children inherit that.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=_heeding_interrupts) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        (address,) = re.findall(r"http://127\.0\.0\.1:\d+/", said)
        with urlopen(f"{address}documents?words=BEACH", timeout=60) as answer:
            assert len(json.load(answer)["documents"]) == 12
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def test_a_port_that_cannot_be_is_wrong_usage(shard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["data", "preview", str(shard), "--serve", "--port", "99999"])
    assert ended.value.code == 2
    assert "from 0 to 65535" in capsys.readouterr().err
