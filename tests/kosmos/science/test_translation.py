"""Translation: losses and greedy words against plain loops, BLEU against a count by hand, a run to its figures."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from kosmos.science import translation
from kosmos.science.runs import read_runs
from kosmos.science.translation import END, Pairs, TranslationRun, bleu, read_pairs, translate
from kosmos.transformer.encoder_decoder import EncoderDecoder

TOY = TranslationRun(
    target="de", num_layers=1, norms="subln", seed=0, steps=3, num_words=300, width=16, sentences=3, tested=4
)


@pytest.fixture(scope="module")
def pairs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return read_pairs(data, tmp_path_factory.mktemp("words"), target="de", num_words=300)


def _model() -> EncoderDecoder:
    torch.manual_seed(1)
    return EncoderDecoder(TOY.config).eval()


def test_losses_are_those_of_each_word_given_source_and_the_words_before(pairs: Pairs) -> None:
    model, total, count = _model(), 0.0, 0
    for source, target in pairs.held_out[:3]:
        for place, word in enumerate(target):
            before = torch.tensor([END, *target[:place]])
            with torch.inference_mode():
                embedded = model.encoder.embed(torch.tensor(source))
                hidden = model(embedded, [len(source)], before, [len(before)])
                total -= float(torch.log_softmax(model.decoder.logits(hidden[-1]), dim=-1)[word])
            count += 1
    found = translation._nats(model, pairs.held_out[:3])
    assert found.count == count
    assert float(found.total.detach()) == pytest.approx(total, rel=1e-5)


def test_translations_together_are_those_alone(pairs: Pairs) -> None:
    model, sources = _model(), pairs.tested[:5]
    assert translate(model, sources, longest=6) == [translate(model, [one], longest=6)[0] for one in sources]


def test_bleu_is_the_mean_of_clipped_ngrams_times_brevity() -> None:
    found, wanted = "the small boat came over the grey sea", "the small boat came slowly over the grey old sea"
    logs = 0.0
    for n in range(1, 5):
        ours, theirs = (Counter(zip(*[line.split()[i:] for i in range(n)], strict=False)) for line in (found, wanted))
        logs += math.log(sum((ours & theirs).values()) / sum(ours.values())) / 4
    assert bleu([found], [wanted]) == pytest.approx(100 * math.exp(1 - 10 / 8 + logs))


def test_every_assembly_runs_to_its_figures(data: Path, tmp_path: Path) -> None:
    runs = [replace(TOY, norms=norms) for norms in translation.ASSEMBLIES]
    translation.do(runs, data, tmp_path, lambda line: None)
    found = read_runs(tmp_path, TranslationRun)
    assert len(found) == 4
    assert all(one.figures["held_out"] is not None and one.figures["BLEU"] is not None for one in found)
    report = translation.report(tmp_path)
    assert [row["assembly"] for row in report.rows] == list(translation.ASSEMBLIES.values())
    assert len(report.verdicts) == 2


def test_a_diverged_seed_counts_and_has_no_loss(tmp_path: Path) -> None:
    for seed, last in enumerate((2.0, 9.0)):
        run = replace(TOY, seed=seed)
        (tmp_path / run.name).mkdir()
        figures = {"first": 7.0, "last": last, "held_out": 2.5, "BLEU": 1.0}
        (tmp_path / run.name / "result.json").write_text(json.dumps({"run": asdict(run), "figures": figures}))
    (row,) = translation.report(tmp_path).rows
    assert (row["diverged"], str(row["nats a word"])) == ("1 of 2", "2.500")
