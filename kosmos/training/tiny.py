"""`kosmos train tiny`: from a folder of data to the checkpoint folder, in one call that can be killed and repeated.

Puts the parts together: words, the eye's cached features, the mixture, two stages (words, then reward) and the export.
What captions are worth is handed in (`metric`), since training does not import evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipelines.sources.captioned import captioned, photographs
from data_pipelines.sources.interleaved import Page, pages
from data_pipelines.sources.plain_text import books, caption_texts
from kosmos.model import KosmosModel
from kosmos.presets import preset
from kosmos.training.distributed import add_over_ranks, run_ranks
from kosmos.training.export import export
from kosmos.training.features import Bytes, Eye, cached_features, restored
from kosmos.training.loop import Learner, RunFolder, Stage, train
from kosmos.training.mixture import CaptionSet, Layout, Mixture, caption_sequence, packed, page_pieces
from kosmos.training.objective import KosmosObjective, Sum
from kosmos.training.precision import Precision, autocast, chosen_precision
from kosmos.training.recipe import Recipe
from kosmos.training.reward import RewardObjective
from kosmos.training.rollout import caption_rollout
from kosmos.training.vocabulary import train_vocabulary
from text.tokenizer import Tokenizer
from vision.efficientnet import folded_weights, registry_weights

__all__ = ["CaptionMetric", "Paths", "build_mixture", "load_eye", "prepare", "shard_names", "train_tiny"]

BOOK_SHARE_OF_WORDS = 4  # every 4th chunk of a book teaches the vocabulary: captions are what it is for
VALIDATION_TOKENS = 24
VALIDATION_BATCH = 50


class CaptionMetric(Protocol):
    """A metric made of references, e.g. CIDEr-D; it scores the caption of picture number `picture`."""

    def score(self, candidate: str, picture: int) -> float:
        """Higher is better."""
        ...


MetricOf = Callable[[Sequence[Sequence[str]]], CaptionMetric]
Progress = Callable[[str, int, int, Mapping[str, float]], None]


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Where the data are, where features are kept between runs, where the run writes, and the finished checkpoint."""

    data: Path
    cache: Path
    run: Path
    output: Path

    @property
    def tokenizer(self) -> Path:
        """The SentencePiece model of this run."""
        return self.run / "tokenizer.model"


def load_eye() -> Eye:
    """The frozen eye with the registry package's weights."""
    eye = Eye()
    eye.load_state_dict(folded_weights(torch.load(registry_weights(), weights_only=True)))
    return eye.eval()


def shard_names(data: Path, split: str) -> list[str]:
    """Names of the tars of a split, without folder and ending."""
    return sorted(path.stem for path in (data / "flickr8k").glob(f"{split}-*.tar"))


def _shard_features(paths: Paths, eye: Eye, name: str, view: int) -> Bytes:
    def pictures() -> list[tuple[str, bytes]]:
        return [(item.key, item.picture) for item in captioned(paths.data / "flickr8k" / f"{name}.tar")]

    return cached_features(paths.cache, name, view, eye=eye, pictures=pictures)


def _page_features(paths: Paths, eye: Eye, documents: Sequence[Page], split: str) -> Bytes:
    def pictures() -> list[tuple[str, bytes]]:
        return [(page.key, part) for page in documents for part in page.parts if isinstance(part, bytes)]

    return cached_features(paths.cache, f"pages-{split}", 0, eye=eye, pictures=pictures)


def prepare(recipe: Recipe, paths: Paths, *, told: Callable[[str], None]) -> None:
    """Compute what a run needs once: features of every view, and the words. Finished pieces are not done again."""
    paths.run.mkdir(parents=True, exist_ok=True)
    eye = load_eye()
    for name in shard_names(paths.data, "val"):
        _shard_features(paths, eye, name, 0)
    for view in range(recipe.mixture.views):
        told(f"features of the photographs, view {view + 1} of {recipe.mixture.views}")
        for name in shard_names(paths.data, "train"):
            _shard_features(paths, eye, name, view)
    for split in ("train", "val"):
        _page_features(paths, eye, pages(paths.data, split), split)
    if not paths.tokenizer.exists():
        told("vocabulary")
        captions = [caption for item in photographs(paths.data, "train") for caption in item.captions]
        captions += caption_texts(paths.data, kept_out=photographs(paths.data, "val"))
        prose = [part for page in pages(paths.data, "train") for part in page.parts if isinstance(part, str)]
        prose += books(paths.data, "train")[::BOOK_SHARE_OF_WORDS]
        num_words = preset(recipe.name).tokenizer.num_words
        train_vocabulary([*captions, *captions, *prose], paths.tokenizer, num_words=num_words)
    told("book ids")
    _book_ids(paths, Tokenizer(paths.tokenizer, specials=preset(recipe.name).tokenizer.specials), "train")


