"""`kosmos convert`: a Kosmos-2 checkpoint of transformers becomes ours, or ours becomes one; the source says which."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from kosmos.pretrained import Opened

__all__ = ["add_arguments", "run"]

DTYPES = ("float32", "bfloat16", "float16")
OTHER = {"kosmos": "kosmos-2", "kosmos-2": "kosmos"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Source, output, and what is written."""
    parser.add_argument(
        "source", help="a Kosmos-2 checkpoint (folder or hub id), or ours: `tiny`, a checkpoint or run folder"
    )
    parser.add_argument("output", help="the folder to write; it appears whole or not at all")
    parser.add_argument("--to", choices=sorted(OTHER), help="format to write (default: the one the source has not)")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights written (default: each as the source has it)")


def run(arguments: argparse.Namespace) -> int:
    """Convert, and say which way it went."""
    source, output = arguments.source, arguments.output
    if not output.strip():
        raise argparse.ArgumentTypeError("no output is named; give the folder to write")

    import torch

    from kosmos.huggingface import export_kosmos2
    from kosmos.pretrained import open_checkpoint

    dtype: torch.dtype | None = getattr(torch, arguments.dtype) if arguments.dtype else None
    opened = open_checkpoint(source, dtype=dtype)
    if (arguments.to or OTHER[opened.format]) == "kosmos-2":
        if len({weight.dtype for weight in opened.network.parameters()}) > 1:
            opened.network.float()  # their config has one dtype for all; this one holds every other
        export_kosmos2(opened.network, output, opened.tokenizer_model)
        print(f"{output}: a Kosmos-2 checkpoint for transformers, from {source}")
    else:
        _write_ours(opened, source, output)
        print(f"{output}: a checkpoint for kosmos, from {source}")
    return 0


def _write_ours(opened: Opened, source: str, output: str) -> None:
    from kosmos.checkpoint import save_checkpoint

    card = opened.card or f"# {opened.network.config.name}\n"
    if opened.format == "kosmos-2":
        card = f"# Kosmos-2\n\nConverted by `kosmos convert` from {source}, whose terms and card still hold.\n"
    save_checkpoint(
        opened.network,
        output,
        tokenizer_model=opened.tokenizer_model,
        chat_template=opened.chat_template,
        card=card,
        extra_files=opened.notices,
    )
