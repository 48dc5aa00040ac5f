"""Every value of a recipe is a flag, by its type; what is unknown is refused with the nearest one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kosmos.cli.recipe_file import read_recipe, recipe_text
from kosmos.cli.recipe_flags import RecipeParser, add_recipe_flags, recipe_fields, resolved
from kosmos.training.builtin.recipe import TINY
from kosmos.training.recipe import TrainRecipe
from kosmos.training.recipes import RECIPES

BASE = RECIPES["base"]
EVERY = [TINY, *RECIPES.values()]


def _parser(recipe: object = BASE) -> RecipeParser:
    parser = RecipeParser(prog="train", usage="train [FLAG VALUE ...]", allow_abbrev=False)
    parser.add_argument("--run")
    add_recipe_flags(parser, recipe)  # type: ignore[arg-type]
    return parser


def _read(*words: str, recipe: TrainRecipe = BASE) -> TrainRecipe:
    return resolved(recipe, _parser(recipe).parse_args(words))


def _refused(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        _parser().parse_args(words)
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_nothing_said_leaves_the_recipe_as_it_is() -> None:
    assert _read() == BASE


def test_values_of_every_type_are_read() -> None:
    recipe = _read(
        *("--optimiser.learning-rate", "1e-4", "--optimiser.betas", "0.9", "0.95", "--optimiser.schedule", "cosine"),
        *("--data.caption.tokens", "65_536", "--data.caption.shards", "shards/", "more/", "--tokenizer", "words.model"),
        *("--experts.num", "8", "--lora.rank=8", "--lora.targets", "fc1", "--compute.compile", "--show.trackers"),
    )
    assert recipe.optimiser == replace(BASE.optimiser, learning_rate=1e-4, betas=(0.9, 0.95), schedule="cosine")
    assert recipe.data.caption == replace(BASE.data.caption, tokens=65_536, shards=("shards/", "more/"))
    assert recipe.data.text == BASE.data.text
    assert (recipe.experts.num, recipe.lora.rank, recipe.lora.targets) == (8, 8, ("fc1",))
    assert recipe.compute.compile
    assert recipe.show.trackers == ()
    assert recipe.tokenizer == "words.model"


def test_a_switch_can_be_turned_off() -> None:
    kosmos1 = RECIPES["kosmos1"]
    assert kosmos1.compute.compile
    assert not _read("--no-compute.compile", recipe=kosmos1).compute.compile
    assert not _read("--no-compile", recipe=kosmos1).compute.compile


def test_a_flag_that_is_said_twice_loses_no_folder() -> None:
    recipe = _read("--data.text.shards", "a", "b", "--data.text.shards", "c")
    assert recipe.data.text.shards == ("a", "b", "c")


@pytest.mark.parametrize(
    "words",
    [
        ["--optimiser.learning-rate", "3e-4"],
        ["--optimiser.learning_rate", "3e-4"],
        ["--optimizer.learning-rate", "3e-4"],
        ["--learning-rate", "3e-4"],
        ["--learning-rate=3e-4"],
    ],
)
def test_a_flag_may_be_written_in_several_ways(words: list[str]) -> None:
    assert _read(*words).optimiser.learning_rate == 3e-4


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("--optimizer.lr", "unknown flag --optimizer.lr; did you mean --optimiser.learning-rate?"),
        ("--lr", "unknown flag --lr; did you mean --optimiser.learning-rate?"),
        ("--optimiser.wd", "unknown flag --optimiser.wd; did you mean --optimiser.weight-decay?"),
        ("--data.captions.shards", "unknown flag --data.captions.shards; did you mean --data.caption.shards?"),
        ("--warmup", "unknown flag --warmup; did you mean --optimiser.warmup-steps?"),
        ("--rum", "unknown flag --rum; did you mean --run?"),
        ("--zzzzzzzz", "unknown flag --zzzzzzzz; --help lists all"),
        ("--optimiser.step", "unknown flag --optimiser.step; did you mean --optimiser.steps?"),
    ],
)
def test_an_unknown_flag_is_refused_with_the_nearest(
    typed: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _refused([typed, "1"], capsys) == f"train: error: {sentence}"


def test_a_short_form_that_could_be_several_is_refused_with_all(capsys: pytest.CaptureFixture[str]) -> None:
    said = _refused(["--tokens", "4096"], capsys)
    for kind in ("text", "caption", "interleaved", "instruction"):
        assert f"--data.{kind}.tokens" in said
    assert said.endswith("; say which")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--steps", "1e3"], "'1e3' is no whole number"),
        (["--learning-rate", "nan"], "'nan' is no number"),
        (["--learning-rate", "fast"], "'fast' is no number"),
        (["--schedule", "steps"], "invalid choice: 'steps'"),
        (["--trackers", "wandb", "pigeon"], "invalid choice: 'pigeon'"),
        (["--betas", "0.9"], "expected 2 arguments"),
        (["stray"], "unrecognized arguments: stray"),
    ],
)
def test_a_value_of_another_type_is_refused(words: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert reason in _refused(words, capsys)


def test_what_a_dataclass_refuses_is_wrong_usage_and_names_the_part() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"^data\.caption: max_length=2048 of tokens=100;"):
        _read("--data.caption.tokens", "100")
    with pytest.raises(argparse.ArgumentTypeError, match=r"^optimiser: steps=0"):
        _read("--steps", "0")


@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.name)
def test_every_value_of_a_recipe_is_in_the_help_with_what_it_is(recipe: TrainRecipe) -> None:
    shown = " ".join(_parser(recipe).format_help().split())
    for entry in recipe_fields(recipe):
        assert f"{entry.flag} " in shown or f"{entry.flag}, --no" in shown
        assert entry.help in shown
    assert "(0.9 0.98)" in shown
    assert "--betas" in shown.partition("no other flag ends so:")[2]


def test_the_help_of_a_value_is_what_its_dataclass_says() -> None:
    said = {entry.path: entry.help for entry in recipe_fields(BASE)}
    assert said["optimiser.clip_norm"] == "largest norm of a step's gradient"
    assert said["save.keep"] == "the newest so many stay"  # the second of three on a line
    assert said["optimiser.max_skipped"].endswith("before the run stops")  # two lines
    assert said["optimiser.steps"] == ""


def test_a_percent_sign_in_a_docstring_is_no_placeholder() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Shares:
        """Shares.

        Attributes:
            share: 5 % of all.
        """

        share: float = 0.05

    assert "5 % of all (0.05)" in _parser(Shares()).format_help()


def test_a_field_that_no_flag_can_hold_is_named() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Odd:
        table: dict[str, int] = field(default_factory=dict)

    with pytest.raises(TypeError, match="table is of the type"):
        _parser(Odd())


@given(
    steps=st.integers(1, 10**9),
    rate=st.floats(1e-12, 1e3),
    shards=st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1), min_size=1),
    eye=st.sampled_from(["last-layer", "frozen", "all"]),
    compile=st.booleans(),
)
def test_typed_values_come_out_as_they_went_in(
    steps: int, rate: float, shards: list[str], eye: Literal["last-layer", "frozen", "all"], compile: bool
) -> None:
    words = ["--steps", f"{steps:_}", "--learning-rate", repr(rate), "--data.text.shards", *shards, "--eye", eye]
    recipe = _read(*words, "--compile" if compile else "--no-compile")
    assert (recipe.optimiser.steps, recipe.optimiser.learning_rate) == (steps, rate)
    assert (recipe.data.text.shards, recipe.eye, recipe.compute.compile) == (tuple(shards), eye, compile)


@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.name)
def test_a_printed_recipe_is_read_back(recipe: TrainRecipe, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(recipe_text(recipe), "utf-8")
    other = replace(recipe, seed=recipe.seed + 1, optimiser=replace(recipe.optimiser, steps=7, betas=(0.5, 0.6)))
    assert read_recipe(file, other) == recipe


def test_the_file_beside_a_run_is_read_too(tmp_path: Path) -> None:
    wanted = replace(BASE, seed=3)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"recipe": json.loads(recipe_text(wanted)), "ranks": 2}), "utf-8")
    assert read_recipe(file, BASE) == wanted


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is no JSON"),
        ("[]", "holds no recipe"),
        (" " * (2**20 + 1), "holds no recipe"),
        ('{"seeds": 1}', "has no 'seeds'; did you mean 'seed'"),
        ('{"optimiser": {"lerning_rate": 1}}', "did you mean 'optimiser.learning_rate'"),
        ('{"optimiser": 3}', "has no 'optimiser'"),
        ('{"seed": "1"}', 'seed is "1", which it cannot be'),
        ('{"seed": true}', "seed is true"),
        ('{"optimiser": {"learning_rate": NaN}}', "learning_rate is NaN"),
        ('{"optimiser": {"betas": [0.9]}}', r"betas is \[0.9\]"),
        ('{"optimiser": {"schedule": "steps"}}', 'schedule is "steps"'),
        ('{"optimiser": {"schedule": []}}', r"schedule is \[\]"),
        ('{"show": {"trackers": ["pigeon"]}}', 'trackers is "pigeon"'),
        ('{"optimiser": {"steps": 0}}', "optimiser: steps=0"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_by_name(text: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(text, "utf-8")
    with pytest.raises(ValueError, match=reason) as refusal:
        read_recipe(file, BASE)
    assert str(file) in str(refusal.value)
