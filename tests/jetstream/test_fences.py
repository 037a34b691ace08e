"""Which messages hold: all orders of two writers, on a model of the stream and of one queue.

The model has its own server, writers and fold; of mq are `Order`, which judges, and the heads of messages.
Each writer decides on what it has followed, and sends; what is sent comes to the server at any time later.
In each state that can come about, the promises are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import pytest

from mq.nats import fences
from mq.nats.fences import NOTHING, Order
from mq.nats.message import FENCE, HOLD, SHARED, TAKES, Encoded, Head, head_of

STEPS: Final = 8  # decisions and arrivals in one order; with 12 it takes a minute, and finds no more
Delivered = tuple[int, int]  # a message of the queue, and the sequence of its delivery; 0: it waits
Message = tuple[int, Head, str, Delivered]  # sequence, head, what it says, and about which
NONE: Final = (0, 0)


class Queue(NamedTuple):
    """The fold: an incarnation of one queue, which may be limited to one message."""

    number: int = 0  # how often it was declared
    is_there: bool = False
    is_limited: bool = False
    waiting: frozenset[int] = frozenset()
    held: frozenset[Delivered] = frozenset()

    def judges(self, said: str, about: Delivered, known: int) -> bool:
        """Whether what is shared holds here, by what its record names, which is the message alone."""
        id, _ = about
        if said == "deliver":
            return id in self.waiting
        return said == "publish" or any(held == id and receipt <= known for held, receipt in self.held)

    def take(self, seq: int, said: str, about: Delivered) -> Queue:
        id, _ = about
        if said in ("declare", "limit"):
            return self._replace(number=self.number + 1, is_there=True, is_limited=said == "limit")
        if said == "delete":
            assert not (self.waiting or self.held), "P1: it was decided that the queue is empty"
            return self._replace(is_there=False)
        if said == "publish":
            assert self.is_there, "P1: a message is published to a queue that is gone"
            found = self._replace(waiting=self.waiting | {seq})
            assert not self.is_limited or len(found.waiting | found.held) == 1, "the limit is exceeded"
            return found
        if said == "deliver":
            assert id in self.waiting, "P12: it is delivered to two"
            return self._replace(waiting=self.waiting - {id}, held=self.held | {(id, seq)})
        if said == "retry":
            assert about in self.held, "P12: it is delivered again, and is not held"
            return self._replace(held=self.held - {about} | {(id, seq)})
        if said == "ack":
            assert about in self.held, "P12: it is acked by a process that does not hold it any more"
            return self._replace(held=self.held - {about})
        assert said == ""
        return self


class Knowledge(NamedTuple):
    """What a process has followed."""

    order: Order = NOTHING
    queue: Queue = Queue()

    def follow(self, stream: tuple[Message, ...]) -> Knowledge:
        known, queue = self
        for seq, head, said, about in stream:
            if seq > known.last[0]:
                known, holds = known.behind(seq, head)
                if holds and (not head.flags & SHARED or queue.judges(said, about, head.known[0])):
                    queue = queue.take(seq, said, about)
        return Knowledge(known, queue)


class Sent(NamedTuple):
    """On its way to the server."""

    said: str
    about: Delivered
    flags: int
    expected: int | None  # last sequence of the compared subject, or with `wholly` of the stream
    wholly: bool
    mark: tuple[int, int]
    known: tuple[int, int]


class World(NamedTuple):
    stream: tuple[Message, ...]
    knowledge: tuple[Knowledge, Knowledge]
    sent: tuple[Sent | None, Sent | None] = (None, None)
    first: int = 1  # sequence of the first message that was not purged
    trail: tuple[str, ...] = ()


def decisions(known: Knowledge) -> Iterator[tuple[str, Delivered, int]]:
    """What a writer that knows this may do: what it says, about which message, and the flags."""
    order, queue = known
    may_share = queue.is_there and not queue.is_limited
    if may_share and not order.held:
        yield "publish", NONE, SHARED
    if may_share or (queue.is_there and not queue.waiting | queue.held):
        yield "publish", NONE, 0
    if queue.is_there and not queue.waiting | queue.held:
        yield "delete", NONE, FENCE | TAKES
        yield "limit", NONE, FENCE | TAKES
    if not queue.is_there or queue.is_limited:
        yield "declare", NONE, FENCE | TAKES
    ways = [TAKES] if order.held else [TAKES, SHARED | TAKES]
    for flags in ways:
        for id in sorted(queue.waiting)[:1]:
            yield "deliver", (id, 0), flags
        for held in sorted(queue.held)[:1]:
            yield "ack", held, flags
    for held in sorted(queue.held)[:1]:
        yield "retry", held, TAKES
    yield "", NONE, HOLD


def send(known: Knowledge, said: str, about: Delivered, flags: int) -> Sent:
    order = known.order
    if flags & SHARED:
        return Sent(said, about, flags, None, False, order.fence, order.last)
    wholly = bool(flags & FENCE) and not order.held
    expected = order.last[0] if wholly else order.compared[0]
    return Sent(said, about, flags, expected, wholly, order.compared, order.last)


def arrive(stream: tuple[Message, ...], sent: Sent) -> Message | None:
    """It comes to the server, which refuses it if what it expects is not so."""
    last = len(stream)
    compared = max((seq for seq, head, *_ in stream if not head.flags & SHARED), default=0)
    if sent.expected not in (None, last if sent.wholly else compared):
        return None
    (data,) = Encoded([sent.said.encode()], []).messages(7, sent.mark, last, 0, sent.flags, sent.known)
    return last + 1, head_of(data), sent.said, sent.about


def steps(world: World) -> Iterator[World]:
    """All that may happen next."""
    stream, knowledge, sent, first, trail = world
    for which in (0, 1):

        def changed(value: object, all: tuple[object, ...], which: int = which) -> tuple[object, ...]:
            return (value, all[1]) if which == 0 else (all[0], value)

        if (mine := sent[which]) is not None:
            message = arrive(stream, mine)
            more = stream if message is None else (*stream, message)
            said = f"{which} has {'no ' if message is None else ''}{mine.said or 'hold'} {mine.flags}"
            # As the log does: it follows up to its own, and judges that; what it has decided is right behind.
            known = knowledge[which].follow(more)
            yield World(more, changed(known, knowledge), changed(None, sent), first, (*trail, said))  # type: ignore[arg-type]
            continue
        for said, about, flags in decisions(knowledge[which]):
            trail_on = (*trail, f"{which} sends {said or 'hold'} {flags}")
            going = send(knowledge[which], said, about, flags)
            yield World(stream, knowledge, changed(going, sent), first, trail_on)  # type: ignore[arg-type]
        if (known := knowledge[which].follow(stream)) != knowledge[which]:
            yield World(stream, changed(known, knowledge), sent, first, (*trail, f"{which} follows"))  # type: ignore[arg-type]


def check_trims(stream: tuple[Message, ...]) -> None:
    """A process that begins at any fence judges as one that has read it all."""
    order, orders = NOTHING, []
    for seq, head, *_ in stream:
        order, holds = order.behind(seq, head)
        orders.append((order, holds))
    for seq, head, *_ in stream:
        if not head.flags & (FENCE | HOLD):
            continue
        late = NOTHING._replace(last=(seq - 1, 0))
        for each, other, *_ in stream[seq - 1 :]:
            late, holds = late.behind(each, other)
            order, held = orders[each - 1]
            # What was taken before the fence, all that are compared behind that knew of.
            same = late._replace(taken=0), holds
            assert same == (order._replace(taken=0), held), f"cut at {seq}, {each} is judged otherwise"


def begin() -> World:
    """The queue is declared, and both know that."""
    message = arrive((), send(Knowledge(), "declare", NONE, FENCE | TAKES))
    assert message is not None
    known = Knowledge().follow((message,))
    return World((message,), (known, known))


def explore(steps_max: int = STEPS) -> int:
    """Look at all that can come about; how many different streams did.  AssertionError says what is wrong."""
    worlds, streams, seen = [begin()], set(), set()
    while worlds:
        world = worlds.pop()
        key = world[:3]
        if (key, len(world.trail)) in seen:
            continue
        seen.add((key, len(world.trail)))
        if world.stream not in streams:
            streams.add(world.stream)
            check_trims(world.stream)
        if len(world.trail) < steps_max:
            try:
                worlds += steps(world)
            except AssertionError as error:
                raise AssertionError(f"{error}: {'; '.join(world.trail)}") from error
    return len(streams)


def test_whatever_the_order_no_promise_breaks() -> None:
    """P1, P12."""
    assert explore() > 800


@pytest.mark.parametrize(
    "mistake, complaint",
    [
        ("a fence is none", "P1|limit|judged otherwise"),
        ("a hold is none", "P1|limit|judged otherwise"),
        ("a hold does not end", "judged otherwise|"),
        ("the mark is not looked at", "P1|limit"),
        ("what is compared holds", "P12"),
        ("no take is remembered", "P12"),
    ],
)
def test_the_model_finds_mistakes(monkeypatch: pytest.MonkeyPatch, mistake: str, complaint: str) -> None:
    behind = Order.behind

    def mistaken(self: Order, seq: int, head: Head) -> tuple[Order, bool]:
        order, holds = behind(self, seq, head)
        if mistake == "a fence is none" and head.flags & FENCE and seq > 1:
            order = order._replace(fence=self.fence)
        elif mistake == "a hold is none" and head.flags == HOLD:
            order = order._replace(held=False, fence=self.fence)
        elif mistake == "a hold does not end" and self.held:
            order = order._replace(held=True)
        elif mistake == "the mark is not looked at" and head.flags & SHARED:
            holds = not self.held
        elif mistake == "what is compared holds" and not head.flags & SHARED:
            holds = True
        elif mistake == "no take is remembered":
            order = order._replace(taken=0)
        return order, holds

    monkeypatch.setattr(fences.Order, "behind", mistaken)
    with pytest.raises(AssertionError, match=complaint):
        explore()
