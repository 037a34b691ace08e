"""mq bench: what this machine can do, in messages a second, beside loops without a queue."""

from __future__ import annotations

import os
import platform
from typing import Any, Final

import click

import mq
from mq.cli import output, speed
from mq.cli.app import Failure, command, json_option, shown, store_option
from mq.cli.params import DURATION, FILE, SIZE_TYPE
from mq.cli.progress import Progress
from mq.cli.scratch import scratch
from mq.cli.speed import Result, Spread
from mq.engine.bodies import BODY_BYTES_MAX
from mq.engine.names import is_elsewhere
from mq.errors import UsageError
from mq.storage import paths, proc
from mq.storage.explain import explain

ROUNDS: Final = 7
SECONDS_MIN: Final = 0.1
PREFIX: Final = "mq-bench-"


@command(short_help="Measure what mq does on this disk, beside raw loops.")
@click.argument("directory", required=False, metavar="[DIR]", type=FILE)
@click.option("--seconds", type=DURATION, default="6", metavar="SECONDS", help="How long, about.  [6]")
@click.option("--size", type=SIZE_TYPE, default="100", metavar="BYTES", help="Of a body.  [100]")
@click.option(
    "--plot", metavar="FILE", type=FILE, help="Draw it, as PNG: needs matplotlib (pip install 'mq[plot]')."
)
@json_option
@store_option
def bench(
    directory: str | None, seconds: float, size: int, plot: str | None, as_json: bool, store: str
) -> None:  # fmt: skip
    """Measure the hot path on the disk of DIR, beside loops that only write and read.

    DIR is where a scratch store is made, and removed afterwards; without it, beside the store, which is
    not touched.  Prints messages a second: the median of 7 rounds, the lowest and the highest, and how that
    compares with the raw loop.  The raw loop writes the same bytes, with no queue; durable means that
    each publish waits for the disk.  Other work of the machine makes the ranges wide: then measure again.

    \b
    mq bench /srv
    mq bench --size 4K --seconds 20 --plot bench.png
    """
    if not seconds >= SECONDS_MIN:
        raise UsageError(f"--seconds is {SECONDS_MIN} at least")
    if not 1 <= size <= BODY_BYTES_MAX:
        raise UsageError(f"--size is from 1 to {BODY_BYTES_MAX:,} bytes")
    draw = _drawer() if plot else None  # before it takes seconds to measure
    where = _place(directory, store)
    machine = _machine(where, size, seconds)
    found = _measure(where, size, seconds)
    if plot and draw:
        with explain(plot):
            draw(found, _headline(machine), plot)
    if as_json:
        output.json_line(machine)
        for each in found:
            output.json_line({"type": "case", **_fields(each)})
    else:
        _print(machine, found)


def _drawer() -> Any:
    try:
        from mq.cli import plot
    except ImportError:
        raise UsageError("--plot needs matplotlib: pip install 'mq[plot]'") from None
    return plot.draw


def _place(directory: str | None, store: str) -> str:
    if directory == "":
        raise UsageError("DIR is empty: name a directory")
    if directory is not None:
        return directory
    if is_elsewhere(store):
        raise UsageError(f"{shown(store)} has no disk to measure; name a directory, as `mq bench .`")
    return os.path.dirname(paths.absolute(store))


def _measure(where: str, size: int, seconds: float) -> list[Result]:
    progress = Progress("measuring", ROUNDS, "round")

    def show(done: int, total: int) -> None:
        progress.show(done * ROUNDS // total, ROUNDS)

    try:
        with explain(where), scratch(where, PREFIX) as place, progress:
            return list(speed.measure(place, size, seconds, ROUNDS, show))
    except mq.DiskFull:
        raise Failure(
            f"{where}: the disk was full before all was measured, and nothing was left on it; free some"
            " space, or name a directory of another one"
        ) from None


def _machine(where: str, size: int, seconds: float) -> dict[str, Any]:
    return {
        "type": "machine", "mq": mq.__version__, "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}", "processors": os.cpu_count(),
        "directory": paths.absolute(where), "file_system": proc.file_system(where) or None,
        "body_bytes": size, "rounds": ROUNDS, "seconds": seconds,
    }  # fmt: skip


def _headline(machine: dict[str, Any]) -> str:
    on = f"on {machine['file_system']}" if machine["file_system"] else f"in {machine['directory']}"
    return (
        f"mq {machine['mq']}, Python {machine['python']}, {machine['processors']} processors;"
        f" bodies of {output.size(machine['body_bytes'])} {on}"
    )


def _fields(each: Result) -> dict[str, Any]:
    sides = {"mq": each.mq, "raw": each.raw, "ratio": each.ratio}
    return {"name": each.name, "unit": "messages/s", **{name: side._asdict() for name, side in sides.items()}}


def _print(machine: dict[str, Any], found: list[Result]) -> None:
    output.say(_headline(machine))
    output.line("")
    header = ["messages a second", "mq", "from-to", "raw loop", "from-to", "mq/raw"]
    rows = [
        [each.name, rate(each.mq.median), _span(each.mq), rate(each.raw.median), _span(each.raw),
         f"{each.ratio.median:.2g}"]
        for each in found
    ]  # fmt: skip
    output.table(header, rows, left=header[:1], cut=header[:1], spare=["from-to"])
    durable = next(each for each in found if each.name == speed.DURABLE)
    output.line("")
    output.say(
        f"a write that waits for the disk takes {_took(durable.raw.median)} here"
        f" ({_took(durable.raw.high)}-{_took(durable.raw.low)})"
    )


def rate(value: float) -> str:
    """Three digits of a number, with the k or M of the others."""
    for unit, one in (("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * one:
            return f"{value / one:.3g}{unit}" if value < 999.5 * one else f"{value / one:,.0f}{unit}"
    return f"{value:.3g}"


def _span(side: Spread) -> str:
    return f"{rate(side.low)}-{rate(side.high)}"


def _took(per_second: float) -> str:
    seconds = 1 / per_second
    return f"{seconds * 1000:.3g} ms" if seconds >= 0.001 else f"{seconds * 1e6:.3g} µs"
