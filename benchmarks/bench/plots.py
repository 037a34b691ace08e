"""The figures as pictures, with matplotlib if it is installed.

mq stands out by its colour; a peer that does not survive the death of its process is hatched; what is no
queue is an outline.  Bars are medians, with the range over the rounds.
"""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.bench.formats import digits, short
from benchmarks.bench.results import BEFORE, OURS, Figure, PeerInfo, Results
from benchmarks.bench.tables import (
    CLEANING,
    GROWTH,
    LATENCY,
    REOPEN,
    THROUGHPUT,
    latency_name,
    setting_title,
    throughput_name,
)
from benchmarks.bench.workload import RATE, Group
from benchmarks.bench.workloads import WORKLOADS, growing, latency, reopening

OURS_COLOUR, BEFORE_COLOUR, OTHER_COLOUR, WEAK_COLOUR = "#d9480f", "#f4a582", "#8da2b8", "#d5dbe1"
INK, FAINT = "#1f2933", "#9aa5b1"
LINE_COLOURS = [
    "#3b6ea5", "#5b9a68", "#8e6bb0", "#a67c2e", "#3f9a9a", "#b5557a", "#6b7280", "#7a9a2e", "#4a5fc1",
    "#c2788a", "#2d3e57", "#57c0d6",
]  # fmt: skip
MARKERS = "svD^Pxh*<>"
COLUMNS = 3
DPI = 120
PALETTE = 128  # colours of a picture
MEBIBYTE = 1 << 20


def missing() -> str:
    """Why there are no plots; empty if there can be some."""
    return "" if importlib.util.find_spec("matplotlib") else "matplotlib is not installed"


def draw(results: Results, directory: Path) -> list[str]:
    """All the plots for which there is something, as PNG; their names."""
    names = []
    for name, figure in figures(results):
        save(figure, directory / f"{name}.png")
        names.append(name)
    return names


def save(figure: Any, path: Path) -> None:
    """With few colours, which is a third of the size: the plots are kept with the source."""
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DPI, bbox_inches="tight", facecolor="white")
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(PALETTE, dither=Image.Dither.NONE).save(path, optimize=True)


def figures(results: Results) -> Iterator[tuple[str, Any]]:
    for setting in results.settings(*THROUGHPUT):
        if groups := matching(results, THROUGHPUT, setting):
            title = f"Messages a second: {setting_title(*setting)}"
            yield throughput_name(*setting), throughput(results, groups, title)
    for setting in results.settings(*LATENCY):
        if groups := matching(results, LATENCY, setting):
            yield latency_name(*setting), latencies(results, groups, f"Latency: {setting_title(*setting)}")
    if groups := results.groups(REOPEN):
        yield "recovery", recovery(results, groups)
    if groups := results.groups(*GROWTH):
        yield "growth", growth(results, groups)
    for group in results.groups(CLEANING):
        yield "disk", disk(results, group)


def matching(results: Results, workloads: Sequence[str], setting: tuple[str, bool, int]) -> list[Group]:
    """The groups of this setting in which a peer has a figure."""
    return [
        group
        for group in results.groups(*workloads)
        if (group.durability, group.slow, group.body_bytes) == setting
        and any(not results.failed(group, peer.name) for peer in results.peers_of(group))
    ]


# ── the canvas ─────────────────────────────────────────────────────────────────────


