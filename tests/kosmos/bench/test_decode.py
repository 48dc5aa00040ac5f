"""The bench `decode` on a toy shape: every case comes out, and ours computes what the whole model computes."""

from dataclasses import replace

import pytest
import torch

from kosmos.bench import decode, floors
from kosmos.bench.decode import CASES, DecodeBench, run_decode
from kosmos.bench.floors import matrices_of
from kosmos.presets import preset
from kosmos.transformer.kernels.plan import ProductPlan
from kosmos.transformer.precision import Dtypes


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The preset `kosmos2` with its words and layers cut down; its eye stays a real one of two layers."""
    whole = preset("kosmos2")
    config = replace(
        whole,
        tower=replace(whole.tower, num_layers=2, num_heads=2, width=32, mlp_width=64),
        resampler=replace(whole.resampler, num_heads=2),
        decoder=replace(whole.decoder, vocab_size=1300, num_layers=2, width=64, num_heads=2, ffn_width=128),
    )
    monkeypatch.setattr(decode, "preset", lambda name: config)
    formats = Dtypes(
        tower=torch.float32, hidden=torch.float32, weights=torch.bfloat16, plan=ProductPlan(beyond="widen")
    )
    monkeypatch.setattr(
        decode, "choose_dtypes", lambda requested: formats
    )  # the race takes seconds, and is not at stake
    monkeypatch.setattr(floors, "READ_BUFFER_BYTES", 1 << 20)
    monkeypatch.setattr(floors, "RATE_WIDTH", 64)
    monkeypatch.setattr(floors, "SMALL_WIDTH", 16)
    floors.best_matrix_rate.cache_clear()


@pytest.mark.usefixtures("toy")
def test_every_case_comes_out_with_both_limits() -> None:
    figures = {figure.case: figure for figure in run_decode(DecodeBench(rounds=1, steps=1, peers=False))}
    assert tuple(figures) == CASES
    for case, figure in figures.items():
        assert figure.ours > 0
        assert figure.limit > 0
        assert (figure.read_limit is None) == (case == "prefill-image")


@pytest.mark.slow
@pytest.mark.usefixtures("toy")
def test_the_peer_runs_beside_us_in_every_case() -> None:
    for figure in run_decode(DecodeBench(rounds=1, steps=2)):
        wide = {"transformers-float32", "transformers-bfloat16"}
        expected = wide if figure.case == "prefill-image" else {"transformers-batch8"}
        assert set(figure.peers) == expected | {"transformers"}
        assert all(value > 0 for value in figure.peers.values())


@pytest.mark.usefixtures("toy")
def test_only_the_asked_cases_are_measured() -> None:
    bench = DecodeBench(rounds=1, steps=1, peers=False, cases=("int4-batch1",))
    assert [figure.case for figure in run_decode(bench)] == ["int4-batch1"]


@pytest.mark.usefixtures("toy")
def test_the_limit_multiplies_every_matrix_of_a_token_once() -> None:
    network = decode._random_network(decode.preset("any"))
    width, wide, layers, words = 64, 128, 2, 1300
    wanted = layers * (4 * width * width + 2 * width * wide) + words * width
    assert sum(matrix.numel() for matrix in matrices_of(network.decoder)) == wanted
    assert {matrix.dtype for matrix in matrices_of(network.decoder)} == {torch.bfloat16}
