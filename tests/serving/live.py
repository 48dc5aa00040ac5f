"""A real server for tests: a small random checkpoint on disk, `kosmos serve` as a process of its own, and pictures."""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from text.tokenizer import Tokenizer

__all__ = ["LIMITLESS", "LiveServer", "data_url", "kosmos_serve", "picture_bytes", "save_small_checkpoint"]

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

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, trust_env=False)

    def post(self, body: object, **more: object) -> httpx.Response:
        return httpx.post(self.url + "/v1/chat/completions", json=body, timeout=120, trust_env=False, **more)  # type: ignore[arg-type]

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
        [sys.executable, "-m", "kosmos.cli.main", "serve", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.search(r"http://[0-9.]+:[0-9]+", line)
        assert address, f"the server said {line!r} instead of its address"
        yield LiveServer(address[0], process)
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
