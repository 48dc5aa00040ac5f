"""Kosmos-2 checkpoints as transformers writes them, in and out, by folder or hub id.

Source: `Kosmos2ForConditionalGeneration`, `Kosmos2Config` and `Kosmos2Processor` of transformers (names and defaults).
transformers itself is not imported, no code of a checkpoint is ever run, and a `.bin` is read by torch's
`weights_only`. What a config asks and this house cannot do is refused by name.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor

from kosmos.checkpoint import HEAD, assign_weights, check_config, empty_model
from kosmos.config import KosmosConfig, TokenizerConfig
from kosmos.model import KosmosModel
from kosmos.presets import PRESETS
from kosmos.transformer.config import DecoderConfig
from kosmos.weight_files import (
    INDEX,
    WEIGHTS,
    read_json,
    read_weights,
    weight_files,
    write_folder,
    write_weights,
)
from vision.clip_keys import hf_to_open_clip, open_clip_to_hf
from vision.config import ResamplerConfig, TowerConfig

__all__ = ["config_of_kosmos2", "export_kosmos2", "is_kosmos2", "load_kosmos2", "weights_of_kosmos2"]

CONFIG, TOKENIZER = "config.json", "sentencepiece.bpe.model"
OWN_FILE = re.compile(r"config\.json|model.*\.safetensors(\.index\.json)?|sentencepiece\.bpe\.model")
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
NUM_TAGS = 1037  # ids that are no SentencePiece piece: one of fairseq's offset, 12 tags, 1024 locations

# What transformers takes where config.json says nothing (configuration_kosmos2.py).
TEXT_DEFAULTS: dict[str, Any] = {
    "vocab_size": 65037, "max_position_embeddings": 2048, "embed_dim": 2048, "layers": 24, "ffn_dim": 8192,
    "attention_heads": 32, "activation_function": "gelu", "dropout": 0.1, "attention_dropout": 0.1,
    "activation_dropout": 0.0, "layer_norm_eps": 1e-5, "scale_embedding": True, "pad_token_id": 1, "bos_token_id": 0,
    "eos_token_id": 2, "add_cross_attention": False, "tie_word_embeddings": True,
}  # fmt: skip
VISION_DEFAULTS: dict[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "num_channels": 3, "image_size": 224, "patch_size": 14, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
TEXT_ALIASES = {"hidden_size": "embed_dim", "num_hidden_layers": "layers", "num_attention_heads": "attention_heads"}
# Values without a choice here; anything else is refused rather than computed wrongly.
TEXT_FIXED = {
    "activation_function": "gelu", "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2,
    "add_cross_attention": False, "tie_word_embeddings": True,
}  # fmt: skip
VISION_FIXED = {"num_channels": 3, "layer_norm_eps": 1e-5}
TOWER_NAMES = {"quick_gelu": "ViT-L-14-quickgelu", "gelu": "ViT-L-14"}

DECODER, PROJECTION, VISION = "text_model.model.", "image_to_text_projection.", "vision_model.model."
THEIR_HEAD, THEIR_EMBEDDING = "text_model.lm_head.weight", "text_model.model.embed_tokens.weight"
IN_LAYER = {
    "self_attn.inner_attn_ln": "attention.norm",
    "self_attn": "attention",
    "self_attn_layer_norm": "attention_norm",
    "final_layer_norm": "feedforward_norm",
    "ffn.ffn_layernorm": "feedforward.norm",
    "ffn": "feedforward",
}
AROUND = {"embed_tokens.weight": "embedding.weight", "layer_norm.weight": "norm.weight", "layer_norm.bias": "norm.bias"}
# Tables that older files hold though they are computed.
COMPUTED = ("embed_positions.weights", "position_ids")


def is_kosmos2(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder's config.json is that of a Kosmos-2 of transformers."""
    path = Path(folder) / CONFIG
    return path.is_file() and read_json(path).get("model_type") == "kosmos-2"


