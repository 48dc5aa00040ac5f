"""The command's table of verbs: exit codes, one-sentence errors, help without loading a verb."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

import kosmos
from kosmos.cli import main as command
from kosmos.cli.main import VERBS, Verb, main

Run = Callable[[argparse.Namespace], int]


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], None]:
    """Put a verb `probe` with one argument `--size` into the table; it does what it is given."""

    def install(run: Run) -> None:
        module = ModuleType("probe_verb")
        module.add_arguments = lambda parser: parser.add_argument("--size", type=int)  # type: ignore[attr-defined]
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "probe_verb", module)
        monkeypatch.setattr(command, "VERBS", {**VERBS, "probe": Verb("probe_verb", "try things")})

    return install


def _raiser(error: BaseException) -> Run:
    def run(arguments: argparse.Namespace) -> int:
        raise error

    return run


@pytest.mark.parametrize("code", [0, 1])
def test_a_verbs_code_is_the_commands_code(verb: Callable[[Run], None], code: int) -> None:
    verb(lambda arguments: code)
    assert main(["probe"]) == code


def test_a_verb_gets_its_arguments(verb: Callable[[Run], None]) -> None:
    seen: list[int] = []

    def run(arguments: argparse.Namespace) -> int:
        seen.append(arguments.size)
        return 0

    verb(run)
    main(["probe", "--size", "3"])
    assert seen == [3]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("size=0; give a positive number"), "size=0; give a positive number"),
        (FileNotFoundError(2, "No such file or directory", "a.jpg"), "No such file or directory: a.jpg"),
        (OSError("no network"), "no network"),
    ],
)
def test_a_failure_is_one_sentence_and_code_1(
    verb: Callable[[Run], None], capsys: pytest.CaptureFixture[str], error: Exception, sentence: str
) -> None:
    verb(_raiser(error))
    assert main(["probe"]) == 1
    assert capsys.readouterr() == ("", f"kosmos probe: {sentence}\n")


@pytest.mark.parametrize("words", [["--debug", "probe"], ["probe", "--debug"]])
def test_debug_shows_the_traceback(verb: Callable[[Run], None], words: list[str]) -> None:
    verb(_raiser(ValueError("deep inside")))
    with pytest.raises(ValueError, match="deep inside"):
        main(words)


def test_a_fault_of_ours_keeps_its_traceback(verb: Callable[[Run], None]) -> None:
    verb(_raiser(KeyError("left")))
    with pytest.raises(KeyError):
        main(["probe"])


@pytest.mark.parametrize("words", [["nonsense"], ["probe", "--size", "big"], ["probe", "--si", "3"], ["probe", "more"]])
def test_wrong_usage_ends_with_2(verb: Callable[[Run], None], words: list[str]) -> None:
    verb(lambda arguments: 0)
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2


def test_wrong_usage_found_by_a_verb_ends_with_2(verb: Callable[[Run], None]) -> None:
    verb(_raiser(argparse.ArgumentTypeError("--size needs --unit")))
    with pytest.raises(SystemExit) as end:
        main(["probe"])
    assert end.value.code == 2


def test_no_verb_prints_the_help_and_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    shown = capsys.readouterr().err
    assert [name for name in VERBS if f"\n    {name} " not in shown] == []


def test_interruption_ends_with_130_and_no_words(
    verb: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb(_raiser(KeyboardInterrupt()))
    assert main(["probe"]) == 130
    assert capsys.readouterr().err == ""


def test_version_is_the_packages() -> None:
    done = subprocess.run([sys.executable, "-m", "kosmos.cli.main", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"kosmos {kosmos.__version__}\n")


def test_a_reader_who_leaves_causes_no_complaint() -> None:
    code = """
import sys, types
from kosmos.cli import main as command
verb = types.ModuleType("endless")
verb.add_arguments = lambda parser: None
verb.run = lambda arguments: [print("line") for _ in range(200_000)] and 0
sys.modules["endless"] = verb
command.VERBS = {"endless": command.Verb("endless", "write on")}
sys.exit(command.main(["endless"]))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        writer.stdout.readline()
        writer.stdout.close()
        assert writer.stderr.read() == b""
        assert writer.wait(timeout=60) == 141
