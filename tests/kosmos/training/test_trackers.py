"""TensorBoard reads back what it was told, once, also after a resume; wandb and trackio are called as they document."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kosmos.training import recipe
from kosmos.training.run_log import RunLog
from kosmos.training.trackers import TRACKERS, open_trackers


def _events(folder: Path) -> Any:
    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return found


def _scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in _events(folder).Scalars(tag)]


def _opened(folder: Path, stage: int = 0, step: int = 0) -> RunLog:
    log = RunLog(folder, open_trackers(["tensorboard"], folder))
    log.cut(stage, step)
    return log


def _write(log: RunLog, steps: range, *, stage: int = 0, shift: float = 0.0) -> None:
    for step in steps:
        log.write({"stage": "words", "stage_number": stage, "step": step, "text": step + shift, "mfu": 0.5})


def test_tensorboard_shows_figures_in_their_groups(tmp_path: Path) -> None:
    log = _opened(tmp_path)
    log.write({"stage": "words", "stage_number": 0, "step": 7, "text": 2.5, "validation_loss": 3.0, "mfu": 0.25})
    log.close()
    tags = _events(tmp_path).Tags()["scalars"]
    assert sorted(tags) == ["loss/text", "speed/mfu", "validation/validation_loss"]
    assert _scalars(tmp_path, "loss/text") == [(7, 2.5)]


def test_tensorboard_does_not_show_redone_steps_twice(tmp_path: Path) -> None:
    killed = _opened(tmp_path)
    _write(killed, range(1, 8))  # not closed, as a killed process does not
    resumed = _opened(tmp_path, 0, 4)
    _write(resumed, range(5, 9), shift=0.5)
    resumed.close()
    assert _scalars(tmp_path, "loss/text") == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5.5), (6, 6.5), (7, 7.5), (8, 8.5)]


def test_tensorboard_goes_on_counting_in_the_second_stage(tmp_path: Path) -> None:
    first = _opened(tmp_path)
    _write(first, range(1, 4))
    _write(first, range(1, 4), stage=1)
    second = _opened(tmp_path, 1, 1)
    _write(second, range(2, 4), stage=1)
    second.close()
    assert [step for step, _ in _scalars(tmp_path, "loss/text")] == [1, 2, 3, 4, 5, 6]


def test_tensorboard_shows_what_the_model_wrote_as_it_is(tmp_path: Path) -> None:
    log = _opened(tmp_path)
    log.write({"stage": "words", "stage_number": 0, "step": 3, "samples": {"A photo of": "a *dog*\n<b>2</b>"}})
    log.close()
    (tag,) = (tag for tag in _events(tmp_path).Tags()["tensors"] if tag.startswith("A photo of"))
    (event,) = _events(tmp_path).Tensors(tag)
    assert event.step == 3
    assert event.tensor_proto.string_val == [b"    a *dog*\n    <b>2</b>"]


def test_a_finished_run_that_is_started_again_leaves_no_event_file(tmp_path: Path) -> None:
    log = _opened(tmp_path)
    _write(log, range(1, 3))
    log.close()
    before = list((tmp_path / "tensorboard").iterdir())
    _opened(tmp_path, 1, 0).close()
    assert list((tmp_path / "tensorboard").iterdir()) == before


def test_without_tensorboard_one_warning_names_the_extra_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = _opened(tmp_path)
    _write(log, range(1, 4))
    log.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "kosmos-mllm[train]" in caplog.text
    assert len(log.path.read_text("utf-8").splitlines()) == 3


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_without_its_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=rf"install kosmos-mllm\[{name}\]"):
        open_trackers([name], tmp_path)


def test_an_unknown_tracker_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown tracker 'mlflow'; known trackers: tensorboard, wandb, trackio"):
        open_trackers(["mlflow"], tmp_path)


def test_the_table_holds_what_a_recipe_may_name() -> None:
    assert tuple(TRACKERS) == get_args(recipe.Tracker)


class _Package(ModuleType):
    """A tracker's package that writes down what is asked of it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, object]] = []

    def init(self, **wanted: object) -> _Package:
        self.calls.append(("init", wanted))
        return self

    def log(self, figures: dict[str, object], step: int) -> None:
        self.calls.append(("log", (figures, step)))

    def finish(self) -> None:
        self.calls.append(("finish", None))

    def Table(self, columns: list[str], data: list[list[object]]) -> object:
        return (columns, data)

    def Markdown(self, text: str) -> object:
        return text


@pytest.fixture
def package(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> _Package:
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_NAME", "WANDB_RUN_ID", "TRACKIO_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    found = _Package(request.param)
    monkeypatch.setitem(sys.modules, request.param, found)
    return found


def _wanted(package: _Package, folder: Path) -> dict[str, Any]:
    """What a run in `folder` asks of `init`."""
    (tracker,) = open_trackers([package.__name__], folder)
    tracker.log(12, {"text": 2.5, "tokens_per_s": 1000.0})
    tracker.text(12, "A photo of", "a dog")
    tracker.close()
    wanted = package.calls[-4][1]
    assert isinstance(wanted, dict)
    return wanted


SHOWN = {"wandb": (["step", "words"], [[12, "a dog"]]), "trackio": "    a dog"}


@pytest.mark.parametrize("package", ["wandb", "trackio"], indirect=True)
def test_a_run_is_told_its_config_figures_and_words(tmp_path: Path, package: _Package) -> None:
    (tmp_path / "config.json").write_text('{"name": "base"}', "utf-8")
    wanted = _wanted(package, tmp_path)
    assert wanted["project"] == "kosmos"
    assert wanted["config"] == {"name": "base"}
    assert wanted["resume"] == "allow"
    assert package.calls[1:] == [
        ("log", ({"loss/text": 2.5, "speed/tokens_per_s": 1000.0}, 12)),
        ("log", ({"A photo of": SHOWN[package.__name__]}, 12)),
        ("finish", None),
    ]


@pytest.mark.parametrize("package, key", [("wandb", "id"), ("trackio", "name")], indirect=["package"])
def test_a_run_that_goes_on_is_the_same_run_and_another_folder_is_not(
    tmp_path: Path, package: _Package, key: str
) -> None:
    one, again, other = (_wanted(package, tmp_path / folder)[key] for folder in ("a/run", "a/run", "b/run"))
    assert one == again
    assert one != other


@pytest.mark.parametrize("package", ["wandb"], indirect=True)
def test_wandb_stays_offline_until_its_own_variables_say_otherwise(
    tmp_path: Path, package: _Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _wanted(package, tmp_path)["mode"] == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "vision")
    monkeypatch.setenv("WANDB_NAME", "monday")
    wanted = _wanted(package, tmp_path)
    assert (wanted["mode"], wanted["project"], wanted["name"]) == ("online", "vision", "monday")
