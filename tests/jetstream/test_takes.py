"""Deliveries and settlements go without a comparison: the first in the stream holds, and all judge alike."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from fakes import FakeClock
from logs import Taker, flags_of, log_of, meanwhile
from random_takers import Story
from servers import Cluster

import mq
from mq.delivery import records
from mq.delivery.options import Declaration
from mq.delivery.state import State
from mq.delivery.traits import PLAIN, Traits
from mq.nats import following, takes
from mq.nats import log as stream_log
from mq.nats.direct import Direct
from mq.nats.fences import Order
from mq.nats.message import FENCE, HOLD, SHARED, TAKES, Encoded, begin_of, head_of
from mq.nats.takes import Spread, share_of

Opens = Callable[..., mq.Broker]
TAKEN = SHARED | TAKES
STORIES = 2
LATER = 100.0  # seconds: longer than any timeout, backoff and delay here


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def one(opens: Opens, clock: FakeClock) -> mq.Queue[Any]:
    """Of one process; there are four messages, "a" to "d"."""
    queue: mq.Queue[Any] = opens(clock=clock).queue("q", visibility_timeout=5, backoff=mq.Backoff(1, 1, 1, 0))
    queue.publish_many([*"abcd"])
    return queue


@pytest.fixture
def two(one: mq.Queue[Any], opens: Opens, clock: FakeClock) -> mq.Queue[Any]:
    """The same queue, of another process."""
    queue: mq.Queue[Any] = opens(clock=clock).queue("q")
    queue.stats()
    return queue


def broker_of(queue: mq.Queue[Any]) -> mq.Broker:
    return mq.Broker(queue._store)


def take(queue: mq.Queue[Any], **options: Any) -> mq.Delivery[Any]:
    message = queue.receive(timeout=0, **options)
    assert message is not None
    return message


def seen(queue: mq.Queue[Any]) -> list[tuple[str, str, int]]:
    """Each message: where it is, its body and attempts."""
    states: tuple[mq.State, ...] = ("ready", "delayed", "in_flight")
    return [(state, each.body, each.attempts) for state in states for each in queue.peek(99, state=state)]


def all_see(opens: Opens, clock: FakeClock, *queues: mq.Queue[Any]) -> list[tuple[str, str, int]]:
    """What all of them see, and a process that reads the stream now."""
    first, *others = [seen(queue) for queue in (*queues, opens(clock=clock).queue("q"))]
    assert all(other == first for other in others)
    return first


# ── two processes, and one message ─────────────────────────────────────────────────


def test_the_first_has_the_message_and_the_other_takes_the_next(
    one: mq.Queue[Any], two: mq.Queue[Any], opens: Opens, clock: FakeClock
) -> None:
    """P12: both decide to take "a"."""
    begun = log_of(one).seq
    with meanwhile(broker_of(one), lambda: take(two)):
        assert take(one).body == "b"
    assert flags_of(broker_of(one))[begun:] == [TAKEN] * 3  # the second one is void
    assert all_see(opens, clock, one, two) == [
        ("ready", "c", 0), ("ready", "d", 0), ("in_flight", "a", 1), ("in_flight", "b", 1)
    ]  # fmt: skip


SETTLEMENTS: dict[str, Callable[[mq.Delivery[Any]], object]] = {
    "ack": lambda message: message.ack(),
    "nack": lambda message: message.nack(delay=0),
    "release": lambda message: message.release(),
    "extend": lambda message: message.extend(50),
    "reject": lambda message: message.reject(),
}


@pytest.mark.parametrize("how", SETTLEMENTS)
def test_what_was_decided_before_a_redelivery_is_stale_behind_it(
    one: mq.Queue[Any], two: mq.Queue[Any], opens: Opens, clock: FakeClock, how: str
) -> None:
    """P12: the receiver was too slow, and another one has the message when the settlement is stored."""
    message, again = take(one), []

    def redeliver() -> None:
        clock.advance(LATER)
        again.append(take(two))

    with meanwhile(broker_of(one), redeliver), pytest.raises(mq.StaleReceipt):
        SETTLEMENTS[how](message)
    assert (again[0].body, again[0].attempts) == ("a", 2)
    assert ("in_flight", "a", 2) in all_see(opens, clock, one, two)
    again[0].ack()
    assert "a" not in {body for _, body, _ in all_see(opens, clock, one, two)}


@pytest.mark.parametrize("how, body", [("ack", "b"), ("nack", "a"), ("release", "a"), ("reject", "b")])
def test_a_redelivery_that_was_decided_before_a_settlement_is_decided_again(
    one: mq.Queue[Any], two: mq.Queue[Any], opens: Opens, clock: FakeClock, how: str, body: str
) -> None:
    """P2, P12: it had timed out, and the receiver settles it all the same."""
    message = take(one)
    clock.advance(LATER)
    with meanwhile(broker_of(two), lambda: SETTLEMENTS[how](message)):
        assert take(two).body == body
    assert len([each for each in all_see(opens, clock, one, two) if each[0] == "in_flight"]) == 1


def test_a_settlement_of_a_program_that_knew_of_both_deliveries_holds(
    one: mq.Queue[Any], two: mq.Queue[Any], opens: Opens, clock: FakeClock
) -> None:
    take(one)
    clock.advance(LATER)
    again = take(two)
    one.stats()
    again.ack()
    assert all_see(opens, clock, one, two) == [("ready", body, 0) for body in "bcd"]


def test_a_fence_between_a_take_and_what_it_was_decided_on_has_it_decided_again(
    one: mq.Queue[Any], two: mq.Queue[Any], opens: Opens, clock: FakeClock
) -> None:
    """P3: what was purged is not delivered."""
    with meanwhile(broker_of(one), two.purge):
        assert one.receive(timeout=0) is None
    assert all_see(opens, clock, one, two) == []


def test_what_others_do_about_other_messages_costs_nothing(
    one: mq.Queue[Any], two: mq.Queue[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a take and each settlement of a message, takes and settlements of others are no conflict."""
    mine, others = one.receive_many(2, timeout=0), two.receive_many(2, timeout=0)
    conflicts: list[object] = []
    monkeypatch.setattr(stream_log.StreamLog, "_stand_back", conflicts.append)
    one.stats()
    begun = log_of(one).seq
    for act, beside in ((mine[0].extend, others[0].ack), (mine[0].release, others[1].extend)):
        with meanwhile(broker_of(one), beside):
            act()
    with meanwhile(broker_of(one), others[1].release):
        mine[1].nack(delay=0)
    two.publish("e")
    assert flags_of(broker_of(one))[begun:] == [TAKEN] * 6 + [SHARED]
    assert not conflicts


