"""What several processes asked of one store, when, and what came of it; and what is wrong with that.

Operations of different processes overlap, so their order is unknown; but an operation that
returned before another began came before it, and one that a kill or a failure cut short
happened whole or not at all:

    a   ├─ publish m ─┤        ├─ receive: m ─┤           ├ ack ┤
    b          ├─ receive: ? ─┤       ├─ receive: must not be m ─┤
    c                              ├─ nack ✗ killed: perhaps

The judge asks only for what must be so in every order that is possible.  Deliveries of one
message have an order of their own: receipts are positions in the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from mq.delivery.records import IN_FLIGHT

FOREVER = 1 << 60


@dataclass(eq=False)
class Op:
    """One call of one process.  *begin* and *end* count the beginnings and ends of all."""

    who: str
    kind: str
    queue: str
    begin: int
    begin_ms: tuple[int, int]  # store time, wall time
    end: int = FOREVER
    end_ms: tuple[int, int] = (FOREVER, FOREVER)
    outcome: str = "unknown"  # "returned", "stale", "nothing" (it raised, and nothing was done)
    bodies: tuple[bytes, ...] = ()  # published
    limit: int = 0  # of a receive
    got: list[Taken] = field(default_factory=list)
    of: Taken | None = None  # what is settled
    when: int = 0  # the due of a nack, the deadline of an extension, ms
    latest: int = 0  # of a backoff, which is spread: when it is over at the latest
    rests: bool = False  # a nack with a backoff: its due is in store time, and not in wall time
    value: float = 0.0  # the option that is set, or was read
    syncs: bool = False  # once it has returned, all before it is on the disk
    error: str = ""

    @property
    def returned(self) -> bool:
        return self.outcome == "returned"

    @property
    def perhaps(self) -> bool:
        """Whether it may have happened."""
        return self.outcome in ("returned", "unknown")

    def before(self, other: Op) -> bool:
        return self.end < other.begin

    def __str__(self) -> str:
        sizes = ", ".join(body.rstrip(b"\xa5").decode() for body in self.bodies)
        about = sizes or (str(self.of) if self.of else "")
        got = " → " + ", ".join(map(str, self.got)) if self.got else ""
        span = f"{self.begin}–{'' if self.end == FOREVER else self.end}"
        asked = f"{self.who} {self.kind}({self.queue} {about})"
        return f"{span:>8} {asked}{got} {self.outcome} {self.error}".rstrip()


@dataclass(eq=False)
class Taken:
    """A delivery that was handed out."""

    body: bytes
    id: int
    receipt: int
    attempts: int
    deadline: int
    op: Op
    settled: list[Op] = field(default_factory=list)

    def __str__(self) -> str:
        name = self.body.rstrip(b"\xa5").decode()
        return f"{name}#{self.id} attempt {self.attempts} at {self.receipt}"


class Seen(NamedTuple):
    """A message as a process finds it in the store."""

    queue: str
    id: int
    body: bytes
    attempts: int
    place: int
    receipt: int
    when: int  # deadline or due, ms


class Witness:
    def __init__(self) -> None:
        self.ops: list[Op] = []
        self._now = 0
        self.published: dict[bytes, Op] = {}
        self.ids: dict[bytes, int] = {}
        self.taken: dict[bytes, list[Taken]] = {}

    def tick(self) -> int:
        self._now += 1
        return self._now

    # ── knowing ────────────────────────────────────────────────────────────────────

    def of_kind(self, *kinds: str, queue: str | None = None) -> Iterator[Op]:
        return (op for op in self.ops if op.kind in kinds and queue in (None, op.queue))

    def unsure_takes(self, queue: str, end: int) -> int:
        """How many unknown deliveries may have been made before *end*."""
        return sum(
            op.limit or 1
            for op in self.of_kind("take", queue=queue)
            if op.outcome == "unknown" and op.begin < end
        )

    def purged(self, body: bytes, end: int) -> bool:
        queue = self.published[body].queue
        return any(op.begin < end and op.perhaps for op in self.of_kind("purge", queue=queue))

    def deliveries(self, body: bytes) -> list[Taken]:
        return sorted(self.taken.get(body, []), key=lambda each: each.receipt)

    def acks(self, body: bytes, end: int = FOREVER + 1) -> list[Op]:
        """Those that happened, or may have, and began before *end*."""
        return [
            op
            for each in self.taken.get(body, [])
            for op in each.settled
            if op.kind == "ack" and op.perhaps and op.begin < end
        ]

    # ── judging what returned ──────────────────────────────────────────────────────

    def complaint(self) -> str:
        """The first promise that is broken in all this; "" if none."""
        return next(self._complaints(), "")

    def _complaints(self) -> Iterator[str]:
        yield from self._ids()
        for body in self.taken:
            yield from self._bodies(body)
            yield from self._chain(body)
        for op in self.of_kind("take"):
            if op.returned:
                yield from self._order(op)
        for op in self.of_kind("ack", "nack", "release", "extend"):
            if op.outcome == "stale":
                yield from self._stale(op)
        for op in self.of_kind("options"):
            if op.returned:
                yield from self._options(op)
        yield from self._failed()

    def _ids(self) -> Iterator[str]:
        seen: dict[int, bytes] = {}
        for body, id in self.ids.items():
            if id in seen:
                yield f"P3: id {id} was given to {body!r} and to {seen[id]!r}"
            seen[id] = body
        returned = [op for op in self.of_kind("publish") if op.returned]
        for op in returned:
            mine = [self.ids[body] for body in op.bodies]
            if mine != sorted(mine):
                yield f"P5: a batch has the ids {mine}"
            for other in returned:
                if op.before(other) and mine[-1] >= self.ids[other.bodies[0]]:
                    yield f"P5: what was published later has the lower id: {op} {mine}, {other}"

    def _bodies(self, body: bytes) -> Iterator[str]:
        for each in self.taken[body]:
            published = self.published.get(body)
            if published is None or published.queue != each.op.queue:
                yield f"P3: received {body!r}, which was never published there"
            if self.ids.setdefault(body, each.id) != each.id:
                yield f"P3: {body!r} has id {self.ids[body]}, and was received with {each.id}"

    def _chain(self, body: bytes) -> Iterator[str]:
        """The deliveries of one message, one after the other."""
        before: Taken | None = None
        for each in self.deliveries(body):
            unsure = self.unsure_takes(each.op.queue, each.op.end)
            if before is None:
                if not 1 <= each.attempts <= 1 + unsure:
                    yield f"attempts: the first delivery known is {each}"
            else:
                if before.receipt == each.receipt:
                    yield f"P12: one receipt for two: {each.op}, {before.op}"
                if not self._free_again(before, each.op):
                    yield f"P12: held by two: {before.op}; and {each.op}"
                settled = [op for op in before.settled if op.kind == "release" and op.perhaps]
                low = 1 - len(settled)
                high = 1 - sum(op.returned for op in settled) + unsure
                if not low <= each.attempts - before.attempts <= high:
                    yield f"attempts: {each} after {before}"
            if before and any(op.returned for op in before.settled if op.kind == "ack"):
                yield f"P2: {before} was acked, and then delivered: {each.op}"
            before = each

    def _free_again(self, taken: Taken, op: Op) -> bool:
        """Whether the message may have been ready again before *op* was over."""
        for each in taken.settled:
            if each.perhaps and each.begin < op.end:
                if each.kind == "release" or (each.kind == "nack" and each.when <= op.end_ms[not each.rests]):
                    return True
                if each.kind == "nack" and each.returned:
                    return False
        return min(self._deadlines(taken, op)) <= op.end_ms[0]

    def _deadlines(self, taken: Taken, op: Op) -> list[int]:
        """Those that may have been in force while *op* went on."""
        possible = [taken.deadline]
        for each in taken.settled:
            if each.kind == "extend" and each.perhaps and each.begin < op.end:
                possible = [each.when] if each.returned and each.before(op) else [*possible, each.when]
        return possible

    def _surely_ready(self, body: bytes, op: Op) -> bool:
        """Whether the message was there for *op* to take, all the time."""
        published = self.published[body]
        if not (published.returned and published.before(op)):
            return False
        if self.acks(body, op.end) or self.purged(body, op.end):
            return False
        if self.unsure_takes(op.queue, op.end):
            return False
        known = [each for each in self.deliveries(body) if each.op.begin < op.end]
        if not known:
            return True
        last = known[-1]
        if not last.op.before(op) or last.op is op:
            return False
        backs = [each for each in last.settled if each.begin < op.end]
        if any(
            each.returned and each.before(op) and each.kind in ("nack", "release")
            and max(each.when, each.latest) <= op.begin_ms[not each.rests]
            for each in backs
        ):  # fmt: skip
            return True
        return not backs and last.deadline <= op.begin_ms[0]

    def _order(self, op: Op) -> Iterator[str]:
        """Nothing that was there is left out; and the oldest come first."""
        got = {each.body for each in op.got}
        ids = [each.id for each in op.got]
        if ids != sorted(ids):
            yield f"P5: out of order: {op}"
        full = len(op.got) == (op.limit or 1)
        for body, published in self.published.items():
            if published.queue != op.queue or body in got or not self._surely_ready(body, op):
                continue
            if not full:
                yield f"P1: {body[:16]!r} was ready and is not seen: {op}"
            elif self.ids[body] < ids[-1]:
                yield f"P5: {body[:16]!r} was ready and is older: {op}"

    def _stale(self, op: Op) -> Iterator[str]:
        taken = op.of
        assert taken
        if any(each.begin < op.begin and each.kind != "extend" for each in taken.settled):
            return
        if self.unsure_takes(taken.op.queue, op.end) or self.purged(taken.body, op.end):
            return
        later = [each for each in self.deliveries(taken.body) if each.receipt > taken.receipt]
        if not any(each.op.begin < op.end for each in later):
            yield f"P2: a receipt is stale, and no process took or settled it: {op}"

    def _options(self, op: Op) -> Iterator[str]:
        """The value is of a declaration that is not over for good."""
        declared = [each for each in self.of_kind("declare", queue=op.queue) if each.perhaps]
        possible = {
            each.value for each in declared if each.begin < op.end
            and not any(each.before(other) and other.returned and other.before(op) for other in declared)
        }  # fmt: skip
        if not any(each.returned and each.before(op) for each in declared):
            possible.add(30.0)
        if op.value not in possible:
            yield f"P12: {op} tells {op.value}, not {possible}"

    def _failed(self) -> Iterator[str]:
        """Once a store has failed for one, it has for all that have it open."""
        told = min((op.end for op in self.ops if op.error == "StoreFailed"), default=FOREVER)
        opened = {op.who: op.end for op in self.of_kind("open") if op.returned and op.end < told}
        for op in self.ops:
            if op.kind == "open" and op.end > told:
                opened.pop(op.who, None)
            if op.kind == "publish" and op.returned and op.begin > told and op.who in opened:
                yield f"P1: the store has failed, and goes on: {op}"

    # ── judging what is found ──────────────────────────────────────────────────────

    def found(self, messages: Iterable[Seen], *, power: bool) -> str:
        """What is wrong with what the store holds now, after a kill, or a power cut; "" if nothing."""
        return next(self._found(list(messages), power=power), "")

    def _found(self, messages: list[Seen], *, power: bool) -> Iterator[str]:
        here = {each.body: each for each in messages}
        if len(here) != len(messages):
            yield f"P6: a message is there twice: {messages}"
        for each in messages:
            published = self.published.get(each.body)
            if published is None or published.queue != each.queue:
                yield f"P3: {each.body!r} in {each.queue!r} was never published there"
            if self.ids.get(each.body, each.id) != each.id:
                yield f"P3: {each.body!r} had id {self.ids[each.body]} and has {each.id}"
        for body, op in self.published.items():
            there = body in here
            if not there and self._must_be(body, op, power=power):
                yield f"P1: {body[:24]!r} is gone: {op}"
            if there and self._must_not_be(body, power=power):
                yield f"P2: {body[:24]!r} was acked and is back"
            if there and not power:
                yield from self._as_last_known(here[body])
        for op in self.of_kind("publish"):
            there = [body in here for body in op.bodies]
            ended = [bool(self.acks(body)) or self.purged(body, FOREVER) for body in op.bodies]
            if any(there) and not all(map(bool.__or__, there, ended)):
                yield f"P4: only a part is there: {op}"

    def _must_be(self, body: bytes, op: Op, *, power: bool) -> bool:
        if self.acks(body) or self.purged(body, FOREVER):
            return False
        return self._on_disk(op) if power else op.returned

    def _must_not_be(self, body: bytes, *, power: bool) -> bool:
        done = [op for op in self.acks(body) if op.returned]
        done += [
            op for op in self.of_kind("purge", queue=self.published[body].queue)
            if op.returned and self.published[body].before(op)
            and not any(each.op.begin < op.end for each in self.taken.get(body, []))
            and not self.unsure_takes(op.queue, op.end)
        ]  # fmt: skip
        return any(self._on_disk(op) for op in done) if power else bool(done)

    def _on_disk(self, op: Op) -> bool:
        """Whether it is surely durable: it waited for that itself, or a process did later."""
        if not op.returned:
            return False
        return op.syncs or any(each.syncs and each.returned and op.before(each) for each in self.ops)

    def _as_last_known(self, seen: Seen) -> Iterator[str]:
        known = self.deliveries(seen.body)
        unsure = self.unsure_takes(seen.queue, FOREVER + 1)
        if not known:
            if not 0 <= seen.attempts <= unsure:
                yield f"attempts: {seen.body[:24]!r} has {seen.attempts}, and no process took it"
            return
        last = known[-1]
        releases = [op for op in last.settled if op.kind == "release" and op.perhaps]
        low, high = last.attempts - len(releases), last.attempts - sum(op.returned for op in releases)
        if not low <= seen.attempts <= high + unsure:
            yield f"attempts: {seen.body[:24]!r} has {seen.attempts}, after {last}"
        moved = [op for op in last.settled if op.perhaps]
        held = IN_FLIGHT, last.receipt, last.deadline
        if not moved and not unsure and (seen.place, seen.receipt, seen.when) != held:
            yield f"deadline: {seen}, and it was delivered until {last.deadline}"
