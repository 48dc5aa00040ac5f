"""A number format that is asked for is used; `auto` gives one of the two."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kosmos.training import precision
from kosmos.training.precision import autocast, chosen_precision


def test_what_is_asked_for_is_used() -> None:
    assert [chosen_precision("float32"), chosen_precision("bfloat16")] == ["float32", "bfloat16"]


@pytest.mark.parametrize(("bf16_seconds", "chosen"), [(1.0, "float32"), (0.7, "float32"), (0.5, "bfloat16")])
def test_auto_takes_bfloat16_only_for_a_clear_gain(
    monkeypatch: pytest.MonkeyPatch, bf16_seconds: float, chosen: str
) -> None:
    seconds = {torch.bfloat16: bf16_seconds, torch.float32: 1.0}
    monkeypatch.setattr(precision, "_seconds", seconds.__getitem__)
    assert chosen_precision("auto") == chosen


def test_the_race_times_both_formats() -> None:
    assert chosen_precision("auto") in ("float32", "bfloat16")


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_products_run_in_the_chosen_format(name: str, dtype: torch.dtype) -> None:
    with autocast(name):
        assert F.linear(torch.ones(2, 3), torch.ones(4, 3)).dtype == dtype
