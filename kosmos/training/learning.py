"""Which parameters train: an explicit list of names, decided in one place for runs and for plans.

Source: Kosmos-1 (arXiv 2302.14045, section 3.2): all but CLIP, of CLIP its last layer. The released code names that
layer `resblocks.23,ln_post`: the last block and the norm behind it, which Kosmos applies to every feature.
"""

from __future__ import annotations

from kosmos.model import KosmosModel
from kosmos.training.recipe import EyeName
from vision.config import TowerConfig
from vision.encoder import ClipTower

__all__ = ["choose_parameters", "usual_eye"]

TOWER = "tower."


def usual_eye(tower: TowerConfig) -> EyeName:
    """What trains of a tower where nobody says: the last layer of a CLIP, nothing of another."""
    return "last-layer" if tower.kind == "clip" else "frozen"


def choose_parameters(model: KosmosModel, eye: EyeName) -> tuple[str, ...]:
    """Let resampler and decoder train, of the tower what `eye` says, and freeze the rest; the model may be on meta.

    Args:
        eye: `last-layer` is the last block of a CLIP and the norm behind it.
    Returns: names of what trains, in the order of `named_parameters`; the tied head goes by the embedding's.
    Raises: ValueError for `last-layer` of a tower that is no CLIP.
    """
    learning = _learning_of_the_tower(model, eye)
    names = []
    for name, parameter in model.named_parameters():
        learns = name.startswith(learning) or not name.startswith(TOWER)
        parameter.requires_grad_(learns)
        if learns:
            names.append(name)
    return tuple(names)


def _learning_of_the_tower(model: KosmosModel, eye: EyeName) -> tuple[str, ...]:
    """How the names begin that train of the tower."""
    if eye == "all":
        return (TOWER,)
    if eye == "frozen":
        return ()
    if not isinstance(model.tower, ClipTower):
        raise ValueError(
            f"tower {model.config.tower.name} is no CLIP, and which of its layers is the last is not settled; give eye"
            " 'frozen' or 'all'"
        )
    last = len(model.tower.visual.transformer.resblocks) - 1
    return (f"{TOWER}visual.transformer.resblocks.{last}.", f"{TOWER}visual.ln_post.")
