"""What a run begins from: a model drawn anew with the eye it is given, or a checkpoint, ours or Kosmos-2's.

Draws follow from the recipe's seed, so every rank and every resumed run begins from the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from kosmos.chat import DEFAULT_CHAT_TEMPLATE
from kosmos.config import KosmosConfig
from kosmos.model import KosmosModel
from kosmos.presets import PRESETS, preset
from kosmos.pretrained import BUILT_IN, open_checkpoint
from kosmos.processor import Processor
from kosmos.training.recipe import TrainRecipe
from kosmos.training.sparse import sparse_config, upcycled
from text.tokenizer import Tokenizer
from vision.encoder import ClipTower

__all__ = ["Start", "config_of", "fill_tower", "start"]


@dataclass(frozen=True, kw_only=True)
class Start:
    """A model in float32 and what a checkpoint needs beside its weights."""

    model: KosmosModel
    tokenizer_model: bytes
    chat_template: str = DEFAULT_CHAT_TEMPLATE
    card: str = ""
    notices: Mapping[str, bytes] = field(default_factory=dict)

    def processor(self) -> Processor:
        """Of documents for this model; pictures stay closed until their batch is due."""
        config = self.model.config
        tokenizer = Tokenizer(self.tokenizer_model, specials=config.tokenizer.specials)
        return Processor(tokenizer, config, pictures="late")


def config_of(recipe: TrainRecipe) -> KosmosConfig | None:
    """The shape of a model that starts anew; None where a checkpoint says it, as the built-in one's without words."""
    anew = recipe.model in PRESETS and (recipe.tokenizer or recipe.model not in BUILT_IN)
    return sparse_config(preset(recipe.model), recipe.experts) if anew else None


def start(recipe: TrainRecipe) -> Start:
    """Build or open the model.

    Raises: ValueError, OSError for files that are missing, no such thing, or do not fit the model.
    """
    config = config_of(recipe)
    if config is None:
        if recipe.tokenizer:
            raise ValueError(f"the checkpoint {recipe.model} has words of its own; leave out --tokenizer")
        return _opened(recipe)
    if not recipe.tokenizer:
        raise ValueError(f"{recipe.model} starts anew and needs its words; give a SentencePiece file by --tokenizer")
    words = Path(recipe.tokenizer).expanduser().read_bytes()
    Processor(Tokenizer(words, specials=config.tokenizer.specials), config)  # says whether the words fit the model
    torch.manual_seed(recipe.seed)
    model = KosmosModel(config)
    if recipe.tower:
        fill_tower(model, recipe.tower)
    return Start(model=model, tokenizer_model=words, card=f"# {config.name}\n")


def fill_tower(model: KosmosModel, weights: str) -> None:
    """Give the CLIP tower published weights.

    Args:
        weights: a file of open_clip's (safetensors, or a checkpoint of tensors alone), or a tag that open_clip fetches.
    Raises: ValueError for a tower that is no CLIP, a tag open_clip does not know, weights that do not fit.
    """
    import open_clip
    from open_clip.factory import load_state_dict

    tower = model.tower
    if not isinstance(tower, ClipTower):
        raise ValueError(f"tower {model.config.tower.name} is no CLIP; leave out --tower")
    name, path = model.config.tower.name, Path(weights).expanduser()
    if not path.exists():
        tags = open_clip.list_pretrained_tags_by_model(name)
        if weights not in tags:
            raise ValueError(
                f"{weights!r} is neither a file nor one of open_clip's weights of {name}: {', '.join(tags)}"
            )
        path = Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, weights)))
    given = load_state_dict(str(path), weights_only=True)
    own = {key.removeprefix("visual."): value for key, value in given.items() if key.startswith("visual.")}
    own.pop("proj", None)  # Kosmos reads the features before CLIP's projection
    wanted = tower.visual.state_dict()
    wrong = sorted(
        key for key in {*own, *wanted} if key not in own or key not in wanted or own[key].shape != wanted[key].shape
    )
    if wrong:
        raise ValueError(f"{path} does not fit the tower {name}: {len(wrong)} weights differ, e.g. visual.{wrong[0]}")
    tower.visual.load_state_dict(own)


def _opened(recipe: TrainRecipe) -> Start:
    opened = open_checkpoint(recipe.model, dtype=torch.float32)
    torch.manual_seed(recipe.seed)
    model = upcycled(opened.network, recipe.experts)
    return Start(
        model=model.train(),
        tokenizer_model=opened.tokenizer_model,
        chat_template=opened.chat_template,
        card=opened.card,
        notices=opened.notices,
    )
