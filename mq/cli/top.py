"""mq top: all queues, again and again: how deep, and how many come and go in a second."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import click

import mq
from mq.cli import existing, output
from mq.cli.app import command, json_option, store_option
from mq.cli.looking import look
from mq.cli.params import DURATION, QUEUE
from mq.cli.queues import is_alarming
from mq.cli.screen import Screen, screen
from mq.cli.stats import QueueStats
from mq.engine import loading

BAR: Final = " ▏▎▍▌▋▊▉█"
BAR_COLUMNS: Final = 16
NARROW_COLUMNS: Final = 60
WIDE_COLUMNS: Final = 100


class Row(NamedTuple):
    """One queue at one moment; rates in messages a second since the look before."""

    stats: QueueStats
    published: float
    settled: float  # acked, expired, dropped, or gone to the dead letters
    failed: float

    @property
    def depth(self) -> int:
        return self.stats.ready + self.stats.in_flight + self.stats.delayed


@command(short_help="Watch depths and rates of the queues.")
@click.argument("queues", nargs=-1, metavar="[QUEUE]...", type=QUEUE)
@click.option(
    "-e", "--every", type=DURATION, default=1.0, metavar="SECONDS", help="Between two looks.  [default: 1]"
)
@click.option("-n", "count", type=click.IntRange(min=1), metavar="N", help="Stop after N looks.")
@json_option
@store_option
def top(queues: tuple[str, ...], every: float, count: int | None, as_json: bool, store: str) -> None:
    """Show all queues, or these, again and again: the busiest first, with what comes and goes in a second.

    On a terminal it takes the whole screen, and q or Ctrl-C gives it back.  Elsewhere, and with --json,
    it prints a line for each queue at each look.  Writes nothing, and works beside other processes.

    \b
    mq top
    mq top mail --every 10s --json
    """
    with look(store) as broker:
        if queues:
            _require(broker, queues)
        if as_json or not output.is_terminal() or os.environ.get("TERM") == "dumb":
            _run(broker, queues, every, count, _Plain(as_json))
        else:
            loading.watch = None  # its line would run into the screen
            with screen() as terminal:
                _run(broker, queues, every, count, _Whole(broker.path, terminal))


def _require(broker: mq.Broker, names: Sequence[str]) -> None:
    for name in names:
        existing.queue(broker, name)


class _Plain:
    """Lines, for what is no terminal."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def show(self, rows: Sequence[Row]) -> None:
        at = output.instant(int(time.time() * 1000))
        for row in rows:
            output.line(_to_json(at, row) if self._as_json else _plain(at, row))
        output.flush()

    def wait(self, seconds: float) -> bool:
        """Whether to go on."""
        time.sleep(seconds)
        return True


class _Whole:
    """A whole terminal."""

    def __init__(self, path: str, terminal: Screen) -> None:
        self._path, self._terminal = path, terminal

    def show(self, rows: Sequence[Row]) -> None:
        size = os.get_terminal_size(sys.stdout.fileno())
        width, height = size.columns or 80, size.lines or 24
        self._terminal.show(laid_out(self._path, rows, width, height, output.has_colours()))

    def wait(self, seconds: float) -> bool:
        keys = self._terminal.keys
        if keys is None:
            time.sleep(seconds)
            return True
        if not select.select([keys], [], [], seconds)[0]:
            return True
        return os.read(keys, 64)[:1] not in (b"q", b"Q", b"\x04", b"")


def _run(
    broker: mq.Broker, names: Sequence[str], every: float, count: int | None, view: _Plain | _Whole
) -> None:  # fmt: skip
    before: dict[str, QueueStats] = {}
    began = time.monotonic()
    looks = 0
    while True:
        looked, began = began, time.monotonic()
        broker._store.hold_still(again=True)
        found = [QueueStats.of(broker.queue(name)) for name in names or broker.queues()]
        rows = [_row(each, before.get(each.queue), began - looked) for each in found]
        view.show(sorted(rows, key=lambda row: (-row.published - row.settled, -row.depth, row.stats.queue)))
        before = {each.queue: each for each in found}
        looks += 1
        seen = time.monotonic()
        # A look takes as long as what was appended since: then it is not looked again at once.
        if looks == count or not view.wait(max(every - (seen - began), seen - began)):
            return


