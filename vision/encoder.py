"""Towers: uint8 pictures in, one float feature for each patch out.

`build_tower` makes the one a config names: an open_clip ViT as Kosmos uses it (facts of Kosmos-1, section 2.2, and of
the Kosmos-2 release), any timm backbone, or the built-in eye. open_clip and timm take seconds to import, so each is
imported by the tower that needs it. Every tower scales and normalises pixels itself and works in the dtype of its
parameters. Knows nothing of files, of resizing (`vision.image`) or of what features are for (`vision.resampler`).
Shapes: N pictures, 3 colours, H x W pixels, P features of a picture, D width, M width of the feed-forward.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kosmos.transformer.kernels.fp32 import fp32_linear
from vision.config import TowerConfig

__all__ = ["ClipTower", "TimmTower", "build_tower", "normalised"]

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
QUICK_GELU = 1.702  # x sigmoid(1.702 x), OpenAI's CLIP


def normalised(pixels_N3HW: Tensor, config: TowerConfig, dtype: torch.dtype) -> Tensor:
    """uint8 pixels -> (pixels / 255 - mean) / std, computed in fp32, returned in `dtype`.

    Raises: ValueError unless the pictures are uint8 squares of the config's size.
    """
    expected = (3, config.image_size, config.image_size)
    if pixels_N3HW.dtype != torch.uint8 or pixels_N3HW.ndim != 4 or pixels_N3HW.shape[1:] != expected:
        raise ValueError(
            f"tower {config.name} takes uint8 pixels [N, 3, {config.image_size}, {config.image_size}], "
            f"not {pixels_N3HW.dtype} {list(pixels_N3HW.shape)}; resize pictures with vision.image.resize"
        )
    # Plain numbers, not buffers: buffers outside the state dict would be lost when a tower built on meta is filled.
    colors = [
        pixels_N3HW[:, color].to(torch.float32).mul_(1 / (255 * std)).sub_(mean / std)
        for color, (mean, std) in enumerate(zip(config.mean, config.std, strict=True))
    ]
    return torch.stack(colors, dim=1).to(dtype)


class ClipTower(nn.Module):
    """An open_clip ViT as Kosmos looks through it: every token, normed, each feature of length 1.

    The last norm goes over all tokens (CLIP norms the class token only), CLIP's projection is left out, and each
    feature is divided by its Euclidean length. The parameters are open_clip's own under `visual`.

    Args:
        config: its `name` is open_clip's; `width`, `image_size` and every size that is not None replace the model's.
    Raises: ValueError if open_clip has no such ViT, or its number of features is not the config's.
    """

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        from open_clip.transformer import QuickGELU

        self.config = config
        self.visual = _open_clip_visual(config)
        self.quick_gelu = isinstance(self.visual.transformer.resblocks[0].mlp.gelu, QuickGELU)

    def forward(self, pixels_N3HW: Tensor) -> Tensor:
        """Features [N, P, D] of uint8 pixels [N, 3, H, W]; the class token first, then patches row by row.

        Blocks below the first that trains run without recording a gradient.
        """
        blocks, frozen = list(self.visual.transformer.resblocks), self._num_frozen()
        with torch.set_grad_enabled(torch.is_grad_enabled() and frozen == 0):
            tokens_NPD = self._embed(pixels_N3HW)
            for block in blocks[:frozen]:
                tokens_NPD = self._block(block, tokens_NPD)
        for block in blocks[frozen:]:
            tokens_NPD = self._block(block, tokens_NPD)
        return F.normalize(self.visual.ln_post(tokens_NPD), dim=-1, eps=1e-12)

    def _num_frozen(self) -> int:
        """Blocks, from the first, in and before which nothing trains."""
        visual = self.visual
        before = (visual.class_embedding, visual.positional_embedding, *visual.ln_pre.parameters())
        if any(parameter.requires_grad for parameter in (*visual.conv1.parameters(), *before)):
            return 0
        learns = [any(p.requires_grad for p in block.parameters()) for block in visual.transformer.resblocks]
        return learns.index(True) if True in learns else len(learns)

    def _embed(self, pixels_N3HW: Tensor) -> Tensor:
        """What enters the first block: [N, P, D]."""
        visual = self.visual
        images_N3HW = normalised(pixels_N3HW, self.config, visual.conv1.weight.dtype)
        patches_NPD = visual.conv1(images_N3HW).flatten(2).transpose(1, 2)
        class_N1D = visual.class_embedding.expand(len(patches_NPD), 1, -1)
        embedded_NPD: Tensor = visual.ln_pre(torch.cat((class_N1D, patches_NPD), dim=1) + visual.positional_embedding)
        return embedded_NPD

    def _block(self, block: Any, tokens_NPD: Tensor) -> Tensor:
        tokens_NPD = tokens_NPD + block.ls_1(_attend(block.attn, block.ln_1(tokens_NPD), self._product))
        fed_NPD: Tensor = tokens_NPD + block.ls_2(self._feed_forward(block.mlp, block.ln_2(tokens_NPD)))
        return fed_NPD

    def _feed_forward(self, mlp: Any, tokens_NPD: Tensor) -> Tensor:
        hidden_NPM = self._product(tokens_NPD, mlp.c_fc.weight, mlp.c_fc.bias)
        if self.quick_gelu and not torch.is_grad_enabled():
            # In place, as silu(1.702 x) / 1.702: a tower takes 4 to 6 % less time than with three new tensors.
            hidden_NPM = F.silu(hidden_NPM.mul_(QUICK_GELU), inplace=True).mul_(1 / QUICK_GELU)
        else:
            hidden_NPM = mlp.gelu(hidden_NPM)
        return self._product(hidden_NPM, mlp.c_proj.weight, mlp.c_proj.bias)

    @property
    def _product(self) -> Product:
        """Which is faster is raced once a process; a resumed training run must have the bits of the one before."""
        return F.linear if self.training else fp32_linear


class TimmTower(nn.Module):
    """Any timm backbone: its last map of features before pooling, row by row, or a ViT's tokens.

    It stays in evaluation mode: a batch norm in training would make a picture's features depend on its neighbours and
    change what a frozen tower is.

    Args:
        config: its `name` is timm's, with or without a pretrained tag.
        pretrained: whether timm fetches its published weights.
    Raises: ValueError if timm has no such model.
    """

    def __init__(self, config: TowerConfig, *, pretrained: bool = False) -> None:
        super().__init__()
        import timm

        if not timm.is_model(config.name):
            raise ValueError(f"timm has no model {config.name!r}; `timm.list_models()` names those it has")
        self.config = config
        published = timm.get_pretrained_cfg(config.name)
        sizes = {"img_size": config.image_size} if published and published.fixed_input_size else {}
        self.model: nn.Module = timm.create_model(config.name, pretrained=pretrained, num_classes=0, **sizes)
        self.register_load_state_dict_post_hook(_fill_tables)  # type: ignore[no-untyped-call]
        self.train()

    def train(self, mode: bool = True) -> TimmTower:
        """Evaluation mode, whatever is asked for."""
        return super().train(False)

    def forward(self, pixels_N3HW: Tensor) -> Tensor:
        """Features [N, P, D] of uint8 pixels [N, 3, H, W]."""
        images_N3HW = normalised(pixels_N3HW, self.config, next(self.model.parameters()).dtype)
        features: Tensor = self.model.forward_features(images_N3HW)  # type: ignore[operator]
        if isinstance(features, Tensor) and features.ndim == 4:
            rows_last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
            features = features.flatten(1, 2) if rows_last else features.flatten(2).transpose(1, 2)
        expected = (self.config.num_features, self.config.width)
        if not isinstance(features, Tensor) or features.shape[1:] != expected:
            found = list(features.shape[1:]) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"tower {self.config.name} gives features {found}, its config says num_features={expected[0]}, "
                f"width={expected[1]}; set both to what it gives"
            )
        return features


def build_tower(config: TowerConfig) -> nn.Module:
    """The tower a config names, with random weights: uint8 [N, 3, H, W] -> float [N, num_features, width].

    Raises: ValueError if there is no such tower or its shape is not the config's.
    """
    if config.kind not in _TOWERS:
        raise ValueError(f"unknown tower kind {config.kind!r}; known kinds: {', '.join(_TOWERS)}")
    return _TOWERS[config.kind](config)


def _built_in_eye(config: TowerConfig) -> nn.Module:
    from vision.efficientnet import FEATURE_WIDTH, EfficientNetLite0

    num_features = (-(-config.image_size // 32)) ** 2
    if (config.width, config.num_features) != (FEATURE_WIDTH, num_features):
        raise ValueError(
            f"the built-in eye gives {num_features} features of width {FEATURE_WIDTH} at {config.image_size} pixels, "
            f"not num_features={config.num_features}, width={config.width}; correct the config"
        )
    return EfficientNetLite0()


_TOWERS: dict[str, Callable[[TowerConfig], nn.Module]] = {
    "clip": ClipTower,
    "timm": TimmTower,
    "efficientnet_lite0": _built_in_eye,
}


def _attend(attention: Any, tokens_NPD: Tensor, product: Product) -> Tensor:
    """What open_clip's `nn.MultiheadAttention` computes, by one packed product and PyTorch's fused kernel."""
    num_images, num_tokens, width = tokens_NPD.shape
    packed = product(tokens_NPD, attention.in_proj_weight, attention.in_proj_bias)
    packed_NP3HK = packed.view(num_images, num_tokens, 3, attention.num_heads, width // attention.num_heads)
    query, key, value = packed_NP3HK.permute(2, 0, 3, 1, 4)
    mixed_NHPK = F.scaled_dot_product_attention(query, key, value)
    return product(mixed_NHPK.transpose(1, 2).flatten(2), attention.out_proj.weight, attention.out_proj.bias)


def _open_clip_visual(config: TowerConfig) -> Any:
    """open_clip's `VisionTransformer` of a config, without its projection."""
    from open_clip import CLIPVisionCfg, get_model_config
    from open_clip.transformer import LayerNorm, QuickGELU, VisionTransformer

    model = get_model_config(config.name)
    if model is None:
        raise ValueError(f"open_clip has no model {config.name!r}; `open_clip.list_models()` names those it has")
    vit = CLIPVisionCfg(**model["vision_cfg"])
    if vit.timm_model_name or not isinstance(vit.layers, int) or vit.attentional_pool:
        other = f"; use kind='timm', name={vit.timm_model_name!r}" if vit.timm_model_name else ""
        raise ValueError(f"the picture side of open_clip's {config.name!r} is no plain ViT{other}")
    patch = config.patch_size or vit.patch_size
    num_features = (config.image_size // patch) ** 2 + 1
    if num_features != config.num_features:
        raise ValueError(
            f"tower {config.name} with patches of {patch} pixels gives {num_features} features at "
            f"{config.image_size} pixels, not num_features={config.num_features}; correct the config"
        )
    num_heads = config.num_heads or config.width // vit.head_width
    if num_heads < 1 or config.width % num_heads:
        raise ValueError(f"tower {config.name}: width={config.width} is not divisible by num_heads={num_heads}")
    visual = VisionTransformer(
        image_size=config.image_size,
        patch_size=patch,
        width=config.width,
        layers=config.num_layers or vit.layers,
        heads=num_heads,
        # open_clip multiplies and rounds down: half a unit more hits the wanted width whatever the quotient's last bit.
        mlp_ratio=(config.mlp_width + 0.5) / config.width if config.mlp_width else vit.mlp_ratio,
        ls_init_value=vit.ls_init_value,
        pos_embed_type=vit.pos_embed_type,
        no_ln_pre=vit.no_ln_pre,
        output_dim=1,
        act_layer=partial(QuickGELU if model.get("quick_gelu") else nn.GELU, **(vit.act_kwargs or {})),
        norm_layer=partial(LayerNorm, **(vit.norm_kwargs or {})),
    )
    visual.proj = None
    return visual


def _fill_tables(tower: nn.Module, incompatible: object) -> None:
    """Compute what timm keeps outside the state dict; a tower built on meta would hold noise there."""
    for part in tower.modules():
        fill = getattr(part, "init_non_persistent_buffers", None)
        if fill is not None:
            fill()
