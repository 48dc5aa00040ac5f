"""`kosmos convert`: a Kosmos-2 checkpoint of transformers becomes ours, or ours becomes one; the source says which."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["add_arguments", "run"]

DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Source, output, and the type of the numbers written."""
    parser.add_argument(
        "source", help="a Kosmos-2 checkpoint (folder or hub id), or a checkpoint or run folder of ours"
    )
    parser.add_argument("output", help="the folder to write; it appears whole or not at all")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights written (default float32)")


def run(arguments: argparse.Namespace) -> int:
    """Convert, and say which way it went."""
    import torch

    from kosmos.checkpoint import checkpoint_folder
    from kosmos.huggingface import is_kosmos2

    source, output = arguments.source, arguments.output
    dtype: torch.dtype = getattr(torch, arguments.dtype)
    if Path(source).is_dir() and not is_kosmos2(source):
        _ours_to_theirs(checkpoint_folder(source), output, dtype)
        print(f"{output}: a Kosmos-2 checkpoint for transformers, from {source}")
    else:
        _theirs_to_ours(source, output, dtype)
        print(f"{output}: a checkpoint for kosmos, from {source}")
    return 0


def _ours_to_theirs(source: Path, output: str, dtype: torch.dtype) -> None:
    from kosmos.checkpoint import TOKENIZER, load_model
    from kosmos.huggingface import export_kosmos2

    export_kosmos2(load_model(source, dtype=dtype), output, (source / TOKENIZER).read_bytes())


def _theirs_to_ours(source: str, output: str, dtype: torch.dtype) -> None:
    from kosmos.chat import DEFAULT_CHAT_TEMPLATE
    from kosmos.checkpoint import save_checkpoint
    from kosmos.huggingface import load_kosmos2

    model, words = load_kosmos2(source, dtype=dtype)
    card = f"# Kosmos-2\n\nConverted by `kosmos convert` from {source}, whose terms and card still hold.\n"
    save_checkpoint(model, output, tokenizer_model=words, chat_template=DEFAULT_CHAT_TEMPLATE, card=card)
