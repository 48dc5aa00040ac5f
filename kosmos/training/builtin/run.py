"""`kosmos train tiny`: from a folder of data to the checkpoint folder, in one call that can be killed and repeated.

Puts the parts together: shards, words, the eye's stored features, the streams of the loader, two stages (words, then
reward) and the export. What captions are worth is handed in (`metric`), since training does not import evaluation.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_pipelines.loader.loader import Loader
from data_pipelines.loader.stream import Stream
from data_pipelines.mixture import Component, Mixture
from kosmos.checkpoint import newest_step
from kosmos.model import KosmosModel
from kosmos.packed import Packed
from kosmos.presets import preset
from kosmos.processor import Processor
from kosmos.training.builtin.corpus import Corpus
from kosmos.training.builtin.encoder import Photograph, PhotographEncoder, TinyEncoder
from kosmos.training.builtin.export import exporter
from kosmos.training.builtin.features import load_eye, restored
from kosmos.training.builtin.recipe import MixtureRecipe, TinyRecipe
from kosmos.training.builtin.reward import RewardObjective
from kosmos.training.builtin.rollout import Layout
from kosmos.training.builtin.stored_features import StoredFeatures
from kosmos.training.builtin.validation import CaptionValidation, MetricOf
from kosmos.training.builtin.vocabulary import train_vocabulary
from kosmos.training.curves import CURVES, write_curves
from kosmos.training.distributed import run_ranks
from kosmos.training.learner import Learner
from kosmos.training.loop import Progress, Run, Stage, train
from kosmos.training.objective import KosmosObjective, Part, Sum
from kosmos.training.parallel import Parallel
from kosmos.training.precision import Precision, autocast, chosen_precision
from kosmos.training.publishing import gather_weights
from kosmos.training.recipe import OptimiserRecipe, SaveRecipe
from kosmos.training.run_folder import RunFolder
from kosmos.training.run_log import LOG, RunLog
from kosmos.training.training_state import VALUES
from kosmos.weight_files import write_folder
from text.tokenizer import Tokenizer

__all__ = ["Paths", "prepare", "streams", "train_tiny"]

KINDS = ("caption", "text", "interleaved")
PHOTOGRAPHS = "photographs-train"
LANES, LOOK_AHEAD = 16, 4  # few documents, small batches: little to read again on resume
BOOK_SHARE_OF_WORDS = 4  # every 4th piece of a book teaches the vocabulary: captions are what it is for

Streams = dict[str, Stream[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Where the data are, where shards and features are kept between runs, where the run writes, the checkpoint."""

    data: Path
    cache: Path
    run: Path
    output: Path

    @property
    def tokenizer(self) -> Path:
        """The SentencePiece model of this run."""
        return self.run / "tokenizer.model"

    @property
    def corpus(self) -> Corpus:
        """The shards."""
        return Corpus(self.cache / "shards")

    def features(self, name: str, views: int = 1) -> StoredFeatures:
        """What the eye saw of a set's pictures."""
        return StoredFeatures(self.corpus.shards(name), self.cache / "features", views=views)


def prepare(recipe: TinyRecipe, paths: Paths, *, told: Callable[[str], None]) -> None:
    """Make what a run needs once: shards, features of every view, the words. Finished pieces are not done again."""
    paths.run.mkdir(parents=True, exist_ok=True)
    paths.corpus.make(paths.data, told)
    paths.features(PHOTOGRAPHS, recipe.mixture.views).compute(load_eye, told)
    for name in ("photographs-val", "pages-train"):
        paths.features(name).compute(load_eye, told)
    if not paths.tokenizer.exists():
        told("vocabulary")
        corpus = paths.corpus
        captions = [caption for photograph in corpus.captions("train") for caption in photograph]
        captions += corpus.texts("captions-train")
        prose = corpus.texts("pages-train") + corpus.texts("books-train")[::BOOK_SHARE_OF_WORDS]
        num_words = preset(recipe.name).tokenizer.num_words
        train_vocabulary([*captions, *captions, *prose], paths.tokenizer, num_words=num_words)


