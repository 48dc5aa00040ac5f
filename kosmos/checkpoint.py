"""The checkpoint folder: all that a model is, in files that people can read or check; in and out, whole or not at all.

    config.json          every field of KosmosConfig     model.safetensors    weights (above 5 GB: shards and an index)
    tokenizer.model      SentencePiece                   chat_template.jinja  how a chat becomes one Document
    README.md            the model card

A LoRA adapter is a folder as peft writes it (adapter_config.json, adapter_model.safetensors); it is read here and added
to the weights it was trained beside, which takes no peft.

A folder from a stranger is hostile: sizes are bounded before anything is built, weights come from safetensors alone and
must fit the model name by name and shape by shape. Knows nothing of tokens, templates or training.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from kosmos.config import KosmosConfig
from kosmos.model import KosmosModel
from kosmos.weight_files import (
    INDEX,
    SHARD_BYTES,
    WEIGHTS,
    check_whole,
    listed,
    read_json,
    read_text,
    read_weights,
    weight_files,
    write_folder,
    write_weights,
)
from vision.encoder import build_tower

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_PREFIX",
    "ADAPTER_WEIGHTS",
    "CARD",
    "CHAT_TEMPLATE",
    "HEAD",
    "TOKENIZER",
    "Adapter",
    "adapted_matrix",
    "assign_weights",
    "check_config",
    "checkpoint_folder",
    "empty_model",
    "is_adapter",
    "load_model",
    "merge_adapter",
    "newest_step",
    "read_adapter",
    "read_config",
    "save_checkpoint",
    "step_folders",
]

log = logging.getLogger(__name__)

CONFIG = "config.json"
TOKENIZER, CHAT_TEMPLATE, CARD = "tokenizer.model", "chat_template.jinja", "README.md"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ADAPTER_PREFIX = "base_model.model."  # before every weight's name, as peft writes it
HEAD = "decoder.head.weight"  # the embedding itself, so it is not stored
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OWN_FILE = re.compile(
    r"(config\.json|model.*\.safetensors(\.index\.json)?|tokenizer\.model|chat_template\.jinja|README\.md)"
)
STEP = re.compile(r"step-([0-9]{1,12})")

# Largest value of each integer in a config, well above any model of this kind: a hostile file must not fill the memory.
LIMITS = {
    "vocab_size": 2**21, "num_layers": 512, "width": 2**16, "num_heads": 2**10, "ffn_width": 2**18, "max_length": 2**24,
    "xpos_block": 2**18, "xpos_scale_base": 2**24, "padding_id": 2**21, "image_size": 4096, "num_features": 2**17,
    "mlp_width": 2**18, "patch_size": 4096, "num_latents": 2**14, "num_words": 2**21, "num_modalities": 16,
    "causal_block": 2**18, "position_buckets": 2**12, "max_distance": 2**20, "num_experts": 2**12, "every": 512,
    "top_k": 64, "routing_width": 2**12,
}  # fmt: skip

# Fields of an adapter's config that change what it computes; read are low-rank products of one rank and one scale.
OTHER_ADAPTERS = (
    "alora_invocation_tokens", "alpha_pattern", "arrow_config", "fan_in_fan_out", "kasa_config", "layer_replication",
    "lora_bias", "megatron_config", "monteclora_config", "rank_pattern", "target_parameters", "trainable_token_indices",
    "use_bdlora", "use_dora", "use_qalora", "use_rslora", "velora_config",
)  # fmt: skip


def save_checkpoint(
    model: KosmosModel,
    folder: str | os.PathLike[str],
    *,
    tokenizer_model: bytes,
    chat_template: str,
    card: str,
    dtype: torch.dtype | None = None,
    extra_files: Mapping[str, bytes] | None = None,
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a checkpoint; a folder of that name is replaced in one step, and whoever has it open keeps the old one.

    Args:
        dtype: of the stored weights; None stores each as it is.
        extra_files: more files by name, e.g. licence notices of borrowed weights.
    Raises: ValueError if the model is not what its config says (e.g. quantised), a weight does not fit `dtype`, or the
        folder holds files that are no checkpoint's.
    """
    expected = empty_model(model.config)
    weights = {name: tensor for name, tensor in model.state_dict().items() if name != HEAD}
    _check_fit(weights, _stored_shapes(expected), "the model to save")
    texts = {CONFIG: model.config.to_json(), CHAT_TEMPLATE: chat_template, CARD: card}
    files = {name: text.encode() for name, text in texts.items()}
    with write_folder(Path(folder), known=OWN_FILE) as temporary:
        for name, content in {**files, TOKENIZER: tokenizer_model, **(extra_files or {})}.items():
            (temporary / name).write_bytes(content)
        write_weights(weights, temporary, dtype=dtype, max_shard_bytes=max_shard_bytes)