def panels(count: int, title: str, below: str, *, width: float, height: float, columns: int = COLUMNS) -> Any:
    """A figure with so many axes, each of that size in inches."""
    from matplotlib.figure import Figure as Canvas

    columns = min(columns, count)
    rows = -(-count // columns)
    size = columns * width, rows * height + 1.0
    canvas = Canvas(figsize=size, layout="constrained")
    layout: Any = canvas.get_layout_engine()  # of the layout that was named
    layout.set(w_pad=0.12, h_pad=0.12, rect=(0, 0, 1, 1 - 0.85 / size[1]))
    canvas.text(0.012, 1 - 0.12 / size[1], title, size=16, weight="bold", color=INK, va="top")
    canvas.text(0.012, 1 - 0.47 / size[1], below, size=10.5, color="#52606d", va="top")
    axes = canvas.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes[count:]:
        axis.set_visible(False)
    for axis in axes[:count]:
        plain(axis)
    return canvas, list(axes[:count])


def plain(axis: Any) -> None:
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(FAINT)
    axis.tick_params(which="both", colors=INK, labelsize=9.5, length=0, pad=5)
    axis.set_axisbelow(True)
    axis.grid(axis="x", color="#e4e7eb", linewidth=0.8)


def heading(axis: Any, title: str) -> None:
    axis.set_title(title, loc="left", size=12, weight="bold", color=INK)


def rounds_of(results: Results) -> str:
    return f"median and range of {results.rounds} rounds" if results.rounds > 1 else "one round: no ranges"


def legend(canvas: Any, results: Results, groups: Sequence[Group]) -> None:
    from matplotlib.patches import Patch

    peers = results.peers_of(*groups)
    handles = [Patch(label="mq", color=OURS_COLOUR)]
    if any(peer.name == BEFORE for peer in peers):
        handles.append(Patch(label="mq, before", color=BEFORE_COLOUR))
    handles.append(Patch(label="survives the death of its process", color=OTHER_COLOUR))
    if any(map(is_weak, peers)):
        handles.append(Patch(label="does not survive it", **WEAK))
    if any(peer.floor for peer in peers):
        handles.append(Patch(label="no queue: the disk alone", **FLOOR))
    canvas.legend(handles=handles, loc="outside lower left", ncols=len(handles), frameon=False, fontsize=10)


WEAK: dict[str, Any] = {"facecolor": WEAK_COLOUR, "edgecolor": "white", "hatch": "////", "linewidth": 0}
FLOOR: dict[str, Any] = {"facecolor": "white", "edgecolor": FAINT, "linestyle": "--", "linewidth": 1.2}


def is_weak(peer: PeerInfo) -> bool:
    return not peer.survives and not peer.floor


def style(peer: PeerInfo) -> dict[str, Any]:
    if peer.name == OURS:
        return {"color": OURS_COLOUR}
    if peer.name == BEFORE:
        return {"color": BEFORE_COLOUR}
    if peer.floor:
        return FLOOR
    return {"color": OTHER_COLOUR} if peer.survives else WEAK


def name_rows(axis: Any, peers: Sequence[PeerInfo]) -> None:
    axis.set_yticks(range(len(peers)), [peer.title for peer in peers])
    axis.invert_yaxis()
    for label, peer in zip(axis.get_yticklabels(), peers, strict=True):
        if peer.name == OURS:
            label.set(color=OURS_COLOUR, weight="bold")


# ── throughput ─────────────────────────────────────────────────────────────────────


def throughput(results: Results, groups: list[Group], title: str) -> Any:
    most = max(len(results.peers_of(group)) for group in groups)
    below = f"Longer is better; {rounds_of(results)}."
    canvas, axes = panels(len(groups), title, below, width=5.0, height=0.9 + 0.25 * most)
    for axis, group in zip(axes, groups, strict=True):
        bars(axis, results, group)
        heading(axis, WORKLOADS[group.workload].title)
    legend(canvas, results, groups)
    return canvas


def bars(axis: Any, results: Results, group: Group) -> None:
    """The best at the top."""
    found = [(peer, results.figure(group, peer.name, RATE)) for peer in results.peers_of(group)]
    there = [(peer, figure) for peer, figure in found if figure]
    there.sort(key=lambda each: -each[1].median)
    widest = max((figure.most for _, figure in there), default=1.0)
    for row, (peer, figure) in enumerate(there):
        axis.barh(row, figure.median, height=0.72, **style(peer))
        range_bar(axis, row, figure)
        bold = {"weight": "bold", "color": OURS_COLOUR} if peer.name == OURS else {"color": INK}
        axis.text(figure.most + widest * 0.015, row, short(figure.median), va="center", size=9, **bold)
    name_rows(axis, [peer for peer, _ in there])
    axis.set_xlim(0, widest * 1.14)
    axis.xaxis.set_major_locator(ticks(5))
    axis.xaxis.set_major_formatter(lambda value, _: count_label(value))
    axis.tick_params(axis="x", labelsize=8.5, colors="#52606d")


def range_bar(axis: Any, row: int, figure: Figure) -> None:
    if figure.most > figure.least:
        sides = [[figure.median - figure.least], [figure.most - figure.median]]
        axis.errorbar([figure.median], [row], xerr=sides, color=INK, linewidth=1.1, capsize=2.5)


def ticks(most: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=most)


# ── latency ────────────────────────────────────────────────────────────────────────


def latencies(results: Results, groups: list[Group], title: str) -> Any:
    most = max(len(results.peers_of(group)) for group in groups)
    below = f"Dot: the median; bar: the 99th percentile.  Further left is better; {rounds_of(results)}."
    if any(map(is_weak, results.peers_of(*groups))):
        below += "  Hollow: does not survive the death of its process."
    canvas, axes = panels(len(groups), title, below, width=5.0, height=1.1 + 0.3 * most)
    for axis, group in zip(axes, groups, strict=True):
        spans(axis, results, group)
        heading(axis, WORKLOADS[group.workload].title)
    return canvas


def spans(axis: Any, results: Results, group: Group) -> None:
    there = []
    for peer in results.peers_of(group):
        middle, tail = (results.figure(group, peer.name, metric) for metric in latency.METRICS)
        if middle and tail:
            there.append((peer, middle, tail))
    there.sort(key=lambda each: each[1].median)
    axis.set_xscale("log")
    for row, (peer, middle, tail) in enumerate(there):
        ours = peer.name == OURS
        colour = OURS_COLOUR if ours else (BEFORE_COLOUR if peer.name == BEFORE else "#6b829b")
        axis.plot([middle.median, tail.median], [row, row], color=colour, linewidth=3, alpha=0.55, zorder=2)
        inside = "white" if is_weak(peer) else colour
        axis.plot(
            [middle.median], [row], "o", color=colour, markerfacecolor=inside, markeredgewidth=1.5,
            markersize=8, zorder=3,
        )  # fmt: skip
        axis.plot([tail.median], [row], "|", color=colour, markersize=13, markeredgewidth=3, zorder=3)
        for figure in (middle, tail):
            range_bar(axis, row, figure)
        told = f"{span_label(middle.median / 1e6)} / {span_label(tail.median / 1e6)}"
        bold = {"weight": "bold", "color": OURS_COLOUR} if ours else {"color": INK}
        axis.annotate(
            told, (tail.most, row), xytext=(7, 0), textcoords="offset points", va="center", size=9, **bold
        )
    name_rows(axis, [peer for peer, _, _ in there])
    if there:
        least = min(middle.least for _, middle, _ in there)
        most = max(tail.most for _, _, tail in there)
        axis.set_xlim(least / 1.4, most * (most / least) ** 0.38 * 1.4)
        axis.set_ylim(len(there) - 0.4, -0.6)
    axis.xaxis.set_major_formatter(lambda value, _: time_label(value / 1e6))
    axis.xaxis.set_minor_formatter(lambda value, _: "")
    axis.set_xlabel("logarithmic", size=9, color="#52606d")


def time_label(seconds: float) -> str:
    """A round number, as on a scale."""
    value, unit = in_unit(seconds)
    return f"{value:g} {unit}"


def span_label(seconds: float) -> str:
    """Three digits."""
    value, unit = in_unit(seconds)
    return f"{digits(value)} {unit}"


def in_unit(seconds: float) -> tuple[float, str]:
    for limit, unit, scale in ((1, "s", 1.0), (1e-3, "ms", 1e3)):
        if seconds >= limit * 0.9999:
            return seconds * scale, unit
    return seconds * 1e6, "µs"


# ── lines ──────────────────────────────────────────────────────────────────────────


class Line(NamedTuple):
    peer: PeerInfo
    points: list[tuple[float, Figure]]


def line_style(peer: PeerInfo, index: int) -> dict[str, Any]:
    if peer.name == OURS:
        return {"color": OURS_COLOUR, "linewidth": 3, "marker": "o", "markersize": 6, "zorder": 5}
    if peer.name == BEFORE:
        return {"color": BEFORE_COLOUR, "linewidth": 2, "marker": "o", "markersize": 4, "zorder": 4}
    colour, marker = LINE_COLOURS[index % len(LINE_COLOURS)], MARKERS[index % len(MARKERS)]
    return {"color": colour, "linewidth": 1.5, "marker": marker, "markersize": 4.5, "zorder": 3}


def lines(
    axis: Any, results: Results, drawn: Sequence[Line], *, unit: Callable[[float], str], markers: bool = True
) -> None:
    """On a logarithmic scale, with the names at the right end in place of a legend.

    *markers*: at all points; else at the last one only.
    """
    names = [peer.name for peer in results.peers if peer.name not in (OURS, BEFORE)]
    axis.set_yscale("log")
    ends = []
    for peer, points in drawn:
        index = names.index(peer.name) if peer.name in names else 0
        kind = line_style(peer, index)
        x = [x for x, _ in points]
        y = [figure.median for _, figure in points]
        axis.plot(x, y, markevery=1 if markers else [-1], **kind)
        axis.fill_between(
            x, [each.least for _, each in points], [each.most for _, each in points],
            color=kind["color"], alpha=0.15, linewidth=0,
        )  # fmt: skip
        ends.append((x[-1], y[-1], peer, kind["color"]))
    axis.grid(axis="y", color="#e4e7eb", linewidth=0.8)
    axis.yaxis.set_major_formatter(lambda value, _: unit(value))
    axis.yaxis.set_minor_formatter(lambda value, _: "")
    label_ends(axis, ends)


def label_ends(axis: Any, ends: list[tuple[float, float, PeerInfo, str]]) -> None:
    """Each name beside the end of its line, or a little above or below if they would touch."""
    low, high = map(float, axis.get_ylim())

    def share(y: float) -> float:
        return math.log(y / low) / math.log(high / low)

    gap = 0.058
    ordered = sorted(ends, key=lambda end: share(end[1]))
    places: list[float] = []
    for end in ordered:
        places.append(max(share(end[1]), places[-1] + gap if places else -1.0))
    top = 1.0
    for index in reversed(range(len(places))):  # back below the upper edge
        places[index] = min(places[index], top)
        top = places[index] - gap
    for (x, y, peer, colour), place in zip(ordered, places, strict=True):
        axis.annotate(
            peer.title, xy=(x, y), xycoords="data", xytext=(1.03, place), textcoords="axes fraction",
            va="center", size=9.5, color=colour, weight="bold" if peer.name == OURS else "normal",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": colour, "linewidth": 0.7, "alpha": 0.6, "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )  # fmt: skip


def count_label(value: float) -> str:
    """A round number, as on a scale."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"


def recovery(results: Results, groups: list[Group]) -> Any:
    title = "Opening a store: until the first message is there"
    below = f"Bodies of 100 bytes; lower is better, both scales are logarithmic; {rounds_of(results)}."
    shown = reopening.METRICS[:2]
    canvas, axes = panels(len(shown), title, below, width=7.0, height=5.2)
    for axis, metric in zip(axes, shown, strict=True):
        drawn = []
        for peer in results.peers_of(*groups):
            found = [(float(group.messages), results.figure(group, peer.name, metric)) for group in groups]
            points = [
                (x, Figure(*(value / 1e3 for value in figure))) for x, figure in found if figure is not None
            ]
            if points:
                drawn.append(Line(peer, points))
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: count_label(value))
        axis.set_xlabel("messages that wait", size=10, color="#52606d")
        lines(axis, results, drawn, unit=time_label)
        heading(axis, metric.title)
    return canvas


def growth(results: Results, groups: list[Group]) -> Any:
    """What each operation takes by the number of messages; and of mq, by queues and by segments."""
    waiting = [group for group in groups if group.workload == growing.WAITING.name]
    others = [group for group in groups if group.workload != growing.WAITING.name]
    kinds = [(group, name) for group in waiting for name in growing.OPERATIONS]
    title = "An operation when there is more of what it does not concern"
    below = f"OS-buffered; flat is good; the scales are logarithmic; {rounds_of(results)}."
    canvas, axes = panels(len(kinds) + len(others), title, below, width=6.2, height=4.6)
    for axis, (group, name) in zip(axes, kinds, strict=False):
        drawn = [
            Line(peer, points)
            for peer in results.peers_of(group)
            if (points := results.line(group, peer.name, name))
        ]
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: count_label(value))
        axis.set_xlabel("messages that wait", size=10, color="#52606d")
        lines(axis, results, drawn, unit=time_label)
        heading(axis, name)
    for axis, group in zip(axes[len(kinds) :], others, strict=True):
        relative(axis, results, group)
    return canvas


def relative(axis: Any, results: Results, group: Group) -> None:
    """Of mq: each operation, as a share of what it takes with the least."""
    for index, name in enumerate(growing.OPERATIONS):
        points = results.line(group, OURS, name)
        if not points:
            continue
        first = points[0][1].median
        colour = (OURS_COLOUR, "#3b6ea5", "#5b9a68")[index]
        y = [figure.median / first for _, figure in points]
        axis.plot([x for x, _ in points], y, color=colour, marker="osD"[index], linewidth=2, label=name)
    axis.axhline(1.2, color=FAINT, linestyle="--", linewidth=1)
    axis.set_xscale("log")
    axis.set_ylim(0, max(2.0, axis.get_ylim()[1]))
    axis.xaxis.set_major_formatter(lambda value, _: count_label(value))
    axis.yaxis.set_major_formatter(lambda value, _: f"×{value:g}")
    axis.grid(axis="y", color="#e4e7eb", linewidth=0.8)
    axis.set_xlabel(WORKLOADS[group.workload].title.removeprefix("growth of "), size=10, color="#52606d")
    axis.legend(frameon=False, fontsize=9.5, loc="upper left")
    heading(axis, f"mq: {WORKLOADS[group.workload].title.removeprefix('growth of ')}; the line is ×1.2")


def disk(results: Results, group: Group) -> Any:
    title = "The disk while messages are published, received and acked"
    waits = f"1,000 messages of {group.body_bytes:,} bytes wait all the time"
    below = f"{waits}; lower is better; {rounds_of(results)}."
    canvas, [axis] = panels(1, title, below, width=11.0, height=5.4)
    drawn = []
    for peer in results.peers_of(group):
        found = results.line(group, peer.name, "disk")
        points = [(x / MEBIBYTE, Figure(*(value / MEBIBYTE for value in figure))) for x, figure in found]
        if points:
            drawn.append(Line(peer, points))
    lines(axis, results, drawn, unit=lambda value: f"{value:g} MiB", markers=False)
    axis.set_xlabel("MiB of bodies that went through", size=10, color="#52606d")
    axis.set_ylabel("on the disk, logarithmic", size=10, color="#52606d")
    axis.set_xlim(left=0)
    return canvas
