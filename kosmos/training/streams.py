"""What a step reads: a stream of packed batches for each kind of sequence that the recipe has shards for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_pipelines.loader.loader import Loader
from data_pipelines.loader.stream import Stream
from data_pipelines.mixture import Component, Mixture, read_mixture
from kosmos.packed import Packed
from kosmos.processor import Processor
from kosmos.training.encoding import DocumentEncoder
from kosmos.training.parallel import Parallel
from kosmos.training.recipe import StreamRecipe, TrainRecipe

__all__ = ["open_loader", "streams"]

YAML = (".yaml", ".yml")


def open_loader(recipe: TrainRecipe, processor: Processor, parallel: Parallel) -> Loader[Packed]:
    """This rank's share of the batches.

    Raises: OSError, ValueError for shards that cannot be read, and a recipe that has none.
    """
    if not recipe.data.streams:
        raise ValueError(f"{recipe.name} has no shards; give them by --data.caption.shards FOLDER or the like")
    return Loader(
        streams(recipe, processor),
        seed=recipe.seed,
        rank=parallel.rank,
        ranks=parallel.ranks,
        workers=recipe.data.workers,
    )


def streams(recipe: TrainRecipe, processor: Processor) -> dict[str, Stream[Any, Packed]]:
    """A stream of each kind; its batches are a micro-batch's share of the step's tokens.

    Raises: ValueError for a share that is shorter than the longest piece.
    """
    encoder = DocumentEncoder(processor, decoding=recipe.data.decoding)
    return {name: _stream(name, one, encoder, recipe) for name, one in recipe.data.streams.items()}


def _stream(name: str, one: StreamRecipe, encoder: DocumentEncoder, recipe: TrainRecipe) -> Stream[Any, Packed]:
    parts = max(1, recipe.compute.micro_batches)
    rows, longest = one.tokens // parts, min(one.max_length, encoder.processor.config.decoder.max_length)
    if rows < longest:
        raise ValueError(
            f"data.{name}: {one.tokens} tokens in {parts} batches leave {rows} each, but a piece may have {longest};"
            f" give more tokens, or --data.{name}.max-length {rows} and less"
        )
    return Stream(
        mixture=_mixture(one.shards),
        encoder=encoder,
        rows=rows,
        max_length=longest,
        look_ahead=recipe.data.look_ahead,
    )


def _mixture(shards: tuple[str, ...]) -> Mixture:
    if len(shards) == 1 and shards[0].endswith(YAML):
        return read_mixture(Path(shards[0]))
    return Mixture(components=(Component(name=shards[0], shards=shards),))