def load_model(
    folder: str | os.PathLike[str], device: torch.device | str = "cpu", dtype: torch.dtype | None = torch.float32
) -> KosmosModel:
    """The model of a checkpoint folder, in eval mode. Weights stored in `dtype` stay on disk until they are read.

    Args:
        dtype: of every weight; None leaves each as it is stored.
    Raises: ValueError that says which file, field or weight is wrong.
    """
    folder = Path(folder)
    model = empty_model(read_config(folder))
    assign_weights(model, read_weights(weight_files(folder)), str(folder), device=device, dtype=dtype)
    return model.eval()


def read_config(folder: str | os.PathLike[str]) -> KosmosConfig:
    """The config of a checkpoint folder, every field checked for type and size.

    Raises: ValueError that names the file and the field.
    """
    path = Path(folder) / CONFIG
    try:
        config = KosmosConfig.from_json(read_text(path))
        check_config(config)
    except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None
    return config


def check_config(config: KosmosConfig) -> None:
    """Raises: ValueError if a field is of a wrong type, or larger than any model of this kind has."""
    for part in (config, config.tower, config.resampler, config.decoder, config.decoder.experts, config.tokenizer):
        if part is not None:
            _check_fields(part)


def step_folders(run_folder: str | os.PathLike[str]) -> list[tuple[int, Path]]:
    """The steps of a run folder and where they are, newest first, whatever their state."""
    found = [(STEP.fullmatch(path.name), path) for path in Path(run_folder).iterdir()]
    return sorted(((int(match[1]), path) for match, path in found if match and path.is_dir()), reverse=True)


def newest_step(run_folder: str | os.PathLike[str]) -> Path:
    """The checkpoint of a run folder with the highest step that opens; those passed over are logged.

    Raises: ValueError if there is none.
    """
    folder = Path(run_folder)
    faults = []
    for _, path in step_folders(folder):
        try:
            read_config(path)
            check_whole(weight_files(path))
        except ValueError as error:
            faults.append(str(error))
            log.warning("passed over a step: %s", error)
            continue
        return path
    raise ValueError(f"{folder} holds no whole checkpoint step-*{': ' + faults[0] if faults else ''}")


def checkpoint_folder(path: str | os.PathLike[str]) -> Path:
    """`path` itself if it is a checkpoint, else the newest good step of the run folder that it is.

    Raises: ValueError if it is neither.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give a checkpoint or a run folder")
    if any((folder / name).exists() for name in (WEIGHTS, INDEX)):
        return folder
    finished = folder / "checkpoint"  # what `kosmos train` leaves at its end
    return finished if (finished / WEIGHTS).exists() else newest_step(folder)


# ---- adapters ----


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A LoRA adapter (arXiv 2106.09685).

    Attributes:
        base: the checkpoint it was trained beside, as `kosmos.load` takes it; empty where it does not say.
        weights: `NAME.lora_A.weight` [rank, inputs] and `NAME.lora_B.weight` [outputs, rank] of each linear layer NAME,
            and what was trained whole, under its own name.
    """

    base: str
    rank: int
    alpha: float
    dropout: float
    weights: Mapping[str, Tensor]

    @property
    def layers(self) -> list[str]:
        """Names of the linear layers it stands beside."""
        return sorted({name.rpartition(".lora_")[0] for name in self.weights if ".lora_" in name})


