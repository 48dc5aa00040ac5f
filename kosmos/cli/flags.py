"""Flags and file endings shared by the verbs that generate; options are checked by `GenerationOptions` itself."""

from __future__ import annotations

import argparse
from dataclasses import fields

from kosmos.options import GenerationOptions

__all__ = ["PICTURE_ENDINGS", "add_model_arguments", "add_sampling_arguments", "options_of"]

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
QUANTIZE = ("none", "int4", "int8")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and how it is opened."""
    parser.add_argument("--model", default="tiny", help="name, folder or hub id (default tiny)")
    parser.add_argument("--device", default="auto", help="where it runs: auto, cpu, cuda ...")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--quantize", default="none", choices=QUANTIZE, help="weights of the decoder")


def add_sampling_arguments(parser: argparse.ArgumentParser, *, num_beams: int) -> None:
    """How to continue; names are the field's."""
    group = parser.add_argument_group("generation")
    group.add_argument("--max-new-tokens", type=int, default=64, help="longest answer (default 64)")
    group.add_argument("--min-new-tokens", type=int, default=0)
    group.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest word (default)")
    group.add_argument("--top-k", type=int, default=0)
    group.add_argument("--top-p", type=float, default=1.0)
    group.add_argument("--min-p", type=float, default=0.0)
    group.add_argument("--repetition-penalty", type=float, default=1.0)
    group.add_argument("--no-repeat-ngram-size", type=int, default=0)
    group.add_argument(
        "--num-beams", type=int, default=num_beams, help=f"answers searched at once (default {num_beams})"
    )
    group.add_argument("--length-penalty", type=float, default=1.0)
    group.add_argument("--stop", action="append", default=[], metavar="STRING", help="ends the answer; may be repeated")
    group.add_argument("--seed", type=int)


def options_of(arguments: argparse.Namespace) -> GenerationOptions:
    """The options that were given. Raises: argparse.ArgumentTypeError that names the one out of range."""
    values = {
        entry.name: getattr(arguments, entry.name) for entry in fields(GenerationOptions) if entry.name != "logprobs"
    }
    try:
        return GenerationOptions(**{**values, "stop": tuple(arguments.stop)})
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
