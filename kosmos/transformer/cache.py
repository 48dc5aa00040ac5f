"""The paged key-value cache: pages, their allocator, and fork (beam search, several answers to one prompt).

Keys are stored as attention reads them (already rotated), once. Pages of one sequence lie side by side where possible,
so a CPU reads them as one strided view; a fork shares full pages and copies the one still being written.
Knows nothing of models or of attention. Legend: S slots (pages x page size), H heads, K head width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

__all__ = ["CacheFull", "CachedSequence", "PagedCache"]


class CacheFull(RuntimeError):
    """No free page is left; free a sequence or make the cache with more pages."""


@dataclass
class CachedSequence:
    """One sequence's pages in reading order, the tokens it has read, and how many of them are forgotten again."""

    pages: list[int] = field(default_factory=list)
    length: int = 0
    forgotten: int = 0


class PagedCache:
    """Keys and values of all layers, allocated once."""

    def __init__(
        self,
        *,
        num_layers: int,
        num_heads: int,
        head_dim: int,
        num_pages: int,
        page_size: int = 32,
        causal_block: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            causal_block: rows see blocks of so many tokens, and older ones are forgotten; None: all that came before.
                What a layer stores depends on what the layers below could see, so one cache serves one way only.
        Raises: ValueError if pages do not divide the blocks.
        """
        if causal_block is not None and causal_block % page_size:
            raise ValueError(f"page size {page_size} does not divide the causal block {causal_block}")
        self.causal_block = causal_block
        shape = (num_layers, num_pages * page_size, num_heads, head_dim)
        # Zeros, not empty: a masked slot is multiplied by weight 0, which only helps if it is a finite number.
        self.keys_LSHK = torch.zeros(shape, dtype=dtype, device=device)
        self.values_LSHK = torch.zeros(shape, dtype=dtype, device=device)
        self.page_size = page_size
        self._references = [0] * num_pages

    @property
    def num_slots(self) -> int:
        """Tokens that all pages hold together."""
        return len(self._references) * self.page_size

    @property
    def num_free_pages(self) -> int:
        """Pages no sequence holds."""
        return self._references.count(0)

    def allocate(self, num_tokens: int) -> CachedSequence:
        """A new, empty sequence with room for `num_tokens`.

        Raises: CacheFull if there is no room (then nothing was taken).
        """
        sequence = CachedSequence()
        self.reserve(sequence, num_tokens)
        return sequence

    def reserve(self, sequence: CachedSequence, num_tokens: int) -> None:
        """Give `sequence` room for `num_tokens` more than it stores; side by side with its last page where free.

        Raises: CacheFull if there is no room (then nothing was taken).
        """
        held = sequence.length - sequence.forgotten
        wanted = -(-(held + num_tokens) // self.page_size) - len(sequence.pages)
        if wanted > 0:
            pages = self._find_pages(wanted, after=sequence.pages[-1] if sequence.pages else None)
            for page in pages:
                self._references[page] = 1
            sequence.pages.extend(pages)

    def fork(self, sequence: CachedSequence) -> CachedSequence:
        """A second sequence with the same past; full pages are shared, the page being written is copied.

        Raises: CacheFull if the copy finds no page.
        """
        num_full, num_written = divmod(sequence.length - sequence.forgotten, self.page_size)
        shared = sequence.pages[:num_full]
        copied = self._find_pages(1, after=None) if num_written else []
        for page in shared + copied:
            self._references[page] += 1
        for page in copied:
            source = sequence.pages[num_full] * self.page_size
            target = page * self.page_size
            for store in (self.keys_LSHK, self.values_LSHK):
                store[:, target : target + num_written] = store[:, source : source + num_written]
        return CachedSequence(pages=shared + copied, length=sequence.length, forgotten=sequence.forgotten)

    def forget(self, sequence: CachedSequence, before: int) -> None:
        """Give back the pages whose tokens all stand before position `before`."""
        count = max(before - sequence.forgotten, 0) // self.page_size
        for page in sequence.pages[:count]:
            self._references[page] -= 1
        sequence.pages = sequence.pages[count:]
        sequence.forgotten += count * self.page_size

    def free(self, sequence: CachedSequence) -> None:
        """Give back the pages of `sequence`; it is empty afterwards."""
        for page in sequence.pages:
            self._references[page] -= 1
        sequence.pages, sequence.length, sequence.forgotten = [], 0, 0

    def slots(self, sequence: CachedSequence, start: int, stop: int) -> list[int]:
        """Places of the tokens at positions `start` to `stop` of `sequence` along S; none of them forgotten."""
        return [
            sequence.pages[place // self.page_size] * self.page_size + place % self.page_size
            for place in range(start - sequence.forgotten, stop - sequence.forgotten)
        ]

    def _find_pages(self, count: int, after: int | None) -> list[int]:
        """`count` free pages: right behind `after`, else the first run long enough, else any; none is taken yet."""
        starts = [after + 1] if after is not None else []
        run = 0
        for page, references in enumerate(self._references):
            run = run + 1 if references == 0 else 0
            if run == count:
                starts.append(page - count + 1)
                break
        for start in starts:
            pages = list(range(start, start + count))
            if pages[-1] < len(self._references) and not any(self._references[page] for page in pages):
                return pages
        free = [page for page, references in enumerate(self._references) if references == 0][:count]
        if len(free) < count:
            raise CacheFull(
                f"{count} pages of {self.page_size} tokens wanted, {len(free)} free of {len(self._references)}"
            )
        return free