def test_a_message_that_is_delayed_meanwhile_is_not_taken(
    one: mq.Queue[Any], two: mq.Queue[Any], opens: Opens, clock: FakeClock
) -> None:
    """P5: another one has taken it first, and given it back for later."""
    with meanwhile(broker_of(one), lambda: take(two).nack(delay=60)):
        assert take(one).body == "b"
    assert ("delayed", "a", 1) in all_see(opens, clock, one, two)


def test_a_message_that_was_given_back_meanwhile_is_taken_as_the_next_attempt(
    one: mq.Queue[Any], two: mq.Queue[Any], opens: Opens, clock: FakeClock
) -> None:
    """P12: it is ready where the take stands, and that is what counts."""
    with meanwhile(broker_of(one), lambda: take(two).nack(delay=0)):
        message = take(one)
    assert (message.body, message.attempts) == ("a", 2)
    message.ack()
    assert all_see(opens, clock, one, two) == [("ready", body, 0) for body in "bcd"]


def test_a_message_of_a_group_is_taken_with_a_comparison(one: mq.Queue[Any]) -> None:
    """P5: whether it is ready depends on others."""
    one.purge()
    one.publish("g", group="g")
    begun = log_of(one).seq
    message = take(one)
    message.extend(9)
    message.ack()
    assert flags_of(broker_of(one))[begun:] == [TAKES, TAKES, TAKEN]


