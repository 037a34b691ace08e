"""Which messages and records hold: all orders of two writers, on a model of the stream and of one queue.

The model has its own server, writers and fold; of mq are `Order`, `takes.holds`, `takes.may_share` and
`QueueState.is_ready`, which judge, `may_cut`, and the heads of messages.

A step is one message that is stored.  Its writer has decided it on what it had followed: on any beginning of
the stream that has its own last message in it.  So each step chooses the writer, how much that knew, and
one of the decisions that are allowed on it.  What the server refuses changes nothing, and is left out.

There are two times, EARLY and LATE, and the clocks of the writers differ: each step is of either one.  What
is delivered EARLY has timed out LATE, unless it is extended.  What is nacked is ready again LATE.  A message
is delivered twice at the most; a delivery that is released does not count.  Any writer settles what is in
flight, as a receipt may be handed on.

Beside that, one process for each fence begins to read there, without a checkpoint.  What was published
before, it learns only from what the cleaner writes again.  Once that is all that lives, the stream may be cut
there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import pytest

from mq.delivery import records
from mq.delivery.queue import QueueState
from mq.delivery.traits import Delayed, Flight
from mq.nats import fences, takes
from mq.nats.fences import NOTHING, Order
from mq.nats.message import FENCE, HEAD, HOLD, SHARED, TAKES, Draft, Head, begin_of

WRITERS: Final = 2
CHOICES: Final = 1  # messages in one state from which a writer chooses: with 3 it finds no more
NUMBER: Final = 1  # of the queue
ATTEMPTS_MAX: Final = 2
EARLY: Final = 0
LATE: Final = 1
NEVER: Final = 2  # no clock comes there
WAITS: Final = 0  # the state of a message that was never delivered
RETURNED: Final = -1  # of one that was, and waits again; in flight it is the sequence of its delivery
WHOLLY: Final = {"declare", "limit", "delete"}  # these are compared with all messages


class Record(NamedTuple):
    """What is said of one message; the last three are what its writer knew of that."""

    said: str
    about: int = 0
    state: int = WAITS
    attempts: int = 0
    until: int = 0


Message = tuple[int, Head, tuple[Record, ...]]
Decision = tuple[tuple[Record, ...], int, int]  # with the flags, and the time of the writer's clock


class Held(NamedTuple):
    """A message that is in the queue."""

    id: int
    state: int
    attempts: int
    until: int  # in flight: its deadline; else: when its backoff is over
    at: int  # sequence of the message that it was written in last

    def record(self, said: str) -> Record:
        """What a writer says of it that knows it so."""
        return Record(said, *self[:4])


@dataclass(frozen=True)
class Lens:
    """The queue, as `takes.holds` looks at it."""

    messages: tuple[Held, ...]
    moment = SimpleNamespace(attempts_max=ATTEMPTS_MAX)
    is_ready = QueueState.is_ready  # of a queue with these messages

    @cached_property
    def queues(self) -> dict[int, Lens]:
        return {NUMBER: self}

    @cached_property
    def waiting(self) -> SimpleNamespace:
        return SimpleNamespace(head=next((each.id for each in self.messages if each.state == WAITS), None))

    def lane_of(self, id: int) -> Held | None:
        return next((each for each in self.messages if each.id == id and each.state == WAITS), None)

    @cached_property
    def delayed(self) -> dict[int, Delayed]:
        return {
            each.id: Delayed(0, each.attempts, each.at, backoff_until=each.until)
            for each in self.messages
            if each.state == RETURNED
        }

    @property
    def flights(self) -> Lens:
        return self

    @cached_property
    def near(self) -> dict[int, Flight]:
        return {
            each.id: Flight(begin_of(each.state) + HEAD.size, each.until, each.attempts, each.at)
            for each in self.messages
            if each.state > 0
        }

    def get(self, id: int) -> Flight | None:
        return self.near.get(id)


@lru_cache(1 << 14)
def lens_of(messages: tuple[Held, ...]) -> Any:
    return Lens(messages)


KINDS: Final = {
    "deliver": records.DELIVER, "retry": records.DELIVER, "ack": records.ACK, "nack": records.NACK,
    "give up": records.NACK, "release": records.RELEASE, "extend": records.EXTEND,
}  # fmt: skip


@lru_cache(1 << 12)
def draft_of(record: Record) -> Draft:
    """As mq has it.  `retry` and `give up` are what a process says of a delivery that has timed out."""
    kind = KINDS.get(record.said, records.DROP)
    if kind == records.DELIVER:
        flags = records.TIMED_OUT if record.said == "retry" else 0
        return kind, flags, NUMBER, records.DELIVER_PAYLOAD.pack(record.about, 0)
    if kind == records.NACK:
        return records.nack(NUMBER, record.about, 0, 0, "")
    if kind == records.EXTEND:
        return records.extend(NUMBER, record.about, 0)
    if kind == records.RELEASE:
        return records.release(NUMBER, record.about)
    return kind, 0, NUMBER, records.ACK_PAYLOAD.pack(record.about, 0)


class Queue(NamedTuple):
    """The fold: an incarnation of one queue, which may be limited to one message."""

    number: int = 0  # how often it was declared
    is_there: bool = False
    is_limited: bool = False
    messages: tuple[Held, ...] = ()
    gone: frozenset[int] = frozenset()

    def find(self, id: int) -> Held | None:
        return next((each for each in self.messages if each.id == id), None)

    def put(self, held: Held) -> Queue:
        others = [each for each in self.messages if each.id != held.id]
        return self._replace(messages=tuple(sorted([*others, held])))

    def without(self, id: int) -> Queue:
        others = tuple(each for each in self.messages if each.id != id)
        return self._replace(messages=others, gone=self.gone | {id})

    def holds(self, record: Record, head: Head) -> bool:
        """Whether a record of a shared message does."""
        if record.said == "publish":
            return True
        kind, known = KINDS[record.said], head.known[0]
        return takes.holds(lens_of(self.messages), kind, NUMBER, record.about, known, head.time_ms)

    def take(self, seq: int, head: Head, record: Record, begin: int) -> Queue:
        """It is said in the message *seq*; what was published before *begin* may be unknown."""
        said, about = record.said, record.about
        if said in ("declare", "limit"):
            return self._replace(number=self.number + 1, is_there=True, is_limited=said == "limit")
        if said == "delete":
            assert not self.messages, "P1: it was decided that the queue is empty"
            return self._replace(is_there=False)
        if said == "publish":
            assert self.is_there, "P1: a message is published to a queue that is gone"
            assert not self.is_limited or not self.messages, "the limit is exceeded"
            return self.put(Held(seq, WAITS, 0, 0, seq))
        found = self.find(about)
        if said == "again":
            assert about not in self.gone, "P12: what was acked comes back"
            assert found is None or found.record("again") == record, "P12: it goes back in time"
            assert found or about < begin, "P1: it is not here"
            return self.put(Held(*record[1:], seq))
        if found is None and about < begin:
            return self
        check_said(found, record, head)
        assert found
        if said in ("deliver", "retry"):
            return self.put(Held(about, seq, found.attempts + 1, head.time_ms + 1, found.at))
        if said == "nack":
            return self.put(found._replace(state=RETURNED, until=LATE))
        if said == "give up":
            return self.put(found._replace(state=RETURNED, until=EARLY))
        if said == "release":
            return self.put(found._replace(state=RETURNED, attempts=found.attempts - 1, until=EARLY))
        if said == "extend":
            return self.put(found._replace(until=NEVER))
        assert said in ("ack", "drop")
        return self.without(about)


def check_said(found: Held | None, record: Record, head: Head) -> None:
    """It may be said of what is *found* at its place.

    A shared delivery is of what is ready there, and a shared settlement of the delivery that its writer knew.
    All else finds what its writer knew.
    """
    said = record.said
    assert found is not None, f"P12: {said} of what is gone"
    if not head.flags & SHARED:
        assert found.record(said) == record, f"P12: {said} of a message that another one has, or had"
    elif said == "deliver":
        assert found.state in (WAITS, RETURNED), "P12: deliver of a message that another one has"
    else:
        assert found.state == record.state, f"P12: {said} of a message that another one has"
    if said in ("deliver", "retry"):
        assert found.attempts < ATTEMPTS_MAX, "it is delivered more often than its queue allows"
    if said in ("retry", "give up"):
        assert found.until <= head.time_ms, f"P12: {said} inside the timeout"
    elif said == "deliver":
        assert found.until <= head.time_ms, "it is delivered before its backoff is over"


class Knowledge(NamedTuple):
    """What a process has read."""

    order: Order = NOTHING
    queue: Queue = Queue()
    begin: int = 0  # what stands before that, it has not read

    def behind(self, message: Message) -> tuple[Knowledge, tuple[bool, ...]]:
        """The same, once it has read the next message; and which records of that hold."""
        seq, head, said = message
        order, holds = self.order.behind(seq, head)
        is_judged = holds and bool(head.flags & SHARED)
        held = tuple(
            self.queue.holds(record, head) if is_judged else holds for record in said
        )  # each against what stands before the message
        queue = self.queue
        for record, record_holds in zip(said, held, strict=True):
            if record_holds:
                queue = queue.take(seq, head, record, self.begin)
        return Knowledge(order, queue, self.begin), held


class World(NamedTuple):
    stream: tuple[Message, ...]
    readings: tuple[
        Knowledge, ...
    ]  # of a process that has read it all: as of each message, and before the first
    late: tuple[Knowledge, ...] = ()  # of one for each fence, that has begun to read there
    own: tuple[int, ...] = (1,) * WRITERS  # the last message of each writer, which it has followed
    compared: int = 0  # the last message of that subject

    def trail(self) -> str:
        return "; ".join(
            f"{seq}: {head.writer} knew {head.known[0]}, flags {head.flags}, time {head.time_ms}, "
            + ", ".join(f"{record.said} {record.about or ''}".rstrip() for record in said)
            for seq, head, said in self.stream
        )

    def future(self) -> object:
        """All on which it depends what can come about from here on.  Any writer may do all."""
        return tuple(sorted(self.own)), self.compared, self.readings[min(self.own) :], self.late

    def store(self, writer: int, known: int, decision: Decision) -> World | None:
        """*writer*, which knew what stands up to *known*, has sent it; None: the server refuses it."""
        said, flags, time = decision
        last, order = len(self.stream), self.readings[known].order
        if not flags & SHARED and (said or flags != FENCE):  # such a fence may name a message of now: `_find`
            wholly = not WHOLLY.isdisjoint(record.said for record in said) and not order.held
            if known != last if wholly else order.compared[0] != self.compared:
                return None
        mark = order.fence if flags & SHARED else (self.compared, self.compared)
        # No message is put in another's place here, so its sequence will do for a checksum.
        message = (last + 1, Head(last + 1, flags, 1, 1, mark, writer, time, order.last), said)
        now, held = self.readings[-1].behind(message)
        check_told(message, held, now.queue)
        if order.held and not flags & SHARED:
            assert all(held), "the way was asked for, and is not given"
        late = list(self.late)
        if fences.may_cut(last + 1, message[1]) and last:
            # The declaration is taken as written again: what is asked here is what becomes of messages.
            before = self.readings[-1].queue._replace(messages=(), gone=frozenset())
            late.append(Knowledge(NOTHING._replace(last=(last, 0)), before, last + 1))
        for index, each in enumerate(late):
            late[index], other = each.behind(message)
            check_late(message, each, late[index], other, now, held)
        own = tuple(last + 1 if each == writer else seq for each, seq in enumerate(self.own, 1))
        compared = self.compared if flags & SHARED else last + 1
        return World((*self.stream, message), (*self.readings, now), tuple(late), own, compared)


def check_told(message: Message, held: tuple[bool, ...], queue: Queue) -> None:
    """What a writer is told of its records is so for all."""
    seq, _, said = message
    for record, is_so in zip(said, held, strict=True):
        found = queue.find(seq if record.said == "publish" else record.about)
        if record.said == "publish":
            assert (found is not None) == is_so, "P1: a publish is there once"
        elif record.said in ("deliver", "retry"):
            assert (found is not None and found.state == seq) == is_so, "P12: it is told otherwise"
        elif record.said == "ack" and is_so:
            assert found is None, "P12: what was acked is here"
        elif record.said in ("nack", "give up", "release") and is_so:
            assert found and found.state == RETURNED, f"P1: {record.said} of what does not come back"
        elif record.said == "extend" and is_so:
            assert found and (found.state, found.until) == (record.state, NEVER), "P12: it is not extended"


def check_late(
    message: Message, before: Knowledge, late: Knowledge, late_held: tuple[bool, ...], full: Knowledge,
    held: tuple[bool, ...],
) -> None:  # fmt: skip
    """A process that has begun at a fence comes to what all come to, once nothing lives before that.

    *before*: what it knew before the message.
    """
    seq, head, said = message
    at, taken = f"cut at {late.begin}", full.order.taken
    order = full.order._replace(taken=taken if taken >= late.begin else 0)
    assert late.order == order, f"{at}, {seq} is judged otherwise"
    for record, one, other in zip(said, late_held, held, strict=True):
        is_known = record.about >= late.begin or not head.flags & SHARED or before.queue.find(record.about)
        assert one == other or not is_known, f"{at}, {record.said} in {seq} is judged otherwise"
    if all(each.at >= late.begin for each in full.queue.messages):
        assert late.queue[:-1] == full.queue[:-1], f"{at}, the queue is not the same"


def flags_of(said: str, flags: int = 0) -> int:
    """Of a compared message."""
    return flags if said in ("", "publish") else flags | TAKES


def decisions(known: Knowledge) -> Iterator[Decision]:
    """What a writer that knows this may do."""
    order, queue, _ = known
    messages, is_open = queue.messages, queue.is_there and not queue.is_limited
    groups: list[tuple[tuple[Record, ...], int]] = []
    if not order.held and is_open:
        yield (Record("publish"),), SHARED, EARLY
    for said, time in about_one(messages):
        groups.append((said, time))
        if not order.held:
            lens, drafts = lens_of(messages), map(draft_of, said)
            if takes.may_share(lens, drafts, order.last[0], time):
                yield said, SHARED | TAKES, time
    if queue.is_there and not messages:
        yield (Record("delete"),), flags_of("delete", FENCE), EARLY
        yield (Record("limit"),), flags_of("limit", FENCE), EARLY
    if not queue.is_there or queue.is_limited:
        yield (Record("declare"),), flags_of("declare", FENCE), EARLY
    if is_open or (queue.is_there and not messages):
        groups.append(((Record("publish"),), EARLY))
    waiting = [each.record("drop") for each in messages if each.state == WAITS]
    if queue.is_there and queue.is_limited and waiting:
        groups.append(((waiting[0], Record("publish")), EARLY))
    if old := [each for each in messages if each.at < order.fence[0]]:
        groups.append((tuple(each.record("again") for each in old), EARLY))
    for said, time in groups:
        if not order.held:
            yield said, flags_of(said[0].said), time
        yield said, flags_of(said[0].said, FENCE), time  # one was due, or a hold ends
    if not order.held:
        yield (), HOLD, EARLY
    yield (), FENCE, EARLY


def about_one(messages: tuple[Held, ...]) -> Iterator[tuple[tuple[Record, ...], int]]:
    """Deliveries and settlements, and the time of each: one time where both do the same.

    mq nacks no last attempt: the message is dead then.  A writer here does, for in mq, too, are messages
    that wait and have no attempt left, once the maximum was lowered.
    """
    fresh = [each for each in messages if each.state == WAITS][:CHOICES]
    tried = [each for each in messages if each.state == RETURNED and each.attempts < ATTEMPTS_MAX][:CHOICES]
    flights = [each for each in messages if each.state > 0]
    acks = [each.record("ack") for each in flights]
    yield from ((said, EARLY) for said in zip(acks))
    for time in (EARLY, LATE):
        deliveries = [each.record("deliver") for each in [*fresh, *tried] if each.until <= time]
        yield from ((said, time) for said in [*zip(deliveries), *product(acks, deliveries)])
    for each in flights:
        time = EARLY if each.until == LATE else LATE  # it has not timed out
        yield from (((each.record(said),), time) for said in ("nack", "release", "extend"))
        if each.until == LATE and each.attempts < ATTEMPTS_MAX:
            yield from (((each.record(said),), LATE) for said in ("retry", "give up"))
    yield from (((each.record("drop"),), EARLY) for each in messages[:CHOICES])  # it has expired, or is dead


def steps(world: World) -> Iterator[World]:
    """All that may be stored next."""
    for writer in range(1, WRITERS + 1):
        for known in range(world.own[writer - 1], len(world.stream) + 1):
            for decision in decisions(world.readings[known]):
                try:
                    found = world.store(writer, known, decision)
                except AssertionError as error:
                    said, flags, time = decision
                    last = f"then {writer} knew {known}, flags {flags}, time {time}, {said}"
                    raise AssertionError(f"{error}: {world.trail()}; {last}") from error
                if found:
                    yield found


def begin(*decided: tuple[int, Decision]) -> World:
    """The queue is declared; and what each writer has decided on that, in turn, is there."""
    world: World | None = World((), (Knowledge(),))
    for writer, decision in [(1, ((Record("declare"),), FENCE | TAKES, EARLY)), *decided]:
        assert world
        world = world.store(writer, len(world.stream), decision)
    assert world
    return world


PUBLISH: Final = ((Record("publish"),), SHARED, EARLY)
FENCED: Final = ((), FENCE, EARLY)


def taken(id: int, time: int = EARLY) -> Decision:
    return (Record("deliver", id),), SHARED | TAKES, time


def settled(said: str, id: int, seq: int) -> Decision:
    """The first delivery, which is in the message *seq*."""
    return (Record(said, id, seq, 1, LATE),), SHARED | TAKES, EARLY


BEGINNINGS: Final = {
    "nothing is here": begin(),
    "one waits, and is all that may be here": begin(
        (1, ((Record("limit"),), FENCE | TAKES, EARLY)), (1, ((Record("publish"),), 0, EARLY))
    ),
    "one waits": begin((1, PUBLISH)),
    "one waits, and a hold": begin((1, PUBLISH), (2, ((), HOLD, EARLY))),
    "one is in flight": begin((1, PUBLISH), (1, taken(2))),
    "one is in flight, one waits": begin((1, PUBLISH), (1, taken(2)), (2, PUBLISH)),
    "both, and a fence": begin((1, PUBLISH), (1, taken(2)), (2, PUBLISH), (1, FENCED)),
    "two are in flight, one waits, and a fence": begin(
        (1, PUBLISH), (1, taken(2)), (2, PUBLISH), (2, taken(4)), (1, PUBLISH), (1, FENCED)
    ),
    "one was nacked": begin((1, PUBLISH), (1, taken(2)), (1, settled("nack", 2, 3))),
    "one was nacked, and a fence": begin(
        (1, PUBLISH), (1, taken(2)), (1, settled("nack", 2, 3)), (1, FENCED)
    ),
    "one is in flight for the last time": begin(
        (1, PUBLISH), (1, taken(2)), (1, settled("nack", 2, 3)), (2, taken(2, LATE))
    ),
}
STEPS: Final = {  # messages behind the beginning; one more takes up to some minutes, and finds no more
    "nothing is here": 3,
    "one waits, and is all that may be here": 3,
    "one waits": 3,
    "one waits, and a hold": 3,
    "one is in flight": 2,
    "one is in flight, one waits": 2,
    "both, and a fence": 2,
    "one was nacked, and a fence": 2,
    "one was nacked": 3,
    "one is in flight for the last time": 2,
    "two are in flight, one waits, and a fence": 2,
}


def explore(world: World, count: int) -> int:
    """Look at all that can come about with *count* messages more; how many messages were stored.

    AssertionError says what is wrong.
    """
    found, level = 0, [world]
    for _ in range(count - 1):
        level = list({each.future(): each for one in level for each in steps(one)}.values())
        found += len(level)
    return found + sum(1 for one in level for _ in steps(one))


@pytest.mark.parametrize("beginning", STEPS)
def test_whatever_the_order_no_promise_breaks(beginning: str) -> None:
    """P1, P12."""
    assert explore(BEGINNINGS[beginning], STEPS[beginning]) > 900


def test_processes_begin_behind_a_trim_with_messages_in_each_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the model would say nothing of what the cleaner has written again."""
    seen: set[int] = set()
    right = check_late

    def note(message: Message, before: Knowledge, late: Knowledge, *others: Any) -> None:
        full = others[1].queue.messages
        if all(each.at >= late.begin for each in full):
            seen.update(min(each.state, 1) for each in full if each.id < late.begin)
        right(message, before, late, *others)

    monkeypatch.setattr(sys.modules[__name__], "check_late", note)
    for beginning in ("both, and a fence", "one was nacked, and a fence"):
        explore(BEGINNINGS[beginning], 1)
    assert seen == {WAITS, RETURNED, 1}


