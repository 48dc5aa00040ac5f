"""`kosmos data mix`: what a mixture gives, component by component; with `--write`, the mixture as new shards."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kosmos.cli.data.flags import (
    add_execution_arguments,
    add_tokenizer_argument,
    count,
    execution_of,
    print_report,
    repair_advised,
)

if TYPE_CHECKING:
    from data_pipelines.mixing import Share
    from data_pipelines.mixture import Mixture

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The mixture, what is asked about it, and where it is written."""
    parser.add_argument("mixture", help="YAML in the shape of Energon's MetadatasetV2")
    parser.add_argument("--split", default="train", help="which of its splits (train)")
    parser.add_argument("--tokens", type=_number, metavar="N", help="say how many epochs N tokens are, as in 1e9")
    add_tokenizer_argument(parser)
    parser.add_argument("--image-tokens", type=count, default=64, metavar="N", help="rows a picture takes (64)")
    parser.add_argument(
        "--sample", type=count, default=1000, metavar="N", help="documents read of each component (1000)"
    )
    writing = parser.add_argument_group("writing it out")
    writing.add_argument("--write", type=Path, metavar="OUT", help="folder for shards that hold the mixture")
    writing.add_argument("--documents", type=count, metavar="N", help="how many documents (by epoch: one epoch)")
    writing.add_argument("--seed", type=int, default=0, help="of the order (0)")
    writing.add_argument(
        "--documents-per-shard", type=count, default=1_000, metavar="N", help="documents in a shard (1000)"
    )
    add_execution_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, then print or write."""
    from data_pipelines.mixing import measure, shares
    from data_pipelines.mixture import read_mixture
    from text.tokenizer import Tokenizer

    mixture = read_mixture(arguments.mixture, arguments.split)
    tokenizer = Tokenizer(arguments.tokenizer, specials="kosmos2")
    with repair_advised():
        contents = [
            measure(component, tokenizer, image_tokens=arguments.image_tokens, sample=arguments.sample)
            for component in mixture.components
        ]
    if arguments.write is not None:
        from data_pipelines.mixed_shards import write_mixture

        epoch = sum(round(part.component.weight * len(part.documents)) for part in contents)
        documents = arguments.documents or (epoch if mixture.by == "epoch" else None)
        if documents is None:
            raise argparse.ArgumentTypeError(f"a mixture by {mixture.by} has no end; say how many with --documents")
        report = write_mixture(
            mixture,
            contents,
            arguments.write,
            documents=documents,
            seed=arguments.seed,
            shard_documents=arguments.documents_per_shard,
            execution=execution_of(arguments),
        )
        return print_report(report, as_json=arguments.json)
    found = shares(mixture, contents, arguments.tokens)
    if arguments.json:
        print(json.dumps({"by": mixture.by, "components": [share.to_record() for share in found]}, ensure_ascii=False))
    else:
        print(_table(mixture, found, arguments.tokens))
    return 0


def _table(mixture: Mixture, found: Sequence[Share], budget: float | None) -> str:
    rows = [["component", "documents", "pictures", "tokens", "of documents", "of tokens", "epochs"]]
    for share in found:
        about = "~" if share.sampled < share.documents else ""
        numbers = [f"{share.documents:,}", f"{about}{share.pictures:,}", f"{about}{share.tokens:,}"]
        epochs = "" if share.epochs is None else f"{share.epochs:.3g}"
        rows.append([share.name, *numbers, f"{share.by_document:.1%}", f"{share.by_token:.1%}", epochs])
    if budget is None:
        rows = [row[:-1] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    ]  # fmt: skip
    broken = [
        f"{share.name}: {share.broken:,} of {share.sampled:,} documents read are broken"
        for share in found
        if share.broken
    ]
    about = f", epochs over {budget:,.0f} tokens" if budget is not None else ""
    return "\n".join([f"weights by {mixture.by}{about}", *lines, *broken])


def _number(text: str) -> float:
    """A number of tokens above 0, `1e9` too, for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 1 <= number < 1e18:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of tokens; give one as 1000000 or 1e9")
    return number