NOW, AT = 1000, 77  # ms; the message of the stream, in which the record stands
ID, RECEIPT = begin_of(3) | 60, begin_of(AT - 7) | 60
WAITS: dict[str, tuple[int, Traits]] = {
    "waits": (0, PLAIN),
    "urgent": (0, Traits(priority=9)),
    "was delayed": (NOW, PLAIN),
    "delayed": (NOW + 1, PLAIN),
    "expires": (0, Traits(expires=NOW + 1)),
    "expired": (0, Traits(expires=NOW)),
    "of a group": (0, Traits(group="g")),
}


@pytest.mark.parametrize("case", WAITS)
def test_a_delivery_holds_if_the_message_is_ready(case: str) -> None:
    due, traits = WAITS[case]
    state = State()
    state.made(1).take_in(ID, 1, due, traits)
    holds = partial(takes.holds, state, records.DELIVER, known=AT - 1, time_ms=NOW)
    assert holds(1, ID) == (case in ("waits", "urgent", "was delayed", "expires"))
    assert not holds(2, ID)
    assert not holds(1, ID + 1)
    state.made(1).deliver(ID, RECEIPT, NOW - 1, 0)
    assert not holds(1, ID)  # it has timed out: that is for a delivery that is compared


@pytest.mark.parametrize("attempts_max, holds", [(1, False), (2, True), (None, True)])
def test_a_delivery_holds_if_an_attempt_is_left(attempts_max: int | None, holds: bool) -> None:
    state = State()
    queue = state.made(1)
    queue.declare(Declaration(name="q", max_attempts=attempts_max), 1)
    queue.publish(ID, 1)
    queue.deliver(ID, RECEIPT, NOW, 0)
    queue.nack(ID, 0)
    assert takes.holds(state, records.DELIVER, 1, ID, AT - 1, NOW) == holds


@pytest.mark.parametrize("kind", sorted(takes.SETTLES))
@pytest.mark.parametrize("group", [None, "g"])
@pytest.mark.parametrize("deadline", [NOW + 1, NOW])
@pytest.mark.parametrize("known", [AT - 7, AT - 8])
def test_a_settlement_holds_if_its_delivery_is_the_last(
    kind: int, group: str | None, deadline: int, known: int
) -> None:
    state = State()
    state.made(1).take_in(ID, 1, 0, Traits(group=group))
    assert not takes.holds(state, kind, 1, ID, known, NOW)
    state.made(1).deliver(ID, RECEIPT, deadline, 0)
    is_last = known == AT - 7
    is_simple = kind == records.ACK or (group is None and deadline > NOW)
    assert takes.holds(state, kind, 1, ID, known, NOW) == (is_last and is_simple)


@pytest.mark.parametrize("missed, holds", [(0, True), (1, True), (2, False), (3, False)])
@pytest.mark.parametrize("flags", [TAKES, TAKES | FENCE, TAKES | HOLD])
def test_what_is_compared_holds_unless_a_take_stands_in_between(flags: int, missed: int, holds: bool) -> None:
    """P1, P12: its effect as a fence stands in any case, for all judge what is shared by that."""
    last, taken, seq = 9, 8, 10
    order = Order((last, 1), (5, 1), (4, 1), False, taken)
    (data,) = Encoded([b""], []).messages(7, (5, 1), 1, 0, flags, (last - missed, 0))
    head = head_of(data)
    after, found = order.behind(seq, head)
    assert found == holds
    this = (seq, head.crc)
    fence = (this, bool(flags & HOLD)) if flags & (FENCE | HOLD) else ((4, 1), False)
    assert after == Order(this, this, *fence, taken)


# ── a loop: an ack and a take in one message ───────────────────────────────────────