def _layout(tokenizer: Tokenizer, num_latents: int) -> Layout:
    return Layout(
        begin=tokenizer.bos_id,
        end=tokenizer.eos_id,
        image=tokenizer.image_id,
        image_end=tokenizer.end_image_id,
        num_latents=num_latents,
    )


def _book_ids(paths: Paths, tokenizer: Tokenizer, split: str) -> NDArray[np.int32]:
    """One long row of ids, each chunk closed by the end token; kept beside the vocabulary."""
    path = paths.run / f"books-{split}.npy"
    if not path.exists():
        rows = [[*tokenizer.encode(text), tokenizer.eos_id] for text in books(paths.data, split)]
        unfinished = path.with_suffix(".part")
        with unfinished.open("wb") as file:
            np.save(file, np.array([token for row in rows for token in row], dtype=np.int32))
        unfinished.replace(path)
    loaded: NDArray[np.int32] = np.load(path)
    return loaded


def build_mixture(recipe: Recipe, paths: Paths, tokenizer: Tokenizer, layout: Layout) -> Mixture:
    """The training mixture from prepared files."""
    eye = Eye()  # never asked: every feature is in the cache
    documents = pages(paths.data, "train")
    stored = iter(_page_features(paths, eye, documents, "train"))
    views, shards = range(recipe.mixture.views), shard_names(paths.data, "train")
    pieces = [
        piece
        for page in documents
        for piece in page_pieces(
            layout,
            tokenizer.encode,
            [part if isinstance(part, str) else next(stored) for part in page.parts],
            recipe.mixture.chunk_length,
        )
    ]
    return Mixture(
        recipe.mixture,
        layout,
        tokenizer.encode,
        seed=recipe.seed,
        captions=CaptionSet(
            captions=[item.captions for item in photographs(paths.data, "train")],
            views=[[_shard_features(paths, eye, name, view) for name in shards] for view in views],
        ),
        caption_texts=caption_texts(paths.data, kept_out=photographs(paths.data, "val")),
        books=_book_ids(paths, tokenizer, "train"),
        pages=pieces,
    )


@dataclass(frozen=True)
class _Validation:
    """Loss and greedy CIDEr-D on validation pictures, shared out over the ranks."""

    model: KosmosModel
    layout: Layout
    tokenizer: Tokenizer
    captions: Sequence[tuple[str, ...]]
    features: Bytes
    metric: CaptionMetric

    @torch.no_grad()
    def __call__(self, rank: int, ranks: int) -> dict[str, float]:
        sums = torch.zeros(2, 2)
        mine = list(range(len(self.captions)))[rank::ranks]
        for start in range(0, len(mine), VALIDATION_BATCH):
            part = mine[start : start + VALIDATION_BATCH]
            sums += torch.tensor([self._loss(part), self._score(part)])
        add_over_ranks([sums])
        return {"validation_loss": float(sums[0, 0] / sums[0, 1]), "validation_cider_d": float(sums[1, 0] / sums[1, 1])}

    def _loss(self, pictures: Sequence[int]) -> tuple[float, float]:
        encode = self.tokenizer.encode
        rows = [
            caption_sequence(self.layout, encode, caption, self.features[picture])
            for picture in pictures
            for caption in self.captions[picture]
        ]
        batch = {"caption": packed(rows, self.layout.num_latents)}
        found = KosmosObjective(self.model).losses(batch)["caption"]
        return float(found.total), found.count

    def _score(self, pictures: Sequence[int]) -> tuple[float, float]:
        latents_NLD = self.model.resampler(restored(np.stack([self.features[picture] for picture in pictures])))
        found = caption_rollout(self.model, self.layout, latents_NLD, max_tokens=VALIDATION_TOKENS)
        words = [self.tokenizer.decode(row.tolist()) for row in found.ids]
        scores = [self.metric.score(text, picture) for text, picture in zip(words, pictures, strict=True)]
        return sum(scores), len(pictures)


