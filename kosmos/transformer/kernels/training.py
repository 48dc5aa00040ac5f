"""What stands between the products of a training step, fp32 on the CPU: compiled, a row at a time, both ways.

Dropped numbers follow from a seed and their place, so nothing random is kept for the backward pass.
Legend: B batches of heads, Q queries, T keys, R rows, W width, V vocabulary.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kosmos.transformer.kernels.build import load_library

__all__ = ["Dropping", "Place", "TrainingRows", "are_plain", "load_training_rows"]

log = logging.getLogger(__name__)

POINTER, LONG, FLOAT, SEED, LIMIT = ctypes.c_void_p, ctypes.c_long, ctypes.c_float, ctypes.c_uint64, ctypes.c_uint32
HASHES = 1 << 32


class Dropping(NamedTuple):
    """Which numbers are dropped.

    Attributes:
        rate: share of them.
    """

    rate: float
    seed: int

    @classmethod
    def drawn(cls, rate: float) -> Dropping:
        """With a seed from torch's own generator, so that a step seeded alike drops alike."""
        return cls(rate, int(torch.randint(1 << 62, ())) if rate else 0)

    @property
    def numbers(self) -> tuple[int, int, float]:
        """Seed, the hash below which a number goes, the factor of those that stay."""
        return self.seed, min(int(self.rate * HASHES), HASHES - 1), 1 / (1 - self.rate)


class Place(NamedTuple):
    """Which part of all scores a call is given.

    Attributes:
        first_query: place of the first query in its sequence; each sees the keys up to its own place.
        first_number: of the first query of the first whole sequence among all that share a seed.
        length: queries of a whole sequence.
    """

    first_query: int
    first_number: int
    length: int


