"""A picture of what mq bench found.  Needs matplotlib, the extra [plot]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mq.cli.speed import Result, Spread

INCHES: Final = (9.0, 4.5)
DPI: Final = 130
BAR: Final = 0.38
OURS: Final = "#2f6f9f"
RAW: Final = "#c9c9c9"


def draw(found: Sequence[Result], title: str, path: str) -> None:
    """Bars on a scale of powers of ten, with the ranges, in the PNG file *path*."""
    figure = Figure(figsize=INCHES, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    for shift, colour, label, sides in (
        (-BAR / 2, OURS, "mq", [each.mq for each in found]),
        (BAR / 2, RAW, "raw loop", [each.raw for each in found]),
    ):
        places = [place + shift for place in range(len(found))]
        medians = [side.median for side in sides]
        axes.barh(places, medians, BAR, color=colour, label=label, xerr=_errors(sides), capsize=2)
    for place, each in enumerate(found):
        axes.annotate(
            f" {each.mq.median:,.0f}, {each.ratio.median:.2g} of raw", (each.mq.high, place - BAR / 2),
            va="center", fontsize=8, xytext=(4, 0), textcoords="offset points",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yticks(range(len(found)), [each.name for each in found])
    axes.invert_yaxis()
    axes.set_xlabel("messages a second (median; lines: lowest to highest)")
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlim(right=axes.get_xlim()[1] * 6)  # room for what stands beside the longest bar
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, format="png")


def _errors(sides: list[Spread]) -> list[list[float]]:
    """How far the lowest and the highest are from the median."""
    return [[side.median - side.low for side in sides], [side.high - side.median for side in sides]]
