"""Where the time of a publish, a receive and an ack goes, step by step: 100-byte bodies, in ns.

    python benchmarks/steps.py [--messages N] [--rounds N] [--directory DIR]

Each step runs alone in a loop, as its own lines of code, on a store opened with sync="never".  The time of
an empty loop is taken off.  The floor of a step is its smallest possible form in Python: one call of C, or
one Python call.  The last row is the whole operation, and "rest" is what the steps do not add up to.

Times are CPU time, the least of several rounds: noise only adds.  Those of the last line, with the disk, are
real time, as medians.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import threading
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from struct import Struct
from typing import Any

import click
from crc32c import crc32c

import mq
from mq.delivery import records
from mq.storage.shared import END

BODY = bytes(range(100))
HEADER = Struct("<IIIIBBH")  # as mq.storage.record.AFTER_CRC
FAR = 1 << 50  # no deadline comes before this, in ms
OPERATIONS = ("publish", "receive", "ack")

Row = tuple[str, dict[str, float], float]  # a step; its ns in each operation; its floor


class Clock:
    """CPU time in ns for each pass through a loop, less that of an empty loop; the least of all rounds."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.full: dict[str, list[float]] = defaultdict(list)
        self.empty: list[float] = []

    def time(self, name: str, lines: str, items: Iterable[Any] | None = None, **names: Any) -> None:
        """*lines* are run for each of *items*, called `item` there."""
        listed = list(range(self.count) if items is None else items)
        self.full[name].append(_loop(lines, names)(listed) / len(listed))
        self.empty.append(_loop("pass", names)(listed) / len(listed))

    def __getitem__(self, name: str) -> float:
        return min(self.full[name]) - min(self.empty)


def _loop(lines: str, names: dict[str, Any]) -> Callable[[list[Any]], float]:
    """A function that runs *lines* with *names* as local variables, and returns its CPU time in ns."""
    body = "\n".join(f"        {line}" for line in lines.splitlines())
    given = ", ".join(f"{name}={name}" for name in names)
    source = f"def run(items, *, {given + ', ' if given else ''}clock=clock):\n    begin = clock()\n"
    source += f"    for item in items:\n{body}\n    return clock() - begin\n"
    scope: dict[str, Any] = {**names, "clock": time.process_time_ns}
    exec(source, scope)
    return scope["run"]  # type: ignore[no-any-return]


# ── the steps ──────────────────────────────────────────────────────────────────────


def shared_steps(clock: Clock, queue: mq.Queue[bytes]) -> None:
    """What all operations do."""
    store: Any = queue._store
    turn, plain = store.turn, threading.Lock()

    class Stub:
        def method(self, body: bytes, **options: Any) -> int:
            return 0 if options else function(self, body, 0, body)

    def function(store: object, channel: object, flags: int, raw: bytes) -> int:
        return flags

    clock.time("call", "method(BODY)", method=Stub().method, BODY=BODY)
    clock.time("call, floor", "function(BODY, BODY, 0, BODY)", function=function, BODY=BODY)
    clock.time(
        "nesting", "me = get_ident()\nif busy: pass\nbusy.add(me)\nbusy.discard(me)",
        get_ident=threading.get_ident, busy=set[int](),
    )  # fmt: skip
    clock.time("nesting, floor", "get_ident()", get_ident=threading.get_ident)
    clock.time("mutex", "with mutex: pass", mutex=turn.mutex)
    clock.time("mutex, floor", "with mutex: pass", mutex=plain)
    with turn.mutex:
        clock.time("turn", "turn.enter()\nturn.leave()", turn=turn)
        clock.time(
            "turn, floor", "mark[600] = 1\nmark[21]\nleave()",
            mark=memoryview(bytearray(4096 * 2)).cast("Q"), leave=int,
        )  # fmt: skip
    clock.time(
        "clock", "ms = store.clock.store_ms()\nif ms >= store.replica.state.board.next: pass", store=store
    )  # fmt: skip
    clock.time("clock, floor", "monotonic_ns()", monotonic_ns=time.monotonic_ns)