def ack_and_take(queue: mq.Queue[Any], message: mq.Delivery[Any]) -> tuple[bool, list[str]]:
    """Whether the ack holds, and the bodies of what was taken."""
    together, taker = queue._store.together, Taker()
    assert together
    is_acked = together.ack_and_take(queue._channel, message, taker)
    bodies = [queue.get(id) for id in taker.taken]
    return is_acked, [each.body for each in bodies if each]


def test_the_ack_of_a_loop_holds_though_the_next_message_is_taken_by_another(
    one: mq.Queue[Any], two: mq.Queue[Any], opens: Opens, clock: FakeClock
) -> None:
    """P2, P12."""
    message = take(one)
    begun = log_of(one).seq
    with meanwhile(broker_of(one), lambda: take(two)):
        assert ack_and_take(one, message) == (True, [])
    assert flags_of(broker_of(one))[begun:] == [TAKEN] * 2
    assert all_see(opens, clock, one, two) == [("ready", "c", 0), ("ready", "d", 0), ("in_flight", "b", 1)]
    with pytest.raises(mq.StaleReceipt):
        message.ack()


def test_the_next_message_of_a_loop_is_taken_though_the_ack_is_stale(
    one: mq.Queue[Any], two: mq.Queue[Any], opens: Opens, clock: FakeClock
) -> None:
    """P12: the loop was too slow, and its message is redelivered, which was not ready as the loop decided."""
    message, again = take(one), []
    clock.advance(5.5)  # the delivery has timed out, and its backoff is not over

    def redeliver() -> None:
        clock.advance(1)
        again.append(take(two))

    with meanwhile(broker_of(one), redeliver):
        assert ack_and_take(one, message) == (False, ["b"])
    assert [(each.body, each.attempts) for each in again] == [("a", 2)]
    with pytest.raises(mq.StaleReceipt):
        message.ack()
    assert all_see(opens, clock, one, two) == [
        ("ready", "c", 0), ("ready", "d", 0), ("in_flight", "b", 1), ("in_flight", "a", 2)
    ]  # fmt: skip


def test_a_loop_of_which_nothing_holds_decides_again(
    one: mq.Queue[Any], two: mq.Queue[Any], opens: Opens, clock: FakeClock
) -> None:
    """P12: it finds that the ack is stale, and takes nothing."""
    message = take(one)
    clock.advance(5.5)

    def redeliver() -> None:
        clock.advance(1)
        assert [take(two).body, take(two).body] == ["a", "b"]

    with meanwhile(broker_of(one), redeliver):
        assert ack_and_take(one, message) == (False, [])
    assert ("in_flight", "a", 2) in all_see(opens, clock, one, two)


# ── beside what is compared, and fences ────────────────────────────────────────────


def test_what_is_compared_is_void_behind_a_take_and_asks_for_the_way(
    one: mq.Queue[Any], two: mq.Queue[Any], opens: Opens, clock: FakeClock
) -> None:
    """P12: a batch would have the message that another one has taken meanwhile."""
    begun = log_of(one).seq
    with meanwhile(broker_of(one), lambda: take(two)):
        assert [each.body for each in one.receive_many(2, timeout=0)] == ["b", "c"]
    assert flags_of(broker_of(one))[begun:] == [TAKEN, TAKES, HOLD, FENCE | TAKES]
    assert all_see(opens, clock, one, two) == [
        ("ready", "d", 0), ("in_flight", "a", 1), ("in_flight", "b", 1), ("in_flight", "c", 1)
    ]  # fmt: skip


