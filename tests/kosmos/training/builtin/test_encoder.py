"""A photograph shows another caption each epoch and a drawn view; prompts and pictures are not asked for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipelines.shard import ShardWriter
from kosmos.processor import Processor
from kosmos.training.builtin.encoder import PhotographEncoder, TinyEncoder, mirrored_words
from kosmos.training.builtin.features import FEATURE_CEILING
from kosmos.training.builtin.stored_features import StoredFeatures
from tests.models import small_kosmos
from text.document import Document, Image, Text
from text.tokenizer import Tokenizer

PNG = b"\x89PNG\r\n\x1a\n"
CAPTIONS = ["A dog runs left.", "The cat sits.", "A man walks."]
VIEWS = 2


@pytest.fixture
def features(tmp_path: Path) -> StoredFeatures:
    """Two documents, of one and of two pictures; picture p seen in view v is filled with 10 v + p."""
    shard = tmp_path / "set.tar"
    with ShardWriter(shard) as writer:
        writer.write("one", Document((Image(PNG + b"1"), Text("x"))))
        writer.write("two", Document((Image(PNG + b"2"), Text("x"), Image(PNG + b"3"))))
    for view in range(VIEWS):
        seen = np.stack([np.full((4, 2), 10 * view + picture, np.uint8) for picture in range(3)])
        np.save(tmp_path / f"set-view{view:02d}.npy", seen)
    return StoredFeatures([str(shard)], tmp_path, views=VIEWS)


@pytest.fixture
def processor(small_tokenizer: Tokenizer) -> Processor:
    kosmos = small_kosmos(small_tokenizer)
    return Processor(small_tokenizer, kosmos.network.config, pictures="late")


def _visit(captions: list[str], *, epoch: int = 0, seed: int = 0) -> Document:
    meta = {"captions": captions, "__key__": "one", "__epoch__": epoch, "__seed__": seed}
    return Document((Image(PNG + b"1"), Text(captions[0])), meta)


def _words(encoder: TinyEncoder, document: Document) -> str:
    return encoder.processor.decode(encoder.encode(document).ids)


def test_epochs_go_through_the_captions_in_turn(processor: Processor, features: StoredFeatures) -> None:
    encoder = TinyEncoder(processor, features)
    plain = [c for c in CAPTIONS if "left" not in c]
    said = Counter(_words(encoder, _visit(plain, epoch=epoch, seed=epoch)) for epoch in range(4))
    assert sorted(said.values()) == [2, 2]


def test_views_are_drawn_and_a_mirrored_one_has_mirrored_words(processor: Processor, features: StoredFeatures) -> None:
    encoder = TinyEncoder(processor, features)
    seen = set()
    for seed in range(12):
        rows = encoder.open_pictures(encoder.encode(_visit(CAPTIONS[:1], seed=seed)), tuple)
        (stored,) = rows.images
        assert isinstance(stored, np.ndarray)
        view = int(stored[0, 0]) // 10
        assert ("right" in processor.decode(rows.ids)) == (view == 1)
        seen.add(view)
    assert seen == {0, 1}


def test_a_prompt_is_not_asked_for_and_the_words_are(processor: Processor, features: StoredFeatures) -> None:
    encoder = TinyEncoder(processor, features, prompted=1.0)
    rows = encoder.encode(_visit(["Dogs run."]))
    head = 1 + processor.config.resampler.num_latents + 2
    asked = [weight > 0 for weight in rows.loss_weights]
    first = asked.index(True)
    assert first > head
    assert not any(asked[:first])
    assert all(asked[first:])
    assert rows.ids[-1] == processor.tokenizer.eos_id


def test_pages_get_the_features_of_their_own_pictures_in_order(processor: Processor, features: StoredFeatures) -> None:
    encoder = TinyEncoder(processor, features)
    meta = {"__key__": "two", "__epoch__": 3, "__seed__": 9}
    page = Document((Image(PNG + b"2"), Text("dogs"), Image(PNG + b"3")), meta)
    rows = encoder.open_pictures(encoder.encode(page), tuple)
    packed = encoder.collate([rows])
    assert packed.features is not None
    expected = FEATURE_CEILING * (torch.tensor([1.0, 2.0]) / 255) ** 2
    assert packed.features[:, 0, 0].tolist() == pytest.approx(expected.tolist())


def test_a_photograph_for_the_reward_is_one_row(features: StoredFeatures) -> None:
    encoder = PhotographEncoder(VIEWS)
    drawn = {encoder.encode(_visit(CAPTIONS, seed=seed)).view for seed in range(12)}
    assert drawn == {0, 1}
    assert encoder.encode(_visit(CAPTIONS)).length == 1


def test_in_a_mirror_left_is_right() -> None:
    assert mirrored_words("Left of the man, right and bright.") == "Right of the man, left and bright."
