"""Whether a run fits its devices, from the plan and before anything is allocated: GPUs, or this machine's memory."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import torch

from kosmos.checkpoint import checkpoint_folder, is_adapter, read_adapter, read_config
from kosmos.config import KosmosConfig
from kosmos.huggingface import config_of_kosmos2, is_kosmos2
from kosmos.pretrained import BUILT_IN
from kosmos.training.distributed import Launch
from kosmos.training.learning import usual_eye
from kosmos.training.planning.activations import FORMATS, Load
from kosmos.training.planning.inventory import take_inventory
from kosmos.training.planning.memory import Layout, Memory, Sharding, device_memory
from kosmos.training.recipe import StreamRecipe, TrainRecipe
from kosmos.training.sparse import sparse_config
from kosmos.training.start import config_of

__all__ = ["check_memory", "needed_memory"]

USABLE = 0.9  # of a device: drivers, communication and fragments take the rest
WORDS_OF_A_CAPTION = 24  # tokens beside a picture; a batch of captions has the most pictures


def check_memory(recipe: TrainRecipe, here: Launch) -> None:
    """Refuse a run that cannot fit.

    Raises: ValueError with what is needed, what there is, and what would help.
    """
    config = _config(recipe)
    if config is None or not recipe.data.streams:
        return  # a checkpoint that is not here yet; a recipe that will be refused for another reason
    needed, room = needed_memory(recipe, config, here).total, _room(here)
    if needed <= room * USABLE:
        return
    raise ValueError(
        f"{config.name} needs {needed / 1e9:.1f} GB on each device with sharding {recipe.parallel.sharding},"
        f" checkpointing {recipe.compute.checkpointing} and batches of {_rows(recipe):,} tokens, but"
        f" {room * USABLE / 1e9:.1f} of {room / 1e9:.1f} GB can be used; give more --compute.micro-batches,"
        " --compute.checkpointing full, or more devices with --parallel.sharding fsdp (`kosmos plan` shows them all)"
    )


def needed_memory(recipe: TrainRecipe, config: KosmosConfig, here: Launch) -> Memory:
    """Memory of one device at the peak of a step, by the plan."""
    frozen = recipe.lora.rank > 0
    inventory = take_inventory(config, recipe.eye if config.tower.kind == "clip" else usual_eye(config.tower))
    if frozen:  # adapters are a percent or so; what is left of gradients and moments is not worth a model of its own
        inventory = replace(inventory, parameters=tuple(replace(p, trained=False) for p in inventory.parameters))
    parts = [_load(one, config, recipe) for one in recipe.data.streams.values()]
    numbers = FORMATS["float32" if recipe.compute.precision == "float32" else "bfloat16"]
    layout = Layout(
        numbers=numbers,
        gpus=here.ranks,
        sharding=_sharding(recipe),
        checkpointing=recipe.compute.checkpointing,
        average=recipe.optimiser.average_decay > 0,
    )
    # Kinds are computed one after the other, so the largest alone counts.
    return max((device_memory(inventory, load, layout) for load in parts), key=lambda memory: memory.total)


def _config(recipe: TrainRecipe) -> KosmosConfig | None:
    """Shape of what trains; None where a hub has it."""
    config = config_of(recipe)
    if config is not None:
        return config
    path = Path(str(files("kosmos") / recipe.model)) if recipe.model in BUILT_IN else Path(recipe.model).expanduser()
    if not path.is_dir():
        return None
    if is_adapter(path):
        base = read_adapter(path).base
        return _config(replace(recipe, model=base)) if base else None
    found = config_of_kosmos2(path) if is_kosmos2(path) else read_config(checkpoint_folder(path))
    return sparse_config(found, recipe.experts)


def _load(one: StreamRecipe, config: KosmosConfig, recipe: TrainRecipe) -> Load:
    """A batch of one kind: as many of its longest pieces as it holds, each with as many pictures as may be."""
    rows = one.tokens // max(1, recipe.compute.micro_batches)
    length = min(one.max_length, config.decoder.max_length, rows)
    pictures = 0 if one is recipe.data.text else length // (config.resampler.num_latents + WORDS_OF_A_CAPTION)
    return Load(rows=length, pictures=pictures, micro_batch=max(1, rows // length))


def _rows(recipe: TrainRecipe) -> int:
    return max(one.tokens for one in recipe.data.streams.values()) // max(1, recipe.compute.micro_batches)


def _sharding(recipe: TrainRecipe) -> Sharding:
    parallel = recipe.parallel.tensor_parallel
    by_matrices: dict[int, Sharding] = {2: "tp2", 4: "tp4", 8: "tp8"}
    return by_matrices.get(parallel, recipe.parallel.sharding)


def _room(here: Launch) -> float:
    """Bytes of a device that this process may have."""
    if here.device.type == "cuda":
        return float(torch.cuda.mem_get_info(here.device)[1])
    return _available_bytes() / here.local_ranks


def _available_bytes() -> float:
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        return 1024 * float(kilobytes)
    except (OSError, StopIteration):  # no Linux: all there is, used or not
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