def test_the_effect_of_a_fence_stands_though_what_it_says_is_void(
    one: mq.Queue[Any], two: mq.Queue[Any], opens: Opens, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P1, P12: all judge alike what is shared behind it."""
    monkeypatch.setattr(following, "FENCE_MESSAGES", 1)  # so that the batch is a fence
    begun = log_of(one).seq
    with meanwhile(broker_of(one), lambda: take(two)):
        one.receive_many(2, timeout=0)
    assert flags_of(broker_of(one))[begun:][:2] == [TAKEN, FENCE | TAKES]
    two.publish("e")
    assert [body for state, body, _ in all_see(opens, clock, one, two) if state == "ready"] == ["d", "e"]


def test_a_compared_publish_holds_behind_a_take(
    one: mq.Queue[Any], two: mq.Queue[Any], opens: Opens, clock: FakeClock
) -> None:
    """P1: it says nothing about deliveries."""
    begun = log_of(one).seq
    with meanwhile(broker_of(one), lambda: take(two)):
        one.publish("e", priority=3)
    assert flags_of(broker_of(one))[begun:] == [TAKEN, 0]
    assert ("ready", "e", 0) in all_see(opens, clock, one, two)


def test_takes_are_fenced_now_and_then(one: mq.Queue[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a stream of nothing but takes and acks could be cut nowhere."""
    monkeypatch.setattr(following, "FENCE_MESSAGES", 3)
    for _ in range(3):
        one.publish("e", priority=1)  # of these one is a fence
    begun = log_of(one).seq
    for _ in range(30):
        take(one).release()
    flags = flags_of(broker_of(one))[begun:]
    gaps = [len(gap) for gap in "".join("f" if each & FENCE else "." for each in flags).split("f")]
    assert max(gaps) <= 2 * 3 + 1
    assert set(flags) == {TAKEN, FENCE}


# ── no answer ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("fate", ["stored", "lost", "stored behind the fence"])
@pytest.mark.parametrize("does", ["take", "ack", "ack and take"])
def test_what_is_shared_and_has_no_answer_is_done_once(
    one: mq.Queue[Any], opens: Opens, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, fate: str, does: str
) -> None:
    """P12: a fence tells whether it stands before that; behind it, it does not hold."""
    held = None if does == "take" else take(one)
    ask, late, begun = Direct.ask, list[Any](), log_of(one).seq

    def mistreated(self: Direct, subject: str, *what: Any) -> dict[str, Any] | None:
        if not subject.endswith(".shared"):
            answer = ask(self, subject, *what)
            if late:
                stored = ask(self, *late.pop())
                assert stored
                log_of(one).arrivals.wait(stored["seq"])  # it is at hand, too
                monkeypatch.undo()
            return answer
        if fate == "stored":
            assert ask(self, subject, *what)
        if fate == "stored behind the fence" and not late:
            late.append((subject, *what))
        if fate == "lost":
            monkeypatch.undo()
        raise TimeoutError

    monkeypatch.setattr(Direct, "ask", mistreated)
    if held is None:
        assert take(one).body == "a"
    elif does == "ack":
        held.ack()
    else:
        assert ack_and_take(one, held) == (True, ["b"])
    monkeypatch.undo()
    assert flags_of(broker_of(one))[begun:] == {
        "stored": [TAKEN, FENCE], "lost": [FENCE, TAKEN], "stored behind the fence": [FENCE, TAKEN, TAKEN]
    }[fate]  # fmt: skip
    first = {"take": "a", "ack": "", "ack and take": "b"}[does]
    waiting = [body for body in "abcd" if body > first and (held is None or body > "a")]
    expected = [("ready", body, 0) for body in waiting] + ([("in_flight", first, 1)] if first else [])
    assert all_see(opens, clock, one) == expected


# ── those that come late ───────────────────────────────────────────────────────────


def test_a_queue_that_is_not_loaded_yet_is_judged_as_by_others(
    one: mq.Queue[Any], opens: Opens, clock: FakeClock
) -> None:
    """P2: a checkpoint holds a delivery of it, and no message that waits."""
    one.purge()
    one.publish("x")
    message = take(one)
    broker_of(one)._store.maintenance.checkpoints.write()
    late = opens(clock=clock)
    message.ack()
    late.queue("another").publish("y")  # it follows, and has not used that queue
    assert all_see(opens, clock, one, late.queue("q")) == []


@pytest.fixture
def without_a_checkpoint(
    opens: Opens, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Any]:
    """Opens the store by its stream alone; the queue."""

    def late() -> Any:
        with monkeypatch.context() as patch:
            patch.setattr("mq.nats.opening.fetch", lambda *args: None)
            return opens(clock=clock).queue("q")

    return late


def before_messages_are_moved(trims: mq.Queue[Any], do: Callable[[], object]) -> None:
    """Have this process trim all; *do* happens once the declaration is written again, and no message is."""
    log = log_of(trims)
    append = log.append_group

    def append_behind(now_ms: int, drafts: Any, **options: Any) -> list[int]:
        if any(kind == records.RELOCATE for kind, *_ in drafts):
            vars(log).pop("append_group", None)
            do()
        return append(now_ms, drafts, **options)

    log.append_group = append_behind  # type: ignore[method-assign]
    cleaning: Any = trims._store.maintenance.cleaning
    cleaning.trim_all()
    assert "append_group" not in vars(log)


def test_an_ack_of_what_a_late_process_does_not_know_counts(
    one: mq.Queue[Any], two: mq.Queue[Any], without_a_checkpoint: Callable[[], mq.Queue[Any]]
) -> None:
    """P2: the message is not written again, for it is gone by then."""
    message = take(one)
    before_messages_are_moved(two, lambda: (message.ack(), take(one)))
    late = without_a_checkpoint()
    assert seen(late) == seen(one) == seen(two)
    assert late.stats() == one.stats() == two.stats()
    assert late.stats().acked == 1


def test_what_came_too_late_counts_for_no_process(
    one: mq.Queue[Any],
    two: mq.Queue[Any],
    clock: FakeClock,
    without_a_checkpoint: Callable[[], mq.Queue[Any]],
) -> None:
    """Of a message that was published before the stream begins, and is gone by then."""
    cleaning: Any = one._store.maintenance.cleaning
    cleaning.trim_all()
    message, late = take(one), without_a_checkpoint()
    late.stats()

    def redeliver() -> None:
        clock.advance(LATER)
        take(two).ack()

    with meanwhile(broker_of(one), redeliver), pytest.raises(mq.StaleReceipt):
        message.ack()
    later = without_a_checkpoint()
    assert seen(later) == seen(late) == seen(one)
    assert [queue.stats().acked for queue in (one, two, late, later)] == [1, 1, 1, 1]


def test_all_agree_whatever_processes_do(cluster: Cluster) -> None:
    """P1, P2, P3, P12: see random_takers.py, which goes on for as long as you like."""
    for number in range(STORIES):
        Story(cluster, f"{number}").play()


# ── which message is taken ─────────────────────────────────────────────────────────

COUNT = 200
ME, OTHER, THIRD = 11, 22, 33


def queue_of(count: int = COUNT) -> Any:
    queue = State().made(1)
    for id in range(1, count + 1):
        queue.publish(id << 20 | 60, 1)
    return queue


def spread_between(*processes: int) -> list[Spread]:
    """Each of them has seen the others take from queue 1, and has taken in vain too often."""
    spreads = [Spread(me) for me in processes]
    for spread in spreads:
        for process in processes:
            spread.took(1, process)
        for _ in range(-(-takes.OFTEN // takes.MISS)):
            spread.met(1)
    return spreads


def drain(queue: Any, turns: Callable[[], Spread], spreads: list[Spread]) -> list[tuple[int, int]]:
    """Take all, each one by the process whose turn it is: the process, and the id."""
    found = []
    while (id := queue.waiting.head) is not None:
        spread = turns()
        picked = spread.pick(queue, id)
        found.append((spread.me, picked))
        queue.deliver(picked, len(found), 1 << 60, 0)
        for each in spreads:
            each.took(1, spread.me)
    return found


def test_the_order_is_strict_while_nothing_is_taken_in_vain() -> None:
    """P5."""
    queue, spread = queue_of(), Spread(ME)
    for process in (OTHER, THIRD, ME) * 20:
        spread.took(1, process)
        assert spread.pick(queue, queue.waiting.head) == queue.waiting.head


def test_the_order_is_strict_while_little_is_taken_in_vain() -> None:
    """One delivery in vain for each few that are not."""
    queue, spread = queue_of(), Spread(ME)
    spread.took(1, OTHER)
    for _ in range(50):
        spread.met(1)
        for _ in range(takes.MISS):
            spread.took(1, ME)
        assert spread.pick(queue, queue.waiting.head) == queue.waiting.head


@pytest.mark.parametrize("count", [2, 3, 8])
def test_no_two_processes_pick_one_message(count: int) -> None:
    """While the share of each has a message in the window."""
    queue = queue_of()
    picked = [spread.pick(queue, queue.waiting.head) for spread in spread_between(*range(1, count + 1))]
    shares = [share_of(id, count) for id in picked]
    owned = [id for id, share, me in zip(picked, shares, range(count), strict=True) if share == me]
    assert len(set(owned)) == len(owned) >= count - 1


def test_a_message_that_another_call_of_the_process_has_is_not_picked() -> None:
    queue = queue_of()
    (spread, _) = spread_between(ME, OTHER)
    first = spread.pick(queue, queue.waiting.head)
    second = spread.pick(queue, queue.waiting.head, {first})
    assert second != first
    assert share_of(first, 2) == share_of(second, 2)


def stranger(queue: Any, spreads: list[Spread]) -> Spread:
    """One of them that leaves the next message to another one."""
    return next(each for each in spreads if each.pick(queue, queue.waiting.head) != queue.waiting.head)


def test_a_process_is_spread_until_it_has_taken_for_a_while_with_nothing_in_vain() -> None:
    queue = queue_of()
    spread = stranger(queue, spread_between(ME, OTHER))
    for _ in range(takes.WARM - 1):
        spread.took(1, spread.me)
    spread.took(1, OTHER if spread.me == ME else ME)  # it is there, still
    assert spread.pick(queue, queue.waiting.head) != queue.waiting.head
    spread.took(1, spread.me)
    assert spread.pick(queue, queue.waiting.head) == queue.waiting.head


def test_messages_are_overtaken_by_few_others() -> None:
    """P5: also if one of three processes takes next to nothing."""
    queue, spreads = queue_of(), spread_between(ME, OTHER, THIRD)
    count = 0

    def turns() -> Spread:
        nonlocal count
        count += 1
        for each in spreads:
            each.met(1)  # it goes on
        return spreads[2 if count % 40 == 0 else count % 2]

    found = [id for _, id in drain(queue, turns, spreads)]
    assert sorted(found) == [id << 20 | 60 for id in range(1, COUNT + 1)]
    overtaken = [sum(other > id for other in found[:at]) for at, id in enumerate(found)]
    assert 0 < max(overtaken) <= 40  # each looks at 12, and to whom they belong is chance


def test_a_process_that_died_is_forgotten() -> None:
    """Its share would wait until nothing else does."""
    queue = queue_of()
    spread = stranger(queue, spread_between(ME, OTHER))
    for _ in range(takes.REMEMBERED):
        spread.took(1, spread.me)
        spread.met(1)
    assert spread.pick(queue, queue.waiting.head) == queue.waiting.head


def test_a_process_that_is_alone_takes_in_order_however_it_was_before() -> None:
    queue = queue_of()
    (spread,) = spread_between(ME)

    def turns() -> Spread:
        spread.met(1)
        return spread

    found = drain(queue, turns, [spread])
    assert [id for _, id in found] == sorted(id for _, id in found)


def test_what_is_urgent_is_not_left_to_others_for_long() -> None:
    """P5: each lane has its own shares, and the one that comes first is taken from."""
    queue = queue_of()
    (spread, _) = spread_between(ME, OTHER)
    urgent = (COUNT + 1) << 20 | 60
    queue.ready.lane(9).append(urgent)
    assert spread.pick(queue, urgent) == urgent


def test_of_many_queues_the_latest_are_known() -> None:
    """A program may have very many, each for a short time."""
    spread = Spread(ME)
    for number in range(takes.QUEUES_MAX + 9):
        spread.took(number, ME)
    assert set(spread._takers) == set(range(9, takes.QUEUES_MAX + 9))
