"""The two names of every weight of a CLIP tower: open_clip's, which `ClipTower` has, and transformers'.

Source: the key tables of open_clip's `VisionTransformer` and transformers' `Kosmos2VisionTransformer` (whose
`pre_layrnorm` is spelt that way). open_clip keeps query, key and value in one matrix, transformers in three.
Our side starts with `visual.`; the other starts at `embeddings`, so a caller cuts `vision_model.model.` off or on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["hf_to_open_clip", "open_clip_to_hf"]

_SINGLE = {
    "visual.class_embedding": "embeddings.class_embedding",
    "visual.conv1.weight": "embeddings.patch_embedding.weight",
    "visual.positional_embedding": "embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "pre_layrnorm.weight",
    "visual.ln_pre.bias": "pre_layrnorm.bias",
    "visual.ln_post.weight": "post_layernorm.weight",
    "visual.ln_post.bias": "post_layernorm.bias",
}
_IN_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_PACKED = ("q_proj", "k_proj", "v_proj")
_OUR_LAYER = re.compile(r"visual\.transformer\.resblocks\.(\d+)\.(.+)[._](weight|bias)")
_THEIR_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
# Older files hold this table 0, 1, 2 ..., which is no weight.
_IGNORED = "embeddings.position_ids"


def hf_to_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a transformers CLIP or Kosmos-2 tower for `ClipTower`, packing query, key and value.

    Raises: ValueError for a key that is no weight of such a tower, or a query, key or value without the other two.
    """
    singles = {theirs: ours for ours, theirs in _SINGLE.items()}
    in_layer = {theirs: ours for ours, theirs in _IN_LAYER.items()}
    renamed: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, weight in state.items():
        match = _THEIR_LAYER.fullmatch(key)
        if key in singles:
            renamed[singles[key]] = weight
        elif match and match[2] in in_layer:
            renamed[f"visual.transformer.resblocks.{match[1]}.{in_layer[match[2]]}.{match[3]}"] = weight
        elif match and match[2].removeprefix("self_attn.") in _PACKED:
            packed = f"visual.transformer.resblocks.{match[1]}.attn.in_proj_{match[3]}"
            parts.setdefault(packed, {})[match[2].removeprefix("self_attn.")] = weight
        elif key != _IGNORED:
            raise ValueError(f"{key!r} is no weight of a CLIP tower in transformers' naming")
    for packed, part in parts.items():
        if missing := sorted(set(_PACKED) - set(part)):
            raise ValueError(f"cannot pack {packed}: {', '.join(missing)} missing")
        renamed[packed] = torch.cat([part[name] for name in _PACKED])
    return renamed


def open_clip_to_hf(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of `ClipTower` for transformers, unpacking query, key and value (as views).

    Raises: ValueError for a weight that transformers' tower has no place for.
    """
    renamed: dict[str, Tensor] = {}
    for key, weight in state.items():
        match = _OUR_LAYER.fullmatch(key)
        if key in _SINGLE:
            renamed[_SINGLE[key]] = weight
        elif match and match[2] in _IN_LAYER:
            renamed[f"encoder.layers.{match[1]}.{_IN_LAYER[match[2]]}.{match[3]}"] = weight
        elif match and match[2] == "attn.in_proj":
            for name, part in zip(_PACKED, weight.chunk(3), strict=True):
                renamed[f"encoder.layers.{match[1]}.self_attn.{name}.{match[3]}"] = part
        else:
            raise ValueError(f"{key!r} has no place in transformers' CLIP tower")
    return renamed