def test_of_two_records_of_one_message_either_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the model would say nothing of messages that hold in part."""
    seen: set[tuple[bool, ...]] = set()
    right = check_told

    def note(message: Message, held: tuple[bool, ...], queue: Queue) -> None:
        if [record.said for record in message[2]] == ["ack", "deliver"]:
            seen.add(held)
        right(message, held, queue)

    monkeypatch.setattr(sys.modules[__name__], "check_told", note)
    explore(BEGINNINGS["one is in flight, one waits"], 2)
    assert seen == {(False, False), (False, True), (True, False), (True, True)}


def test_a_shared_record_of_each_kind_holds_and_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the model would say nothing of that kind."""
    seen: set[tuple[str, int, bool]] = set()
    right = check_told

    def note(message: Message, held: tuple[bool, ...], queue: Queue) -> None:
        _, head, said = message
        if head.flags & SHARED:
            seen.update((record.said, record.state, is_so) for record, is_so in zip(said, held, strict=True))
        right(message, held, queue)

    monkeypatch.setattr(sys.modules[__name__], "check_told", note)
    explore(BEGINNINGS["one is in flight"], 2)  # in the message 3
    explore(BEGINNINGS["one was nacked"], 2)
    asked = [("deliver", RETURNED), *((said, 3) for said in ("ack", "nack", "release", "extend"))]
    assert seen >= {(*each, is_so) for each in asked for is_so in (False, True)}


