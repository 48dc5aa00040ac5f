"""One small Kosmos-2 of transformers and ours with its weights, opened from the folder that transformers saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import Kosmos2ForConditionalGeneration

    from kosmos.pretrained import Kosmos
    from text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def peer(small_tokenizer: Tokenizer) -> Kosmos2ForConditionalGeneration:
    from tests.parity.kosmos2 import small_peer

    return small_peer(small_tokenizer)


@pytest.fixture(scope="session")
def peer_folder(
    peer: Kosmos2ForConditionalGeneration, small_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    from tests.parity.kosmos2 import save_peer

    return save_peer(peer, tmp_path_factory.mktemp("peer"), small_tokenizer)


@pytest.fixture(scope="session")
def ours(peer_folder: Path) -> Kosmos:
    from kosmos.pretrained import load

    return load(peer_folder, device="cpu", dtype="float32")
