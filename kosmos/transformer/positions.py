"""Where a token stands: fixed sinusoids added to embeddings, or xPos rotations of queries and keys.

Sources: sinusoids as fairseq and the released Kosmos-2 build them; xPos from "A Length-Extrapolatable Transformer"
(arXiv 2212.10554, equations 5 to 10). Every scheme is told absolute positions, so cached
decoding needs no special case.
Legend: R rows, H heads, K head width, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kosmos.transformer.config import DecoderConfig

__all__ = ["Sinusoids", "XPos", "rotation_of"]

FAIRSEQ_OFFSET = 2  # the first token of a sequence reads row 2: row 1 belongs to padding, which a Packed never has
XPOS_GAMMA = 0.4  # g of the paper; the value is the authors' code's


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
    """Rotations whose query-key product depends on the distance alone and decays with it.

    Exponents and angles are taken from the middle of the block a token stands in, so factors stay small at any length
    and a key, once rotated, is right for every later query: a query that looks `blocks_back` blocks back is rotated for
    that distance instead. A factor that underflows to 0 is the correct limit; none can overflow.
    """

    def __init__(self, head_dim: int, block: int, scale_base: int) -> None:
        """Raises: ValueError if `head_dim` is odd (rotation works on pairs)."""
        if head_dim % 2:
            raise ValueError(f"xPos rotates pairs of channels, but the head width {head_dim} is odd")
        self.head_dim, self.block, self.scale_base = head_dim, block, scale_base
        pairs = torch.arange(0, head_dim, 2, dtype=torch.float64, device="cpu")
        self._angles = 10000.0 ** (-pairs / head_dim)
        self._log_decay = torch.log((pairs / head_dim + XPOS_GAMMA) / (1 + XPOS_GAMMA)) / scale_base
        self._tables: dict[tuple[int, int, torch.device], Tensor] = {}

    def rotate_keys(self, key_RHK: Tensor, positions_R: Tensor) -> Tensor:
        """Keys as they are stored, for ever: rotated against the middle of their own block."""
        table = self._table(0, -1, key_RHK.device)
        return _rotate(key_RHK, table[positions_R % self.block])

    def rotate_queries(self, query_RHK: Tensor, positions_R: Tensor, *, key_block: int | None = None) -> Tensor:
        """Queries as they meet the keys of block `key_block` (their own block where None).

        Rows that stand before `key_block` may not see it; they get the rotation of distance 0 and must be masked.
        """
        if key_block is None:
            return _rotate(query_RHK, self._table(0, 1, query_RHK.device)[positions_R % self.block])
        blocks_back = (positions_R // self.block - key_block).clamp(min=0)
        factors = torch.empty(positions_R.shape[0], self.head_dim // 2, dtype=torch.complex64, device=query_RHK.device)
        for distance in blocks_back.unique().tolist():
            rows = blocks_back == distance
            factors[rows] = self._table(distance, 1, query_RHK.device)[positions_R[rows] % self.block]
        return _rotate(query_RHK, factors)

    def rotate_keys_toward(self, key_RHK: Tensor, positions_R: Tensor, *, query_block: int) -> Tensor:
        """Keys as queries of `query_block` meet them when nothing is cached: rotated against that block's middle."""
        middle = query_block * self.block + (self.block - 1) / 2
        offsets = positions_R.to("cpu", torch.float64) - middle
        return _rotate(key_RHK, self._factors(offsets, -1).to(key_RHK.device))

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


def _rotate(x_RHK: Tensor, factors_RP: Tensor) -> Tensor:
    """Multiply neighbouring channels, read as complex numbers, in float32; the result has the dtype of `x_RHK`."""
    pairs = torch.view_as_complex(x_RHK.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * factors_RP[:, None, :]).flatten(-2).to(x_RHK.dtype)


def rotation_of(config: DecoderConfig) -> XPos | None:
    """The rotation a decoder of this shape applies to queries and keys, or None."""
    if config.positions == "xpos":
        return XPos(config.head_dim, config.xpos_block, config.xpos_scale_base)
    return None