def _row(now: QueueStats, before: QueueStats | None, seconds: float) -> Row:
    if before is None or seconds <= 0:
        return Row(now, 0.0, 0.0, 0.0)
    new, old = now.totals, before.totals
    settled = ("acked", "expired", "dead_lettered", "dropped")

    def rate(*names: str) -> float:
        count: int = sum(getattr(new, name) - getattr(old, name) for name in names)
        return max(0.0, count / seconds)

    return Row(now, rate("published"), rate(*settled), rate("failed"))


def _to_json(at: str, row: Row) -> bytes:
    stats = row.stats
    return output.to_json({
        "at": at, "queue": stats.queue, "ready": stats.ready, "in_flight": stats.in_flight,
        "delayed": stats.delayed, "oldest_age": stats.oldest_age, "paused": stats.paused,
        "published_per_second": round(row.published, 3), "settled_per_second": round(row.settled, 3),
        "failed_per_second": round(row.failed, 3),
    })  # fmt: skip


def _plain(at: str, row: Row) -> str:
    stats = row.stats
    paused = "  paused" if stats.paused else ""
    return (
        f"{at}  {stats.queue}  ready {stats.ready}  in flight {stats.in_flight}  delayed {stats.delayed}"
        f"  in {row.published:.1f}/s  out {row.settled:.1f}/s  failed {row.failed:.1f}/s{paused}"
    )


def bar(depth: int, most: int, columns: int = BAR_COLUMNS) -> str:
    """How much of *most* it is, in eighths of a column; what is there at all is seen."""
    eighths = 0 if not depth or not most else max(1, round(8 * columns * depth / most))
    full, rest = divmod(eighths, 8)
    return ("█" * full + (BAR[rest] if rest else "")).ljust(columns)


def laid_out(path: str, rows: Sequence[Row], width: int, height: int, colours: bool) -> list[str]:
    """What stands on a terminal of *width* by *height*."""
    total, most = sum(row.depth for row in rows), max([row.depth for row in rows], default=0)
    rates = f"{sum(row.published for row in rows):,.1f} in/s  {sum(row.settled for row in rows):,.1f} out/s"
    shown = rows[: max(0, height - 4)]
    columns: dict[str, list[str]] = {"queue": [row.stats.queue for row in shown]}
    columns["depth"] = [f"{row.depth:,}" for row in shown]
    if width >= NARROW_COLUMNS:
        columns[" " * BAR_COLUMNS] = [bar(row.depth, most) for row in shown]
    if width >= WIDE_COLUMNS:
        columns["in flight"] = [f"{row.stats.in_flight:,}" for row in shown]
        columns["delayed"] = [f"{row.stats.delayed:,}" for row in shown]
    columns["in/s"] = [f"{row.published:,.1f}" for row in shown]
    columns["out/s"] = [f"{row.settled:,.1f}" for row in shown]
    if width >= NARROW_COLUMNS:
        columns["failed/s"] = [f"{row.failed:,.1f}" for row in shown]
        columns["oldest"] = [
            output.duration(row.stats.oldest_age) if row.stats.ready else "" for row in shown
        ]
    table = output.laid_out(
        list(columns),
        list(zip(*columns.values(), strict=True)),
        width,
        ["queue", " " * BAR_COLUMNS],
        ["queue"],
    )
    if colours:
        table = [f"\033[{output.BOLD}m{table[0]}\033[0m", *map(_painted, table[1:], shown)]
    more = f"{len(rows) - len(shown):,} queues more" if len(rows) > len(shown) else ""
    title = output.shorten(f"{total:,} messages  {rates}  {path}", width)
    return [title, "", *table, *([more] if more else [])][:height]


def _painted(line: str, row: Row) -> str:
    colour = output.YELLOW if row.stats.paused else output.RED if is_alarming(row.stats) else ""
    return f"\033[{colour}m{line}\033[0m" if colour else line
