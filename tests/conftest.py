"""What all tests share: a quiet, offline process, the folder of real data, and a small vocabulary.

The environment is set before anything heavy is imported: thread pools and hubs read it once, at import.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

# One thread a process: pytest runs as many processes as there are cores, and results must not depend on a thread count.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    TRANSFORMERS_VERBOSITY="error",
    NO_PROXY="127.0.0.1,localhost",
)

import pytest  # noqa: E402  (after the environment)
from hypothesis import settings  # noqa: E402

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

    from text.tokenizer import Tokenizer

# No deadline: a busy machine is no bug. The same examples every time; `--hypothesis-profile=search` looks further.
settings.register_profile("house", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=3000)
settings.load_profile("house")

REPOSITORY = Path(__file__).resolve().parents[1]
NO_DATA = "no folder of real data"


def pytest_runtest_setup() -> None:
    """Give torch its threads and flush denormals, as soon as a test module has imported it and never before."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_flush_denormal"):
        torch.set_flush_denormal(True)
        if torch.get_num_threads() != int(os.environ["OMP_NUM_THREADS"]):
            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Say loudly what was not proved here, and why: a quiet skip looks like a pass."""
    reasons = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", []))
    if reasons:
        terminalreporter.section("NOT proved on this machine", red=True, bold=True)
        for reason, count in reasons.most_common():
            terminalreporter.line(f"{count} skipped: {reason}", red=True)


def _reason(report: object) -> str:
    where = getattr(report, "longrepr", "")
    return str(where[2] if isinstance(where, tuple) else where).removeprefix("Skipped: ")


def _data_folder() -> Path:
    return Path(os.environ.get("KOSMOS_DATA") or REPOSITORY.parent / "shared" / "data")


@pytest.fixture(scope="session")
def kosmos_data() -> Path:
    """The folder of real text, pictures and vocabularies; the test is skipped, and counted, where there is none."""
    folder = _data_folder()
    if not (folder / "README.md").is_file():
        pytest.skip(f"{NO_DATA} at {folder} (set KOSMOS_DATA)")
    return folder


def _sentences() -> list[str]:
    """Simple English drawn at random: enough for a small vocabulary to find words and endings."""
    draw = random.Random(0)
    who = (
        "a man",
        "the woman",
        "two dogs",
        "a small child",
        "the old sailor",
        "a brown cat",
        "three girls",
        "somebody",
    )
    does = ("runs", "is sitting", "jumps", "was walking", "sleeps", "will be playing", "looked", "kept swimming")
    where = ("on the beach", "in a field of grass", "over a wall", "near the water", "behind the red house", "at night")
    ends = (".", "!", "?", ", and then home.", "; nobody knows why.", " (in 1987).", ": 3.14 %!")
    return [
        f"{draw.choice(who).capitalize()} {draw.choice(does)} {draw.choice(where)}{draw.choice(ends)}"
        for _ in range(2_000)
    ]


@pytest.fixture(scope="session")
def small_tokenizer() -> Tokenizer:
    """Kosmos-2's special tokens over a few hundred pieces with byte fallback, trained here and now."""
    from io import BytesIO

    import sentencepiece

    from text.tokenizer import Tokenizer

    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_sentences()),
        model_writer=model,
        vocab_size=400,
        hard_vocab_limit=False,
        byte_fallback=True,
        model_type="unigram",
        num_threads=1,
        minloglevel=2,
    )
    return Tokenizer(model.getvalue(), specials="kosmos2")
