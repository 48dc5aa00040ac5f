"""The bench `train` on small shapes: every case comes out, and its sides do the same work."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kosmos.bench import floors
from kosmos.bench.figure import Figure
from kosmos.bench.own_process import Contestant, OwnProcess
from kosmos.bench.train import TRAIN_CASES, TrainBench, run_train
from kosmos.bench.train_documents import captions, pages, pictured_texts
from kosmos.bench.train_packing import PACKING_SHAPE, Padding, padded
from kosmos.bench.train_step import STEP_SHAPE, StepWork, processor_of
from kosmos.config import KosmosConfig
from kosmos.model import KosmosModel
from kosmos.training.encoding import DocumentEncoder
from kosmos.training.objective import KosmosObjective


def small(shape: KosmosConfig) -> KosmosConfig:
    return replace(
        shape,
        tower=replace(shape.tower, image_size=64, width=32, num_features=5, num_layers=1, num_heads=2, mlp_width=64),
        resampler=replace(shape.resampler, num_latents=4, num_heads=2),
        decoder=replace(shape.decoder, vocab_size=8_192, num_layers=1, width=32, num_heads=2, ffn_width=64),
    )


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainBench:
    """No real data, so documents are drawn."""
    monkeypatch.setattr(floors, "RATE_WIDTH", 64)
    monkeypatch.setattr(floors, "SMALL_WIDTH", 16)
    return TrainBench(
        data=tmp_path,
        rounds=1,
        step_shape=small(STEP_SHAPE),
        rows=128,
        length=64,
        packing_shape=small(PACKING_SHAPE),
        packing_rows=512,
        longest=256,
    )


@pytest.fixture
def work(bench: TrainBench, tmp_path: Path) -> StepWork:
    tokenizer = processor_of(bench.step_shape).tokenizer
    corpus = pictured_texts(tmp_path, tmp_path, tokenizer, tokens=64 - 4 - 4, documents=8)
    return StepWork(config=bench.step_shape, shards=corpus.shards, rows=128, length=64)


def figure_of(bench: TrainBench, case: str) -> Figure:
    (figure,) = run_train(replace(bench, cases=(case,)))
    assert (figure.bench, figure.case, figure.unit) == ("train", case, "tokens/s")
    return figure


@pytest.mark.slow
def test_a_step_stands_beside_transformers_and_its_limit(bench: TrainBench) -> None:
    figure = figure_of(bench, "step-100m")
    assert set(figure.peers) == {"transformers", "transformers-default"}
    assert set(figure.spread) == {"ours", *figure.peers}
    assert all(value > 0 for value in (figure.ours, figure.limit, *figure.peers.values()))
    assert figure.notes["real documents"] == 0


@pytest.mark.slow
def test_a_step_needs_no_peer(bench: TrainBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert not figure_of(replace(bench, peers=False), "step-100m").peers


def test_every_sequence_of_a_step_is_full(work: StepWork) -> None:
    for batch in work.batches():
        assert batch.lengths == (64, 64)
        assert batch.pixels is not None
        assert len(batch.pixels) == 2


@pytest.mark.slow
def test_transformers_trains_as_many_parameters_towards_the_same_words(work: StepWork) -> None:
    from kosmos.bench.train_peer import model_inputs, trained_peer

    ours = KosmosModel(work.config)
    theirs = trained_peer(work)
    trained = sum(p.numel() for name, p in ours.named_parameters() if not name.startswith("tower."))
    assert sum(p.numel() for p in theirs.parameters() if p.requires_grad) == trained
    batch = work.batches()[0]
    inputs = model_inputs(work, batch)
    assert batch.loss_weight is not None
    asked = inputs["labels"].flatten() >= 0
    assert torch.equal(asked, batch.loss_weight > 0)
    assert torch.equal(inputs["labels"].flatten()[asked], batch.tokens[asked])
    assert int(inputs["image_embeds_position_mask"].sum()) == 2 * work.config.resampler.num_latents


@pytest.mark.parametrize("case", ["packing-pages", "packing-mixture"])
def test_packing_stands_beside_padding(case: str, bench: TrainBench) -> None:
    figure = figure_of(bench, case)
    assert set(figure.peers) == {"padded"}
    assert figure.notes["padded rows, pages"] > 1.2
    assert figure.notes["FLOPs of padding at 12 x 768"] > 1
    assert 0 < figure.ours < figure.limit * 2
    assert not figure_of(replace(bench, peers=False), case).peers


@pytest.mark.parametrize("corpus", [captions, pages])
def test_padding_changes_no_loss(corpus: Callable[..., object], bench: TrainBench, tmp_path: Path) -> None:
    encoder = DocumentEncoder(processor_of(bench.packing_shape))
    padding = Padding(corpus(tmp_path, tmp_path).shards, encoder, longest=256)  # type: ignore[attr-defined]
    torch.manual_seed(0)
    objective = KosmosObjective(KosmosModel(bench.packing_shape).eval())
    documents = padding.batches[0][:4]
    alone = objective.losses({"caption": encoder.processor.collate(documents)})["caption"]
    slices = list(padding.slices(documents, 512))
    assert {length for part in slices for length in part.lengths} == {max(one.length for one in documents)}
    behind = [objective.losses({"caption": part})["caption"] for part in slices]
    assert sum(part.count for part in behind) == alone.count
    torch.testing.assert_close(torch.stack([part.total for part in behind]).sum(), alone.total)


def test_rows_behind_a_document_are_not_asked_for(bench: TrainBench, tmp_path: Path) -> None:
    encoder = DocumentEncoder(processor_of(bench.packing_shape))
    document = Padding(captions(tmp_path, tmp_path).shards, encoder, longest=256).batches[0][0]
    longer = padded(document, document.length + 7, 1)
    assert longer.ids == (*document.ids, *[1] * 7)
    assert longer.loss_weights == (*document.loss_weights, *[0.0] * 7)


@pytest.mark.slow
@pytest.mark.parametrize(("flush", "left"), [(True, "0.0"), (False, "1e-39")])
def test_a_contestant_has_its_own_way_with_denormals(flush: bool, left: str) -> None:
    with OwnProcess(_tells_a_small_number, flush_denormals=flush) as process, pytest.raises(ValueError, match=left):
        process.turn("float32")


def _tells_a_small_number() -> Contestant:
    def turn(number_format: str) -> None:
        small = float((torch.tensor([1e-30]) * torch.tensor([1e-9])).double())
        raise ValueError(f"{small:.0e}" if small else "0.0")

    return turn


def test_real_documents_are_taken_where_they_are(kosmos_data: Path, tmp_path: Path) -> None:
    tokenizer = processor_of(STEP_SHAPE).tokenizer
    assert captions(tmp_path, kosmos_data).real
    assert pages(tmp_path, kosmos_data).real
    assert pictured_texts(tmp_path, kosmos_data, tokenizer, tokens=100, documents=3).real
    assert not pages(tmp_path / "drawn", tmp_path / "absent").real


def test_the_command_prints_a_line_a_case(
    bench: TrainBench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kosmos.bench import train
    from kosmos.cli.main import main

    def given(data: Path, **settings: object) -> TrainBench:
        return replace(bench, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(train, "TrainBench", given)
    command = ["bench", "train", "--rounds", "1", "--without-peers", "--json"]
    assert main([*command, "--case", "packing-pages"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["case"] == "packing-pages"
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--case", "absent"])


def test_the_cases_keep_their_names() -> None:
    assert TRAIN_CASES == ("step-100m", "packing-pages", "packing-mixture")
