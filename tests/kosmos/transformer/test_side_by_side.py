"""Pieces of work done at once give what they give one after another, each on one thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from kosmos.transformer import side_by_side as module
from kosmos.transformer.expert_slices import by_slices
from kosmos.transformer.side_by_side import FEWEST_OPERATIONS, side_by_side
from tests.kosmos.transformer.sparse import rows, small_experts

LARGE = [FEWEST_OPERATIONS] * 6


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def here(_piece: int) -> int:
    return threading.get_ident()


def test_two_pieces_are_at_work_at_once_and_each_is_done_once() -> None:
    meeting, done = threading.Barrier(2, timeout=60), []

    def work(piece: int) -> int:
        meeting.wait()
        done.append(piece)
        return piece**2

    assert side_by_side(work, LARGE) == [0, 1, 4, 9, 16, 25]
    assert sorted(done) == list(range(6))


def test_the_largest_pieces_come_first() -> None:
    meeting, begun = threading.Barrier(2, timeout=60), []

    def work(piece: int) -> None:
        begun.append(piece)
        meeting.wait()

    side_by_side(work, [FEWEST_OPERATIONS * factor for factor in (1, 2, 3, 4, 5, 6)])
    assert [set(begun[start : start + 2]) for start in (0, 2, 4)] == [{5, 4}, {3, 2}, {1, 0}]


def test_a_thread_computes_alone_and_those_outside_keep_their_number() -> None:
    assert side_by_side(lambda _: torch.get_num_threads(), LARGE) == [1] * 6
    assert torch.get_num_threads() == 2
    fresh: list[int] = []
    thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert fresh == [2]


@pytest.mark.parametrize(
    "operations", [[FEWEST_OPERATIONS // 4] * 3, [FEWEST_OPERATIONS * 2, FEWEST_OPERATIONS, 0], [], [0, 0]]
)
def test_little_or_uneven_work_stays_where_it_is(operations: list[int]) -> None:
    assert set(side_by_side(here, operations)) <= {threading.get_ident()}


def test_one_thread_needs_no_other() -> None:
    torch.set_num_threads(1)
    assert set(side_by_side(here, LARGE)) == {threading.get_ident()}


def test_no_gradient_is_recorded_and_inference_stays_inference() -> None:
    assert side_by_side(lambda _: torch.is_grad_enabled(), LARGE) == [False] * 6
    assert side_by_side(lambda _: torch.is_grad_enabled(), [1, 1]) == [False] * 2
    with torch.inference_mode():
        into = torch.zeros(6)
        side_by_side(lambda piece: into[piece].fill_(piece), LARGE)
    assert into.tolist() == [0, 1, 2, 3, 4, 5]


def test_an_error_in_a_piece_reaches_the_caller() -> None:
    def work(piece: int) -> None:
        raise ValueError(f"piece {piece}")

    with pytest.raises(ValueError, match="piece"):
        side_by_side(work, LARGE)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_experts_have_the_same_bits_on_one_thread_and_on_two(dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEWEST_OPERATIONS", 0)
    layer, counts = small_experts(), [20, 0, 15, 1, 30, 17]
    results = []
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        torch.manual_seed(7)
        x, stack = rows(83).requires_grad_(), layer.stack()
        out = by_slices(x, counts, stack, eps=layer.norm_eps, dropout=dropout)
        with torch.no_grad():
            torch.manual_seed(7)
            unrecorded = by_slices(x, counts, stack, eps=layer.norm_eps, dropout=dropout)
        wanted = [part for part in stack if part is not None]
        results.append([out, unrecorded, *torch.autograd.grad(out.square().sum(), [x, *wanted])])
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))
    assert torch.equal(results[0][0], results[0][1])
