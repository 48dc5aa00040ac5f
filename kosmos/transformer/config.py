"""Shapes of Foundation Transformers as plain values: decoder, encoder, their experts. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

__all__ = [
    "DecoderConfig",
    "EncoderConfig",
    "EncoderDecoderConfig",
    "ExpertsConfig",
    "Gate",
    "Initialisation",
    "LayerShape",
    "Norms",
    "PositionScheme",
    "Router",
]

PositionScheme = Literal["xpos", "rope", "sinusoidal", "learned", "alibi", "t5", "none"]
Norms = Literal["subln", "deepnorm", "pre", "post"]
Initialisation = Literal["magneto", "released"]
Router = Literal["xmoe", "switch", "gshard", "torchscale"]
Gate = Literal["softmax", "sigmoid"]


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """Experts that take the place of a dense feed-forward.

    Attributes:
        every: layers `every`, 2 `every` ... (counted from 1) are sparse.
        top_k: experts a row goes to.
        router: `xmoe` (cosine on a small hypersphere), `switch` and `gshard` (dot product), or `torchscale` (its
            variant of X-MoE, for parity).
        gate: how a score weighs its expert's output.
        routing_width: features a row is compared in by `xmoe`; half the number of experts where None, as in the paper.
        temperature: tau at the start; the balance loss keeps it, the gate learns its own.
        capacity_factor: rows an expert takes in training, as a multiple of an even share; None drops nothing.
        balance_weight: of the balance loss beside the task's.
        unit_gates: divide the gates of a row by their sum, taken as a constant: copies of one feed-forward then give
            its output, and the router still learns (`upcycling.py`).
    """

    num_experts: int
    every: int = 2
    top_k: int = 1
    router: Router = "xmoe"
    gate: Gate = "softmax"
    routing_width: int | None = None
    temperature: float = 0.3
    capacity_factor: float | None = None
    balance_weight: float = 0.01
    unit_gates: bool = False

    def __post_init__(self) -> None:
        _check_choice("router", self.router, get_args(Router))
        _check_choice("gate", self.gate, get_args(Gate))
        if not 1 <= self.top_k <= self.num_experts:
            raise ValueError(f"top_k={self.top_k} of num_experts={self.num_experts}; give 1 to all of them")
        if self.every < 1:
            raise ValueError(f"every={self.every}; give 1 (each layer is sparse) or more")


class LayerShape(Protocol):
    """What a block is made from; every configuration here has it."""

    @property
    def num_layers(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def ffn_width(self) -> int: ...
    @property
    def norms(self) -> Norms: ...
    @property
    def num_modalities(self) -> int: ...
    @property
    def experts(self) -> ExpertsConfig | None: ...
    @property
    def layer_norm_eps(self) -> float: ...
    @property
    def dropout(self) -> float: ...
    @property
    def activation_dropout(self) -> float: ...
    @property
    def drop_path(self) -> float: ...
    @property
    def head_dim(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Widths in features, lengths in tokens.

    Attributes:
        positions: `xpos` (Kosmos-1 paper), `sinusoidal` (the released Kosmos-2 weights) or another of the table in
            `positions.py`.
        norms: `subln` (Magneto), `deepnorm`, `pre` or `post`.
        num_modalities: feed-forwards of each layer, one for each kind of row (Multiway); 1 shares one.
        experts: makes some feed-forwards sparse.
        max_length: longest sequence the model was made for; sinusoids grow beyond it, generation warns.
        causal_block: blockwise causal attention: a row sees its own block of so many tokens and the one before; None:
            everything before it.
        xpos_block: tokens that share one rotation anchor (a power of two).
        xpos_scale_base: B of the xPos decay zeta^(n/B), in tokens.
        position_buckets, max_distance: of the table of T5.
        initialisation: `magneto` (Xavier normal with the gains of the papers) or `released` (Kosmos-2's own code).
        scale_embedding: multiply embeddings, image latents included, by sqrt(width).
        drop_path: share of sublayers of the last layer that training leaves out, rising linearly from 0.
    """

    vocab_size: int
    num_layers: int
    width: int
    num_heads: int
    ffn_width: int
    positions: PositionScheme = "xpos"
    norms: Norms = "subln"
    num_modalities: int = 1
    experts: ExpertsConfig | None = None
    max_length: int = 2048
    causal_block: int | None = None
    xpos_block: int = 2048
    xpos_scale_base: int = 512
    position_buckets: int = 32
    max_distance: int = 128
    layer_norm_eps: float = 1e-5
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    drop_path: float = 0.0
    initialisation: Initialisation = "magneto"
    scale_embedding: bool = True
    padding_id: int = 1

    def __post_init__(self) -> None:
        _check_shape(self, self.positions)
        _check_choice("initialisation", self.initialisation, get_args(Initialisation))
        rotated = self.positions in ("xpos", "rope")
        if self.causal_block is not None and self.causal_block < 1:
            raise ValueError(f"causal_block={self.causal_block}; give at least 1 token, or None")
        if rotated and self.causal_block and self.causal_block != self.xpos_block:
            raise ValueError(
                f"causal_block={self.causal_block} but xpos_block={self.xpos_block}; keys are anchored to the blocks"
                " they are seen in, so give both the same"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.num_heads


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """A bidirectional stack over words, patches or frames; fields as in `DecoderConfig`.

    Attributes:
        vocab_size: words it embeds; None where it is handed continuous rows.
    """

    num_layers: int
    width: int
    num_heads: int
    ffn_width: int
    vocab_size: int | None = None
    positions: PositionScheme = "learned"
    norms: Norms = "subln"
    num_modalities: int = 1
    experts: ExpertsConfig | None = None
    max_length: int = 2048
    position_buckets: int = 32
    max_distance: int = 128
    layer_norm_eps: float = 1e-5
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    drop_path: float = 0.0
    initialisation: Initialisation = "magneto"
    scale_embedding: bool = True
    padding_id: int = 1

    def __post_init__(self) -> None:
        _check_shape(self, self.positions)
        _check_choice("initialisation", self.initialisation, get_args(Initialisation))
        if self.positions == "xpos":
            raise ValueError("xPos amplifies keys after the query, and an encoder sees them; take another scheme")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.num_heads


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig:
    """An encoder whose rows the decoder's cross-attention reads.

    Attributes:
        share_embeddings: one table for both sides and the output head.
    """

    encoder: EncoderConfig
    decoder: DecoderConfig
    share_embeddings: bool = False

    def __post_init__(self) -> None:
        if self.encoder.width != self.decoder.width:
            raise ValueError(f"widths differ: encoder {self.encoder.width}, decoder {self.decoder.width}")
        if self.encoder.norms != self.decoder.norms:
            raise ValueError(f"norms differ: encoder {self.encoder.norms!r}, decoder {self.decoder.norms!r}")
        if self.share_embeddings and self.encoder.vocab_size != self.decoder.vocab_size:
            raise ValueError(
                f"one table cannot serve {self.encoder.vocab_size} and {self.decoder.vocab_size} words; give both alike"
            )


def _check_shape(config: LayerShape, positions: PositionScheme) -> None:
    _check_choice("positions", positions, get_args(PositionScheme))
    _check_choice("norms", config.norms, get_args(Norms))
    if config.width % config.num_heads:
        raise ValueError(f"width={config.width} is not divisible by num_heads={config.num_heads}; change one of them")
    if positions in ("xpos", "rope") and config.head_dim % 2:
        raise ValueError(f"{positions} rotates pairs, but width/num_heads={config.head_dim} is odd")
    if config.num_modalities < 1:
        raise ValueError(f"num_modalities={config.num_modalities}; give at least 1")


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
