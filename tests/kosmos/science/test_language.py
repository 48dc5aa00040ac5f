"""The corpus and its losses: held-out books stay apart, pieces keep the tokens, nats agree with a plain sum."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from kosmos.science.language import (
    Corpus,
    LanguageRecipe,
    batch_of,
    byte_corpus,
    nats_of,
    pieces,
    unigram_nats,
    word_corpus,
)
from kosmos.transformer.config import DecoderConfig
from kosmos.transformer.stack import Decoder


def _decoder(num_words: int) -> Decoder:
    torch.manual_seed(0)
    config = DecoderConfig(
        vocab_size=num_words, num_layers=1, width=16, num_heads=2, ffn_width=32, dropout=0.0, attention_dropout=0.0
    )
    return Decoder(config).eval()


def test_held_out_books_are_whole_and_not_trained_on(data: Path) -> None:
    corpus = byte_corpus(data)
    assert len(corpus.held_out) == 2
    training = bytes(corpus.training.tolist())
    for book in corpus.held_out:
        assert bytes(book.tolist())[:200] not in training


def test_a_batch_follows_from_seed_and_step_alone(data: Path) -> None:
    corpus, recipe = byte_corpus(data), LanguageRecipe(steps=9, learning_rate=1e-3, sequences=3, length=20)
    first = batch_of(corpus, recipe, seed=1, step=4)
    assert first.shape == (3, 21)
    assert torch.equal(first, batch_of(corpus, recipe, seed=1, step=4))
    assert not torch.equal(first, batch_of(corpus, recipe, seed=1, step=5))
    assert not torch.equal(first, batch_of(corpus, recipe, seed=2, step=4))


def test_pieces_of_all_lengths_hold_the_same_tokens(data: Path) -> None:
    corpus = byte_corpus(data)
    long = pieces(corpus, length=64, count=4, within=64)
    short = pieces(corpus, length=16, count=16, within=64)
    assert torch.equal(long.reshape(-1), short.reshape(-1))
    assert torch.equal(long[0], corpus.held_out[0][:64])
    assert torch.equal(long[1], corpus.held_out[1][:64])


def test_pieces_say_when_the_text_is_too_short(data: Path) -> None:
    with pytest.raises(ValueError, match="1000 are needed"):
        pieces(byte_corpus(data), length=4096, count=1000, within=4096)


def test_nats_are_those_of_each_token_given_the_ones_before(data: Path) -> None:
    rows, model = pieces(byte_corpus(data), length=6, count=3, within=6), _decoder(256)
    total = 0.0
    for row in rows:
        for end in range(1, len(row)):
            context = model.context([end])
            with torch.inference_mode():
                hidden = model(model.embed(row[:end]), context.positions_R, context)
                total -= float(torch.log_softmax(model.logits(hidden[-1:]), dim=-1)[0, row[end]])
    assert nats_of(model, rows, at_once=2) == pytest.approx(total / 15, rel=1e-5)


def test_unigram_nats_are_a_count() -> None:
    corpus = Corpus(num_words=3, training=torch.tensor([0, 0, 1]), held_out=())
    counts = {word: count + 1 for word, count in Counter({0: 2, 1: 1, 2: 0}).items()}
    expected = -sum(math.log(counts[word] / 6) for word in (0, 2)) / 2
    assert unigram_nats(corpus, [torch.tensor([0]), torch.tensor([2])]) == pytest.approx(expected)


def test_words_are_learned_once_and_kept(data: Path, tmp_path: Path) -> None:
    first = word_corpus(data, tmp_path, num_words=300)
    model = (tmp_path / "words-300.model").read_bytes()
    second = word_corpus(data, tmp_path, num_words=300)
    assert torch.equal(first.training, second.training)
    assert (tmp_path / "words-300.model").read_bytes() == model
    assert int(first.training.max()) < 300
