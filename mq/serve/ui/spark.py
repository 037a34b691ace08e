"""Small pictures, as SVG: how many messages came and went, and what the log consists of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from markupsafe import Markup

from mq.engine.occupancy import LogShape, Occupancy
from mq.serve.ui.samples import KEPT, Rates

WIDTH: Final = 120  # of a sparkline, in its own units: two for each sample
HEIGHT: Final = 24
SEGMENT_WIDTH: Final = 10
SEGMENT_GAP: Final = 2
SEGMENT_HEIGHT: Final = 64


def sparkline(past: Sequence[Rates]) -> Markup:
    """What came as an area, what went as a line, the newest sample at the right."""
    most = max([max(each.came, each.went) for each in past], default=0.0)
    if not most:
        return Markup(f'<svg class="spark" viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true"></svg>')
    begin = KEPT - len(past)
    came = _points([each.came for each in past], begin, most)
    went = _points([each.went for each in past], begin, most)
    first, last = _x(begin), _x(KEPT - 1)
    return Markup(
        f'<svg class="spark" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" aria-hidden="true">'
        f'<path class="came" d="M{first} {HEIGHT}L{came}L{last} {HEIGHT}Z"/>'
        f'<path class="went" d="M{went}"/></svg>'
    )


def _points(values: Sequence[float], begin: int, most: float) -> str:
    room = HEIGHT - 2
    return "L".join(
        f"{_x(at)} {1 + room - round(room * each / most, 1):g}" for at, each in enumerate(values, begin)
    )


def _x(at: int) -> int:
    return round(at * WIDTH / (KEPT - 1))


def drawing(shape: LogShape) -> Markup:
    """The log: a column for each segment, live below garbage; an outline to where the last one may grow."""
    width = max(1, len(shape.segments)) * (SEGMENT_WIDTH + SEGMENT_GAP)
    columns = "".join(_column(at, each, shape) for at, each in enumerate(shape.segments))
    return Markup(
        f'<svg class="log" viewBox="0 0 {width} {SEGMENT_HEIGHT + 8}" role="img"'
        f' width="{2 * width}" height="{2 * (SEGMENT_HEIGHT + 8)}"'
        f' aria-label="{len(shape.segments)} segments; the table below has the numbers">{columns}</svg>'
    )


def _column(at: int, each: Occupancy, shape: LogShape) -> str:
    x = at * (SEGMENT_WIDTH + SEGMENT_GAP)
    *others, last = shape.segments
    largest = max([last.used, *(other.capacity for other in others)] if others else [last.capacity])
    sizes = min(each.capacity, largest), each.used, each.live
    whole, used, live = (_y(size, largest) for size in sizes)
    bars = _bar("room", x, whole) + _bar("garbage", x, used) + _bar("live", x, live)
    title = f"<title>{each.live:,} of {each.used:,} bytes live</title>"
    mark = ""
    if each.base <= shape.checkpoint < each.base + each.capacity and shape.checkpoint:
        middle = x + SEGMENT_WIDTH / 2
        foot = SEGMENT_HEIGHT
        mark = f'<path class="checkpoint" d="M{middle:g} {foot + 2}l3 5h-6z"><title>checkpoint</title></path>'
    return f"<g>{bars}{title}{mark}</g>"


def _y(size: int, largest: int) -> float:
    return round(SEGMENT_HEIGHT * size / max(1, largest), 1)


def _bar(kind: str, x: int, height: float) -> str:
    top = SEGMENT_HEIGHT - height
    return f'<rect class="{kind}" x="{x}" y="{top:g}" width="{SEGMENT_WIDTH}" height="{height:g}"/>'