class TrainingRows:
    """The compiled kernels behind a typed face; every tensor is contiguous fp32 on the CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.lanes = int(library.kosmos_lanes())
        self._softmax = library.kosmos_softmax_dropped
        self._softmax.argtypes = [*[POINTER] * 3, *[LONG] * 6, FLOAT, SEED, LIMIT, FLOAT]
        self._softmax_backward = library.kosmos_softmax_dropped_backward
        self._softmax_backward.argtypes = [*[POINTER] * 4, *[LONG] * 6, FLOAT, SEED, LIMIT, FLOAT]
        self._norm = library.kosmos_activated_norm
        self._norm.argtypes = [*[POINTER] * 6, LONG, LONG, FLOAT]
        self._norm_backward = library.kosmos_activated_norm_backward
        self._norm_backward.argtypes = [*[POINTER] * 8, LONG, LONG]
        self._add = library.kosmos_add_dropped
        self._add.argtypes = [*[POINTER] * 3, LONG, LONG, SEED, LIMIT, FLOAT]
        self._losses = library.kosmos_word_losses
        self._losses.argtypes = [*[POINTER] * 4, LONG, LONG, FLOAT]
        self._together = int(library.kosmos_rows_together())

    def softmax(self, scores_BQT: Tensor, scale: float, place: Place, dropping: Dropping) -> tuple[Tensor, Tensor]:
        """Products of queries and keys become weights, in place: not yet divided by their sum, dropped ones 0.

        Returns: the sums [B, Q], and the logarithms of the sums of the exponentials [B, Q].
        """
        tops_BQ, sums_BQ = scores_BQT.new_empty(2, *scores_BQT.shape[:2])
        pointers = (scores_BQT.data_ptr(), tops_BQ.data_ptr(), sums_BQ.data_ptr())
        self._softmax(*pointers, *_sizes(scores_BQT, place), scale, *dropping.numbers)
        return sums_BQ, tops_BQ.add_(sums_BQ.log())

    def softmax_backward(
        self,
        scores_BQT: Tensor,
        slopes_BQT: Tensor,
        kept: tuple[Tensor, Tensor],
        scale: float,
        at: Place,
        drop: Dropping,
    ) -> None:
        """Products become dropped weights, slopes of dropped weights become slopes of products, both in place.

        Args:
            kept: what `softmax` gave last [B, Q], and the sum over keys of dropped weights times slopes [B, Q].
        """
        pointers = [tensor.data_ptr() for tensor in (scores_BQT, slopes_BQT, *kept)]
        self._softmax_backward(*pointers, *_sizes(scores_BQT, at), scale, *drop.numbers)

    def activated_norm(self, x_RW: Tensor, gain_W: Tensor, shift_W: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """norm(gelu(x)), and mean and inverse deviation of each row [2, R]; W is a multiple of `lanes`."""
        out_RW, statistics_2R = torch.empty_like(x_RW), x_RW.new_empty(2, len(x_RW))
        tensors = (x_RW, gain_W, shift_W, out_RW, *statistics_2R)
        self._norm(*(tensor.data_ptr() for tensor in tensors), *x_RW.shape, eps)
        return out_RW, statistics_2R

    def activated_norm_backward(
        self, x_RW: Tensor, gain_W: Tensor, slopes_RW: Tensor, statistics_2R: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of x, gain and shift. Raises: MemoryError."""
        out_RW = torch.empty_like(x_RW)
        parts_2GW = x_RW.new_empty(2, -(-len(x_RW) // self._together), x_RW.shape[1])
        tensors = (x_RW, gain_W, slopes_RW, *statistics_2R, out_RW, *parts_2GW)
        if self._norm_backward(*(tensor.data_ptr() for tensor in tensors), *x_RW.shape):
            raise MemoryError(f"no memory for two rows of {x_RW.shape[1]}")
        gain_W, shift_W = parts_2GW.sum(1)
        return out_RW, gain_W, shift_W

    def add_dropped(self, stream_RW: Tensor | None, x_RW: Tensor, dropping: Dropping) -> Tensor:
        """stream + dropped x, or the dropped x alone."""
        out_RW = torch.empty_like(x_RW)
        stream = None if stream_RW is None else stream_RW.data_ptr()
        rows, width = x_RW.numel() // max(x_RW.shape[-1], 1), x_RW.shape[-1]
        self._add(stream, x_RW.data_ptr(), out_RW.data_ptr(), rows, width, *dropping.numbers)
        return out_RW

    def word_losses(self, logits_RV: Tensor, targets_R: Tensor, weights_R: Tensor, smoothing: float) -> Tensor:
        """Nats of each row [R]; logits become the gradient of the weighted sum, in place.

        Args:
            targets_R: int64.
            smoothing: share of each target spread over all words.
        Raises: IndexError for a target outside the vocabulary.
        """
        losses_R = logits_RV.new_empty(len(logits_RV))
        pointers = [tensor.data_ptr() for tensor in (logits_RV, targets_R, weights_R, losses_R)]
        if self._losses(*pointers, *logits_RV.shape, smoothing):
            raise IndexError(f"a target is none of {logits_RV.shape[1]} words")
        return losses_R


def are_plain(*tensors: Tensor) -> bool:
    """Whether these are ordinary fp32 tensors of the CPU outside autocast: no shards, no tensors that only pretend."""
    if torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return False
    ordinary = (Tensor, torch.nn.Parameter)
    return all(type(t) in ordinary and t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)


@functools.cache
def load_training_rows() -> TrainingRows | None:
    """The kernels if this machine can have them and they compute rightly; otherwise None."""
    library = load_library()
    if library is None or not hasattr(library, "kosmos_lanes"):
        return None
    kernels = TrainingRows(library)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        right = _compute_rightly(kernels)
    if not right:
        log.warning("compiled kernels for training give wrong results on this machine and are off; torch's are used")
        return None
    return kernels


def _compute_rightly(kernels: TrainingRows) -> bool:
    scores_BQT = torch.linspace(-2, 2, 2 * 5 * 21).view(2, 5, 21)
    wanted_BQT = scores_BQT.masked_fill(torch.ones(5, 21, dtype=torch.bool).triu(17), float("-inf")).softmax(-1)
    weights_BQT = scores_BQT.clone()
    sums_BQ, _ = kernels.softmax(weights_BQT, 1.0, Place(16, 0, 21), Dropping(0.0, 0))
    x_RW = torch.linspace(-3, 3, 3 * 4 * kernels.lanes).view(3, -1)
    ones_W, zeros_W = torch.ones(x_RW.shape[1]), torch.zeros(x_RW.shape[1])
    normed_RW, _ = kernels.activated_norm(x_RW, ones_W, zeros_W, 1e-5)
    dropped_RW = kernels.add_dropped(x_RW, ones_W.expand_as(x_RW).contiguous(), Dropping(0.5, 1)) - x_RW
    return (
        torch.allclose(weights_BQT / sums_BQ[..., None], wanted_BQT, atol=1e-5)
        and torch.allclose(normed_RW, F.layer_norm(F.gelu(x_RW), x_RW.shape[1:], ones_W, zeros_W), atol=1e-4)
        and {round(float(value)) for value in dropped_RW.unique()} == {0, 2}
    )


def _sizes(scores_BQT: Tensor, place: Place) -> tuple[int, ...]:
    batches, queries, keys = scores_BQT.shape
    return batches * queries, queries, keys, place.first_query, place.first_number, place.length
