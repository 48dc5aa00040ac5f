"""The two commands of docs/training.md that fine-tune a Kosmos-2 on a folder of captioned pictures, run as they stand.

The checkpoint is small and its weights are random; flags that make the run short are added to the second command.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from kosmos.chat import DEFAULT_CHAT_TEMPLATE
from kosmos.checkpoint import load_model, save_checkpoint
from kosmos.cli.main import main
from kosmos.model import KosmosModel
from kosmos.pretrained import load
from tests.data_pipelines.sources.piles import photo, put, put_lines
from tests.models import small_config
from text.tokenizer import Tokenizer

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
TITLE = "## Fine-tuning in two commands"
SHORT = (
    "--steps 3 --warmup-steps 1 --learning-rate 1e-3 --data.caption.tokens 128 --data.caption.max-length 64"
    " --workers 0 --save.every 3 --log-every 1 --precision float32"
)


def _commands() -> list[str]:
    section = PAGE.read_text("utf-8").partition(TITLE)[2]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block is not None, f"{TITLE} has no commands"
    return block[1].strip().splitlines()


@pytest.fixture
def converted(tmp_path: Path, small_tokenizer: Tokenizer) -> Path:
    """A small Kosmos-2 as transformers stores it."""
    small = small_config(small_tokenizer, positions="sinusoidal")
    config = replace(
        small,
        tower=replace(small.tower, name="ViT-L-14-quickgelu"),
        resampler=replace(small.resampler, num_heads=small.decoder.num_heads),
    )
    ours, theirs = tmp_path / "ours", tmp_path / "converted"
    save_checkpoint(
        KosmosModel(config),
        ours,
        tokenizer_model=small_tokenizer.model,
        chat_template=DEFAULT_CHAT_TEMPLATE,
        card="#\n",
    )
    assert main(["convert", str(ours), str(theirs)]) == 0
    return theirs


def test_a_folder_of_captioned_pictures_fine_tunes_a_converted_kosmos_2_in_two_commands(
    tmp_path: Path, converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"{number}.jpg" for number in range(6)]
    for shade, name in enumerate(names):
        put(tmp_path / "photos" / name, photo(shade))
    lines = [{"file_name": name, "text": f"A brown cat sleeps on the beach, number {name}."} for name in names]
    put_lines(tmp_path / "photos" / "metadata.jsonl", lines)

    create, train = _commands()
    assert main(shlex.split(create)[1:]) == 0
    assert main([*shlex.split(train.replace("CONVERTED", str(converted)))[1:], *SHORT.split()]) == 0

    run = tmp_path / "runs" / "mine"
    records = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    assert [record["step"] for record in records if "caption" in record] == [1, 2, 3]
    assert json.loads((run / "config.json").read_text("utf-8"))["recipe"]["optimiser"]["steps"] == 3
    before, after = load(converted, dtype="float32").network.state_dict(), load_model(run / "step-000003").state_dict()
    assert before.keys() == after.keys()
    assert not before["decoder.embedding.weight"].equal(after["decoder.embedding.weight"].float())
    tuned = load(run, dtype="float32")
    assert tuned.generate([tmp_path / "photos" / "0.jpg"], max_new_tokens=4)[0].ids
