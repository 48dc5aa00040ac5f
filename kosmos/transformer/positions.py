"""Where a token stands, behind one interface: something added to embeddings, a rotation, or a bias on scores.

Sources: sinusoids as fairseq and the released Kosmos-2 build them; xPos from "A Length-Extrapolatable Transformer"
(arXiv 2212.10554, equations 5 to 10), RoPE is xPos without its decay; ALiBi (arXiv 2108.12409); the relative buckets of
T5 (arXiv 1910.10683). Every scheme is told absolute positions, so cached decoding needs no special case.
A new scheme is one class and one line of `SCHEMES`.
Legend: R rows, Q queries, T keys, H heads, K head width, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from kosmos.transformer.config import DecoderConfig, EncoderConfig

__all__ = [
    "SCHEMES", "Alibi", "Learned", "PositionBias", "Positions", "RelativeBuckets", "Rotary", "Sinusoidal", "Sinusoids",
    "XPos", "build_positions", "relative_buckets", "rotate",
]  # fmt: skip

Shape: TypeAlias = DecoderConfig | EncoderConfig
FAIRSEQ_OFFSET = 2  # the first token of a sequence reads row 2: row 1 belongs to padding, which a Packed never has
LARGEST_EXPONENT = 80.0  # e^88 is the end of float32; scores are sums of products
XPOS_GAMMA = 0.4  # g of the paper; the value is the authors' code's


class PositionBias(Protocol):
    """Scores to add for query and key positions."""

    def __call__(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """[Q], [T] -> [H, Q, T]."""
        ...


class Positions(nn.Module):
    """No positions at all; a scheme says otherwise in one of three places.

    Attributes:
        rotation: turns queries and keys, inside the attention context.
        bias: is added to the scores, of any layer.
    """

    rotation: XPos | None = None
    bias: PositionBias | None = None

    def added(self, positions_R: Tensor) -> Tensor | None:
        """What is added to the embeddings, [R] -> [R, D] in float32, or None."""
        return None


class Sinusoidal(Positions):
    """Fixed sines and cosines, added."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.table = Sinusoids(shape.width)

    def added(self, positions_R: Tensor) -> Tensor:
        """See `Positions`."""
        return self.table.at(positions_R)


class Learned(Positions):
    """A learned table of `max_length` rows, added. Raises IndexError beyond them."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.table = nn.Embedding(shape.max_length, shape.width)
        nn.init.normal_(self.table.weight, std=shape.width**-0.5)

    def added(self, positions_R: Tensor) -> Tensor:
        """See `Positions`."""
        if positions_R.numel() and int(positions_R.max()) >= self.table.num_embeddings:
            raise IndexError(f"position {int(positions_R.max())} of a learned table of {self.table.num_embeddings}")
        rows_RD: Tensor = self.table(positions_R)
        return rows_RD


class Rotary(Positions):
    """xPos, or RoPE where nothing decays."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        if isinstance(shape, DecoderConfig):
            decay = shape.xpos_scale_base if shape.positions == "xpos" else None
            self.rotation = XPos(shape.head_dim, shape.xpos_block, decay)
        else:  # rows look both ways, so all of them share one anchor: the block is the greatest length
            self.rotation = XPos(shape.head_dim, shape.max_length, None)


class Alibi(Positions):
    """-slope x distance on the scores, in float32: bf16 holds whole numbers only up to 256."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.slopes_H = torch.tensor(_alibi_slopes(shape.num_heads), device="cpu")
        self.bias = self._bias

    def _bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        distance_QT = (query_positions[:, None] - key_positions[None, :]).abs().float()
        return -self.slopes_H.to(distance_QT.device)[:, None, None] * distance_QT


class RelativeBuckets(Positions):
    """T5: a learned score for each head and bucket of distances, one table for all layers.

    A decoder's rows look back only and use all buckets for it; an encoder's use half of them each way.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.table = nn.Embedding(shape.position_buckets, shape.num_heads)
        self.max_distance = shape.max_distance
        self.both_ways = isinstance(shape, EncoderConfig)
        self.bias = self._bias

    def _bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        buckets_QT = relative_buckets(
            key_positions[None, :] - query_positions[:, None],
            num_buckets=self.table.num_embeddings,
            max_distance=self.max_distance,
            both_ways=self.both_ways,
        )
        scores_QTH: Tensor = self.table(buckets_QT)
        return scores_QTH.permute(2, 0, 1)