def load_kosmos2(
    name: str | os.PathLike[str], device: torch.device | str = "cpu", dtype: torch.dtype | None = torch.float32
) -> tuple[KosmosModel, bytes]:
    """A model in eval mode and the SentencePiece model of its words.

    Args:
        name: a folder, or a hub id such as `microsoft/kosmos-2-patch14-224`; the hub's own variables hold
            (`HF_HUB_OFFLINE`, `HF_HOME`, `HF_ENDPOINT`).
        dtype: of every weight; None leaves each as it is stored.
    Raises: ValueError that says what is missing or not understood.
    """
    folder = Path(name) if Path(name).is_dir() else _download(str(name))
    model = empty_model(config_of_kosmos2(folder))
    if not (folder / TOKENIZER).is_file():
        raise ValueError(f"{folder} holds no {TOKENIZER}, the words of the model; add the file")
    weights = _our_names(_their_weights(folder), str(folder))
    assign_weights(model, weights, str(folder), device=device, dtype=dtype)
    return model.eval(), (folder / TOKENIZER).read_bytes()


def config_of_kosmos2(folder: str | os.PathLike[str]) -> KosmosConfig:
    """Our config of a folder's config.json.

    Raises: ValueError if it is no Kosmos-2, or asks for something that is not built here.
    """
    path = Path(folder) / CONFIG
    values = read_json(path)
    if values.get("model_type") != "kosmos-2":
        raise ValueError(f"{path} has model_type {values.get('model_type')!r}; expected 'kosmos-2'")
    text = _filled(values.get("text_config"), TEXT_DEFAULTS, TEXT_ALIASES)
    vision = _filled(values.get("vision_config"), VISION_DEFAULTS, {})
    for part, fixed in ((text, TEXT_FIXED), (vision, VISION_FIXED)):
        for field, wanted in fixed.items():
            if part[field] != wanted:
                raise ValueError(f"{path}: {field}={part[field]!r} is not supported; only {wanted!r} is")
    try:
        config = KosmosConfig(
            name="kosmos2",
            tower=_tower(vision),
            resampler=ResamplerConfig(
                num_latents=values.get("latent_query_num", 64),
                num_heads=text["attention_heads"],
                dropout=text["attention_dropout"],
            ),
            decoder=_decoder(text),
            tokenizer=TokenizerConfig(specials="kosmos2", num_words=max(text["vocab_size"] - NUM_TAGS, 0)),
        )
        check_config(config)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(f"{path}: {error}") from None
    return config


def export_kosmos2(model: KosmosModel, folder: str | os.PathLike[str], tokenizer_model: bytes) -> None:
    """Write a folder that `Kosmos2ForConditionalGeneration.from_pretrained` opens, whole or not at all.

    Raises: ValueError if the model is not built like Kosmos-2 (sinusoids, CLIP tower, its special tokens), or the
        folder holds something else.
    """
    dtypes = {tensor.dtype for tensor in model.parameters()}
    text = json.dumps(_their_config(model.config, dtypes), indent=2, sort_keys=True) + "\n"
    weights = dict(weights_of_kosmos2(model))
    with write_folder(Path(folder), known=OWN_FILE) as temporary:
        (temporary / CONFIG).write_text(text)
        (temporary / TOKENIZER).write_bytes(tokenizer_model)
        write_weights(weights, temporary)


# ---- files ----


def _download(name: str) -> Path:
    """A hub repository's files, weights as safetensors where it has them. Nothing is fetched when offline."""
    folder = _snapshot(name, [CONFIG, TOKENIZER, INDEX, "*.safetensors"])
    if not any(folder.glob("*.safetensors")):
        folder = _snapshot(name, [CONFIG, TOKENIZER, PICKLED_INDEX, "pytorch_model*.bin"])
    return folder


def _snapshot(name: str, patterns: list[str]) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except HFValidationError:
        raise ValueError(f"{name!r} is neither a folder nor a hub id such as owner/name") from None
    except LocalEntryNotFoundError:
        raise ValueError(f"{name!r} is not in the local cache and the hub cannot be reached; give a folder") from None
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(f"{name!r} cannot be had from the hub: {str(error).splitlines()[0]}") from None