def _work(
    recipe: Recipe,
    paths: Paths,
    precision: str,
    metric: MetricOf,
    reward: MetricOf,
    progress: Progress | None,
    rank: int,
    ranks: int,
) -> None:
    """What every rank does; the ranks differ in their share of each batch alone."""
    config = preset(recipe.name)
    tokenizer = Tokenizer(paths.tokenizer, specials=config.tokenizer.specials)
    layout = _layout(tokenizer, config.resampler.num_latents)
    torch.manual_seed(recipe.seed)
    model = KosmosModel(config)
    model.tower.requires_grad_(False)
    mixture = build_mixture(recipe, paths, tokenizer, layout)
    held_out = photographs(paths.data, "val")[: recipe.validation_pictures]
    features = [_shard_features(paths, Eye(), name, 0) for name in shard_names(paths.data, "val")]
    validation = _Validation(
        model,
        layout,
        tokenizer,
        [item.captions for item in held_out],
        np.concatenate(features)[: len(held_out)],
        metric([item.captions for item in held_out]),
    )
    judge = reward(mixture.captions.captions)
    stages = _stages(recipe, precision, model, mixture, validation, judge, tokenizer)
    train(Learner(model), stages, RunFolder(paths.run), seed=recipe.seed, rank=rank, ranks=ranks, progress=progress)


def _stages(
    recipe: Recipe,
    precision: str,
    model: KosmosModel,
    mixture: Mixture,
    validation: _Validation,
    judge: CaptionMetric,
    tokenizer: Tokenizer,
) -> list[Stage]:
    words = KosmosObjective(model, recipe.optimiser.label_smoothing)
    rewarded = RewardObjective(model, mixture.layout, recipe.reward, judge.score, tokenizer.decode)

    def word_losses(step: int, rank: int, ranks: int) -> dict[str, Sum]:
        # Every rank names every kind, also one its share has none of: ranks add what stands in the same place.
        nothing = {kind: Sum(torch.zeros(()), 0.0, 1.0) for kind in mixture.kinds}
        with autocast(precision):
            return {**nothing, **words.losses(mixture.batch(step, rank, ranks))}

    def reward_losses(step: int, rank: int, ranks: int) -> dict[str, Sum]:
        # The words go on being learnt beside the reward, on batches the first stage has not used up.
        kept = word_losses(recipe.optimiser.steps + step, rank, ranks)
        weighed = {name: replace(part, weight=recipe.reward.cross_entropy) for name, part in kept.items()}
        with autocast(precision):
            return {**rewarded.losses(mixture, step, rank, ranks), **weighed}

    second = replace(
        recipe.optimiser,
        steps=recipe.reward.steps,
        learning_rate=recipe.reward.learning_rate,
        warmup_steps=recipe.reward.warmup_steps,
        average_decay=recipe.reward.average_decay,
    )
    return [
        Stage(
            name="words",
            optimiser=recipe.optimiser,
            losses=word_losses,
            validate=validation,
            validate_every=recipe.validate_every,
            log_every=recipe.log_every,
            save_every=recipe.save_every,
        ),
        Stage(
            name="reward",
            optimiser=second,
            losses=reward_losses,
            validate=validation,
            validate_every=recipe.reward.validate_every,
            log_every=recipe.reward.log_every,
            save_every=recipe.reward.save_every,
        ),
    ]


def train_tiny(
    recipe: Recipe,
    paths: Paths,
    *,
    metric: MetricOf,
    reward: MetricOf,
    ranks: int,
    precision: Precision = "auto",
    told: Callable[[str], None],
    progress: Progress | None = None,
) -> None:
    """Prepare, train through both stages and write the checkpoint folder; killed, the same call goes on.

    Args:
        metric: makes the judge of validation captions from their references.  reward: that of the reward stage.
        ranks: processes that share the work, one thread each.
        precision: of matrix products; `auto` takes bfloat16 only where a short race shows a clear gain.
        told: hears what is being prepared.
    """
    used = _keep_config(recipe, paths, ranks, precision)
    prepare(recipe, paths, told=told)
    run_ranks(ranks, partial(_work, recipe, paths, used, metric, reward, progress), paths.run)
    told("writing the checkpoint")
    export(preset(recipe.name), paths.run / "state.pt", load_eye(), paths.tokenizer.read_bytes(), paths.output)


def _keep_config(recipe: Recipe, paths: Paths, ranks: int, precision: Precision) -> str:
    """Write what this run is, or hold it against what the run folder says: a resumed run must be the same run.

    Returns: the number format in use; a resumed run keeps the one it began with.
    """
    paths.run.mkdir(parents=True, exist_ok=True)
    path = paths.run / "config.json"
    before = json.loads(path.read_text("utf-8")) if path.exists() else {}
    used = str(before["precision"]) if before and precision == "auto" else chosen_precision(precision)
    wanted = json.dumps({"recipe": asdict(recipe), "ranks": ranks, "precision": used}, indent=2) + "\n"
    if before and before != json.loads(wanted):
        raise ValueError(f"{path} describes another run; give a new folder by --run, or the same options as before")
    path.write_text(wanted, "utf-8")
    return used
