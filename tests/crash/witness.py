"""What several processes asked of one store, when, and what came of it; and what is wrong with that.

Operations of different processes overlap, so their order is unknown; but an operation that
returned before another began came before it, and one that a kill or a failure cut short
happened whole or not at all:

    a   ├─ publish m ─┤        ├─ receive: m ─┤           ├ ack ┤
    b          ├─ receive: ? ─┤       ├─ receive: must not be m ─┤
    c                              ├─ nack ✗ killed: perhaps

The judge asks only for what must be so in every order that is possible.  Deliveries of one
message have an order of their own: receipts are positions in the log.

A message that several queues hold is judged in each of them; what topics, schedules and compare-and-set
have beside messages is judged in routed.py, ticked.py and compared.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from mq.delivery.records import IN_FLIGHT

from .compared import Compared
from .op import FOREVER, Copy, Op, Taken
from .routed import Routes, Sure, returned
from .ticked import Ticked
from .view import TICK, Seen, View


def ended(op: Op) -> bool:
    """What it did, if anything, is done."""
    return op.end < FOREVER


class Witness:
    def __init__(self) -> None:
        self.ops: list[Op] = []
        self._now = 0
        self.published: dict[bytes, Op] = {}
        self.groups: dict[bytes, str] = {}
        self.ids: dict[bytes, int] = {}
        self.taken: dict[Copy, list[Taken]] = {}
        self.routes, self._compared = Routes(self.ops, self.ids), Compared(self.ops)
        self._ticked = Ticked(self.ops)

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

    def copies(self) -> Iterator[Copy]:
        """Each message, in each queue that may have it."""
        subscribed = self.routes.queues()
        for body, op in self.published.items():
            for queue in [op.queue] if op.queue else subscribed:
                yield queue, body

    def belongs(self, copy: Copy) -> bool:
        """Whether it may be in that queue."""
        queue, body = copy
        if body.startswith(TICK):
            return self._ticked.target(body) == queue
        op = self.published.get(body)
        return op is not None and (op.queue == queue or (not op.queue and self.routes.may_get(op, queue)))

    def came(self, copy: Copy, by: int = FOREVER + 1, sure: Sure = returned) -> bool:
        """Whether it surely was in that queue by then."""
        op = self.published[copy[1]]
        if not (sure(op) and op.end < by):
            return False
        return bool(op.queue) or self.routes.must_get(op, copy[0], by, sure)

    def purged(self, copy: Copy, end: int) -> bool:
        return any(op.begin < end and op.perhaps for op in self.of_kind("purge", queue=copy[0]))

    def deliveries(self, copy: Copy) -> list[Taken]:
        return sorted(self.taken.get(copy, []), key=lambda each: each.receipt)

    def acks(self, copy: Copy, end: int = FOREVER + 1) -> list[Op]:
        """Those that happened, or may have, and began before *end*."""
        return [
            op
            for each in self.taken.get(copy, [])
            for op in each.settled
            if op.kind == "ack" and op.perhaps and op.begin < end
        ]

    # ── judging what returned ──────────────────────────────────────────────────────

    def complaint(self) -> str:
        """The first promise that is broken in all this; "" if none."""
        return next(self._complaints(), "")

    def _complaints(self) -> Iterator[str]:
        yield from self._ids()
        for copy in self.taken:
            yield from self._bodies(copy)
            yield from self._chain(copy)
        for op in self.of_kind("take"):
            if op.returned:
                yield from self._order(op)
                yield from self._in_groups(op)
        for op in self.of_kind("ack", "nack", "release", "extend"):
            yield from self._stale(op) if op.outcome == "stale" else ()
            yield from self._settled(op) if op.returned else ()
        for op in self.of_kind("options"):
            if op.returned:
                yield from self._options(op)
        for op in self.of_kind("history"):
            if op.returned:
                yield from self.routes.read_back(op)
        yield from self._compared.complaints()
        yield from self._failed()

    def _ids(self) -> Iterator[str]:
        seen: dict[int, bytes] = {}
        for body, id in self.ids.items():
            if id in seen:
                yield f"P3: id {id} was given to {body!r} and to {seen[id]!r}"
            seen[id] = body
        publishes = [op for op in self.of_kind("publish", "fan_out") if op.returned]
        for op in publishes:
            mine = [self.ids[body] for body in op.bodies]
            if mine != sorted(mine):
                yield f"P5: a batch has the ids {mine}"
            for other in publishes:
                if op.before(other) and mine[-1] >= self.ids[other.bodies[0]]:
                    yield f"P5: what was published later has the lower id: {op} {mine}, {other}"

    def _bodies(self, copy: Copy) -> Iterator[str]:
        body = copy[1]
        for each in self.taken[copy]:
            if not self.belongs(copy):
                yield f"P3: received {body!r}, which was never published there"
            if self.ids.setdefault(body, each.id) != each.id:
                yield f"P3: {body!r} has id {self.ids[body]}, and was received with {each.id}"

    def _chain(self, copy: Copy) -> Iterator[str]:
        """The deliveries of one message, one after the other."""
        before: Taken | None = None
        for each in self.deliveries(copy):
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
                low = 1 - len(settled) - self._taken_back(before, each.op.end, each.op.end_ms[0])
                high = 1 - sum(op.returned for op in settled) + unsure
                if not low <= each.attempts - before.attempts <= high:
                    yield f"attempts: {each} after {before}"
            if before and any(op.returned for op in before.settled if op.kind == "ack"):
                yield f"P2: {before} was acked, and then delivered: {each.op}"
            before = each

    def _free_again(self, taken: Taken, op: Op) -> bool:
        """Whether the message may have been ready again before *op* was over."""
        if self._taken_back(taken, op.end, op.end_ms[0]):
            return True
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

    def _taken_back(self, taken: Taken, end: int, now_ms: int) -> bool:
        """Whether it may have gone back with one of its group that was delivered with it, and before it."""
        late = any(each.deadline <= now_ms for each in self._held_before(taken))
        return late or any(op.perhaps and op.begin < end for op in self._backs_before(taken))

    def _held_before(self, taken: Taken) -> list[Taken]:
        """Those of its group that were delivered with it, and before it."""
        group = self.groups.get(taken.body)
        held = taken.op.got if group is not None else []
        return [each for each in held if each.id < taken.id and self.groups.get(each.body) == group]

    def _backs_before(self, taken: Taken) -> list[Op]:
        """What gave one of those back."""
        several = self._held_before(taken)
        return [op for each in several for op in each.settled if op.kind in ("nack", "release")]

    def _settled(self, op: Op) -> Iterator[str]:
        """Not what had gone back with one of its group."""
        assert op.of
        for back in self._backs_before(op.of):
            if back.returned and back.before(op):
                yield f"P12: it had gone back with {back.of}: {op}"

    def _older(self, copy: Copy) -> list[Copy]:
        """Those of its group that surely were in the queue before it."""
        queue, body = copy
        group, id = self.groups.get(body), self.ids[body]
        if group is None:
            return []
        return [
            (queue, other) for other, theirs in self.groups.items()
            if theirs == group and self.ids.get(other, id) < id
            and ((queue, other) in self.taken or self.came((queue, other)))
        ]  # fmt: skip

    def _in_groups(self, op: Op) -> Iterator[str]:
        """Those of the group that are older are gone, or were delivered with it."""
        got = {each.body for each in op.got}
        for each in op.got:
            for other in self._older((op.queue, each.body)):
                if other[1] not in got and not self.acks(other, op.end) and not self.purged(other, op.end):
                    yield f"P5: {each} overtook {other[1]!r} of its group: {op}"

    def _surely_ready(self, copy: Copy, op: Op) -> bool:
        """Whether the message was there for *op* to take, all the time."""
        if not self.came(copy, op.begin):
            return False
        if self.acks(copy, op.end) or self.purged(copy, op.end):
            return False
        if self.unsure_takes(op.queue, op.end):
            return False
        if self.groups.get(copy[1]) is not None:
            older = self._older(copy)
            if not all(any(ack.returned and ack.before(op) for ack in self.acks(each)) for each in older):
                return False
        known = [each for each in self.deliveries(copy) if each.op.begin < op.end]
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
            if published.queue not in ("", op.queue) or body in got:
                continue
            if not self._surely_ready((op.queue, body), op):
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
        copy = taken.op.queue, taken.body
        if self.unsure_takes(taken.op.queue, op.end) or self.purged(copy, op.end):
            return
        if self._taken_back(taken, op.end, op.end_ms[0]):
            return
        later = [each for each in self.deliveries(copy) if each.receipt > taken.receipt]
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
            if op.bodies and op.returned and op.begin > told and op.who in opened:
                yield f"P1: the store has failed, and goes on: {op}"

    # ── judging what is found ──────────────────────────────────────────────────────

    def found(self, view: View, *, power: bool, now_ms: int) -> str:
        """What is wrong with what the store holds now, after a kill, or a power cut; "" if nothing.

        *now_ms*: wall time.
        """
        return next(self._found(view, power=power, now_ms=now_ms), "")

    def _found(self, view: View, *, power: bool, now_ms: int) -> Iterator[str]:
        sure = self._on_disk if power else returned
        yield from self._messages(view.messages, sure, power=power)
        yield from self.routes.found(view, self._is_gone, sure)
        yield from self._compared.found(view, sure)
        yield from self._ticked.found(view, sure, now_ms)

    def _is_gone(self, queue: str, body: bytes) -> bool:
        return bool(self.acks((queue, body))) or self.purged((queue, body), FOREVER)

    def _messages(self, messages: list[Seen], sure: Sure, *, power: bool) -> Iterator[str]:
        here = {(each.queue, each.body): each for each in messages}
        ids: dict[bytes, int] = {}
        if len(here) != len(messages):
            yield f"P6: a message is there twice: {messages}"
        for each in messages:
            if not self.belongs((each.queue, each.body)):
                yield f"P3: {each.body!r} in {each.queue!r} was never published there"
            known = self.ids.get(each.body, ids.setdefault(each.body, each.id))
            if known != each.id:
                yield f"P3: {each.body!r} had id {known} and has {each.id}"
        for copy in self.copies():
            there, (queue, body) = copy in here, copy
            if not there and not self._is_gone(queue, body) and self.came(copy, sure=sure):
                yield f"P1: {body[:24]!r} is gone from {queue!r}: {self.published[body]}"
            if there and self._must_not_be(copy, sure):
                yield f"P2: {body[:24]!r} was acked in {queue!r} and is back"
            if there and not power:
                yield from self._as_last_known(here[copy])
        for op in self.of_kind("publish"):
            there = [(op.queue, body) in here for body in op.bodies]
            ended = [self._is_gone(op.queue, body) for body in op.bodies]
            if any(there) and not all(map(bool.__or__, there, ended)):
                yield f"P4: only a part is there: {op}"

    def _must_not_be(self, copy: Copy, sure: Sure) -> bool:
        done = [op for op in self.acks(copy) if op.returned]
        done += [
            op for op in self.of_kind("purge", queue=copy[0])
            if op.returned and self.came(copy, op.begin, ended)
            and not any(each.op.begin < op.end for each in self.taken.get(copy, []))
            and not self.unsure_takes(op.queue, op.end)
        ]  # fmt: skip
        return any(map(sure, done))

    def _on_disk(self, op: Op) -> bool:
        """Whether it is surely durable: it waited for that itself, or a process did later."""
        if not op.returned:
            return False
        return op.syncs or any(each.syncs and each.returned and op.before(each) for each in self.ops)

    def _as_last_known(self, seen: Seen) -> Iterator[str]:
        known = self.deliveries((seen.queue, seen.body))
        unsure = self.unsure_takes(seen.queue, FOREVER + 1)
        if not known:
            if not 0 <= seen.attempts <= unsure:
                yield f"attempts: {seen.body[:24]!r} has {seen.attempts}, and no process took it"
            return
        last = known[-1]
        releases = [op for op in last.settled if op.kind == "release" and op.perhaps]
        back = self._taken_back(last, FOREVER, max(op.begin_ms[0] for op in self.ops))
        low, high = last.attempts - len(releases) - back, last.attempts - sum(op.returned for op in releases)
        if not low <= seen.attempts <= high + unsure:
            yield f"attempts: {seen.body[:24]!r} has {seen.attempts}, after {last}"
        moved = [op for op in last.settled if op.perhaps]
        held = IN_FLIGHT, last.receipt, last.deadline
        if not moved and not back and not unsure and (seen.place, seen.receipt, seen.when) != held:
            yield f"deadline: {seen}, and it was delivered until {last.deadline}"
