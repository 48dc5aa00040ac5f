"""The claim of attention resolution as a table: theory as printed in the paper, and what the trained models show.

Source: "A Length-Extrapolatable Transformer" (arXiv 2212.10554, figure and table of attention resolution). Runs are
those of the claim `extrapolation`; see `resolution.py` for the formulas.
"""

from __future__ import annotations

from pathlib import Path

import torch

from kosmos.science.extrapolation import LABELS, ExtrapolationRun, curve_distances, values
from kosmos.science.report import Cell, Curve, Estimate, Report, estimate
from kosmos.science.resolution import PAPER_SCALE_BASE, resolution, theoretical_score
from kosmos.science.runs import Finished, read_runs

__all__ = ["report", "roughness"]

HEAD_DIM = 64  # of the paper
THEORY = {"RoPE": None, "xPos": PAPER_SCALE_BASE}
THEORY_LENGTH = 2048


def roughness(scale_base: int | None) -> float:
    """Mean |g[n+1] - g[n]| from 1,024 to 2,048: how much the score of a distance tells nothing of the next."""
    scores = theoretical_score(torch.arange(1024, 2049), head_dim=HEAD_DIM, scale_base=scale_base)
    return float(scores.diff().abs().mean())


def report(folder: Path) -> Report:
    """Theory, and what the folder's runs say."""
    runs = read_runs(folder, ExtrapolationRun)
    lengths = sorted({length for one in runs for length in one.run.lengths[:3]})
    rows: list[dict[str, Cell | Estimate]] = []
    for name, base in THEORY.items():
        scores = theoretical_score(torch.arange(THEORY_LENGTH + 1), head_dim=HEAD_DIM, scale_base=base)
        rows.append({"positions": f"{name} (theory)", "R of g": resolution(scores), "roughness": roughness(base)})
    measured: dict[str, dict[int, Estimate]] = {}
    for name, label in LABELS.items():
        found = {length: estimate(values(runs, f"{name} resolution {length}")) for length in lengths}
        measured[name] = {length: one for length, one in found.items() if one is not None}
        if measured[name]:
            rows.append({"positions": label, **{f"R at {n}": one for n, one in measured[name].items()}})
    return Report(
        claim="resolution",
        columns=("positions", "R of g", "roughness", *(f"R at {length}" for length in lengths)),
        rows=tuple(rows),
        verdicts=_verdicts(measured, lengths),
        curves=(*_theory_curves(), *_measured_curves(runs)),
        axes=("distance in tokens", "score before softmax"),
        logarithmic="x",
        shared_axis=False,
    )


def _verdicts(measured: dict[str, dict[int, Estimate]], lengths: list[int]) -> dict[str, bool | None]:
    smooth = roughness(None) / roughness(PAPER_SCALE_BASE)
    verdicts: dict[str, bool | None] = {f"in theory xPos is smoother far away ({smooth:.0f} times)": smooth > 1}
    if not (measured["rope"] and measured["xpos"]):
        return verdicts
    trained, twice = lengths[:2]
    at = {name: {length: one.mean for length, one in row.items()} for name, row in measured.items()}
    return verdicts | {
        f"at {trained} xPos has a higher resolution than RoPE": at["xpos"][trained] > at["rope"][trained],
        f"at {twice} xPos without BCA has a higher one than RoPE": at["xpos"][twice] > at["rope"][twice],
        f"at {twice} BCA raises that of xPos": at["xpos+bca"][twice] > at["xpos"][twice],
        f"xPos + BCA does not fall from {trained} to {twice}": at["xpos+bca"][twice] >= at["xpos"][trained],
    }


def _theory_curves() -> list[Curve]:
    distances = torch.unique(torch.logspace(0, 12, 400, base=2).round())
    curves = []
    for name, base in THEORY.items():
        scores = theoretical_score(distances, head_dim=HEAD_DIM, scale_base=base)
        points = tuple((n, score, None) for n, score in zip(distances.tolist(), scores.tolist(), strict=True))
        curves.append(Curve("theory: g[n], heads of 64", name, points))
    return curves


def _measured_curves(runs: list[Finished[ExtrapolationRun]]) -> list[Curve]:
    curves = []
    for name, label in LABELS.items():
        own = [one for one in runs if one.run.positions == name]
        if own:
            found = [(n, estimate(values(own, f"{name} score {n}"))) for n in curve_distances(own[0].run.lengths[2])]
            points = tuple((float(n), one.mean, one.half_width) for n, one in found if one is not None and n > 0)
            curves.append(Curve(f"measured, trained at {own[0].run.length}", label, points))
    return curves
