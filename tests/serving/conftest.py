"""The server that most tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.live import LIMITLESS, LiveServer, kosmos_serve, save_small_checkpoint
from text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def checkpoint(small_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model on disk."""
    return save_small_checkpoint(small_tokenizer, tmp_path_factory.mktemp("model") / "small")


@pytest.fixture(scope="session")
def server(checkpoint: Path) -> Iterator[LiveServer]:
    """A running server of it; two beams may take as long as one answer may."""
    limits = ("--max-waiting", "2", "--max-beam-tokens", str(2 * LIMITLESS))
    with kosmos_serve("--model", str(checkpoint), *limits) as live:
        yield live
