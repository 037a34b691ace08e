"""Plain publishes go without a comparison: whatever comes in between, the outcome is that of some order."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from auditor import audit, read
from logs import Taker, flags_of, log_of, meanwhile
from servers import Cluster

import mq
from mq.delivery.records import PUBLISH
from mq.nats import following
from mq.nats import log as stream_log
from mq.nats.direct import Direct
from mq.nats.message import FENCE, HOLD, SHARED, TAKES, encode
from mq.nats.sending import Sending

Opens = Callable[..., mq.Broker]
SHARED_SUBJECT = b".shared "


# ── two processes, one inside of the other's append ────────────────────────────────


class Process:
    """A broker, and a message of "q" that it holds."""

    def __init__(self, broker: mq.Broker) -> None:
        self.broker, self.queue = broker, broker.queue("q")
        held = self.queue.receive(timeout=0)
        assert held is not None
        self.held: mq.Delivery[Any] = held


def _publish_with_the_ack(process: Process) -> None:
    with process.broker.transaction() as transaction:
        transaction.ack(process.held)
        transaction.publish(process.broker.queue("other"), "with the ack")


def _ack_and_take(process: Process) -> object:
    """What a loop does, without its patience: it comes for the next message, or finds none."""
    queue, together, taker = process.queue, process.broker._store.together, Taker()
    if together is None or not together.ack_and_take(queue._channel, process.held, taker):
        process.held.ack()
    for id in taker.taken:
        taken = queue.get(id)
        return taken and taken.body
    return _take(process)


def _take(process: Process) -> object:
    message = process.queue.receive(timeout=0)
    return message and message.body


ACTS: dict[str, Callable[[Process], object]] = {
    "publish": lambda process: process.queue.publish("new") and None,
    "publish_many": lambda process: len(process.queue.publish_many(["m1", "m2"])),
    "publish first": lambda process: process.queue.publish("urgent", priority=9) and None,
    "take": _take,
    "loop": _ack_and_take,
    "receive": lambda process: [each.body for each in process.queue.receive_many(1, timeout=0)],
    "receive all": lambda process: [each.body for each in process.queue.receive_many(9, timeout=0)],
    "ack": lambda process: process.held.ack(),
    "nack": lambda process: process.held.nack(delay=60 if process.held.body == "old 0" else 90),
    "release": lambda process: process.held.release(),
    "extend": lambda process: process.held.extend(7200),
    "reject": lambda process: process.held.reject(),
    "limit": lambda process: process.broker.queue("q", max_length=5) and None,
    "few": lambda process: process.broker.queue("q", max_length=4, overflow="drop_oldest") and None,
    "drop dups": lambda process: process.queue.publish("d", dedup_id="d") and None,
    "ttl": lambda process: process.broker.queue("q", ttl=60) and None,
    "purge": lambda process: process.queue.purge(in_flight=True),
    "delete": lambda process: process.queue.delete(),
    "rename": lambda process: process.queue.rename("renamed"),
    "transaction": _publish_with_the_ack,
}


NOT_COMPARED = frozenset({"publish", "take", "loop", "ack", "nack", "release", "extend"})


def outcome(act: str, process: Process) -> str:
    try:
        return repr(ACTS[act](process))
    except mq.MqError as error:
        return type(error).__name__


def note(told: dict[int, str], which: int, act: str, processes: list[Process]) -> None:
    told[which] = outcome(act, processes[which])


def picture(broker: mq.Broker) -> object:
    """All that the store holds."""
    found = {}
    for name in broker.queues():
        queue = broker.queue(name)
        states: tuple[mq.State, ...] = ("ready", "delayed", "in_flight")
        there = [[(each.body, each.attempts) for each in queue.peek(99, state=state)] for state in states]
        found[name] = there, queue.options().get("max_length"), queue.options().get("ttl")
    return found


def begin(broker: mq.Broker) -> None:
    queue = broker.queue("q", visibility_timeout=3600, max_attempts=3)
    broker.queue("other").publish("there")
    for number in range(4):
        queue.publish(f"old {number}")


def serial(*acts: tuple[int, str]) -> tuple[dict[int, str], object]:
    """What the processes were told, one behind the other, and what is there in the end."""
    with mq.open(":memory:") as broker:
        begin(broker)
        processes = [Process(broker), Process(broker)]
        return {which: outcome(act, processes[which]) for which, act in acts}, picture(broker)


@pytest.mark.parametrize("inner", ACTS)
def test_the_outcome_is_that_of_some_order(cluster: Cluster, inner: str) -> None:
    """P1, P2, P6, P12: each of these, decided before the *inner* one, and sent behind it."""
    for outer in ACTS:
        url = cluster.url(f"s{next(NUMBERS)}")
        with mq.open(url) as one, mq.open(url) as two:
            begin(one)
            processes = [Process(one), Process(two)]
            one.queue("q").stats()  # it knows all
            begun = log_of(one).seq
            told: dict[int, str] = {}
            with meanwhile(one, partial(note, told, 1, inner, processes)):
                note(told, 0, outer, processes)
            found = picture(one)
            orders = serial((0, outer), (1, inner)), serial((1, inner), (0, outer))
            assert (told, found) in orders, (outer, inner)
            flags = flags_of(one)[begun:]
            if {inner, outer} <= NOT_COMPARED:
                assert all(each & SHARED for each in flags), (outer, inner)
            if NOT_COMPARED & {inner, outer} - {"publish"}:
                assert SHARED | TAKES in flags, (outer, inner)
            assert picture(two) == found
            store_id = one.store_id
        with mq.open(url) as late:
            assert picture(late) == found
        name = url.rpartition("/")[2]
        assert not audit(asyncio.run(read(cluster.servers(), name)), store_id).wrong


NUMBERS = itertools.count()


# ── what holds, and what does not ──────────────────────────────────────────────────


def test_plain_publishes_takes_and_acks_are_shared_and_others_are_not(opens: Opens) -> None:
    broker = opens()
    queue = broker.queue("q")
    queue.publish("a")  # with the declaration
    queue.publish("b")
    queue.publish("c", priority=3)
    queue.publish_many(["d", "e"])
    message = queue.receive()
    message.ack()
    broker.queue("q", max_length=9)
    queue.publish("f")
    assert flags_of(broker) == [FENCE | TAKES, SHARED, 0, 0, *[SHARED | TAKES] * 2, FENCE | TAKES, 0]


@pytest.fixture
def conflicts(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    found: list[object] = []
    monkeypatch.setattr(stream_log.StreamLog, "_stand_back", found.append)
    return found


def test_publishers_do_not_get_into_the_way_of_receivers(opens: Opens, conflicts: list[object]) -> None:
    one, two = opens(), opens()
    one.queue("q").publish_many(["a", "b"])
    message = two.queue("q").receive()
    for act in (message.ack, lambda: two.queue("q").receive(timeout=0), lambda: two.queue("q").publish("x")):
        with meanwhile(two, lambda: one.queue("q").publish("y")):
            act()
    assert not conflicts
    for broker in (one, two):
        assert [each.body for each in broker.queue("q").peek()] == ["y", "y", "y", "x"]


def test_a_publish_behind_a_fence_is_decided_again(opens: Opens) -> None:
    """P1, P6: it is there once, and the id is that of the one that holds."""
    one, two = opens(), opens()
    one.queue("q").publish_many(["a", "b"])
    assert two.queue("q").stats().ready == 2
    with meanwhile(two, lambda: one.queue("q").purge()):
        id = two.queue("q").publish("c")
    assert flags_of(one)[-3:] == [FENCE | TAKES, SHARED, SHARED]  # the first of those does not hold
    for broker in (one, two, opens()):
        assert [(each.id, each.body) for each in broker.queue("q").peek()] == [(id, "c")]


def test_a_fence_that_publishes_come_in_between_of_asks_for_the_way(opens: Opens) -> None:
    """Else it would never be first, beside publishers that never wait."""
    one, two = opens(), opens()
    one.queue("q").publish_many(["a", "b"])
    two.queue("q").stats()
    send, published = Sending.send, []

    def send_late(self: Sending, *given: Any) -> Any:
        if self is log_of(two)._sending and len(published) < 3:
            published.append(one.queue("q").publish("late"))
        return send(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sending, "send", send_late)
        purged = two.queue("q").purge()
    assert purged == 2 + 3  # those were published beside a fence, beside a hold, and behind that
    assert HOLD in flags_of(one)
    for broker in (one, two, opens()):
        assert not broker.queue("q").peek()


def test_to_ask_for_the_way_reads_nothing_anew(opens: Opens) -> None:
    broker = opens()
    broker.queue("q").publish("a")
    store: Any = broker._store
    log, epoch = log_of(broker), store.replica.epoch
    log._needs_a_hold = True
    assert broker.queue("q").purge() == 1
    assert HOLD in flags_of(broker)
    assert store.replica.epoch == epoch


@pytest.mark.parametrize("publishes", [True, False])
def test_what_was_trimmed_before_an_append_of_ones_own_has_the_state_read_anew(
    opens: Opens, publishes: bool
) -> None:
    """P1, P2: a process that was stopped: what stood in between was trimmed before it came."""
    one, two = opens(), opens()
    queue = one.queue("q")
    queue.publish_many(["a", "b"])
    two.queue("q").stats()
    log = log_of(two)
    send = log._sending.send

    def stopped(*what: Any) -> Any:
        vars(log._sending).pop("send")
        queue.publish("c")
        answer = send(*what)
        log.arrivals.close()
        one._store.maintenance.compact()
        log._connection.run(log.arrivals._subscribe())
        return answer

    log._sending.send = stopped  # type: ignore[method-assign]
    if publishes:
        two.queue("q").publish_many(["d", "e"])
        expected = ["a", "b", "c", "d", "e"]
    else:
        messages = two.queue("q").receive_many(2, timeout=0)
        assert [each.body for each in messages] == ["a", "b"]
        for message in messages:
            message.ack()
        expected = ["c"]
    for broker in (one, two, opens()):
        assert [each.body for each in broker.queue("q").peek()] == expected


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("what", ["does not come", "may be trimmed"])
def test_what_is_stored_behind_what_cannot_be_had_is_not_refused(
    opens: Opens, monkeypatch: pytest.MonkeyPatch, what: str, shared: bool
) -> None:
    """P6: its outcome is open, for this process."""
    one, two = opens(), opens()
    one.queue("q").publish("a")
    two.queue("q").stats()
    log = log_of(two)

    def fail(*given: Any) -> None:
        raise mq.StorageError(two.path, "no server answers")

    with meanwhile(two, lambda: one.queue("q").publish("b")), monkeypatch.context() as patch:
        if what == "does not come":
            patch.setattr(log.arrivals, "wait", fail)
        else:
            patch.setattr(log, "apply_up_to", fail)
        with pytest.raises(mq.StoreFailed, match="was stored"):
            two.queue("q").publish("c", **({} if shared else {"priority": 0}))
    for broker in (one, two, opens()):
        assert [each.body for each in broker.queue("q").peek()] == ["a", "b", "c"]


def test_a_server_that_does_not_know_of_a_trim_yet_is_asked_again(
    opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P7: what was trimmed is no damage."""
    one, two = opens(), opens()
    one.queue("q").publish("a")
    two.queue("q").stats()
    stream: Any = log_of(two)._stream
    late = [stream.range()]
    log_of(two).arrivals.close()
    one.queue("q").publish("b")
    one._store.maintenance.compact()
    late.append(stream.range()._replace(first=1))
    now = stream.range
    monkeypatch.setattr(stream, "range", lambda: late.pop(0) if late else now())
    log = log_of(two)
    log._connection.run(log.arrivals._subscribe())
    with pytest.raises(FileNotFoundError):
        log.arrivals.wait(now().last)
        list(log.follow(log.known_end))
    assert not late
    assert [each.body for each in two.queue("q").peek()] == ["a", "b"]


