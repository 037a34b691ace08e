"""Figures as people read them."""

from __future__ import annotations

from benchmarks.bench.results import Figure

DIGITS = 3


def short(value: float) -> str:
    """Three digits: 1.23M, 229k, 8.45k, 850, 0.12."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit * (1 - 0.5 * 10**-DIGITS):
            return digits(value / limit) + unit
    return digits(value)


def digits(value: float) -> str:
    if value == 0:
        return "0"
    if value >= 99.95:
        return f"{value:.0f}"
    if value >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}"


def ranged(figure: Figure | None, before: str = "") -> str:
    """The median, and the range if there is one."""
    if figure is None:
        return "–"
    middle, least, most = map(short, figure)
    return before + middle + ("" if least == most else f" ({least}–{most})")
