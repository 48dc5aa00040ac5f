"""A real server for tests: a small random checkpoint on disk, `kosmos serve` as a process of its own, and pictures."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from text.tokenizer import Tokenizer

__all__ = [
    "COMPLETIONS",
    "LIMITLESS",
    "LiveServer",
    "data_url",
    "kosmos_serve",
    "picture_bytes",
    "save_small_checkpoint",
]

COMPLETIONS = "/v1/chat/completions"
LIMITLESS = 60_000
"""Tokens the small model has room for: an answer of that length outlasts any test, unless it is cancelled."""


def save_small_checkpoint(tokenizer: Tokenizer, folder: Path) -> Path:
    """A random model with the built-in eye on 32 pixels: it sees, it talks nonsense at once, and it seldom ends."""
    import torch
    from torch import nn

    from kosmos.chat import DEFAULT_CHAT_TEMPLATE
    from kosmos.model import KosmosModel
    from kosmos.pretrained import Kosmos
    from kosmos.processor import Processor
    from tests.models import small_config
    from vision.config import TowerConfig

    plain = small_config(tokenizer)
    tower = TowerConfig(
        kind="efficientnet_lite0", name="tf_efficientnet_lite0", image_size=32, width=1280, num_features=1
    )
    decoder = replace(plain.decoder, max_length=LIMITLESS, scale_embedding=False)
    config = replace(plain, tower=tower, decoder=decoder)
    torch.manual_seed(0)
    network = KosmosModel(config).eval()
    with torch.no_grad():
        for weight in network.tower.parameters():
            if weight.dim() > 1:
                nn.init.kaiming_normal_(weight)  # an eye that tells noise from noise
        # Clear-cut choices, but hardly ever a special token or half a character.
        table = network.decoder.embedding.weight.mul_(2.0)
        for token in range(tokenizer.vocab_size):
            if tokenizer.name_of(token).startswith("<"):
                table[token] *= 0.1
    model = Kosmos(
        network,
        Processor(tokenizer, config),
        name="small",
        chat_template=DEFAULT_CHAT_TEMPLATE,
        tokenizer_model=tokenizer.model,
    )
    model.save(folder)
    return folder


@dataclass(frozen=True)
class LiveServer:
    """A running `kosmos serve`."""

    url: str
    process: subprocess.Popen[str]

    client: httpx.Client

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path)

    def post(self, body: object) -> httpx.Response:
        return self.client.post(COMPLETIONS, json=body)

    def post_raw(self, content: bytes | Iterable[bytes], **headers: str) -> httpx.Response:
        """A body of any kind; header names with _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(COMPLETIONS, content=content, headers={"Content-Type": "application/json", **named})

    @contextmanager
    def post_by_hand(self, body: object, **headers: str) -> Iterator[socket.socket]:
        """The request is sent, its answer not read; extra headers replace computed ones."""
        content = json.dumps(body).encode()
        lines = {"Host": "x", "Content-Type": "application/json", "Content-Length": str(len(content))}
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        with socket.create_connection((self.client.base_url.host, self.client.base_url.port or 80)) as connection:
            connection.sendall(f"POST {COMPLETIONS} HTTP/1.1\r\n{head}\r\n".encode() + content)
            yield connection

    def engine_process_id(self) -> int:
        """The child that owns the model; multiprocessing's own tracker is the other child."""
        for line in children_of(self.process.pid):
            if "spawn_main" in line.partition(" ")[2]:
                return int(line.partition(" ")[0])
        raise AssertionError("the server has no engine process")


def children_of(process_id: int) -> list[str]:
    """Process id and command line of each child, from /proc."""
    lines = []
    for task in Path(f"/proc/{process_id}/task").iterdir():
        for child in (task / "children").read_text().split():
            try:
                command = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            lines.append(f"{child} {command}")
    return lines


@contextmanager
def kosmos_serve(*arguments: str, environment: dict[str, str] | None = None) -> Iterator[LiveServer]:
    """Start `kosmos serve` on a free port, wait until it says that it is ready, end it in order."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kosmos.cli.main", "serve", "--port", "0", "--dtype", "float32", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.search(r"http://[0-9.]+:[0-9]+", line)
        assert address, f"the server said {line!r} instead of its address"
        # One client for all requests: making one reads certificates, which takes longer than an answer.
        with httpx.Client(base_url=address[0], timeout=120, trust_env=False, verify=False) as client:
            yield LiveServer(address[0], process, client)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(60)


def picture_bytes(format: str = "PNG", *, width: int = 40, height: int = 30, seed: int = 0) -> bytes:
    """Coloured noise as a file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