def test_a_hold_whose_writer_has_died_ends(opens: Opens) -> None:
    broker = opens()
    broker.queue("q").publish("a")
    log = log_of(broker)
    log._append(1, stream_log.EMPTY, frozenset(), HOLD, is_way=True)
    for number in range(4):
        broker.queue("q").publish(f"{number}")
    flags = flags_of(broker)
    begin = flags.index(HOLD)
    assert flags[begin:] == [HOLD, FENCE, SHARED, SHARED, SHARED]


@pytest.mark.parametrize("fate", ["stored", "lost", "stored behind the fence"])
def test_a_shared_publish_without_an_answer_is_there_once(
    opens: Opens, monkeypatch: pytest.MonkeyPatch, fate: str
) -> None:
    """P6: a fence tells whether it stands before that; behind it, it does not hold."""
    broker, ask, late = opens(), Direct.ask, []
    queue = broker.queue("q")
    first = queue.publish(b"0")

    def mistreated(self: Direct, subject: str, *what: Any) -> dict[str, Any] | None:
        if not subject.endswith(".shared"):
            answer = ask(self, subject, *what)
            if late:
                assert ask(self, *late.pop())
            return answer
        if fate == "stored":
            assert ask(self, subject, *what)
        if fate == "stored behind the fence" and not late:
            late.append((subject, *what))
        raise TimeoutError

    monkeypatch.setattr(Direct, "ask", mistreated)
    id = queue.publish(b"x")
    monkeypatch.undo()
    assert flags_of(broker)[1:] == {
        "stored": [SHARED, FENCE], "lost": [FENCE, 0], "stored behind the fence": [FENCE, SHARED, 0]
    }[fate]  # fmt: skip
    for each in (broker, opens()):
        assert [(found.id, found.raw) for found in each.queue("q").peek()] == [(first, b"0"), (id, b"x")]