def relative_buckets(relative_QT: Tensor, *, num_buckets: int, max_distance: int, both_ways: bool) -> Tensor:
    """Bucket of key position minus query position: exact when near, logarithmic further away."""
    side = num_buckets // 2 if both_ways else num_buckets
    distance = relative_QT.abs() if both_ways else (-relative_QT).clamp(min=0)
    exact = side // 2
    far = exact + (
        torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (side - exact)
    ).long().clamp(max=side - 1 - exact)
    buckets = torch.where(distance < exact, distance, far)
    return buckets + (relative_QT > 0).long() * side if both_ways else buckets


def _alibi_slopes(num_heads: int) -> list[float]:
    """2^(-8h/n); for n no power of two, every other slope of the next series fills up."""
    whole = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * head / whole) for head in range(1, whole + 1)]
    between = [2 ** (-8 * head / (2 * whole)) for head in range(1, 2 * whole + 1, 2)]
    return slopes + between[: num_heads - whole]


class Sinusoids:
    """A table of sines and cosines, grown on demand, always computed and kept in float32."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._table_TD = torch.empty(0, width, device="cpu")

    def at(self, positions_R: Tensor) -> Tensor:
        """Rows for `positions_R` (from 0), float32 [R, D]."""
        needed = int(positions_R.max()) + 1 if positions_R.numel() else 0
        if needed > self._table_TD.shape[0] or self._table_TD.device != positions_R.device:
            self._table_TD = self._build(max(2 * self._table_TD.shape[0], needed, 256), positions_R.device)
        return self._table_TD[positions_R]

    def _build(self, length: int, device: torch.device) -> Tensor:
        half = self.width // 2
        frequencies = torch.exp(torch.arange(half, device=device).float() * -(math.log(10000) / (half - 1)))
        angles = (torch.arange(length, device=device).float() + FAIRSEQ_OFFSET)[:, None] * frequencies
        table_TD = torch.cat([angles.sin(), angles.cos()], dim=1)
        return torch.nn.functional.pad(table_TD, (0, self.width % 2))


class XPos:
    """Rotations whose query-key product depends on the distance alone and decays with it (RoPE: does not decay).

    Exponents and angles are taken from the middle of the block a token stands in, so factors stay small at any length
    and a key, once rotated, is right for every later query: a query that looks `blocks_back` blocks back is rotated for
    that distance instead. A factor that underflows to 0 is the correct limit; none can overflow.
    """

    def __init__(self, head_dim: int, block: int, scale_base: int | None) -> None:
        """
        Args:
            block: tokens that share an anchor.
            scale_base: B of the decay; None for RoPE.
        Raises: ValueError if `head_dim` is odd (rotation works on pairs).
        """
        if head_dim % 2:
            raise ValueError(f"xPos rotates pairs of channels, but the head width {head_dim} is odd")
        self.head_dim, self.block, self.scale_base = head_dim, block, scale_base
        pairs = torch.arange(0, head_dim, 2, dtype=torch.float64, device="cpu")
        self._angles = 10000.0 ** (-pairs / head_dim)
        decay = torch.log((pairs / head_dim + XPOS_GAMMA) / (1 + XPOS_GAMMA))
        self._log_decay = decay / scale_base if scale_base else torch.zeros_like(decay)
        if float(self._log_decay.abs().max()) * block / 2 > LARGEST_EXPONENT:
            raise ValueError(
                f"within an xPos block of {block} tokens a decay of base {scale_base} leaves float32;"
                f" take a base of at least {math.ceil(float(decay.abs().max()) * block / 2 / LARGEST_EXPONENT)}"
            )
        self._tables: dict[tuple[int, int, torch.device], Tensor] = {}

    @property
    def decays(self) -> bool:
        """Whether later keys would be amplified, so that only causal attention may use it."""
        return self.scale_base is not None

    def key_factors(self, positions_R: Tensor) -> Tensor:
        """What keys are multiplied by before they are stored, complex [R, P]: against the middle of their own block."""
        return self._table(0, -1, positions_R.device)[positions_R % self.block]

    def query_factors(self, positions_R: Tensor, *, key_block: int | Tensor | None = None) -> Tensor:
        """What queries are multiplied by, complex [R, P], to meet keys of block `key_block` (None: of their own).

        Rows that stand before `key_block`, one for all or [R], may not see it; they get distance 0 and must be masked.
        """
        offsets_R = positions_R % self.block
        if key_block is None:
            return self._table(0, 1, positions_R.device)[offsets_R]
        blocks_back = (positions_R // self.block - key_block).clamp(min=0)
        factors_RP = torch.empty(len(positions_R), self.head_dim // 2, dtype=torch.complex64, device=positions_R.device)
        for distance in blocks_back.unique().tolist():
            rows = blocks_back == distance
            factors_RP[rows] = self._table(distance, 1, positions_R.device)[offsets_R[rows]]
        return factors_RP

    def rotate_keys(self, key_RHK: Tensor, positions_R: Tensor) -> Tensor:
        """Keys as they are stored, for ever."""
        return rotate(key_RHK, self.key_factors(positions_R))

    def rotate_queries(
        self, query_RHK: Tensor, positions_R: Tensor, *, key_block: int | Tensor | None = None
    ) -> Tensor:
        """Queries as they meet the keys of a block; see `query_factors`."""
        return rotate(query_RHK, self.query_factors(positions_R, key_block=key_block))

    def rotate_keys_toward(self, key_RHK: Tensor, positions_R: Tensor, *, query_block: int) -> Tensor:
        """Keys as queries of `query_block` meet them when nothing is cached: rotated against that block's middle."""
        middle = query_block * self.block + (self.block - 1) / 2
        offsets = positions_R.to("cpu", torch.float64) - middle
        return rotate(key_RHK, self._factors(offsets, -1).to(key_RHK.device))

    def turn_to_next_block(self, key_RHK: Tensor) -> Tensor:
        """Stored keys as queries of the next block meet them: decayed and turned by one block, all alike."""
        factors = self._factors(torch.tensor([-float(self.block)], dtype=torch.float64), -1)
        return rotate(key_RHK, factors.to(key_RHK.device))

    def _table(self, blocks_back: int, sign: int, device: torch.device) -> Tensor:
        """Complex factors of the `block` offsets for that distance: sign +1 for queries, -1 for keys."""
        name = (blocks_back, sign, device)
        if name not in self._tables:
            offsets = torch.arange(self.block, dtype=torch.float64, device="cpu") - (self.block - 1) / 2
            self._tables[name] = self._factors(offsets + blocks_back * self.block, sign).to(device)
        return self._tables[name]

    def _factors(self, offsets_R: Tensor, sign: int) -> Tensor:
        magnitude = torch.exp(sign * offsets_R[:, None] * self._log_decay)
        return torch.polar(magnitude, offsets_R[:, None] * self._angles).to(torch.complex64)


def rotate(x_RHK: Tensor, factors_RP: Tensor) -> Tensor:
    """Multiply neighbouring channels, read as complex numbers, in float32; the result has the dtype of `x_RHK`.

    The shapes may have more dimensions between R and H, alike in both.
    """
    pairs = torch.view_as_complex(x_RHK.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * factors_RP.unsqueeze(-2)).flatten(-2).to(x_RHK.dtype)


# A scheme is one class and one line here.
SCHEMES: dict[str, Callable[[Shape], Positions]] = {
    "xpos": Rotary,
    "rope": Rotary,
    "sinusoidal": Sinusoidal,
    "learned": Learned,
    "alibi": Alibi,
    "t5": RelativeBuckets,
    "none": lambda shape: Positions(),
}


def build_positions(shape: Shape) -> Positions:
    """The scheme that a configuration names.

    Raises: ValueError for an unknown one.
    """
    if shape.positions not in SCHEMES:
        raise ValueError(f"unknown positions {shape.positions!r}; known: {', '.join(SCHEMES)}")
    return SCHEMES[shape.positions](shape)
