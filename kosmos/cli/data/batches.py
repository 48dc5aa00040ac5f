"""`kosmos data batches`: what training would read of shards or a mixture, by the loader it uses itself."""

from __future__ import annotations

import argparse
import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from kosmos.cli.data.flags import count

if TYPE_CHECKING:
    from data_pipelines.loader.loader import Loader
    from data_pipelines.mixture import Mixture
    from kosmos.packed import Packed

__all__ = ["add_arguments", "run"]

STREAM = "batch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is read, how it is packed, and where the place is kept."""
    parser.add_argument("source", nargs="+", help="a mixture (YAML), or tars, folders, patterns")
    parser.add_argument("--split", default="train", help="of the mixture (train)")
    parser.add_argument("--model", default="tiny", help="whose words and pictures: name or checkpoint folder (tiny)")
    parser.add_argument("--rows", type=count, default=2048, help="of a batch (2048)")
    parser.add_argument("--max-length", type=count, help="rows of a piece at most (what the model reads)")
    parser.add_argument("--look-ahead", type=count, default=16, help="batches packed together (16)")
    parser.add_argument("--steps", type=count, default=10, help="batches to read (10)")
    parser.add_argument("--workers", type=_workers, default=0, help="processes that read (0: this one)")
    parser.add_argument("--lanes", type=count, default=64, help="streams the run is cut into (64)")
    parser.add_argument("--seed", type=int, default=0, help="of the order (0)")
    parser.add_argument("--max-skipped", type=float, default=0.01, help="share of bad documents that stops (0.01)")
    parser.add_argument("--state", type=Path, help="file to go on from, and to leave the place in")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(arguments: argparse.Namespace) -> int:
    """Read, and say what came."""
    from itertools import islice

    loader = _loader(arguments)
    if arguments.state and arguments.state.exists():
        loader.load_state_dict(_state(arguments.state))
    if arguments.state:
        arguments.state.parent.mkdir(parents=True, exist_ok=True)
    for step, batches in enumerate(islice(loader, arguments.steps)):
        print(_line(step, batches.get(STREAM), as_json=arguments.json), flush=True)
    if arguments.state:
        from data_pipelines.whole_file import whole_file

        with whole_file(arguments.state) as file:
            file.write(json.dumps(loader.state_dict()).encode())
    filled = f"{loader.fill[STREAM]:.1%} of the rows filled"
    print(f"{filled}; {loader.report.to_text()}", file=sys.stderr)
    return 0


def _loader(arguments: argparse.Namespace) -> Loader[Packed]:
    from data_pipelines.loader.loader import Loader
    from data_pipelines.loader.stream import Stream
    from kosmos.checkpoint import TOKENIZER, checkpoint_folder, read_config
    from kosmos.pretrained import BUILT_IN
    from kosmos.processor import Processor
    from kosmos.training.encoding import DocumentEncoder
    from text.tokenizer import Tokenizer

    built_in = Path(str(files("kosmos") / arguments.model))
    folder = checkpoint_folder(built_in if arguments.model in BUILT_IN else arguments.model)
    config = read_config(folder)
    tokenizer = Tokenizer(folder / TOKENIZER, specials=config.tokenizer.specials)
    stream = Stream(
        mixture=_mixture(arguments),
        encoder=DocumentEncoder(Processor(tokenizer, config, pictures="late")),
        rows=arguments.rows,
        max_length=min(arguments.rows, arguments.max_length or config.decoder.max_length),
        look_ahead=arguments.look_ahead,
    )
    return Loader(
        {STREAM: stream},
        seed=arguments.seed,
        workers=arguments.workers,
        lanes=arguments.lanes,
        max_skipped=arguments.max_skipped,
    )


def _mixture(arguments: argparse.Namespace) -> Mixture:
    from data_pipelines.mixture import mixture_of, read_mixture

    first, *others = arguments.source
    if first.endswith((".yaml", ".yml")):
        if others:
            raise argparse.ArgumentTypeError("give one mixture, or shards, not both")
        return read_mixture(first, arguments.split)
    return mixture_of(arguments.source)


def _line(step: int, batch: Packed | None, *, as_json: bool) -> str:
    lengths = batch.lengths if batch else ()  # none where no picture of the batch could be read
    pixels, weights = (batch.pixels, batch.loss_weight) if batch else (None, None)
    record = {
        "step": step,
        "documents": len(lengths),
        "rows": sum(lengths),
        "pictures": 0 if pixels is None else len(pixels),
        "targets": 0 if weights is None else int(weights.count_nonzero()),
        "longest": max(lengths, default=0),
    }
    return json.dumps(record) if as_json else "  ".join(f"{name} {value}" for name, value in record.items())


def _state(path: Path) -> dict[str, object]:
    try:
        record = json.loads(path.read_text("utf-8"))
    except ValueError:
        raise ValueError(f"{path} is no state of a loader; remove it to begin anew") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path} is no state of a loader; remove it to begin anew")
    return record


def _workers(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)