def test_a_shared_publish_without_an_answer_is_found_among_others(opens: Opens) -> None:
    """P1, P6: what stands before it is applied first, and what stands behind it later."""
    one, two, ask = opens(), opens(), Direct.ask
    one.queue("q").publish("a")
    two.queue("q").stats()

    def unanswered(self: Direct, *what: Any) -> None:
        one.queue("q").publish("before")
        assert ask(self, *what)
        one.queue("q").publish("behind")
        raise TimeoutError

    direct = log_of(two)._sending.direct
    direct.ask = lambda *what: (vars(direct).pop("ask"), unanswered(direct, *what))[1]  # type: ignore
    id = two.queue("q").publish("x")
    for broker in (two, one, opens()):
        there = broker.queue("q").peek()
        assert [each.body for each in there] == ["a", "before", "x", "behind"]
        assert there[2].id == id


def test_if_no_server_tells_the_outcome_is_open(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = opens()
    broker.queue("q").publish("a")

    def nothing(self: Sending, *what: Any) -> None:
        raise mq.StorageError(broker.path, "no answer")

    def lost(self: Direct, *what: Any) -> None:
        raise TimeoutError

    monkeypatch.setattr(Direct, "ask", lost)
    monkeypatch.setattr(Sending, "send", nothing)
    with pytest.raises(mq.StoreFailed, match="the outcome is unknown"):
        broker.queue("q").publish("b")
    monkeypatch.undo()
    broker.queue("q").publish("c")
    assert [each.body for each in broker.queue("q").peek()] == ["a", "c"]


def test_a_store_without_wires_compares(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent once needs a connection that sends once."""
    monkeypatch.setattr(Direct, "ask", lambda *args: None)
    broker = opens()
    for body in "abc":
        broker.queue("q").publish(body)
    assert SHARED not in flags_of(broker)
    assert [each.body for each in broker.queue("q").peek()] == list("abc")


# ── trimming, and the checkpoint ───────────────────────────────────────────────────


def test_a_trim_cuts_at_a_fence(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    """P1: a process that reads the stream from there on judges as those do that have read it all."""
    monkeypatch.setattr(following, "FENCE_MESSAGES", 3)
    one, two = opens(), opens()
    bodies = [f"{number}" for number in range(40)]
    for body in bodies:
        one.queue("q").publish(body)
    two.queue("q").stats()
    for _ in range(3):
        trimmed: Any = one._store  # type: ignore[attr-defined]
        assert trimmed.maintenance.cleaning.trim()
        assert flags_of(one)[0] & FENCE
    monkeypatch.setattr("mq.nats.opening.fetch", lambda *args: None)  # no checkpoint
    late = opens()
    for broker in (one, two, late):
        assert [each.body for each in broker.queue("q").peek(99)] == bodies
    assert log_of(late).order == log_of(one).order


def test_what_did_not_hold_does_not_hold_behind_a_trim_or_a_checkpoint(opens: Opens, url: str) -> None:
    """P3, P6: for those that follow, those that open with a checkpoint, and those without."""
    one, two = opens(), opens()
    queue = one.queue("q")
    queue.publish("a")
    two.queue("q").stats()
    with meanwhile(two, lambda: (one.queue("q").purge(), one._store.maintenance.checkpoints.write())):  # type: ignore[attr-defined]
        two.queue("q").publish("b")
    cleaning: Any = one._store.maintenance.cleaning  # type: ignore[attr-defined]
    assert cleaning._trim_before(flags_of(one).index(FENCE | TAKES, 1) + 1)  # right before what does not hold
    for _ in range(2):
        late = opens()
        for broker in (one, two, late):
            assert [each.body for each in broker.queue("q").peek(99)] == ["b"]
        assert log_of(late).order == log_of(one).order
        cleaning._keep()


@pytest.mark.parametrize("publishes", [True, False])
def test_a_trim_over_a_shared_message_leaves_its_outcome_open(opens: Opens, publishes: bool) -> None:
    """P1, P12: a process that is stopped behind its append, until all of that is trimmed."""
    one, two = opens(), opens()
    one.queue("q").publish("a")
    two.queue("q").stats()
    direct, ask = log_of(two)._sending.direct, Direct.ask

    def stopped(*what: Any) -> Any:
        vars(direct).pop("ask")
        one.queue("q").publish("before")
        answer = ask(direct, *what)
        log_of(two).arrivals.close()
        one._store.maintenance.compact()  # type: ignore[attr-defined]
        log_of(two)._connection.run(log_of(two).arrivals._subscribe())
        return answer

    direct.ask = stopped  # type: ignore[method-assign]
    with pytest.raises(mq.StoreFailed, match="was trimmed meanwhile"):
        two.queue("q").publish("b") if publishes else two.queue("q").receive(timeout=0)
    for broker in (one, two, opens()):
        ready, held = (broker.queue("q").peek(state=state) for state in ("ready", "in_flight"))
        assert [each.body for each in ready] == (["a", "before", "b"] if publishes else ["before"])
        assert [each.body for each in held] == ([] if publishes else ["a"])


# ── a stream that lost its end ─────────────────────────────────────────────────────


@pytest.mark.parametrize("flags", [SHARED, 0], ids=["shared", "compared"])
def test_what_knew_a_message_behind_itself_does_not_hold(opens: Opens, cluster: Cluster, flags: int) -> None:
    """P3: its writer had read an end that the stream has lost."""
    broker = opens()
    broker.queue("q").publish("a")
    log = log_of(broker)
    mark = log.order.fence if flags else log.order.compared
    encoded = encode([(PUBLISH, 0, 1, b'"b"')])
    (data,) = encoded.messages(log._stream.seed, mark, 7, 5, flags, (log.seq + 3, 9))
    cluster.publish(log._stream.shared if flags else log._stream.subject, data)
    broker.queue("q").publish("c")
    for each in (broker, opens()):
        assert [found.body for found in each.queue("q").peek()] == ["a", "c"]


def test_what_knew_another_message_is_reported(opens: Opens, cluster: Cluster) -> None:
    """P7: the stream lost its end, and has grown again since: one of the processes has read what is gone."""
    broker = opens()
    broker.queue("q").publish("a")
    broker.queue("q").publish("b")
    log = log_of(broker)
    encoded = encode([(PUBLISH, 0, 1, b'"c"')])
    (data,) = encoded.messages(log._stream.seed, log.order.fence, 7, 5, SHARED, (log.seq, 9))
    cluster.publish(log._stream.shared, data)
    for use in (lambda: broker.queue("q").stats(), opens):
        with pytest.raises(mq.CorruptStore, match="its writer knew") as caught:
            use()
        assert caught.value.offset == log.seq
