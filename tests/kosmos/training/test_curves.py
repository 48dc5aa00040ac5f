"""The page holds every curve of a log, exactly where it says so, and a log can put nothing but words and numbers in."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from kosmos.training.curves import write_curves
from kosmos.training.run_log import RunLog

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)> {{SCRIPT}} &lt;"


def _log(folder: Path, *records: dict[str, object]) -> Path:
    log = RunLog(folder)
    for record in records:
        log.write({"stage": "words", "stage_number": 0} | record)
    return log.path


def _page(log: Path, title: str = "runs/base") -> str:
    page = log.with_name("curves.html")
    write_curves(log, page, title)
    return page.read_text("utf-8")


def _content(page: str) -> Any:
    found = re.search(r'<script id="content" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def _curves(page: str) -> dict[str, Any]:
    return {curve["name"]: curve for chart in _content(page)["charts"] for curve in chart["series"]}


def test_figures_that_share_a_scale_share_a_chart_and_losses_come_first(tmp_path: Path) -> None:
    figures = {
        "learning_rate": 1e-4, "text": 3.0, "mfu": 0.4, "gradient_norm": 1.0, "caption": 2.0, "balance": 1.1,
        "validation_loss": 2.5, "validation_text": 2.6, "validation_cider_d": 0.4, "tokens_per_s": 1e4,
    }  # fmt: skip
    charts = _content(_page(_log(tmp_path, {"step": 1, **figures})))["charts"]
    assert [[curve["name"] for curve in chart["series"]] for chart in charts] == [
        ["text", "caption"],
        ["validation_loss", "validation_text"],
        ["validation_cider_d"],
        ["learning_rate"],
        ["gradient_norm"],
        ["mfu"],
        ["tokens_per_s"],
        ["balance"],
    ]
    assert [chart["title"] for chart in charts[:4]] == [
        "Loss",
        "Loss in validation",
        "CIDEr-D in validation",
        "Learning rate",
    ]
    hues = {curve["name"]: curve["hue"] for chart in charts[:2] for curve in chart["series"]}
    assert hues["text"] == hues["validation_text"] != hues["caption"]


def test_a_short_log_is_drawn_point_by_point(tmp_path: Path) -> None:
    curve = _curves(_page(_log(tmp_path, *({"step": step, "text": 1 / step} for step in range(1, 5)))))["text"]
    assert curve["points"] == [[1, 1.0], [2, 0.5], [3, 0.333333333], [4, 0.25]]
    assert (curve["latest"], curve["lowest"], curve["highest"]) == ([4, 0.25], [4, 0.25], [1, 1.0])


def test_a_long_log_keeps_its_spikes_and_its_exact_ends(tmp_path: Path) -> None:
    values = [2.0 + (step % 7) / 10 for step in range(1, 6001)]
    values[3333] = 99.0
    lines = [json.dumps({"stage_number": 0, "step": step, "text": value}) for step, value in enumerate(values, 1)]
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(lines) + "\n", "utf-8")
    page = _page(log)
    assert len(page) < 100_000
    curve = _curves(page)["text"]
    assert len(curve["points"]) == 500
    assert curve["highest"] == [3334, 99.0]
    assert curve["latest"] == [6000, values[-1]]
    (spike,) = (point for point in curve["points"] if point[3] == 99.0)
    stretch = values[spike[0] - 12 : spike[0]]
    assert spike[1:] == pytest.approx([sum(stretch) / 12, min(stretch), 99.0], rel=1e-5)
    assert curve["points"][-1][0] == 6000


def test_figures_that_were_not_finite_are_gaps_and_are_counted(tmp_path: Path) -> None:
    log = _log(tmp_path, {"step": 1, "text": 2.0}, {"step": 2, "text": float("nan")}, {"step": 3, "text": 1.0})
    with log.open("a", encoding="utf-8") as lines:
        lines.write('{"stage_number": 0, "step": 4, "text": NaN, "caption": Infinity}\n')  # of another writer
    curves = _curves(_page(log))
    assert curves["text"]["points"] == [[1, 2.0], [2, None], [3, 1.0], [4, None]]
    assert (curves["text"]["not_finite"], curves["text"]["count"]) == (2, 4)
    assert curves["text"]["latest"] == [3, 1.0]
    assert curves["caption"]["points"] == [[4, None]]
    assert "not_finite" not in curves


def test_stages_stand_one_after_the_other(tmp_path: Path) -> None:
    reward = {"stage": "reward", "stage_number": 1}
    log = _log(
        tmp_path, {"step": 10, "text": 2.0}, {"step": 20, "text": 1.9}, {**reward, "step": 5, "text": 1.8, "score": 0.5}
    )
    content = _content(_page(log))
    assert content["stages"] == [
        {"number": 0, "name": "words", "begins": 0, "ends": 20},
        {"number": 1, "name": "reward", "begins": 20, "ends": 25},
    ]
    assert content["last"] == 25
    assert content["charts"][0]["series"][0]["points"] == [[10, 2.0], [20, 1.9], [25, 1.8]]


def test_what_the_model_wrote_is_there_the_newest_of_it(tmp_path: Path) -> None:
    records = [{"step": step, "samples": {"A photo of": f"a dog {step}"}} for step in range(1, 101)]
    samples = _content(_page(_log(tmp_path, *records)))["samples"]
    assert len(samples) == 60
    assert samples[-1] == {"step": 100, "stage": "words", "name": "A photo of", "words": "a dog 100"}


def test_nothing_in_a_log_or_a_title_can_become_markup(tmp_path: Path) -> None:
    record = {"step": 1, "stage": HOSTILE, HOSTILE: 1.0, "samples": {HOSTILE: HOSTILE}}
    plain = _page(_log(tmp_path / "plain", {"step": 1, "text": 1.0}))
    page = _page(_log(tmp_path / "hostile", record), HOSTILE)
    for mark in ("<script", "</script", "<img", "<", "onerror=alert(1)>"):
        assert page.count(mark) == plain.count(mark)
    assert html.escape(HOSTILE) in page
    content = _content(page)
    assert content["title"] == content["stages"][0]["name"] == content["samples"][0]["words"] == HOSTILE


def test_words_and_lists_among_the_figures_are_no_curves(tmp_path: Path) -> None:
    log = _log(tmp_path, {"step": 1, "text": 1.0, "device": "cpu", "loads": [1.0, 2.0], "resumed": True})
    assert set(_curves(_page(log))) == {"text"}


def test_the_page_asks_for_nothing_and_runs_only_its_own_script(tmp_path: Path) -> None:
    page = _page(_log(tmp_path, {"step": 1, "text": 1.0}))
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; ")
    for element in ("style", "script"):
        inside = re.search(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        assert inside is not None
        digest = base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy[1]
    addresses = set(re.findall(r"(?:https?:)?//[a-z][\w.]+[^\s\"']*", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not a place


def test_the_same_log_gives_the_same_bytes_and_no_rest_is_left(tmp_path: Path) -> None:
    log = _log(tmp_path, {"step": 1, "text": 1.0})
    assert _page(log) == _page(log)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.html", "log.jsonl"]


def test_a_page_that_cannot_be_made_leaves_the_one_before(tmp_path: Path) -> None:
    log = _log(tmp_path, {"step": 1, "text": 1.0})
    before = _page(log)
    log.write_text('{"step": 1}\nbroken\n{"step": 2}\n', "utf-8")
    with pytest.raises(ValueError, match=r"log\.jsonl:2 is no JSON object"):
        write_curves(log, tmp_path / "curves.html", "runs/base")
    assert (tmp_path / "curves.html").read_text("utf-8") == before


def test_a_run_that_has_said_nothing_yet_has_a_page(tmp_path: Path) -> None:
    content = _content(_page(tmp_path / "log.jsonl"))
    assert (content["charts"], content["stages"], content["last"]) == ([], [], 0)
