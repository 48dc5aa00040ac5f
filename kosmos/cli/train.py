"""`kosmos train`: a model by a named recipe, each of whose values is a flag; killed, the same command goes on."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kosmos.cli.main import DEBUG_HELP
from kosmos.cli.recipe_file import read_recipe, recipe_text
from kosmos.cli.recipe_flags import RecipeParser, add_recipe_flags, resolved
from kosmos.training.builtin.recipe import TINY, TinyRecipe
from kosmos.training.recipe import TrainRecipe
from kosmos.training.recipes import RECIPES

if TYPE_CHECKING:
    from kosmos.cli.progress import TrainingProgress

__all__ = ["PRESETS", "add_arguments", "run"]

MAX_RANKS = 64
MIXTURES = (".yaml", ".yml")  # name their shards themselves
RUN = ("--run", "--run-folder")

PRESETS: Mapping[str, str] = {
    "tiny": "the built-in model, in some hours on two cores",
    "base": "a third of a billion parameters for one machine, on text, captions and pages of yours",
    "kosmos1": "Kosmos-1 as the paper trains it: 1.6 billion parameters, 1.2 million tokens a step",
    "kosmos1-instruct": "a trained Kosmos-1 on instructions, without loss on what is asked",
    "kosmos2-finetune": "a Kosmos-2 checkpoint, or any other, on captions, questions, places or instructions of yours",
}
"""What there is, in one line each."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A parser for each preset, with the flags of its recipe; nothing heavy is imported."""
    table = parser.add_subparsers(
        dest="preset", metavar="PRESET", title="presets", required=True, parser_class=RecipeParser
    )
    for name, line in PRESETS.items():
        own = table.add_parser(
            name,
            help=line,
            description=line[0].upper() + line[1:] + ".",
            usage=f"kosmos train {name} [FLAG VALUE ...]",
            allow_abbrev=False,
        )
        own.fill = partial(_add_preset_arguments, name)


def _add_preset_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=DEBUG_HELP)
    parser.add_argument(
        *RUN,
        type=Path,
        default=Path("runs", name),
        metavar="FOLDER",
        help=f"log, state and checkpoints (runs/{name}); under torchrun --run-folder: it takes --run for its own",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="begin from the recipe in a run's config.json")
    parser.add_argument("--print-config", action="store_true", help="print the recipe as JSON, and do nothing else")
    if name == TINY.name:
        _add_tiny_arguments(parser)
    add_recipe_flags(parser, _preset(name))


def run(arguments: argparse.Namespace) -> int:
    """Train to the end and print where the checkpoint is."""
    recipe = _preset(arguments.preset)
    if arguments.config is not None:
        recipe = read_recipe(arguments.config, recipe)
    recipe = resolved(recipe, arguments)
    if arguments.print_config:
        print(recipe_text(recipe))
        return 0
    if isinstance(recipe, TrainRecipe):
        _check(recipe)
    from kosmos.cli.progress import TrainingProgress

    shown = TrainingProgress()
    first = os.environ.get("RANK", "0") == "0"  # torchrun starts this in every process
    if isinstance(recipe, TinyRecipe):
        output = _train_tiny(recipe, arguments, shown)
    else:
        from kosmos.training.run import train_kosmos

        told = shown.told if first else lambda what: None
        output = train_kosmos(recipe, arguments.run, told=told, progress=shown)
    if first:
        print(output)
    return 0


def _preset(name: str) -> TinyRecipe | TrainRecipe:
    return TINY if name == TINY.name else RECIPES[name]


def _add_tiny_arguments(parser: argparse.ArgumentParser) -> None:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kosmos"
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("KOSMOS_DATA") or "../shared/data"),
        help="folder with flickr8k, multi30k, text and interleaved (KOSMOS_DATA, else ../shared/data)",
    )
    parser.add_argument(
        "--cache", type=Path, default=cache, help=f"shards and what the eye saw are kept here ({cache})"
    )
    parser.add_argument("--output", type=Path, help="the finished checkpoint folder (checkpoint inside the run folder)")
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="of matrix products; auto takes bfloat16 where a short race shows a clear gain",
    )
    parser.add_argument("--processes", type=_processes, default=2, help="that share the work, one thread each (2)")


def _train_tiny(recipe: TinyRecipe, arguments: argparse.Namespace, shown: TrainingProgress) -> Path:
    if not (arguments.data / "flickr8k").is_dir():
        raise ValueError(f"{arguments.data} has no folder flickr8k; give the folder of the data by --data")
    from kosmos.evaluation.metrics.caption_cider import CaptionCiderD
    from kosmos.training.builtin.run import Paths, train_tiny

    output: Path = arguments.output or arguments.run / "checkpoint"
    train_tiny(
        recipe,
        Paths(data=arguments.data, cache=arguments.cache / "tiny", run=arguments.run, output=output),
        metric=CaptionCiderD,
        reward=partial(CaptionCiderD, ends=True),
        ranks=arguments.processes,
        precision=arguments.dtype,
        told=shown.told,
        progress=shown,
    )
    return output


def _check(recipe: TrainRecipe) -> None:
    """Hold what the recipe names against what is there, before torch is imported.

    Raises: argparse.ArgumentTypeError for what has to be given; OSError for what is not there.
    """
    from data_pipelines.stores import expand, is_local
    from kosmos.presets import PRESETS as MODELS

    if not recipe.data.streams:
        kinds = "text, interleaved or instruction"
        raise argparse.ArgumentTypeError(
            f"{recipe.name} has no shards; give --data.caption.shards FOLDER ..., or those of {kinds}"
        )
    for stream in recipe.data.streams.values():
        expand([path for path in stream.shards if is_local(path) and not path.endswith(MIXTURES)])
    expand([path for path in recipe.show.validation if is_local(path)])
    if recipe.model in MODELS and recipe.model != TINY.name and not recipe.tokenizer:
        raise argparse.ArgumentTypeError(
            f"{recipe.model} starts anew and needs its words; give a SentencePiece file by --tokenizer FILE"
        )
    if recipe.model in MODELS and recipe.tokenizer:
        _check_file(recipe.tokenizer, "--tokenizer")
    elif recipe.model.startswith((".", "/", "~", "runs/")) and not Path(recipe.model).expanduser().exists():
        raise FileNotFoundError(2, "no checkpoint or run folder for --model", recipe.model)


def _check_file(path: str, flag: str) -> None:
    if not Path(path).expanduser().is_file():
        raise FileNotFoundError(2, f"no such file for {flag}", path)


def _processes(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= MAX_RANKS:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to {MAX_RANKS}")
    return int(text)
