"""One new row of each cached sequence attends to its own pages, read where they lie: the decode step on a CPU.

No gathering, no padding, no mask: a row's result depends on its own pages alone.
Legend: R rows, P pages of the longest row, B rotation blocks, S slots, H heads, K head width.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kosmos.transformer.kernels.build import load_library

__all__ = ["PageTable", "PagedRows", "load_paged_rows"]

log = logging.getLogger(__name__)

POINTER, LONG, FLOAT = ctypes.c_void_p, ctypes.c_long, ctypes.c_float


@dataclass(frozen=True)
class PageTable:
    """Where the keys of each row lie.

    Attributes:
        pages_RP: int32, pages in reading order; what stands behind a row's last page is not read.
        num_keys_R: int32, keys of each row, its own included.
        longest: the most keys of a row.
        page_size: tokens of a page.
        pages_a_block: pages of one rotation block.
    """

    pages_RP: Tensor
    num_keys_R: Tensor
    longest: int
    page_size: int
    pages_a_block: int

    @classmethod
    def of(cls, pages: Sequence[Sequence[int]], num_keys: Sequence[int], page_size: int, block: int) -> PageTable:
        """The table of rows with `num_keys` keys; `block` is the tokens of a rotation block."""
        longest = max(num_keys)
        most = -(-longest // page_size)
        padded = [list(own[:most]) + [0] * (most - len(own)) for own in pages]
        return cls(
            pages_RP=torch.tensor(padded, dtype=torch.int32),
            num_keys_R=torch.tensor(num_keys, dtype=torch.int32),
            longest=longest,
            page_size=page_size,
            pages_a_block=max(block // page_size, 1),
        )


class PagedRows:
    """The compiled kernel behind a typed face; fp32 on the CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._attend = library.kosmos_attend_paged
        self._attend.argtypes = [*[POINTER] * 6, *[LONG] * 7, FLOAT]

    def attend(self, query_RBHK: Tensor, keys_SHK: Tensor, values_SHK: Tensor, table: PageTable) -> Tensor:
        """Mixed values [R, H, K].

        Args:
            query_RBHK: queries as they meet the keys of each rotation block.
            keys_SHK, values_SHK: one layer's store, contiguous; every page of the table lies in it.
        """
        query_RBHK = query_RBHK.contiguous()
        rows, blocks, heads, width = query_RBHK.shape
        out_RHK = query_RBHK.new_empty(rows, heads, width)
        tensors = (query_RBHK, keys_SHK, values_SHK, table.pages_RP, table.num_keys_R, out_RHK)
        layout = (table.pages_RP.shape[1], table.page_size, table.pages_a_block)
        sizes = (rows, *layout, blocks, heads, width)
        if self._attend(*(tensor.data_ptr() for tensor in tensors), *sizes, width**-0.5):
            raise MemoryError(f"no memory for the scores of {table.longest} keys")
        return out_RHK


@functools.cache
def load_paged_rows() -> PagedRows | None:
    """The kernel if this machine can have it and it attends rightly; otherwise None."""
    library = load_library()
    if library is None:
        return None
    kernel = PagedRows(library)
    with torch.autocast("cpu", enabled=False):
        right = _attends_rightly(kernel)
    if not right:
        log.warning("the compiled attention gives wrong results on this machine and is off; torch's is used")
        return None
    return kernel


def _attends_rightly(kernel: PagedRows) -> bool:
    query_HK, keys_SHK, values_SHK = torch.linspace(-1, 1, 12 * 2 * 20).view(12, 2, 20)[:11].split([1, 5, 5])
    table = PageTable.of([[0, 1]], [5], page_size=4, block=4096)
    made_RHK = kernel.attend(query_HK[:, None], _in_pages(keys_SHK), _in_pages(values_SHK), table)
    scores_HT = torch.einsum("hk,thk->ht", query_HK[0], keys_SHK) * 20**-0.5
    wanted_HK = torch.einsum("ht,thk->hk", scores_HT.softmax(-1), values_SHK)
    return torch.allclose(made_RHK[0], wanted_HK, atol=1e-4)


def _in_pages(store_SHK: Tensor) -> Tensor:
    return torch.cat([store_SHK, store_SHK.new_zeros(3, *store_SHK.shape[1:])])
