"""Which messages and records hold: all orders of two writers, on a model of the stream and of one queue.

The model has its own server, writers and fold; of mq are `Order` and `takes.holds`, which judge, `may_cut`,
and the heads of messages.

A step is one message that is stored.  Its writer has decided it on what it had followed: on any beginning of
the stream that has its own last message in it.  So each step chooses the writer, how much that knew, and
one of the decisions that are allowed on it.  What the server refuses changes nothing, and is left out.

Beside that, one process for each fence begins to read there, without a checkpoint.  What was published
before, it learns only from what the cleaner writes again.  Once that is all that lives, the stream may be cut
there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Final, NamedTuple

import pytest

from mq.delivery import records
from mq.nats import fences, takes
from mq.nats.fences import NOTHING, Order
from mq.nats.message import FENCE, HEAD, HOLD, SHARED, TAKES, Head, begin_of

WRITERS: Final = 2
CHOICES: Final = 1  # messages in one state from which a writer chooses: with 3 it finds no more
NUMBER: Final = 1  # of the queue
WAITS: Final = 0  # the state of a message that was never delivered
RETURNED: Final = -1  # of one that was, and waits again; in flight it is the receipt
KINDS: Final = {"deliver": records.DELIVER, "ack": records.ACK}
WHOLLY: Final = {"declare", "limit", "delete"}  # these are compared with all messages


class Record(NamedTuple):
    """What is said of one message.  The last two are what its writer knew of that: the fold compares them."""

    said: str
    about: int = 0
    state: int = WAITS
    owner: int = 0


Message = tuple[int, Head, tuple[Record, ...]]
Decision = tuple[tuple[Record, ...], int]  # with the flags


class Held(NamedTuple):
    """A message that is in the queue."""

    id: int
    state: int
    owner: int  # the writer that has it, if it is in flight
    at: int  # sequence of the message that it was written in last


class Flight(NamedTuple):
    receipt: int


@dataclass
class Lens:
    """The queue, as `takes.holds` looks at it."""

    messages: tuple[Held, ...]

    @property
    def queues(self) -> dict[int, Lens]:
        return {NUMBER: self}

    @property
    def flights(self) -> Lens:
        return self

    @cached_property
    def near(self) -> dict[int, Flight]:
        return {each.id: Flight(begin_of(each.state) + HEAD.size) for each in self.messages if each.state > 0}

    def get(self, id: int) -> Flight | None:
        return self.near.get(id)

    def only_waits(self, id: int) -> bool:
        return any(each.id == id and each.state == WAITS for each in self.messages)

    def __contains__(self, id: int) -> bool:
        return any(each.id == id for each in self.messages)


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

    def holds(self, record: Record, known: int) -> bool:
        """Whether a record of a shared message does, whose writer knew what stands up to *known*."""
        if record.said == "publish":
            return True
        lens: Any = Lens(self.messages)
        return takes.holds(lens, KINDS[record.said], NUMBER, record.about, known)

    def take(self, seq: int, writer: int, record: Record, begin: int) -> Queue:
        """It is said in the message *seq*; what was published before *begin* may be unknown."""
        said, about, state, owner = record
        if said in ("declare", "limit"):
            return self._replace(number=self.number + 1, is_there=True, is_limited=said == "limit")
        if said == "delete":
            assert not self.messages, "P1: it was decided that the queue is empty"
            return self._replace(is_there=False)
        if said == "publish":
            assert self.is_there, "P1: a message is published to a queue that is gone"
            assert not self.is_limited or not self.messages, "the limit is exceeded"
            return self.put(Held(seq, WAITS, 0, seq))
        found = self.find(about)
        if said == "again":
            assert about not in self.gone, "P12: what was acked comes back"
            assert found is None or (found.state, found.owner) == (state, owner), "P12: it goes back in time"
            assert found or about < begin, "P1: it is not here"
            return self.put(Held(about, state, owner, seq))
        if found is None and about < begin:
            return self
        assert found is not None, f"P12: {said} of what is gone"
        assert found.state == state, f"P12: {said} of a message that another one has"
        if said == "deliver":
            return self.put(found._replace(state=seq, owner=writer))
        if said == "nack":
            return self.put(found._replace(state=RETURNED, owner=0))
        assert said in ("ack", "drop")
        return self.without(about)


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
            self.queue.holds(record, head.known[0]) if is_judged else holds for record in said
        )  # each against what stands before the message
        queue = self.queue
        for record, record_holds in zip(said, held, strict=True):
            if record_holds:
                queue = queue.take(seq, head.writer, record, self.begin)
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
            f"{seq}: {head.writer} knew {head.known[0]}, {head.flags}, "
            + ", ".join(f"{record.said} {record.about or ''}".rstrip() for record in said)
            for seq, head, said in self.stream
        )

    def future(self) -> object:
        """All on which it depends what can come about from here on."""
        return self.own, self.compared, self.readings[min(self.own) :], self.late

    def store(self, writer: int, known: int, decision: Decision) -> World | None:
        """*writer*, which knew what stands up to *known*, has sent it; None: the server refuses it."""
        said, flags = decision
        last, order = len(self.stream), self.readings[known].order
        if not flags & SHARED:
            wholly = not WHOLLY.isdisjoint(record.said for record in said) and not order.held
            if known != last if wholly else order.compared[0] != self.compared:
                return None
        mark = order.fence if flags & SHARED else order.compared
        # No message is put in another's place here, so its sequence will do for a checksum.
        message = (last + 1, Head(last + 1, flags, 1, 1, mark, writer, 0, order.last), said)
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
            check_late(message, late[index], other, now, held)
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
        elif record.said == "deliver":
            assert (found is not None and found.state == seq) == is_so, "P12: it is told otherwise"
        elif record.said == "ack" and is_so:
            assert found is None, "P12: what was acked is here"


def check_late(
    message: Message, late: Knowledge, late_held: tuple[bool, ...], full: Knowledge, held: tuple[bool, ...]
) -> None:
    """A process that has begun at a fence comes to what all come to, once nothing lives before that."""
    seq, head, said = message
    at, taken = f"cut at {late.begin}", full.order.taken
    order = full.order._replace(taken=taken if taken >= late.begin else 0)
    assert late.order == order, f"{at}, {seq} is judged otherwise"
    for record, one, other in zip(said, late_held, held, strict=True):
        is_known = record.about >= late.begin or not head.flags & SHARED
        assert one == other or not is_known, f"{at}, {record.said} in {seq} is judged otherwise"
    if all(each.at >= late.begin for each in full.queue.messages):
        assert late.queue[:-1] == full.queue[:-1], f"{at}, the queue is not the same"


def flags_of(said: str, flags: int = 0) -> int:
    """Of a compared message."""
    return flags if said in ("", "publish") else flags | TAKES


def decisions(known: Knowledge, writer: int) -> Iterator[Decision]:
    """What a writer that knows this may do."""
    order, queue, _ = known
    messages, is_open = queue.messages, queue.is_there and not queue.is_limited
    waiting = [Record("deliver", each.id) for each in messages if each.state == WAITS][:CHOICES]
    own = [each for each in messages if each.state > 0 and each.owner == writer][:CHOICES]
    acks = [Record("ack", each.id, each.state) for each in own]
    if not order.held:
        if is_open:
            yield (Record("publish"),), SHARED
        for said in [*zip(waiting), *zip(acks), *product(acks, waiting)]:
            yield said, SHARED | TAKES
    if queue.is_there and not messages:
        yield (Record("delete"),), flags_of("delete", FENCE)
        yield (Record("limit"),), flags_of("limit", FENCE)
    if not queue.is_there or queue.is_limited:
        yield (Record("declare"),), flags_of("declare", FENCE)
    compared = [
        *waiting, *acks,
        *(Record("deliver", each.id, each.state) for each in messages if each.state == RETURNED),
        *(Record("deliver", each.id, each.state) for each in messages if each.state > 0),  # it has timed out
        *(Record("nack", each.id, each.state) for each in own),
        *(Record("drop", each.id, each.state) for each in messages[:CHOICES]),
    ]  # fmt: skip
    groups: list[tuple[Record, ...]] = [(record,) for record in compared]
    if is_open or (queue.is_there and not messages):
        groups.append((Record("publish"),))
    if queue.is_there and queue.is_limited and waiting:
        groups.append((Record("drop", waiting[0].about), Record("publish")))
    old = [each for each in messages if each.at < order.fence[0]]
    if old:
        groups.append(tuple(Record("again", each.id, each.state, each.owner) for each in old))
    for group in groups:
        yield group, flags_of(group[0].said)
        yield group, flags_of(group[0].said, FENCE)  # one was due
    yield (), HOLD
    yield (), FENCE


def steps(world: World) -> Iterator[World]:
    """All that may be stored next."""
    for writer in range(1, WRITERS + 1):
        for known in range(world.own[writer - 1], len(world.stream) + 1):
            for decision in decisions(world.readings[known], writer):
                try:
                    found = world.store(writer, known, decision)
                except AssertionError as error:
                    said, flags = decision
                    last = f"then {writer} knew {known}, {flags}, {said}"
                    raise AssertionError(f"{error}: {world.trail()}; {last}") from error
                if found:
                    yield found


def begin(*decided: tuple[int, Decision]) -> World:
    """The queue is declared; and what each writer has decided on that, in turn, is there."""
    world: World | None = World((), (Knowledge(),))
    for writer, decision in [(1, ((Record("declare"),), FENCE | TAKES)), *decided]:
        assert world
        world = world.store(writer, len(world.stream), decision)
    assert world
    return world


PUBLISH: Final = ((Record("publish"),), SHARED)
FENCED: Final = ((), FENCE)


def taken(id: int) -> Decision:
    return (Record("deliver", id),), SHARED | TAKES


BEGINNINGS: Final = {
    "nothing is here": begin(),
    "one waits, and is all that may be here": begin(
        (1, ((Record("limit"),), FENCE)), (1, ((Record("publish"),), 0))
    ),
    "one waits": begin((1, PUBLISH)),
    "one is in flight": begin((1, PUBLISH), (1, taken(2))),
    "one is in flight, one waits": begin((1, PUBLISH), (1, taken(2)), (2, PUBLISH)),
    "both, and a fence": begin((1, PUBLISH), (1, taken(2)), (2, PUBLISH), (1, FENCED)),
    "one of each writer is in flight, one waits, and a fence": begin(
        (1, PUBLISH), (1, taken(2)), (2, PUBLISH), (2, taken(4)), (1, PUBLISH), (1, FENCED)
    ),
    "one has returned, and a fence": begin(
        (1, PUBLISH), (1, taken(2)), (1, ((Record("nack", 2, 3),), TAKES)), (1, FENCED)
    ),
}
STEPS: Final = {  # messages behind the beginning; one more takes minutes, and finds no more
    "nothing is here": 3,
    "one waits, and is all that may be here": 3,
    "one waits": 3,
    "one is in flight, one waits": 3,
    "both, and a fence": 2,
    "one of each writer is in flight, one waits, and a fence": 2,
    "one has returned, and a fence": 2,
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
    assert explore(BEGINNINGS[beginning], STEPS[beginning]) > 600


def test_processes_begin_behind_a_trim_with_messages_in_each_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the model would say nothing of what the cleaner has written again."""
    seen: set[int] = set()
    right = check_late

    def note(message: Message, late: Knowledge, *others: Any) -> None:
        full = others[1].queue.messages
        if all(each.at >= late.begin for each in full):
            seen.update(min(each.state, 1) for each in full if each.id < late.begin)
        right(message, late, *others)

    monkeypatch.setattr(sys.modules[__name__], "check_late", note)
    for beginning in ("both, and a fence", "one has returned, and a fence"):
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
    explore(BEGINNINGS["one is in flight, one waits"], 3)
    assert seen == {(False, False), (False, True), (True, False), (True, True)}


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
        ("a fence is none", "P1|limit|judged otherwise"),
        ("a hold is none", "P1|limit|judged otherwise"),
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

    monkeypatch.setattr(fences.Order, "behind", mistaken)
    with pytest.raises(AssertionError, match=complaint):
        find_a_mistake()


@pytest.mark.parametrize(
    "mistake, complaint",
    [
        ("a delivery is of what is here", "P12: deliver of a message that another one has"),
        ("an ack is of what is in flight", "P12: ack of a message that another one has"),
        ("all holds", "P12"),
    ],
)
def test_the_model_finds_mistakes_about_records(
    monkeypatch: pytest.MonkeyPatch, mistake: str, complaint: str
) -> None:
    right = takes.holds

    def holds(state: Any, kind: int, number: int, id: int, known: int) -> bool:
        if mistake == "a delivery is of what is here" and kind == records.DELIVER:
            return id in state
        if mistake == "an ack is of what is in flight" and kind == records.ACK:
            return state.get(id) is not None
        return mistake == "all holds" or right(state, kind, number, id, known)

    monkeypatch.setattr(takes, "holds", holds)
    with pytest.raises(AssertionError, match=complaint):
        find_a_mistake()


@pytest.mark.parametrize("said", ["again", "deliver", "drop"])
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
