"""Plots of statistics: one SVG a histogram or category, the same bytes for the same counts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from data_pipelines.stats import Statistics
from data_pipelines.whole_file import whole_file

__all__ = ["plot_statistics"]

MAX_BARS = 15


def plot_statistics(statistics: Statistics, folder: Path) -> list[Path]:
    """Draw what was counted.

    Returns: the files, in order.
    Raises: ValueError without the extra `data`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, histogram in statistics.histograms.items():
        if histogram.count:
            drawn.append(_bars(name, list(histogram.bins()), folder))
    for name, counts in statistics.categories.items():
        common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_BARS]
        drawn.append(_bars(name, common, folder))
    return drawn


def _bars(title: str, rows: Sequence[tuple[str, int]], folder: Path) -> Path:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("plots need the extra `data`: pip install 'kosmos-mllm[data]'") from None

    path = folder / f"{re.sub('[^a-z]+', '-', title.lower()).strip('-')}.svg"
    drawing = BytesIO()
    with mpl.rc_context({"svg.hashsalt": "kosmos", "svg.fonttype": "none"}):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.bar(range(len(rows)), [count for _, count in rows], color="#4477aa")
        axes.set_xticks(range(len(rows)), [label for label, _ in rows], rotation=40, ha="right")
        axes.set_title(title, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(drawing, format="svg", metadata={"Date": None})
    with whole_file(path) as file:
        file.write(drawing.getvalue())
    return path