def append_steps(clock: Clock, queue: mq.Queue[bytes], name: str, kind: int, payload: bytes) -> None:
    """What appending one record takes; the next turn of the store follows what was appended."""
    store: Any = queue._store
    turn, log, number = store.turn, store.replica.log, queue._channel.state.number  # type: ignore[union-attr]
    ms, size = store.clock.store_ms(), 24 + len(payload)
    window, room = bytearray(1 << 20), (1 << 20) - size
    names = {"payload": payload, "pack": HEADER.pack, "crc_pack": Struct("<I").pack, "crc32c": crc32c}
    encode = f"rest = pack({len(payload)}, item, 7, 7, {kind}, 0, 1) + payload"
    data = crc32c(payload).to_bytes(4, "little") * (size // 4 + 1)
    copy = f"at = item * 64 % {room}\nwindow[at:at + {size}] = data"
    page = memoryview(bytearray(4096)).cast("Q")
    clock.time(f"{name}: record", f"{encode}\ncrc_pack(crc32c(rest, 1)) + rest", **names)
    clock.time(f"{name}: copy", copy, window=window, data=data[:size])
    clock.time(f"{name}: page", "mark[end] = item", mark=page, end=END)
    with turn.mutex:
        try:
            turn.enter()
            lines = f"append(ms, {kind}, 0, number, payload)"
            clock.time(f"{name}: append", lines, append=log.append, ms=ms, number=number, payload=payload)
        finally:
            turn.leave()


def fold_steps(clock: Clock) -> None:
    """What the state does, and what finds the next message: in a store that is thrown away then."""
    broker = mq.open(":memory:")
    broker.queue("q").publish(BODY)
    state: Any = broker.queue("q")._channel.state
    first = state.waiting.head + 200
    ids = range(first, first + 200 * clock.count, 200)
    clock.time("publish: fold", "publish(item, 100)", ids, publish=state.publish)
    clock.time("fold, floor", "append(item)", ids, append=array("Q").append)
    clock.time(
        "receive: choose",
        "plain = item < state.moment.plain_until\nhead = state.waiting.head\n"
        f"deadline = {FAR} + int(state.options.visibility_timeout * 1000)\nhead in state.flights",
        state=state,
    )
    state.deliver(state.waiting.head, 50, FAR, 0)
    clock.time("receive: fold", "deliver(item, item + 50, FAR, 0)", ids, deliver=state.deliver, FAR=FAR)
    check = "flight = state.flights.get(item)\nif flight is None or flight.receipt != item + 50: pass"
    clock.time("ack: choose", check, ids, state=state)
    clock.time("ack: fold", "ack(item, 100)", ids, ack=state.ack)
    broker.close()


def wholes(clock: Clock, queue: mq.Queue[bytes]) -> None:
    """The operations themselves; and what a receive does behind its turn."""
    store: Any = queue._store
    publish, receive, taken = queue.publish, queue.receive, list[Any]()
    clock.time("publish", "publish(BODY)", publish=publish, BODY=BODY)
    clock.time("receive", "take(receive())", receive=receive, take=taken.append)
    lines = f"found = at_hand(item.id, {records.PUBLISH})\nif found is None: read(state, item.id, item.id)"
    names = {
        "at_hand": store.replica.log.reader.at_hand,
        "read": store.replica.read,
        "state": queue._channel.state,
    }
    clock.time("receive: body", lines, taken, **names)
    clock.time("body, floor", "crc32c(BODY, 1)", taken, crc32c=crc32c, BODY=BODY)
    lines = "make(queue, item, flight, 0, 0, raw, None)"
    names = {"make": type(taken[0]), "queue": queue, "flight": taken[0]._flight, "raw": BODY}
    clock.time("receive: Delivery", lines, taken, **names)
    clock.time("Delivery, floor", "[queue, item, flight, 0, 0, raw, None]", taken, **names)
    clock.time("ack", "item.ack()", taken)


# ── the tables ─────────────────────────────────────────────────────────────────────


def rows(clock: Clock) -> Iterator[Row]:
    def same(name: str) -> Row:
        return name, dict.fromkeys(OPERATIONS, clock[name]), clock[f"{name}, floor"]

    def each(step: str, floor: float, *names: str) -> Row:
        return step, {name: clock[f"{name}: {step}"] for name in names}, floor

    def page(name: str) -> float:
        return clock[f"{name}: append"] - clock[f"{name}: record"] - clock[f"{name}: copy"]

    yield same("call")
    yield same("nesting")
    yield same("mutex")
    yield same("turn")
    yield same("clock")
    yield each("choose", 0, "receive", "ack")
    yield each("record", clock["publish: record"], *OPERATIONS)
    yield each("copy", clock["publish: copy"], *OPERATIONS)
    yield "append", {name: page(name) for name in OPERATIONS}, clock["publish: page"]
    yield each("fold", clock["fold, floor"], *OPERATIONS)
    yield each("body", clock["body, floor"], "receive")
    yield each("Delivery", clock["Delivery, floor"], "receive")


def show(clock: Clock) -> None:
    def line(step: str, values: dict[str, float], floor: str = "") -> None:
        cells = (f"{values[name]:.0f}" if name in values else "" for name in OPERATIONS)
        click.echo(f"{step:12}" + "".join(f"{cell:>9}" for cell in (*cells, floor)).rstrip())

    click.echo(f"{'ns':12}" + "".join(f"{name:>9}" for name in (*OPERATIONS, "floor")))
    rest = {name: clock[name] for name in OPERATIONS}
    for step, values, floor in rows(clock):
        line(step, values, f"{floor:.0f}")
        for name, value in values.items():
            rest[name] -= value
    line("rest", rest)
    line("the whole", {name: clock[name] for name in OPERATIONS})


def durable(directory: str, count: int) -> None:
    """µs of real time, by turns: what the disk alone takes, and a publish that waits for it."""
    raw, whole = [], []
    fd = os.open(os.path.join(directory, "raw"), os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(fd, 0, 1 << 20)
    with mq.open(os.path.join(directory, "durable")) as broker:
        queue = broker.queue("q")
        for at in range(count):
            begin = time.perf_counter()
            os.pwrite(fd, BODY, at * 124 % (1 << 19))
            written = time.perf_counter()
            os.fdatasync(fd)
            raw.append((written - begin, time.perf_counter() - written))
            begin = time.perf_counter()
            queue.publish(BODY)
            whole.append(time.perf_counter() - begin)
    os.close(fd)
    write, sync = (statistics.median(each) * 1e6 for each in zip(*raw, strict=True))
    publish = statistics.median(whole) * 1e6
    click.echo(f'µs: write {write:.1f}, fdatasync {sync:.1f}, publish with sync="always" {publish:.1f}')


@click.command(help=__doc__)
@click.option("--messages", default=5_000, show_default=True, help="Passes through each loop.")
@click.option("--rounds", default=15, show_default=True)
@click.option(
    "--directory", type=click.Path(file_okay=False), help="On the disk to measure; default: a temporary one."
)
def main(messages: int, rounds: int, directory: str | None) -> None:
    scratch = tempfile.mkdtemp(prefix="mq-bench-", dir=directory)
    try:
        clock = Clock(messages)
        with mq.open(os.path.join(scratch, "store"), sync="never") as broker:
            whole, part = broker.queue("whole"), broker.queue("part")
            id = part.publish(BODY)
            for _ in range(rounds):
                for _ in range(100):  # the process is the owner of the turn then
                    whole.publish(BODY)
                whole.purge()
                wholes(clock, whole)
                shared_steps(clock, whole)
                fold_steps(clock)
                append_steps(clock, part, "publish", records.PUBLISH, BODY)
                append_steps(clock, part, "receive", records.DELIVER, records.DELIVER_PAYLOAD.pack(id, FAR))
                append_steps(clock, part, "ack", records.ACK, records.ACK_PAYLOAD.pack(id, len(BODY)))
                part.purge()
        show(clock)
        durable(scratch, max(200, messages // 10))
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