# ── mistakes ───────────────────────────────────────────────────────────────────────


def find_a_mistake() -> None:
    """AssertionError says what it does."""
    for count in (1, 2, 3):  # the short ones first
        for beginning in STEPS:
            if count <= STEPS[beginning]:
                explore(BEGINNINGS[beginning], count)


@pytest.mark.parametrize(
    "mistake, complaint",
    [
        ("a fence is none", "P1|limit"),
        ("a hold is none", "judged otherwise"),
        ("a hold does not end", "judged otherwise"),
        ("the mark is not looked at", "P1|limit"),
        ("a compared message holds whatever is taken", "P12"),
        ("a shared message that does not hold is taken for one", "the way was asked for"),
    ],
)
def test_the_model_finds_mistakes(monkeypatch: pytest.MonkeyPatch, mistake: str, complaint: str) -> None:
    behind = Order.behind

    def mistaken(self: Order, seq: int, head: Head) -> tuple[Order, bool]:
        order, holds = behind(self, seq, head)
        is_shared = bool(head.flags & SHARED)
        if mistake == "a fence is none" and head.flags & FENCE and seq > 1:
            order = order._replace(fence=self.fence)
        elif mistake == "a hold is none" and head.flags == HOLD:
            order = order._replace(held=False, fence=self.fence)
        elif mistake == "a hold does not end" and self.held:
            order = order._replace(held=True)
        elif mistake == "the mark is not looked at" and is_shared:
            holds = not self.held
        elif mistake == "a compared message holds whatever is taken" and not is_shared:
            holds = True
        elif mistake == "a shared message that does not hold is taken for one" and head.flags & TAKES:
            order = order._replace(taken=seq if is_shared else order.taken)
        return order, holds

    if complaint != "judged otherwise":  # else that shows first, and not what becomes of a promise
        monkeypatch.setattr(fences, "may_cut", lambda *args: False)
    monkeypatch.setattr(fences.Order, "behind", mistaken)
    with pytest.raises(AssertionError, match=complaint):
        find_a_mistake()


