"""The curves of a report as a picture (SVG or PNG, by the name of the file). Needs the extra `science`."""

from __future__ import annotations

from pathlib import Path

from kosmos.science.report import Curve, Report

__all__ = ["plot"]

PANEL_INCHES = (4.2, 3.4)
MARKERS = "osD^vPX*"
FEW = 10  # points that get markers and ticks of their own


def plot(report: Report, path: Path) -> None:
    """Write the curves, one panel beside the other; equal reports give equal bytes.

    Raises: ValueError if matplotlib is missing.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as missing:
        raise ValueError("a plot needs matplotlib: install kosmos-mllm[science], or leave --plot out") from missing
    # The salt names the parts of an SVG, which are random otherwise.
    with matplotlib.rc_context({"svg.hashsalt": report.claim, "font.size": 9, "svg.fonttype": "path"}):
        panels = list(dict.fromkeys(curve.panel for curve in report.curves))
        names = list(dict.fromkeys(curve.name for curve in report.curves))
        width, height = PANEL_INCHES
        figure = Figure(figsize=(width * max(len(panels), 1), height), layout="constrained")
        axes = figure.subplots(1, max(len(panels), 1), sharey=report.shared_axis, squeeze=False)[0]
        for panel, place in zip(panels, axes, strict=True):
            place.set_title(panel)
            place.set_xlabel(report.axes[0])
            place.set_xscale("log" if "x" in report.logarithmic else "linear")
            place.set_yscale("log" if "y" in report.logarithmic else "linear")
            place.grid(visible=True, which="both", alpha=0.2)
            own = [curve for curve in report.curves if curve.panel == panel and curve.points]
            for curve in own:
                _draw(place, curve, names.index(curve.name))
            _mark(place, sorted({x for curve in own for x, _, _ in curve.points}))
        axes[0].set_ylabel(report.axes[1])
        if any(curve.points for curve in report.curves if curve.panel == panels[-1]):
            axes[-1].legend(fontsize=8)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        unfinished = path.with_name("part-" + path.name)
        figure.savefig(unfinished, metadata=metadata)
        unfinished.replace(path)


def _mark(place: object, measured: list[float]) -> None:
    """Ticks where something was measured, if that is in few places: a logarithmic axis has others."""
    from matplotlib.axes import Axes

    assert isinstance(place, Axes)
    if 0 < len(measured) < FEW:
        place.set_xticks(measured, labels=[f"{x:g}" for x in measured])
        place.set_xticks([], minor=True)


def _draw(place: object, curve: Curve, number: int) -> None:
    from matplotlib.axes import Axes

    assert isinstance(place, Axes)
    across, up, half = zip(*curve.points, strict=True)
    place.errorbar(
        across,
        up,
        yerr=None if len(up) >= FEW and None in half else [width or 0.0 for width in half],
        label=curve.name,
        color=f"C{number}",
        marker=MARKERS[number % len(MARKERS)] if len(up) < FEW else None,
        markersize=4,
        linewidth=1.2,
        capsize=2,
    )