def is_adapter(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds an adapter and no model of its own."""
    path = Path(folder)
    return (path / ADAPTER_CONFIG).is_file() and not any((path / name).exists() for name in (WEIGHTS, INDEX))


def read_adapter(folder: str | os.PathLike[str]) -> Adapter:
    """Read what peft wrote.

    Raises: ValueError for another kind of adapter, a field that no LoRA has, or a weight of unknown kind.
    """
    path = Path(folder) / ADAPTER_CONFIG
    values = read_json(path)
    others = sorted(name for name in OTHER_ADAPTERS if values.get(name))
    others += ["bias"] if values.get("bias", "none") != "none" else []
    if values.get("peft_type") != "LORA" or others:
        kind = f"LoRA with {listed(others)}" if others else f"an adapter of kind {str(values.get('peft_type'))[:40]!r}"
        raise ValueError(f"{path} is {kind}; plain LoRA can be opened")
    rank, alpha, dropout = (values.get(name) for name in ("r", "lora_alpha", "lora_dropout"))
    if type(rank) is not int or rank < 1 or not _fits(alpha, float, 0) or not _fits(dropout, float, 0):
        raise ValueError(f"{path}: r={rank!r}, lora_alpha={alpha!r}, lora_dropout={dropout!r} are no numbers of a LoRA")
    weights = {}
    for name, tensor in read_weights([Path(folder) / ADAPTER_WEIGHTS]):
        if not name.startswith(ADAPTER_PREFIX) or tensor.dtype not in DTYPES:
            raise ValueError(f"{folder}: {name} ({tensor.dtype}) is no weight of an adapter")
        weights[name.removeprefix(ADAPTER_PREFIX)] = tensor
    base = str(values.get("base_model_name_or_path") or "")
    return Adapter(base=base, rank=rank, alpha=float(alpha), dropout=float(dropout), weights=weights)  # type: ignore[arg-type]


@torch.no_grad()
def merge_adapter(model: nn.Module, adapter: Adapter, source: str = "the adapter") -> None:
    """Add an adapter to the matrices it stands beside, in place; what was trained whole replaces the model's.

    Raises: ValueError if a weight has no place in this model or another shape than its place.
    """
    parameters, left = dict(model.named_parameters()), dict(adapter.weights)
    for layer in adapter.layers:
        matrix = parameters.get(f"{layer}.weight")
        down, up = (left.pop(f"{layer}.lora_{part}.weight", None) for part in "AB")
        if matrix is None or down is None or up is None:
            raise ValueError(
                f"{source} stands beside {layer}, which is no matrix of this model, or lacks a factor of it"
            )
        if [*up.shape, *down.shape] != [matrix.shape[0], adapter.rank, adapter.rank, *matrix.shape[1:]]:
            raise ValueError(
                f"{source}: {tuple(up.shape)} x {tuple(down.shape)} does not fit {layer}, {tuple(matrix.shape)}, with"
                f" rank {adapter.rank}"
            )
        matrix.data = adapted_matrix(matrix, down.to(matrix.device), up.to(matrix.device), adapter.alpha / adapter.rank)
    for name, tensor in left.items():
        if name not in parameters or parameters[name].shape != tensor.shape:
            raise ValueError(f"{source}: {name} {tuple(tensor.shape)} is no weight of this model")
        parameters[name].data = tensor.to(parameters[name].device, parameters[name].dtype)


def adapted_matrix(matrix_OI: Tensor, down_RI: Tensor, up_OR: Tensor, scale: float) -> Tensor:
    """W + scale B A, computed in float32, in the dtype of W."""
    return (matrix_OI.float() + up_OR.float() @ down_RI.float() * scale).to(matrix_OI.dtype)


# ---- models without weights, and weights into models ----


def empty_model(config: KosmosConfig) -> KosmosModel:
    """A model whose parameters take no memory yet (meta device)."""
    with torch.device("meta"):
        return KosmosModel(config)


@torch.no_grad()
def assign_weights(
    model: KosmosModel,
    weights: Iterable[tuple[str, Tensor]],
    source: str,
    *,
    device: torch.device | str,
    dtype: torch.dtype | None,
) -> None:
    """Give an `empty_model` its weights, cast to `dtype` (None: as they come), and tie its head.

    Raises: ValueError if a weight is missing, unknown, of a wrong shape or not a floating-point number.
    """
    expected = _stored_shapes(model)
    state: dict[str, Tensor] = {}
    for name, tensor in weights:
        if name in expected and tensor.shape == expected[name].shape:
            if tensor.dtype not in DTYPES:
                raise ValueError(f"{source}: weight {name} is {tensor.dtype}; known are float32, bfloat16 and float16")
            tensor = tensor.to(device=device, dtype=dtype)
        state[name] = tensor
    _check_fit(state, expected, source)
    model.load_state_dict(state, strict=False, assign=True)
    model.decoder.tie_head()
    _fill_buffers(model, device, dtype)


def _stored_shapes(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if name != HEAD}


def _check_fit(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """Raises: ValueError that counts what is wrong and names the first three."""
    missing = sorted(set(expected) - set(given))
    unknown = sorted(set(given) - set(expected))
    for what, names in (("lacks", missing), ("has unknown", unknown)):
        if names:
            raise ValueError(f"{source} {what} {len(names)} weights that its config asks otherwise: {listed(names)}")
    for name, tensor in given.items():
        if tensor.shape != expected[name].shape:
            wanted = tuple(expected[name].shape)
            raise ValueError(f"{source}: weight {name} has shape {tuple(tensor.shape)}, its config asks {wanted}")


def _fill_buffers(model: KosmosModel, device: torch.device | str, dtype: torch.dtype | None) -> None:
    """Buffers that are computed rather than stored exist on the meta device only: take them from a tower built anew."""
    empty = [name for name, buffer in model.tower.named_buffers() if buffer.is_meta]
    if empty:
        built = build_tower(model.config.tower)
        for name in empty:
            owner, _, leaf = name.rpartition(".")
            buffer = built.get_buffer(name).to(device)
            setattr(model.tower.get_submodule(owner), leaf, buffer.to(dtype) if buffer.is_floating_point() else buffer)
    left = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    if left:
        raise ValueError(f"no weights were given for {listed(left)}")


def _check_fields(part: object) -> None:
    """Raises: ValueError if a field has not the type it is declared with, or a size no model of this kind has."""
    hints = get_type_hints(type(part))
    for field in fields(part):  # type: ignore[arg-type]
        value = getattr(part, field.name)
        if not _fits(value, hints[field.name], LIMITS.get(field.name, 0)):
            raise ValueError(f"{type(part).__name__}.{field.name}={str(value)[:80]!r} is not what a model can have")


def _fits(value: object, hint: Any, limit: int) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds, [0] * len(kinds)))
    if NoneType in get_args(hint):
        return value is None or _fits(value, get_args(hint)[0], limit)
    if hint is int:
        return type(value) is int and 0 <= value <= limit
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value) and abs(value) < 1e6  # type: ignore[arg-type]
    if hint is str:  # no colon, no slash: other libraries read those in a model's name as an address
        return isinstance(value, str) and re.fullmatch(r"[\w .+-]{1,100}", value) is not None
    return type(value) is hint or not isinstance(hint, type) or isinstance(value, hint)