@pytest.mark.parametrize(
    "mistake, complaint",
    [
        ("a delivery is of what is here", "P12: deliver of a message that another one has"),
        ("an ack is of what is in flight", "P12: ack of a message that another one has"),
        ("a nack is of what is in flight", "P12: nack of a message that another one has"),
        ("a release is of what is in flight", "P12: release of a message that another one has"),
        ("an extend is of what is in flight", "P12: extend of a message that another one has"),
        ("no deadline is asked for", "P12: give up inside the timeout"),
        ("no attempts are counted", "it is delivered more often"),
        ("no backoff is asked for", "it is delivered before its backoff"),
        ("all holds", "P12"),
    ],
)
def test_the_model_finds_mistakes_about_records(
    monkeypatch: pytest.MonkeyPatch, mistake: str, complaint: str
) -> None:
    right = takes.holds
    blind = {
        "an ack is of what is in flight": records.ACK,
        "a nack is of what is in flight": records.NACK,
        "a release is of what is in flight": records.RELEASE,
        "an extend is of what is in flight": records.EXTEND,
    }

    def holds(state: Any, kind: int, number: int, id: int, known: int, time_ms: int) -> bool:
        if mistake == "all holds":
            return True
        if mistake == "a delivery is of what is here" and kind == records.DELIVER:
            return id in state.delayed or id in state.near or state.lane_of(id) is not None
        if mistake == "no backoff is asked for" and kind == records.DELIVER:
            return right(state, kind, number, id, known, NEVER)
        if mistake == "no deadline is asked for" and kind == records.NACK:
            return right(state, records.ACK, number, id, known, time_ms)
        if blind.get(mistake) == kind:
            known = 1 << 32
        return right(state, kind, number, id, known, time_ms)

    if mistake == "no attempts are counted":
        monkeypatch.setattr(Lens, "moment", SimpleNamespace(attempts_max=ATTEMPTS_MAX + 1))
    monkeypatch.setattr(takes, "holds", holds)
    with pytest.raises(AssertionError, match=complaint):
        find_a_mistake()


@pytest.mark.parametrize("said", ["again", "deliver", "drop", "retry", "give up"])
def test_the_model_finds_what_does_not_say_that_it_takes(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    """A compared message that says something about deliveries, without TAKES."""
    right = flags_of

    def flags(what: str, flags: int = 0) -> int:
        return flags if what == said else right(what, flags)

    monkeypatch.setattr(sys.modules[__name__], "flags_of", flags)
    with pytest.raises(AssertionError, match="P12"):
        find_a_mistake()


def test_the_model_finds_a_stream_that_is_cut_at_any_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fences, "may_cut", lambda seq, head: bool(head.flags & (FENCE | HOLD)))
    with pytest.raises(AssertionError, match="judged otherwise"):
        find_a_mistake()
