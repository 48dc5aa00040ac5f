"""`kosmos chat`: one answer, a conversation on piped lines, errors in one sentence."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import pytest

from kosmos.cli import chat
from kosmos.pretrained import Kosmos, load
from tests.models import picture


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Kosmos:
    return load(checkpoint, dtype="float32")


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    picture(1).save(path, "PNG")  # the content decides, not the name
    return path


def run(checkpoint: Path, *words: str) -> int:
    parser = argparse.ArgumentParser()
    chat.add_arguments(parser)
    return chat.run(
        parser.parse_args([*words, "--model", str(checkpoint), "--dtype", "float32", "--max-new-tokens", "8"])
    )


def converse(monkeypatch: pytest.MonkeyPatch, checkpoint: Path, lines: str, *words: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    return run(checkpoint, *words)


def test_one_answer_is_what_python_gives(
    checkpoint: Path, model: Kosmos, photograph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(checkpoint, str(photograph), "A photo of") == 0
    expected = model.generate([[picture(1), "A photo of"]], max_new_tokens=8)[0].text
    assert capsys.readouterr().out.strip() == expected


def test_several_pictures_come_in_their_order(
    checkpoint: Path, model: Kosmos, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for seed in (1, 2):
        paths.append(str(tmp_path / f"{seed}.png"))
        picture(seed).save(paths[-1])
    run(checkpoint, *paths, "A photo of", "--json")
    expected = model.generate([[picture(1), picture(2), "A photo of"]], max_new_tokens=8)[0]
    assert json.loads(capsys.readouterr().out) == {
        "text": expected.text,
        "finish_reason": expected.finish_reason,
        "boxes": [],
    }


def test_words_alone_are_a_prompt_and_a_typed_tag_stays_words(
    checkpoint: Path, model: Kosmos, capsys: pytest.CaptureFixture[str]
) -> None:
    from text.document import Document, Text

    run(checkpoint, "<grounding> A dog")
    expected = model.generate([Document((Text("<grounding> A dog"),))], max_new_tokens=8)[0].text
    assert capsys.readouterr().out.strip() == expected


def test_a_conversation_remembers_until_it_is_reset(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, photograph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = f"/image {photograph}\nA photo of\nIt is\n/reset\nIt is\n/quit\nnever read\n"
    assert converse(monkeypatch, checkpoint, lines, "--json") == 0
    first, second, third = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    assert first
    assert second != third, "the second answer knew of the picture, the third began anew"
    assert converse(monkeypatch, checkpoint, "It is\n", "--json") == 0
    assert json.loads(capsys.readouterr().out)["text"] == third


def test_a_mistake_does_not_end_a_conversation(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "words.png").write_text("words")
    lines = f"/image {tmp_path}/words.png\n/image\n/image {tmp_path}/none.png\n/dance\nA dog\n"
    assert converse(monkeypatch, checkpoint, lines, "--json") == 1
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 1
    assert len(told.err.splitlines()) == 4
    assert "/dance" in told.err.splitlines()[-1]


def test_words_before_a_picture_are_wrong_usage(checkpoint: Path, photograph: Path) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="pictures first"):
        run(checkpoint, "A photo of", str(photograph))


def test_a_missing_picture_is_reported_before_a_model_is_opened(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        run(tmp_path / "no-model-here", str(tmp_path / "none.jpg"), "A photo of")


def test_an_option_out_of_range_is_wrong_usage(checkpoint: Path) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="top_p=7"):
        run(checkpoint, "A dog", "--top-p", "7")
