"""The case `loader`: shards to batches, ours beside `webdataset` with torchvision and torch's DataLoader.

Both read the same pairs, decode to 224 x 224, tokenise with the same vocabulary and give bytes, ids and lengths, in
one process. Ours shuffles and packs into rows without padding; the peer, in its usual style, keeps the order and pads
each batch to its longest caption. The limit is decoding and resizing alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from data_pipelines.loader.loader import Loader
from data_pipelines.loader.stream import Stream
from data_pipelines.mixture import mixture_of
from kosmos.bench.data_corpus import pictures, write_pairs
from kosmos.bench.figure import Figure
from kosmos.bench.rates import rate_figure
from kosmos.bench.timing import in_turn
from kosmos.packed import Packed
from kosmos.presets import preset
from kosmos.processor import Encoded, Processor
from kosmos.training.encoding import DocumentEncoder
from text.tokenizer import Tokenizer
from vision.fast_decode import decode_square

if TYPE_CHECKING:
    from kosmos.bench.data import DataBench

__all__ = ["Padded", "loader_case", "our_batches", "pairs_loader", "webdataset_batches"]

SHAPE = "kosmos1"  # its pictures take 64 rows
VOCABULARY = files("kosmos") / "tiny" / "tokenizer.model"
SIDE = 224
ROWS = 2048
BATCH = 24  # pairs that fill as many rows, about
LANES = 4  # the documents of a turn are few
SHARDS = 4


class Padded(NamedTuple):
    """What the usual style feeds a model. Legend: N pairs, T ids of the longest caption."""

    pixels_N3HW: Tensor
    ids_NT: Tensor
    lengths_N: Tensor


def loader_case(bench: DataBench, folder: Path) -> Figure:
    """Documents a second, with the share of rows that ours fills."""
    paths = write_pairs(folder, bench.data, documents=bench.documents, shards=SHARDS)
    tokenizer = _tokenizer()
    loader = pairs_loader(paths)
    batches, amount = our_batches(loader), min(bench.pictures, bench.documents)
    encoded = pictures(bench.data, amount)
    contestants: dict[str, Callable[[], object]] = {
        "ours": lambda: _take(batches, amount),
        "limit": lambda: [decode_square(picture, SIDE, "squash") for picture in encoded],
    }
    if bench.peers:
        contestants["webdataset"] = lambda: _take(_sizes(webdataset_batches(paths, tokenizer)), amount)
    timed = in_turn(contestants, bench.rounds, bench.clock)
    return rate_figure("loader", "documents/s", amount, timed, notes={"fill": loader.fill["pairs"]})


def pairs_loader(paths: Sequence[Path]) -> Loader[Packed]:
    """Ours over pairs of picture and caption, in this process."""
    encoder = DocumentEncoder(Processor(_tokenizer(), preset(SHAPE), pictures="late"))
    stream: Stream[Encoded, Packed] = Stream(
        mixture=mixture_of([str(path) for path in paths]), encoder=encoder, rows=ROWS
    )
    return Loader({"pairs": stream}, lanes=LANES)


def our_batches(loader: Loader[Packed]) -> Iterator[int]:
    """Pairs in each batch, without end."""
    for batches in loader:
        pixels = batches["pairs"].pixels
        yield 0 if pixels is None else len(pixels)


def webdataset_batches(paths: Sequence[Path], tokenizer: Tokenizer) -> Iterator[Padded]:
    """One pass over the shards, as its documentation has it."""
    import webdataset
    from torch.utils.data import DataLoader
    from torchvision import transforms

    transform = transforms.Compose(
        [transforms.Resize((SIDE, SIDE), transforms.InterpolationMode.BICUBIC), transforms.PILToTensor()]
    )
    dataset = (
        webdataset.WebDataset([str(path) for path in paths], shardshuffle=False)
        .decode("pil")
        .to_tuple("jpg", "txt")
        .map_tuple(transform, lambda caption: torch.tensor([tokenizer.bos_id, *tokenizer.encode(caption)]))
    )
    return iter(DataLoader(dataset, batch_size=BATCH, num_workers=0, collate_fn=_pad))


def _pad(pairs: Sequence[tuple[Tensor, Tensor]]) -> Padded:
    ids = [caption for _, caption in pairs]
    return Padded(
        torch.stack([pixels for pixels, _ in pairs]),
        torch.nn.utils.rnn.pad_sequence(ids, batch_first=True),
        torch.tensor([len(caption) for caption in ids]),
    )


def _sizes(batches: Iterator[Padded]) -> Iterator[int]:
    return (len(batch.lengths_N) for batch in batches)


def _take(sizes: Iterator[int], amount: int) -> None:
    """As many batches as hold `amount` pairs."""
    taken = 0
    while taken < amount:
        taken += sum(islice(sizes, 1))


def _tokenizer() -> Tokenizer:
    return Tokenizer(VOCABULARY.read_bytes(), specials=preset(SHAPE).tokenizer.specials)
