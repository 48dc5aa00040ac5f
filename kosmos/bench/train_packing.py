"""The cases `packing-pages` and `packing-mixture`: the same model over packed batches and over padded ones.

Padding is done well: each kind of document by itself, shuffled, 16 in a batch, padded to its longest, computed in
slices of as many rows as a packed batch has, and logits are made of no padding. Useful tokens are rows of documents,
those of pictures included; a turn is forward and backward. The model is half the depth and half the width of
`step-100m`, with an eye and a vocabulary smaller in proportion; what the FLOPs of that larger shape say of the same
batches stands beside. The mixture is that of Kosmos-1 (arXiv 2302.14045, section 3.2): captions to pages as 5 to 2.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from data_pipelines.loader.loader import Loader
from data_pipelines.loader.stream import Stream
from data_pipelines.mixture import mixture_of
from data_pipelines.shard import Shard
from data_pipelines.stores import expand
from kosmos.bench.figure import Figure
from kosmos.bench.floors import square_flops, squares
from kosmos.bench.timing import Timed, in_turn
from kosmos.bench.train_documents import Corpus, captions, pages
from kosmos.bench.train_step import STEP_SHAPE, processor_of
from kosmos.config import KosmosConfig
from kosmos.model import KosmosModel
from kosmos.packed import Packed
from kosmos.processor import Encoded
from kosmos.training.encoding import DocumentEncoder
from kosmos.training.objective import KosmosObjective, overall
from kosmos.training.planning.activations import Load
from kosmos.training.planning.flops import sequence_flops
from kosmos.training.planning.inventory import Inventory, take_inventory

if TYPE_CHECKING:
    from kosmos.bench.train import TrainBench

__all__ = ["PACKING_SHAPE", "Padding", "mixture_case", "padded", "pages_case"]

LATENTS = 64
PACKING_SHAPE = replace(
    STEP_SHAPE,
    name="bench-packing",
    tower=replace(STEP_SHAPE.tower, width=384, num_layers=3, num_heads=6, mlp_width=1536),
    resampler=replace(STEP_SHAPE.resampler, num_latents=LATENTS, num_heads=6),
    decoder=replace(STEP_SHAPE.decoder, vocab_size=8_192, num_layers=6, width=384, num_heads=6, ffn_width=1536),
)
LARGE_SHAPE = replace(STEP_SHAPE, resampler=replace(STEP_SHAPE.resampler, num_latents=LATENTS))
BATCH = 16
MIXTURE = {"captions": 5 / 7, "pages": 2 / 7}  # shares of the tokens
PADDED_BATCHES = {"captions": 6, "pages": 1}  # of a turn
LOOK_AHEAD = 16
CORPORA: dict[str, Callable[[Path, Path], Corpus]] = {"captions": captions, "pages": pages}


def pages_case(bench: TrainBench, folder: Path) -> Figure:
    """Interleaved pages, in pieces of at most what the model reads."""
    return _case("packing-pages", {"pages": 1.0}, bench, folder)


def mixture_case(bench: TrainBench, folder: Path) -> Figure:
    """Captions and pages, each packed, or padded, by itself."""
    return _case("packing-mixture", MIXTURE, bench, folder)


class Padding:
    """All documents of a corpus, shuffled, in batches of 16 that are padded to their longest."""

    def __init__(self, shards: Sequence[str], encoder: DocumentEncoder, *, longest: int) -> None:
        """
        Args:
            longest: rows of a piece; a longer document is cut as the loader cuts it.
        """
        found = (sample.document() for path in expand(shards) for sample in Shard(Path(path)))
        documents = [piece for document in found for piece in encoder.split(encoder.encode(document), longest)]
        random.Random(0).shuffle(documents)
        self.processor = encoder.processor
        self.batches = [documents[start : start + BATCH] for start in range(0, len(documents) - BATCH + 1, BATCH)]

    def slices(self, batch: Sequence[Encoded], rows: int) -> Iterator[Packed]:
        """A batch as a model eats it, at most so many rows at once."""
        longest = max(document.length for document in batch)
        size = max(1, rows // longest)
        filled = [padded(document, longest, self.processor.tokenizer.pad_id) for document in batch]
        return (self.processor.collate(filled[start : start + size]) for start in range(0, len(filled), size))


def padded(document: Encoded, rows: int, pad_id: int) -> Encoded:
    """With rows behind it that nobody asks for."""
    missing = rows - document.length
    ids, weights = (*document.ids, *[pad_id] * missing), (*document.loss_weights, *[0.0] * missing)
    return replace(document, ids=ids, loss_weights=weights)


@dataclass(frozen=True, kw_only=True)
class _Sides:
    """One corpus, packed and padded.

    Attributes:
        packed, padded: the batches of a turn.
        documents: of `padded`, a batch each.
    """

    packed: list[Packed]
    padded: list[Packed]
    documents: list[list[Encoded]]
    real: bool

    @cached_property
    def packed_tokens(self) -> int:
        """Useful ones."""
        return sum(len(batch.tokens) for batch in self.packed)

    @cached_property
    def padded_tokens(self) -> int:
        """Useful ones."""
        return sum(document.length for batch in self.documents for document in batch)


def _case(case: str, shares: dict[str, float], bench: TrainBench, folder: Path) -> Figure:
    sides = {name: _sides(name, bench, folder) for name in shares}
    train = _passes(bench.packing_shape)
    contestants: dict[tuple[str, str], Callable[[], object]] = {("limit", ""): squares(torch.float32)}
    for name, side in sides.items():
        contestants["ours", name] = lambda side=side: train(side.packed)  # type: ignore[misc]
        if bench.peers:
            contestants["padded", name] = lambda side=side: train(side.padded)  # type: ignore[misc]
    timed = in_turn(contestants, max(1, bench.rounds // 2), bench.clock)
    tokens = {("ours", name): side.packed_tokens for name, side in sides.items()}
    tokens |= {("padded", name): side.padded_tokens for name, side in sides.items()}
    rate = square_flops() / timed.pop(("limit", "")).median
    inventory = take_inventory(bench.packing_shape, "frozen")
    flops = {name: _useful_flops(inventory, side) / side.padded_tokens for name, side in sides.items()}
    spread = {side: _blended(shares, side, timed, tokens) for side in ("ours", "padded")[: 2 if bench.peers else 1]}
    return Figure(
        bench="train",
        case=case,
        unit="tokens/s",
        ours=spread["ours"][1],
        peers={name: rates[1] for name, rates in spread.items() if name != "ours"},
        spread={name: (rates[0], rates[2]) for name, rates in spread.items()},
        limit=rate / sum(share * flops[name] for name, share in shares.items()),
        notes=_notes(shares, sides),
    )


def _blended(
    shares: dict[str, float], side: str, timed: dict[tuple[str, str], Timed], tokens: dict[tuple[str, str], int]
) -> tuple[float, float, float]:
    """Useful tokens a second of the slowest, the middle and the fastest round, kinds mixed by their shares."""
    seconds = [0.0, 0.0, 0.0]
    for name, share in shares.items():
        entry = timed[side, name]
        for place, taken in enumerate((entry.spread[1], entry.median, entry.spread[0])):
            seconds[place] += share * taken / tokens[side, name]
    slow, middle, fast = (1 / taken for taken in seconds)
    return slow, middle, fast


def _sides(name: str, bench: TrainBench, folder: Path) -> _Sides:
    corpus = CORPORA[name](folder, bench.data)
    encoder = DocumentEncoder(processor_of(bench.packing_shape))
    padding = Padding(corpus.shards, encoder, longest=bench.longest)
    chosen = padding.batches[: PADDED_BATCHES[name]]
    wanted = sum(document.length for batch in chosen for document in batch)
    stream: Stream[Encoded, Packed] = Stream(
        mixture=mixture_of(corpus.shards),
        encoder=encoder,
        rows=bench.packing_rows,
        max_length=bench.longest,
        look_ahead=LOOK_AHEAD,
    )
    loader = Loader({name: stream}, lanes=1)
    packed = [batch[name] for batch in islice(loader, max(1, round(wanted / bench.packing_rows)))]
    slices = [part for batch in chosen for part in padding.slices(batch, bench.packing_rows)]
    return _Sides(packed=packed, padded=slices, documents=chosen, real=corpus.real)


def _passes(shape: KosmosConfig) -> Callable[[Sequence[Packed]], None]:
    """Forward and backward of some batches; their gradients add up."""
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    model = KosmosModel(shape).train()
    model.tower.requires_grad_(False)
    objective = KosmosObjective(model)

    def run(batches: Sequence[Packed]) -> None:
        model.zero_grad(set_to_none=True)
        for batch in batches:
            overall(objective.losses({"caption": batch})).backward()

    return run


def _useful_flops(inventory: Inventory, side: _Sides) -> float:
    return sum(_flops(inventory, document, document.length) for batch in side.documents for document in batch)


def _padded_flops(inventory: Inventory, side: _Sides) -> float:
    longest = [max(document.length for document in batch) for batch in side.documents]
    return sum(
        _flops(inventory, document, rows)
        for batch, rows in zip(side.documents, longest, strict=True)
        for document in batch
    )


def _flops(inventory: Inventory, document: Encoded, rows: int) -> float:
    """Of a document in so many rows; the rows behind it have no logits."""
    decoder = inventory.config.decoder
    head = 6 * (rows - document.length) * decoder.vocab_size * decoder.width
    return sequence_flops(inventory, Load(rows=rows, pictures=len(document.images))).total - head


def _notes(shares: dict[str, float], sides: dict[str, _Sides]) -> dict[str, float]:
    inventory = take_inventory(LARGE_SHAPE, "frozen")
    flops = {name: (_padded_flops(inventory, side), _useful_flops(inventory, side)) for name, side in sides.items()}
    by_token = {name: [part / sides[name].padded_tokens for part in both] for name, both in flops.items()}
    whole = [sum(share * by_token[name][place] for name, share in shares.items()) for place in (0, 1)]
    notes = {"real documents": float(all(side.real for side in sides.values()))}
    notes["FLOPs of padding at 12 x 768"] = whole[0] / whole[1]
    for name, side in sides.items():
        rows = sum(len(batch.tokens) for batch in side.padded)
        notes[f"padded rows, {name}"] = rows / side.padded_tokens
        slots = sum(len(batch.lengths) for batch in side.packed)
        notes[f"documents of a batch, {name}"] = slots / len(side.packed)
    return notes