def streams(recipe: MixtureRecipe, paths: Paths, processor: Processor, ranks: int) -> Streams:
    """What every step of a rank reads: photographs with captions, text, pages."""

    def component(name: str, weight: float = 1.0) -> Component:
        return Component(name=name, shards=(str(paths.corpus.folder / name),), weight=weight)

    text = (component("captions-train", 1 - recipe.book_share), component("books-train", recipe.book_share))
    photographs = TinyEncoder(processor, paths.features(PHOTOGRAPHS, recipe.views), recipe.prompted)
    longest = recipe.piece_rows
    return {
        "caption": Stream(
            mixture=Mixture(components=(component(PHOTOGRAPHS),)),
            encoder=photographs,
            rows=recipe.caption_rows // ranks,
            look_ahead=LOOK_AHEAD,
        ),
        "text": Stream(
            mixture=Mixture(components=text, by="token"),
            encoder=TinyEncoder(processor),
            rows=max(longest, recipe.text_rows // ranks),
            max_length=longest,
            look_ahead=LOOK_AHEAD,
        ),
        "interleaved": Stream(
            mixture=Mixture(components=(component("pages-train"),)),
            encoder=TinyEncoder(processor, paths.features("pages-train")),
            rows=max(longest, recipe.page_rows // ranks),
            max_length=longest,
            look_ahead=LOOK_AHEAD,
        ),
    }


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What both stages of one rank are made of."""

    recipe: TinyRecipe
    paths: Paths
    precision: str
    model: KosmosModel
    processor: Processor
    validation: CaptionValidation
    rank: int
    ranks: int

    def parts(self, objective: KosmosObjective, batch: Mapping[str, Any], weight: float = 1.0) -> list[Part]:
        """The kinds of a step."""
        # Every rank names every kind, also one of which all its documents were bad: ranks add what stands in one place.
        return [partial(self._sums, objective, kind, batch[kind], weight) for kind in KINDS]

    def _sums(self, objective: KosmosObjective, kind: str, packed: object, weight: float) -> dict[str, Sum]:
        if not isinstance(packed, Packed):
            return {kind: Sum(torch.zeros(()), 0.0, weight)}
        with autocast(self.precision):
            found = objective.losses({kind: packed})
        return {name: replace(one, weight=weight) for name, one in found.items()}

    def loader(self, more: Streams, seed: int) -> Loader[Any]:
        """This rank's share of the streams, and of more."""
        own = streams(self.recipe.mixture, self.paths, self.processor, self.ranks)
        return Loader({**own, **more}, seed=seed, rank=self.rank, ranks=self.ranks, lanes=LANES)


def _work(
    recipe: TinyRecipe,
    paths: Paths,
    precision: str,
    metric: MetricOf,
    reward: MetricOf,
    progress: Progress | None,
    rank: int,
    ranks: int,
) -> None:
    """What every rank does; the ranks differ in their share of the batches alone."""
    config = preset(recipe.name)
    processor = Processor(Tokenizer(paths.tokenizer, specials=config.tokenizer.specials), config, pictures="late")
    eye = load_eye().state_dict()
    torch.manual_seed(recipe.seed)
    model = KosmosModel(config)
    model.tower.requires_grad_(False)
    run = _Run(
        recipe=recipe,
        paths=paths,
        precision=precision,
        model=model,
        processor=processor,
        validation=_validation(recipe, paths, model, processor, metric),
        rank=rank,
        ranks=ranks,
    )
    stages = [_words_stage(run), _reward_stage(run, reward)]
    parallel = Parallel(rank=rank, ranks=ranks, first=rank == 0)
    folder = RunFolder(paths.run, SaveRecipe(keep=1))
    log = RunLog(paths.run) if parallel.first else None
    write_model = partial(_writer, model, eye, parallel, paths)
    ends = Run(
        folder=folder,
        log=log,
        seed=recipe.seed,
        progress=progress,
        write_model=write_model,
        validated=partial(write_curves, paths.run / LOG, paths.run / CURVES, recipe.name),
    )
    try:
        train(Learner(model, parallel), stages, ends)
    finally:
        folder.close()


def _writer(
    model: KosmosModel, eye: Mapping[str, Tensor], parallel: Parallel, paths: Paths
) -> Callable[[Path], None] | None:
    """What writes the checkpoint of a step, on the first rank; training itself never looks through the eye."""
    weights = {name: one for name, one in gather_weights(model, parallel).items() if not name.startswith("tower.")}
    return exporter(model.config, weights, eye, paths.tokenizer.read_bytes()) if parallel.first else None


def _validation(
    recipe: TinyRecipe, paths: Paths, model: KosmosModel, processor: Processor, metric: MetricOf
) -> CaptionValidation:
    corpus, features = paths.corpus, paths.features("photographs-val")
    keys = [sample.key for sample in corpus.samples("photographs-val")][: recipe.validation_pictures]
    captions = corpus.captions("val")[: len(keys)]
    return CaptionValidation(model, processor, captions, np.stack([features(key) for key in keys]), metric(captions))


def _words_stage(run: _Run) -> Stage:
    recipe = run.recipe
    objective = KosmosObjective(run.model, recipe.optimiser.label_smoothing)
    return Stage(
        name="words",
        optimiser=recipe.optimiser,
        batches=run.loader({}, recipe.seed),
        parts=lambda batch, step: run.parts(objective, batch),
        validate=run.validation,
        validate_every=recipe.validate_every,
        log_every=recipe.log_every,
        save_every=recipe.save_every,
    )


def _reward_stage(run: _Run, reward: MetricOf) -> Stage:
    recipe, paths = run.recipe, run.paths
    objective = KosmosObjective(run.model, recipe.optimiser.label_smoothing)
    numbers = {sample.key: number for number, sample in enumerate(paths.corpus.samples(PHOTOGRAPHS))}
    judge, features = reward(paths.corpus.captions("train")), paths.features(PHOTOGRAPHS, recipe.mixture.views)
    rewarded = RewardObjective(
        run.model, Layout.of(run.processor), recipe.reward, judge.score, run.processor.tokenizer.decode
    )
    photographs = Stream(
        mixture=Mixture(components=(Component(name=PHOTOGRAPHS, shards=(str(paths.corpus.folder / PHOTOGRAPHS),)),)),
        encoder=PhotographEncoder(recipe.mixture.views),
        rows=max(1, recipe.reward.pictures // run.ranks),
        max_length=1,
    )

    def rewards(batch: Mapping[str, Any], step: int) -> dict[str, Sum]:
        chosen: tuple[Photograph, ...] = batch["photographs"]
        seen = restored(np.stack([features(photograph.key, 0, photograph.view) for photograph in chosen]))
        seed = (recipe.seed * 1_000_003 + step) * run.ranks + run.rank
        with autocast(run.precision):
            return rewarded.losses([numbers[p.key] for p in chosen], seen, seed=seed)

    def parts(batch: Mapping[str, Any], step: int) -> list[Part]:
        # The words go on being learnt beside the reward.
        return [*run.parts(objective, batch, recipe.reward.cross_entropy), partial(rewards, batch, step)]

    return Stage(
        name="reward",
        optimiser=_reward_optimiser(recipe),
        batches=run.loader({"photographs": photographs}, recipe.seed + 1),
        parts=parts,
        validate=run.validation,
        validate_every=recipe.reward.validate_every,
        log_every=recipe.reward.log_every,
        save_every=recipe.reward.save_every,
    )


def _reward_optimiser(recipe: TinyRecipe) -> OptimiserRecipe:
    return replace(
        recipe.optimiser,
        steps=recipe.reward.steps,
        learning_rate=recipe.reward.learning_rate,
        warmup_steps=recipe.reward.warmup_steps,
        average_decay=recipe.reward.average_decay,
    )


def train_tiny(
    recipe: TinyRecipe,
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
    last = newest_step(paths.run)
    with write_folder(paths.output, known=re.compile(".*")) as temporary:
        for path in last.iterdir():
            if path.is_file() and path.name != VALUES:
                shutil.copyfile(path, temporary / path.name)


def _keep_config(recipe: TinyRecipe, paths: Paths, ranks: int, precision: Precision) -> str:
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
