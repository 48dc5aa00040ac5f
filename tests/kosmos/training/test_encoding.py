"""Training reads what evaluation reads: the same rows, and pixels that are the same or nearly so."""

from __future__ import annotations

import io
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pictures
from sklearn.datasets import load_sample_images

from data_pipelines.loader.loader import Loader
from data_pipelines.loader.reading import closed
from data_pipelines.loader.stream import Stream
from data_pipelines.mixture import mixture_of
from data_pipelines.shard import ShardWriter
from kosmos.packed import Packed
from kosmos.processor import Processor
from kosmos.training.encoding import DocumentEncoder
from kosmos.training.objective import KosmosObjective
from tests.models import small_kosmos
from text.document import Document, Image, Text
from text.tokenizer import Tokenizer


def _jpeg(number: int) -> bytes:
    file = io.BytesIO()
    Pictures.fromarray(load_sample_images().images[number]).save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return [
        Document((Image(_jpeg(0)), Text("a temple"))),
        Document((Text("a flower"), Image(_jpeg(1)), Text("and words after it"))),
        Document((Text("words alone"),)),
    ]


@pytest.mark.parametrize(("decoding", "apart"), [("exact", 0), ("fast", 4)])
def test_rows_are_those_of_the_processor_and_pixels_as_promised(
    small_tokenizer: Tokenizer, documents: list[Document], decoding: str, apart: int
) -> None:
    config = small_kosmos(small_tokenizer).network.config
    encoder = DocumentEncoder(Processor(small_tokenizer, config, pictures="late"), decoding=decoding)  # type: ignore[arg-type]
    exact = Processor(small_tokenizer, config)
    for document in documents:
        found = encoder.open_pictures(encoder.encode(closed(document)), lambda found=document: found.images)  # type: ignore[misc]
        wanted = exact.encode(document, training=True)
        assert (found.ids, found.loss_weights) == (wanted.ids, wanted.loss_weights)
        for mine, theirs in zip(found.images, wanted.images, strict=True):
            difference = np.abs(np.asarray(mine).astype(int) - np.asarray(theirs).astype(int))
            assert difference.mean() <= apart


def test_batches_of_the_loader_train_a_model(
    small_tokenizer: Tokenizer, documents: list[Document], tmp_path: Path
) -> None:
    with ShardWriter(tmp_path / "set.tar") as writer:
        for number, document in enumerate(documents * 4):
            writer.write(f"d{number}", document)
    network = small_kosmos(small_tokenizer).network
    encoder = DocumentEncoder(Processor(small_tokenizer, network.config, pictures="late"))
    stream = Stream(mixture=mixture_of([str(tmp_path)]), encoder=encoder, rows=96, look_ahead=2)
    for batches in islice(Loader({"pairs": stream}, lanes=2), 3):
        batch: Packed = batches["pairs"]
        found = KosmosObjective(network).losses({"pairs": batch})["pairs"]
        assert found.count > 0
        assert torch.isfinite(found.total)
