"""Small language models on real text: the corpus, its batches, and a training that stops where a loss is not finite.

The text is public-domain books; the books that are held out are not among those trained on. Uses the one training loop,
so a run that was killed goes on. Legend: B sequences, T tokens, R = B x T rows, V vocabulary.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kosmos.training.batches import NoBatches
from kosmos.training.builtin.vocabulary import train_vocabulary
from kosmos.training.learner import Diverged, Learner
from kosmos.training.loop import Run, Stage, train
from kosmos.training.objective import Sum
from kosmos.training.recipe import OptimiserRecipe, SaveRecipe
from kosmos.training.run_folder import RunFolder
from kosmos.training.run_log import RunLog
from kosmos.transformer.stack import Decoder

__all__ = [
    "NUM_BYTES",
    "Corpus",
    "LanguageRecipe",
    "batch_of",
    "books_by_title",
    "byte_corpus",
    "nats_of",
    "pieces",
    "train_language_model",
    "train_model",
    "unigram_nats",
    "word_corpus",
]

NUM_BYTES = 256
VOCABULARY_STRIDE = 8  # one chunk in so many trains the vocabulary: a million pieces of text add nothing to 1,024 words


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Token ids of what is trained on, end to end, and of each held-out book."""

    num_words: int
    training: Tensor
    held_out: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class LanguageRecipe:
    """How a small model is trained: AdamW, warm-up over a tenth of the steps, cosine, no moving average.

    Attributes:
        clip_norm: of the gradient; infinite where a claim is about what happens without clipping.
    """

    steps: int
    learning_rate: float
    sequences: int
    length: int
    clip_norm: float = 1.0
    save_every: int = 100

    @property
    def optimiser(self) -> OptimiserRecipe:
        """The same for the loop."""
        return OptimiserRecipe(
            steps=self.steps,
            learning_rate=self.learning_rate,
            warmup_steps=max(1, self.steps // 10),
            clip_norm=self.clip_norm,
            average_decay=0.0,
            max_skipped=0,  # a claim about divergence must not be helped over it
        )


def books_by_title(data: Path, split: str) -> list[str]:
    """Whole books, their chunks in order."""
    titles: dict[str, list[str]] = {}
    with gzip.open(data / "text" / f"books-{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            titles.setdefault(row["title"], []).append(row["text"])
    return ["\n\n".join(chunks) for chunks in titles.values()]


def byte_corpus(data: Path) -> Corpus:
    """Books as bytes; byte 1, which no text has, is the padding."""
    training, *held_out = [
        torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).long()
        for text in ("\n\n".join(books_by_title(data, "train")), *books_by_title(data, "val"))
    ]
    return Corpus(num_words=NUM_BYTES, training=training, held_out=tuple(held_out))


def word_corpus(data: Path, folder: Path, *, num_words: int) -> Corpus:
    """Books in SentencePiece words, learned from those trained on and kept in `folder`; `<s>` (1) is the padding."""
    import sentencepiece

    model, books = folder / f"words-{num_words}.model", books_by_title(data, "train")
    if not model.exists():
        folder.mkdir(parents=True, exist_ok=True)
        paragraphs = [paragraph for book in books for paragraph in book.split("\n\n")]
        train_vocabulary(paragraphs[::VOCABULARY_STRIDE], model, num_words=num_words)
    words = sentencepiece.SentencePieceProcessor(model_file=str(model))
    training = [torch.tensor(words.encode(book)) for book in books]
    held_out = [torch.tensor(words.encode(book)) for book in books_by_title(data, "val")]
    return Corpus(num_words=num_words, training=torch.cat(training), held_out=tuple(held_out))


def batch_of(corpus: Corpus, recipe: LanguageRecipe, *, seed: int, step: int) -> Tensor:
    """Windows of the training text [B, T + 1] that follow from seed and step alone."""
    random = torch.Generator().manual_seed(seed * 10_000_000 + step)
    starts = torch.randint(corpus.training.numel() - recipe.length - 1, (recipe.sequences,), generator=random)
    return corpus.training[starts[:, None] + torch.arange(recipe.length + 1)]


def pieces(corpus: Corpus, *, length: int, count: int, within: int) -> Tensor:
    """The held-out text cut to `length` [count, length]: the same tokens for every length that divides `within`.

    Taken from all books in turn, each `within` tokens at a time.
    Raises: ValueError if there is not so much text.
    """
    whole = [book[: book.numel() // within * within].view(-1, within) for book in corpus.held_out]
    turns = [book[turn] for turn in range(max(map(len, whole), default=0)) for book in whole if turn < len(book)]
    needed = count * length // within
    if len(turns) < needed:
        raise ValueError(f"the held-out books give {len(turns)} pieces of {within} tokens, {needed} are needed")
    return torch.stack(turns[:needed]).view(-1, length)


def nats_of(model: Decoder, rows_BT: Tensor, *, at_once: int = 8) -> float:
    """Mean nats a predicted token of sequences that each begin anew."""
    total = 0.0
    with torch.inference_mode():
        for part in rows_BT.split(at_once):
            total += float(_nats(model, part))
    return total / (rows_BT.shape[0] * (rows_BT.shape[1] - 1))


def train_language_model(
    model: Decoder,
    corpus: Corpus,
    recipe: LanguageRecipe,
    place: Path,
    *,
    seed: int,
    beside: Callable[[], dict[str, Sum]] = dict,
    validate: Callable[[int, int], dict[str, float]] = lambda rank, ranks: {},
    validate_every: int | None = None,
) -> int:
    """Train on windows of the text; see `train_model`.

    Args:
        beside: further losses of the batch that just passed through the model.
    """

    def losses(step: int) -> dict[str, Sum]:
        rows = batch_of(corpus, recipe, seed=seed, step=step)
        return {"loss": Sum(_nats(model, rows), rows.shape[0] * recipe.length, 1.0), **beside()}

    return train_model(model, losses, recipe, place, seed=seed, validate=validate, validate_every=validate_every)


def train_model(
    model: nn.Module,
    losses: Callable[[int], dict[str, Sum]],
    recipe: LanguageRecipe,
    place: Path,
    *,
    seed: int,
    validate: Callable[[int, int], dict[str, float]] = lambda rank, ranks: {},
    validate_every: int | None = None,
) -> int:
    """Train in the folder `place`, going on where it stopped; the log has each step's loss.

    Args:
        losses: of a step; the one to look at is named `loss`.
    Returns: steps whose loss was finite, all of them unless the run diverged.
    """
    torch.set_flush_denormal(True)

    def finite(batch: Mapping[str, object], step: int) -> dict[str, Sum]:
        sums = losses(step)
        if not math.isfinite(float(sums["loss"].total.detach())):
            raise _NotFiniteError(step)
        return sums

    stage = Stage(
        name="science",
        optimiser=recipe.optimiser,
        batches=NoBatches(),
        parts=lambda batch, step: [partial(finite, batch, step)],
        validate=validate,
        validate_every=validate_every or recipe.steps,
        log_every=1,
        save_every=recipe.save_every,
    )
    folder, log = RunFolder(place, SaveRecipe(keep=1)), RunLog(place, ())
    try:
        train(Learner(model), [stage], Run(folder=folder, log=log, seed=seed))
    except _NotFiniteError as stop:
        return stop.step
    except Diverged as stop:
        return stop.step + 1  # its loss was finite, its gradient was not
    finally:
        log.close()
        folder.close()
    return recipe.steps


class _NotFiniteError(Exception):
    """Training cannot go on: the loss of `step` is not a number."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


def _nats(model: Decoder, rows_BT: Tensor) -> Tensor:
    """Sum over the tokens that follow others."""
    inputs, targets_R = rows_BT[:, :-1], rows_BT[:, 1:].reshape(-1)
    context = model.context([inputs.shape[1]] * inputs.shape[0])
    hidden_RD = model(model.embed(inputs.reshape(-1)), context.positions_R, context)
    return F.cross_entropy(model.logits(hidden_RD).float(), targets_R, reduction="sum")


def unigram_nats(corpus: Corpus, targets: Sequence[Tensor]) -> float:
    """Nats a token of a model that knows only how frequent each word is in the training text."""
    counts = torch.bincount(corpus.training, minlength=corpus.num_words).double() + 1
    return float(-torch.log(counts / counts.sum())[torch.cat(list(targets)).reshape(-1)].mean())