def _their_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    if any((folder / name).exists() for name in (WEIGHTS, INDEX)):
        return read_weights(weight_files(folder))
    return _unpickled(weight_files(folder, whole=PICKLED, index=PICKLED_INDEX, suffix=".bin"))


def _unpickled(files: Iterable[Path]) -> Iterator[tuple[str, Tensor]]:
    for path in files:
        try:
            # weights_only: tensors and plain containers, nothing that could run.
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except (UnpicklingError, RuntimeError, EOFError, KeyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{path} is no file of plain weights ({reason})") from None
        if not isinstance(state, dict):
            raise ValueError(f"{path} holds no weights by name")
        for name, tensor in state.items():
            if not isinstance(tensor, Tensor):
                raise ValueError(f"{path}: {name!r} is no tensor")
            yield name, tensor


# ---- names of weights ----


def _our_names(weights: Iterable[tuple[str, Tensor]], source: str) -> Iterator[tuple[str, Tensor]]:
    """Their names and tensors as ours; names that are nobody's stay and are refused by whoever assigns them."""
    tower: dict[str, Tensor] = {}
    tied: dict[str, Tensor] = {}
    for name, tensor in weights:
        if name.endswith(COMPUTED):
            continue
        if name.startswith(VISION):
            tower[name.removeprefix(VISION)] = tensor
            continue
        if name in (THEIR_HEAD, THEIR_EMBEDDING):
            tied[name] = tensor
        if name != THEIR_HEAD:
            yield _our_name(name), tensor
    if len(tied) == 2 and not torch.equal(tied[THEIR_HEAD], tied[THEIR_EMBEDDING]):
        raise ValueError(f"{source}: the output head differs from the token embedding; only tied heads are supported")
    if THEIR_EMBEDDING not in tied and THEIR_HEAD in tied:
        yield _our_name(THEIR_EMBEDDING), tied[THEIR_HEAD]
    try:
        for name, tensor in hf_to_open_clip(tower).items():
            yield f"tower.{name}", tensor
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{source}: {error}") from None


def _our_name(name: str) -> str:
    if match := re.fullmatch(r"text_model\.model\.layers\.([0-9]+)\.(.+)", name):
        return f"decoder.blocks.{match[1]}.{_exchanged(match[2], IN_LAYER)}"
    if name.startswith(PROJECTION):
        return "resampler." + name.removeprefix(PROJECTION).removeprefix("x_attn.")
    if name.startswith(DECODER):
        return "decoder." + _exchanged(name.removeprefix(DECODER), AROUND)
    return name


def weights_of_kosmos2(model: KosmosModel) -> Iterator[tuple[str, Tensor]]:
    """Our weights under the names of transformers; the head is the embedding and is not among them."""
    in_layer = {ours: theirs for theirs, ours in IN_LAYER.items()}
    around = {ours: theirs for theirs, ours in AROUND.items()}
    tower = {}
    for name, tensor in model.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "tower":
            tower[rest] = tensor
        elif part == "resampler":
            attention = "x_attn." if rest[1:].startswith("_proj.") or rest.startswith("out_proj.") else ""
            yield PROJECTION + attention + rest, tensor
        elif match := re.fullmatch(r"blocks\.([0-9]+)\.(.+)", rest):
            yield f"{DECODER}layers.{match[1]}.{_exchanged(match[2], in_layer)}", tensor
        elif name != HEAD:
            yield DECODER + _exchanged(rest, around), tensor
    for name, tensor in open_clip_to_hf(tower).items():
        yield VISION + name, tensor


def _exchanged(name: str, table: Mapping[str, str]) -> str:
    """`name` with the longest beginning that the table knows exchanged."""
    for known in sorted(table, key=len, reverse=True):
        if name == known or name.startswith(known + "."):
            return table[known] + name.removeprefix(known)
    return name


# ---- configs ----


def _filled(given: object, defaults: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    """The fields of `defaults`, with what the file says instead; its other fields change no result."""
    if given is None:
        return dict(defaults)
    if not isinstance(given, dict):
        raise ValueError("text_config and vision_config must be JSON objects")
    plain = {aliases.get(name, name): value for name, value in given.items()}
    return {name: plain.get(name, value) for name, value in defaults.items()}


def _tower(vision: Mapping[str, Any]) -> TowerConfig:
    if vision["hidden_act"] not in TOWER_NAMES:
        raise ValueError(f"hidden_act={vision['hidden_act']!r} is not supported; known: {', '.join(TOWER_NAMES)}")
    if vision == VISION_DEFAULTS:
        return PRESETS["kosmos2"].tower
    return TowerConfig(
        kind="clip",
        name=TOWER_NAMES[vision["hidden_act"]],
        image_size=vision["image_size"],
        width=vision["hidden_size"],
        num_features=(vision["image_size"] // vision["patch_size"]) ** 2 + 1,
        num_layers=vision["num_hidden_layers"],
        num_heads=vision["num_attention_heads"],
        mlp_width=vision["intermediate_size"],
        patch_size=vision["patch_size"],
    )


def _decoder(text: Mapping[str, Any]) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=text["vocab_size"],
        num_layers=text["layers"],
        width=text["embed_dim"],
        num_heads=text["attention_heads"],
        ffn_width=text["ffn_dim"],
        positions="sinusoidal",
        max_length=text["max_position_embeddings"],
        layer_norm_eps=text["layer_norm_eps"],
        dropout=text["dropout"],
        attention_dropout=text["attention_dropout"],
        activation_dropout=text["activation_dropout"],
        initialisation="released",
        scale_embedding=text["scale_embedding"],
    )


def _their_config(config: KosmosConfig, dtypes: set[torch.dtype]) -> dict[str, Any]:
    decoder, tower = config.decoder, config.tower
    acts = {name: act for act, name in TOWER_NAMES.items()}
    faults = {
        "positions": decoder.positions == "sinusoidal",
        "tower": tower.kind == "clip" and tower.name in acts,
        "special tokens": config.tokenizer.specials == "kosmos2",
        "heads of the resampler": config.resampler.num_heads == decoder.num_heads,
        "padding_id": decoder.padding_id == TEXT_FIXED["pad_token_id"],
        "dtypes": len(dtypes) == 1,
    }
    if wrong := [name for name, good in faults.items() if not good]:
        raise ValueError(
            f"{config.name} is not built like Kosmos-2 in {', '.join(wrong)}, so it cannot be exported as one; keep it"
            " in our own format (`kosmos convert --to kosmos`)"
        )
    text = TEXT_DEFAULTS | {
        "vocab_size": decoder.vocab_size,
        "max_position_embeddings": decoder.max_length,
        "embed_dim": decoder.width,
        "layers": decoder.num_layers,
        "ffn_dim": decoder.ffn_width,
        "attention_heads": decoder.num_heads,
        "dropout": decoder.dropout,
        "attention_dropout": decoder.attention_dropout,
        "activation_dropout": decoder.activation_dropout,
        "layer_norm_eps": decoder.layer_norm_eps,
        "scale_embedding": decoder.scale_embedding,
    }
    overrides = {
        "hidden_size": tower.width,
        "intermediate_size": tower.mlp_width,
        "num_hidden_layers": tower.num_layers,
        "num_attention_heads": tower.num_heads,
        "patch_size": tower.patch_size,
        "image_size": tower.image_size,
        "hidden_act": acts[tower.name],
    }
    vision = VISION_DEFAULTS | {name: value for name, value in overrides.items() if value is not None}
    return {
        "architectures": ["Kosmos2ForConditionalGeneration"],
        "model_type": "kosmos-2",
        "dtype": str(*dtypes).removeprefix("torch."),
        "latent_query_num": config.resampler.num_latents,
        "tie_word_embeddings": True,
        "text_config": text | {"model_type": "kosmos_2_text_model"},
        "vision_config": vision | {"model_type": "kosmos_2_vision_model"},
    }
