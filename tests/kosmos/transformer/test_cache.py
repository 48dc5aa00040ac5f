"""The allocator never loses a page and never gives one to two owners; a fork has its past to itself."""

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from kosmos.transformer.cache import CachedSequence, CacheFull, PagedCache

PAGES, PAGE = 12, 4


def small_cache() -> PagedCache:
    return PagedCache(num_layers=2, num_heads=1, head_dim=2, num_pages=PAGES, page_size=PAGE)


class CacheMachine(RuleBasedStateMachine):
    """Writes numbers that occur once; whatever happens around it, a sequence must read back its own."""

    sequences = Bundle("sequences")

    def __init__(self) -> None:
        super().__init__()
        self.cache = small_cache()
        self.written: dict[int, list[float]] = {}
        self.alive: dict[int, CachedSequence] = {}
        self.next_number = 1.0

    @rule(target=sequences, room=st.integers(0, 3 * PAGE))
    def allocate(self, room: int) -> object:
        free = self.cache.num_free_pages
        try:
            sequence = self.cache.allocate(room)
        except CacheFull:
            assert -(-room // PAGE) > free
            assert self.cache.num_free_pages == free
            return multiple()
        self.alive[id(sequence)], self.written[id(sequence)] = sequence, []
        return sequence

    @rule(sequence=sequences, count=st.integers(1, 3 * PAGE))
    def write(self, sequence: CachedSequence, count: int) -> None:
        free, pages = self.cache.num_free_pages, list(sequence.pages)
        try:
            self.cache.reserve(sequence, count)
        except CacheFull:
            assert -(-(sequence.length + count) // PAGE) - len(pages) > free
            assert (self.cache.num_free_pages, sequence.pages) == (free, pages)
            return
        slots = self.cache.slots(sequence, sequence.length, sequence.length + count)
        for slot in slots:
            self.cache.keys_LSHK[:, slot] = self.next_number
            self.cache.values_LSHK[:, slot] = -self.next_number
            self.written[id(sequence)].append(self.next_number)
            self.next_number += 1
        sequence.length += count

    @rule(target=sequences, sequence=sequences)
    def fork(self, sequence: CachedSequence) -> object:
        free = self.cache.num_free_pages
        try:
            twin = self.cache.fork(sequence)
        except CacheFull:
            assert sequence.length % PAGE
            assert free == self.cache.num_free_pages == 0
            return multiple()
        self.alive[id(twin)], self.written[id(twin)] = twin, list(self.written[id(sequence)])
        return twin

    @rule(sequence=consumes(sequences))
    def free(self, sequence: CachedSequence) -> None:
        self.cache.free(sequence)
        assert (sequence.pages, sequence.length) == ([], 0)
        del self.alive[id(sequence)], self.written[id(sequence)]

    @invariant()
    def every_sequence_reads_what_it_wrote(self) -> None:
        for name, sequence in self.alive.items():
            slots = self.cache.slots(sequence, 0, sequence.length)
            assert len(set(sequence.pages)) == len(sequence.pages)
            for layer in range(2):
                assert self.cache.keys_LSHK[layer, slots, 0, 0].tolist() == self.written[name]
                assert self.cache.values_LSHK[layer, slots, 0, 1].tolist() == [-x for x in self.written[name]]

    @invariant()
    def pages_are_free_or_held(self) -> None:
        held = {page for sequence in self.alive.values() for page in sequence.pages}
        assert self.cache.num_free_pages == PAGES - len(held)

    def teardown(self) -> None:
        for sequence in self.alive.values():
            self.cache.free(sequence)
        assert self.cache.num_free_pages == PAGES


CacheMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestCacheKeepsItsPages = CacheMachine.TestCase


def test_a_growing_sequence_gets_neighbouring_pages_where_they_are_free() -> None:
    cache = small_cache()
    first = cache.allocate(PAGE)
    first.length = PAGE
    cache.reserve(first, 3 * PAGE)
    assert [page - first.pages[0] for page in first.pages] == [0, 1, 2, 3]


def test_a_fork_shares_full_pages_and_copies_the_one_being_written() -> None:
    cache = small_cache()
    trunk = cache.allocate(2 * PAGE + 1)
    trunk.length = 2 * PAGE + 1
    cache.keys_LSHK[:, cache.slots(trunk, 2 * PAGE, 2 * PAGE + 1)] = 7.0
    free = cache.num_free_pages
    twin = cache.fork(trunk)
    assert twin.pages[:2] == trunk.pages[:2]
    assert twin.pages[2] != trunk.pages[2]
    assert cache.num_free_pages == free - 1
    assert bool((cache.keys_LSHK[:, cache.slots(twin, 2 * PAGE, 2 * PAGE + 1)] == 7.0).all())


def test_a_full_cache_names_what_was_wanted_and_what_is_free() -> None:
    cache = small_cache()
    cache.allocate((PAGES - 2) * PAGE)
    with pytest.raises(CacheFull, match=r"3 pages of 4 tokens wanted, 2 free of 12"):
        cache.allocate(3 * PAGE)


def test_unwritten_slots_are_finite() -> None:
    cache = small_cache()
    assert not torch.cat([cache.keys_LSHK, cache.values_LSHK]).any()
