"""A loop takes its next message with the ack of this one: one append, and nothing that a program can see."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from engines import PATIENCE
from fakes import FakeClock
from logs import log_of
from servers.node import until

import mq
from mq.aio.broker import AsyncBroker
from mq.aio.lane import THREADS
from mq.engine import ahead
from mq.engine import together as together_module
from mq.engine.log import Conflict
from mq.errors import StorageError
from mq.nats import store as stores
from mq.nats import takes
from mq.nats.sending import Sending
from mq.workers.run import Run
from mq.workers.slot import ThreadSlot

Opens = Callable[..., mq.Broker]
COUNT = 8


@pytest.fixture
def broker(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> mq.Broker:
    """On a machine that may be slow, each loop comes soon."""
    monkeypatch.setattr(ahead, "PROMPT_SECONDS", PATIENCE)
    monkeypatch.setattr(ahead, "GIVE_BACK_SECONDS", PATIENCE)
    return opens()


@pytest.fixture
def queue(broker: mq.Broker) -> mq.Queue[Any]:
    found: mq.Queue[Any] = broker.queue("q", visibility_timeout=3600)
    found.publish_many(range(COUNT))
    return found


@pytest.fixture
def beside(opens: Opens, queue: mq.Queue[Any]) -> mq.Queue[Any]:
    """Of another process, as far as the store can tell."""
    return opens().queue("q")


def follow(queue: mq.Queue[Any], loop: Iterator[mq.Delivery[Any]], count: int) -> list[int]:
    """Ack *count* messages; what they were."""
    found = []
    for _ in range(count):
        message = next(loop)
        message.ack()
        found.append(message.body)
    return found


def begin(queue: mq.Queue[Any]) -> Iterator[mq.Delivery[Any]]:
    """A loop that has taken a message ahead, the third one."""
    loop = iter(queue)
    assert follow(queue, loop, 2) == [0, 1]
    return loop


def give_back_now(queue: mq.Queue[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the thread that gives back take no loop for one that comes soon; so far it did."""
    aheads = queue._store.ahead
    assert aheads
    monkeypatch.setattr(ahead, "GIVE_BACK_SECONDS", 0.0)
    aheads.worker.ring()


def in_flight(queue: mq.Queue[Any]) -> list[tuple[int, int]]:
    """Bodies and attempts, as another process sees them."""
    return [(each.body, each.attempts) for each in queue.peek(99, state="in_flight")]


def ready(queue: mq.Queue[Any]) -> list[tuple[int, int]]:
    return [(each.body, each.attempts) for each in queue.peek(99)]


# ── one append ─────────────────────────────────────────────────────────────────────


def test_a_message_costs_one_append(queue: mq.Queue[Any], beside: mq.Queue[Any]) -> None:
    loop = begin(queue)
    before = log_of(queue).seq
    assert follow(queue, loop, 4) == [2, 3, 4, 5]
    assert log_of(queue).seq - before == 4
    assert beside.stats().acked == 6
    assert in_flight(beside) == [(6, 1)]


def test_the_first_ack_of_a_loop_takes_nothing(queue: mq.Queue[Any], beside: mq.Queue[Any]) -> None:
    loop = iter(queue)
    assert follow(queue, loop, 1) == [0]
    assert in_flight(beside) == []


def test_a_receive_takes_nothing_ahead(queue: mq.Queue[Any], beside: mq.Queue[Any]) -> None:
    for _ in range(4):
        queue.receive().ack()
        assert in_flight(beside) == []


def test_a_block_acks_the_same_way(queue: mq.Queue[Any]) -> None:
    seen = []
    for message in queue:
        before = log_of(queue).seq
        with message:
            seen.append(message.body)
        assert log_of(queue).seq == before + 1
        if len(seen) == COUNT:
            break
    assert seen == list(range(COUNT))
    assert queue.stats().acked == COUNT
    # Of the deliveries, the first two alone were appended by themselves.
    assert queue.stats().in_flight == 0


def test_what_is_nacked_takes_nothing(queue: mq.Queue[Any], beside: mq.Queue[Any]) -> None:
    loop = begin(queue)
    message = next(loop)
    message.nack(delay=3600, reason="no")
    assert in_flight(beside) == []
    assert follow(queue, loop, 2) == [3, 4]


def test_the_loop_waits_where_nothing_is_ready(queue: mq.Queue[Any], beside: mq.Queue[Any]) -> None:
    loop = begin(queue)
    follow(queue, loop, COUNT - 2)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(next, loop)
        until(lambda: bool(queue._store.waiters.asleep), "it does not wait")
        beside.publish("late")
        assert waits.result(PATIENCE).body == "late"


def test_the_visibility_timeout_begins_with_the_ack(queue: mq.Queue[Any], beside: mq.Queue[Any]) -> None:
    begin_ms = queue._store.clock.store_ms()
    loop = begin(queue)
    (there,) = beside.peek(state="in_flight")
    end_ms = queue._store.clock.store_ms()
    assert there._flight.deadline - 3600_000 in range(begin_ms, end_ms + 1)
    assert next(loop).due_at == there.due_at


# ── the order, and what is not to be delivered ─────────────────────────────────────


def test_priorities_groups_and_delays(broker: mq.Broker) -> None:
    """P5: as they come to a receiver that takes each when it has acked the one before."""
    queue: mq.Queue[Any] = broker.queue("mixed", visibility_timeout=3600)

    def fill() -> None:
        for n in range(4):
            queue.publish(("low", n))
            queue.publish(("high", n), priority=5)
            queue.publish(("a", n), group="a")
            queue.publish(("b", n), group="b")
        queue.publish("late", delay=3600)

    fill()
    found = []
    for message in queue:
        message.ack()
        found.append(message.body)
        if len(found) == 16:
            break
    assert found[:4] == [["high", n] for n in range(4)]
    for name in ("low", "a", "b"):
        assert [n for kind, n in found if kind == name] == [0, 1, 2, 3]
    assert queue.stats().delayed == 1


def test_a_group_has_one_message_in_flight(broker: mq.Broker, opens: Opens) -> None:
    queue: mq.Queue[Any] = broker.queue("one", visibility_timeout=3600)
    queue.publish_many(range(4), group="g")
    other = opens().queue("one")
    for n, message in enumerate(queue):
        assert message.body == n
        assert other.receive(timeout=0) is None
        message.ack()
        if n == 3:
            break


def test_a_paused_queue_delivers_nothing(queue: mq.Queue[Any], beside: mq.Queue[Any]) -> None:
    loop = begin(queue)
    beside.pause()
    until(lambda: bool(queue._channel.state and queue._channel.state.paused), "it is not told")
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(next, loop)
        until(lambda: bool(queue._store.waiters.asleep), "it does not wait")
        assert in_flight(beside) == []
        beside.resume()
        assert waits.result(PATIENCE).body == 2


def test_an_at_most_once_queue(broker: mq.Broker) -> None:
    queue: mq.Queue[Any] = broker.queue("once", delivery="at_most_once")
    queue.publish_many(range(4))
    for n, message in enumerate(queue):
        assert message.body == n
        assert queue.stats().ready == 3 - n
        if n == 3:
            break


@pytest.mark.usefixtures("broker")  # whose loops come soon
def test_what_timed_out_is_not_handed_out(opens: Opens, clock: FakeClock) -> None:
    queue: mq.Queue[Any] = opens(clock=clock).queue("short", visibility_timeout=30, backoff=mq.Backoff(0))
    queue.publish_many(range(4))
    loop = begin(queue)
    other = opens(clock=clock).queue("short", visibility_timeout=3600)
    assert in_flight(other) == [(2, 1)]
    clock.advance(31)
    message = other.receive()
    assert (message.body, message.attempts) == (2, 2)
    assert follow(queue, loop, 1) == [3]
    message.ack()


def test_what_timed_out_and_was_not_taken_is_received_anew(broker: mq.Broker) -> None:
    queue: mq.Queue[Any] = broker.queue("short", visibility_timeout=0.05, backoff=mq.Backoff(0))
    queue.publish_many(range(4))
    loop = begin(queue)
    deadline = broker._store.clock.store_ms() + 50
    until(lambda: broker._store.clock.store_ms() > deadline, "no time passes")
    message = next(loop)
    assert message._flight.deadline > deadline
    assert (message.body, message.attempts) == (2, 1)


def test_what_timed_out_elsewhere_is_not_taken_with_an_ack(broker: mq.Broker, beside: mq.Queue[Any]) -> None:
    """It failed an attempt: a receiver says so as it takes it."""
    queue: mq.Queue[Any] = broker.queue("short", backoff=mq.Backoff(0))
    queue.publish_many(range(4))
    loop = iter(queue)
    follow(queue, loop, 1)
    message = next(loop)
    assert queue.receive(timeout=0, visibility_timeout=0.001).body == 2  # type: ignore[union-attr]
    until(lambda: queue.peek(1)[0].body == 2, "it does not time out")
    own: Any = message
    own._loop._ahead.is_prompt = True
    message.ack()
    message = next(loop)
    assert (message.body, message.attempts) == (2, 2)
    assert queue.stats().failed == 1


# ── what is left is given back ─────────────────────────────────────────────────────


def test_a_loop_that_is_left(queue: mq.Queue[Any], beside: mq.Queue[Any]) -> None:
    for message in queue:
        message.ack()
        if message.body == 2:
            assert in_flight(beside) == [(3, 1)]
            break
    assert in_flight(beside) == []
    assert ready(beside)[0] == (3, 0)
    assert queue.receive().attempts == 1


def test_an_error_in_the_body(queue: mq.Queue[Any], beside: mq.Queue[Any]) -> None:
    def work() -> None:
        for message in queue:
            message.ack()
            if message.body == 2:
                raise ValueError

    with pytest.raises(ValueError) as raised:
        work()
    assert in_flight(beside) == []
    assert ready(beside)[0] == (3, 0)
    del raised


def test_an_error_behind_which_the_message_is_nacked(queue: mq.Queue[Any], beside: mq.Queue[Any]) -> None:
    with pytest.raises(ValueError):
        for message in queue:
            with message:
                if message.body == 3:
                    raise ValueError
    assert in_flight(beside) == []
    assert [each.body for each in beside.peek(99)] == [4, 5, 6, 7]
    assert beside.stats().failed == 1


def test_a_generator_that_is_closed(queue: mq.Queue[Any], beside: mq.Queue[Any]) -> None:
    loop: Any = begin(queue)
    assert in_flight(beside) == [(2, 1)]
    loop.close()
    assert in_flight(beside) == []
    assert list(loop) == []


def test_a_broker_that_is_closed(broker: mq.Broker, queue: mq.Queue[Any], beside: mq.Queue[Any]) -> None:
    loop = begin(queue)
    assert in_flight(beside) == [(2, 1)]
    broker.close()
    assert in_flight(beside) == []
    assert ready(beside)[0] == (2, 0)
    assert list(loop) == []


def test_a_broker_that_another_thread_closes(
    broker: mq.Broker, queue: mq.Queue[Any], beside: mq.Queue[Any]
) -> None:
    with ThreadPoolExecutor(1) as pool:
        loop = pool.submit(begin, queue).result(PATIENCE)
        assert in_flight(beside) == [(2, 1)]
        broker.close()
        assert in_flight(beside) == []
        assert ready(beside)[0] == (2, 0)
        assert pool.submit(list, loop).result(PATIENCE) == []


def test_a_loop_that_the_collector_finds_in_an_operation(
    queue: mq.Queue[Any], beside: mq.Queue[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes no second turn in the midst of one: a thread gives the message back."""
    circle: list[Any] = []
    circle += [begin(queue), circle]
    collected = []

    def collect() -> None:
        before = log_of(queue).seq
        circle.clear()
        collected.append(gc.collect())
        assert log_of(queue).seq == before

    with ThreadPoolExecutor(1) as pool:  # in a turn of its own thread it is given back before that
        pool.submit(queue._store.turn.take_with_lock, collect).result(PATIENCE)
    assert collected
    assert in_flight(beside) == [(2, 1)]
    give_back_now(queue, monkeypatch)
    until(lambda: not in_flight(beside), "it is not given back")
    assert ready(beside)[0] == (2, 0)


@pytest.mark.parametrize("by_itself", [True, False], ids=["a wire", "no wire"])
def test_a_loop_that_the_collector_finds_in_the_thread_that_hears_the_server(
    queue: mq.Queue[Any], beside: mq.Queue[Any], monkeypatch: pytest.MonkeyPatch, by_itself: bool
) -> None:
    """It would wait for itself, and all others for the turn that it has."""
    circle: list[Any] = []
    circle += [begin(queue), circle]
    log, collected, before = log_of(queue), threading.Event(), log_of(queue).seq
    if not by_itself:
        log._sending.direct.close()
        monkeypatch.setattr(log._sending.direct, "_new_wire", lambda: None)

    def collect() -> None:
        circle.clear()
        gc.collect()
        collected.set()

    log._connection._loop.call_soon_threadsafe(collect)
    assert collected.wait(PATIENCE), "it waits for itself"
    assert in_flight(beside) == [(2, 1)]
    give_back_now(queue, monkeypatch)
    until(lambda: not in_flight(beside), "it is not given back")
    assert ready(beside)[0] == (2, 0)
    with queue._store.turn.mutex:  # the thread that gives back knows by then that it has
        assert log.seq == before + 1


def test_a_loop_that_does_not_come(
    queue: mq.Queue[Any], beside: mq.Queue[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its work after the ack takes long: other receivers get the message meanwhile."""
    loop = begin(queue)
    assert in_flight(beside) == [(2, 1)]
    give_back_now(queue, monkeypatch)
    until(lambda: ready(beside)[0] == (2, 0), "it is not given back")
    message = beside.receive()
    assert (message.body, message.attempts) == (2, 1)
    before = log_of(beside).seq
    assert follow(queue, loop, 1) == [3]
    assert log_of(queue).seq == before + 2


def test_a_loop_that_came_late_takes_nothing(
    queue: mq.Queue[Any], beside: mq.Queue[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "PROMPT_SECONDS", 0.0)
    loop = iter(queue)
    follow(queue, loop, 3)
    assert in_flight(beside) == []


# ── nothing that the loop's own thread can see ─────────────────────────────────────

SEEN: list[tuple[str, Callable[[mq.Queue[Any]], object], object]] = [
    ("stats", lambda queue: (queue.stats().ready, queue.stats().in_flight), (COUNT - 2, 0)),
    ("peek", lambda queue: queue.peek(1)[0].body, 2),
    ("purge", lambda queue: queue.purge(), COUNT - 2),
    ("cancel", lambda queue: queue.cancel(queue.peek(1)[0].id), True),
    ("receive", lambda queue: queue.receive(timeout=0).body, 2),  # type: ignore[union-attr]
    ("another loop", lambda queue: next(iter(queue)).body, 2),
    ("delete", lambda queue: queue.delete(), None),
]


@pytest.mark.parametrize(("do", "sees"), [each[1:] for each in SEEN], ids=[each[0] for each in SEEN])
def test_what_the_thread_does_next_is_done_without_it(
    queue: mq.Queue[Any], beside: mq.Queue[Any], do: Callable[[mq.Queue[Any]], object], sees: object
) -> None:
    loop = begin(queue)
    assert in_flight(beside) == [(2, 1)]
    assert do(queue) == sees
    del loop


def test_a_loop_that_asks_how_much_is_left(queue: mq.Queue[Any]) -> None:
    """Until nothing is: it ends when the last one is done, and not before."""
    found = []
    for message in queue:
        message.ack()
        found.append(message.body)
        if not queue.stats().ready:
            break
    assert found == list(range(COUNT))


def test_a_loop_that_does_something_else_each_time_takes_nothing(
    queue: mq.Queue[Any], broker: mq.Broker
) -> None:
    """Each round costs what it did: a delivery, an ack, a publish."""
    loop, results = iter(queue), broker.queue("results")
    for _ in range(4):
        before = log_of(queue).seq
        message = next(loop)
        message.ack()
        results.publish(message.body)
        assert log_of(queue).seq == before + 3


def test_the_ack_behind_that_takes_nothing(queue: mq.Queue[Any], beside: mq.Queue[Any]) -> None:
    """The loop does not come at once: what it took would be given back again."""
    loop = begin(queue)
    queue.stats()
    assert follow(queue, loop, 1) == [2]
    assert in_flight(beside) == []
    assert follow(queue, loop, 1) == [3]
    assert in_flight(beside) == [(4, 1)]


def test_what_is_gone_meanwhile_is_not_handed_out(queue: mq.Queue[Any], beside: mq.Queue[Any]) -> None:
    loop = begin(queue)
    assert beside.purge(in_flight=True) == COUNT - 2
    beside.publish("new")
    until(lambda: bool(queue._channel.state and queue._channel.state.total() == 1), "it is not told")
    assert follow(queue, loop, 1) == ["new"]


def test_an_ack_by_another_thread_takes_nothing(queue: mq.Queue[Any], beside: mq.Queue[Any]) -> None:
    loop = begin(queue)
    message = next(loop)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(message.ack).result(PATIENCE)
    assert in_flight(beside) == []
    assert beside.stats().acked == 3


def test_a_second_ack_is_stale(queue: mq.Queue[Any], beside: mq.Queue[Any]) -> None:
    loop = begin(queue)
    message = next(loop)
    message.ack()
    with pytest.raises(mq.StaleReceipt):
        message.ack()
    assert in_flight(beside) == []
    assert follow(queue, loop, 1) == [3]


def test_an_ack_of_what_was_settled_elsewhere(queue: mq.Queue[Any], beside: mq.Queue[Any]) -> None:
    loop = begin(queue)
    message = next(loop)
    beside.ack_many([message.receipt])
    with pytest.raises(mq.StaleReceipt):
        message.ack()
    assert in_flight(beside) == []
    assert follow(queue, loop, 1) == [3]


# ── several at once ────────────────────────────────────────────────────────────────


def test_threads_take_different_messages_in_one_append(queue: mq.Queue[Any], beside: mq.Queue[Any]) -> None:
    loops = [iter(queue) for _ in range(3)]
    together: Any = queue._store.together
    store = queue._store
    held = [next(loop) for loop in loops]
    aheads: list[Any] = [loop_of(message)._ahead for message in held]
    with ThreadPoolExecutor(3) as pool:
        with store.turn.mutex:
            store.busy.add(-1)
            jobs = []
            for number, message in enumerate(held, 1):
                taker = aheads[number - 1]
                jobs.append(pool.submit(together.ack_and_take, queue._channel, message, taker))
                until(lambda number=number: len(together._waiting) == number, "it does not wait")
            store.busy.discard(-1)
            before = log_of(queue).seq
        assert all(job.result(PATIENCE) for job in jobs)
    assert log_of(queue).seq == before + 1
    assert [next(loop).body for loop in loops] == [3, 4, 5]
    assert in_flight(beside) == [(3, 1), (4, 1), (5, 1)]


def loop_of(message: Any) -> Any:
    return message._loop


def test_another_writer_is_first(queue: mq.Queue[Any], beside: mq.Queue[Any]) -> None:
    """It has taken the message that would be next: the one behind it is."""
    loop = begin(queue)
    message = next(loop)
    log, taken = log_of(queue), []
    append = log.append_group

    def beaten(*given: Any, **options: Any) -> list[int]:
        if not taken:
            taken.append(beside.receive(timeout=0))
        return append(*given, **options)

    log.append_group = beaten  # type: ignore[method-assign]
    message.ack()
    assert taken[0].body == 3
    assert follow(queue, loop, 1) == [4]
    assert beside.stats().acked == 4


LOOP = """
import sys
import mq
from mq.engine import ahead

ahead.GIVE_BACK_SECONDS = 3600.0  # what is given back is behind what another process has by then
with mq.open(sys.argv[1]) as broker:
    print("ready", flush=True)
    for message in broker.queue("q"):
        if message.body is not None:
            print(message.body, flush=True)
        message.ack()
        if message.body is None:
            break
"""


def started(url: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", LOOP, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_receiver_that_sleeps_is_woken_at_once(
    url: str, opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it slept, the thread that follows others had been told to come by later."""
    monkeypatch.setattr(stores, "NAP_SECONDS", 2 * PATIENCE)
    one, two = opens(), opens()
    follower: Any = two._store._follower  # type: ignore[attr-defined]
    one.queue("another").publish("x")
    until(lambda: bool(follower._naps), "it does not nap")
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(two.queue("q").receive)
        until(lambda: bool(two._store.waiters.asleep), "it does not wait")
        # Another thread looks each second, too.
        monkeypatch.setattr(two._store, "hear", lambda: None)
        one.queue("q").publish("y")
        assert waits.result(PATIENCE).body == "y"


OVERTAKEN_MAX = (
    8 * takes.WINDOW
)  # by messages of one process: it looks at 2 × WINDOW at once, and the rest is chance


def test_two_processes_share_a_queue(url: str, opens: Opens) -> None:
    """P3: each message is worked on once, by one of them, and few are overtaken by others."""
    queue = opens().queue("q", visibility_timeout=3600)
    processes = [started(url) for _ in range(2)]
    queue.publish_many(range(300))
    until(lambda: queue.stats().acked == 300, "they do not get done")
    queue.publish_many([None, None])
    found = [
        [int(line) for line in process.communicate(timeout=PATIENCE)[0].split()] for process in processes
    ]
    assert sorted(found[0] + found[1]) == list(range(300))
    for each in found:
        assert all(
            sum(other > number for other in each[:at]) <= OVERTAKEN_MAX for at, number in enumerate(each)
        )
    stats = queue.stats()
    assert (stats.ready, stats.in_flight, stats.failed) == (0, 0, 0)


def test_a_process_that_is_killed(url: str, opens: Opens) -> None:
    """P1: what it held, and what it had taken ahead, comes again."""
    queue = opens().queue("q", visibility_timeout=0.2, backoff=mq.Backoff(0))
    process = started(url)
    queue.publish_many(range(200))
    assert process.stdout
    seen = [int(process.stdout.readline()) for _ in range(20)]
    process.kill()
    seen += [int(line) for line in process.communicate()[0].split() if line]
    rest = []
    while message := queue.receive(timeout=1):
        message.ack()
        rest.append(message.body)
    assert sorted(set(seen + rest)) == list(range(200))
    assert queue.stats().acked == 200


def test_the_child_of_a_fork_leaves_what_its_parent_took(queue: mq.Queue[Any], beside: mq.Queue[Any]) -> None:
    loop: Any = begin(queue)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            assert queue.stats().in_flight == 1
            code = 0 if next(loop).body == 3 else 2
            loop.close()
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert [body for body, _ in in_flight(beside)] == [2, 3]
    assert follow(queue, loop, 1) == [2]


# ── cut off ────────────────────────────────────────────────────────────────────────


def test_an_ack_that_is_cut_off(
    queue: mq.Queue[Any], beside: mq.Queue[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while another thread appends it: what it takes is given back, for the loop is left by then."""
    loop: Any = iter(queue)
    follow(queue, loop, 1)
    message = next(loop)
    log, together = log_of(queue), queue._store.together
    assert together
    goes_on = threading.Event()
    append = log.append_group

    def held_up(*given: Any, **options: Any) -> list[int]:
        os.kill(os.getpid(), signal.SIGINT)
        assert goes_on.wait(PATIENCE)
        return append(*given, **options)

    def lead() -> None:
        until(lambda: bool(together._waiting), "it does not wait")
        with monkeypatch.context() as patch:
            patch.setattr(log, "append_group", held_up)
            together.lead()

    loop_of(message)._ahead.is_prompt = True
    together._is_led = True  # by the thread that follows
    with ThreadPoolExecutor(1) as pool:
        leads = pool.submit(lead)
        with pytest.raises(KeyboardInterrupt):
            message.ack()
        loop.close()
        goes_on.set()
        leads.result(PATIENCE)
    assert beside.stats().acked == 2
    assert in_flight(beside) == [(2, 1)]
    give_back_now(queue, monkeypatch)
    until(lambda: not in_flight(beside), "what it took is not given back")
    assert ready(beside)[0] == (2, 0)


def test_no_server_has_the_stream(
    queue: mq.Queue[Any], beside: mq.Queue[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ack raises, and took nothing."""
    loop = begin(queue)
    message = next(loop)

    def fail(*_: object) -> None:
        raise StorageError("s", "no answer")

    with monkeypatch.context() as patch:
        for name in ("send", "share"):
            patch.setattr(Sending, name, fail)
        with pytest.raises(StorageError):
            message.ack()
    assert in_flight(beside) == [(2, 1)]
    message.ack()
    assert follow(queue, loop, 1) == [3]


def test_a_conflict_while_it_is_given_back(queue: mq.Queue[Any], beside: mq.Queue[Any]) -> None:
    loop: Any = begin(queue)
    log, beaten = log_of(queue), []
    append = log.append_group

    def beat(*given: Any, **options: Any) -> list[int]:
        if not beaten:
            beaten.append(beside.publish("another"))
            raise Conflict
        return append(*given, **options)

    log.append_group = beat  # type: ignore[method-assign]
    loop.close()
    assert beaten
    assert in_flight(beside) == []


def test_a_program_that_forgets_its_broker(url: str) -> None:
    """The loop, which refers to the store, keeps nothing."""
    script = (
        "import gc, sys, mq\n"
        "broker = mq.open(sys.argv[1])\n"
        "queue = broker.queue('q')\n"
        "queue.publish_many(range(9))\n"
        "loop = iter(queue)\n"
        "for _ in range(3): next(loop).ack()\n"
        "print('done', flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, url], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


# ── tasks ──────────────────────────────────────────────────────────────────────────


async def follow_async(loop: Any, count: int) -> list[int]:
    found = []
    for _ in range(count):
        message = await anext(loop)
        async with message:
            found.append(message.body)
    return found


def run_tasks(broker: mq.Broker, do: Callable[[Any], Any]) -> Any:
    """What *do* returns, given the queue of the asyncio face."""

    async def run() -> Any:
        return await do((await AsyncBroker(lambda: broker)).queue("q"))

    return asyncio.run(run())


def test_a_message_costs_a_task_one_append(
    broker: mq.Broker, queue: mq.Queue[Any], beside: mq.Queue[Any]
) -> None:
    async def do(face: Any) -> None:
        loop = aiter(face)
        assert await follow_async(loop, 2) == [0, 1]
        before = log_of(queue).seq
        assert await follow_async(loop, 4) == [2, 3, 4, 5]
        assert log_of(queue).seq - before == 4
        assert in_flight(beside) == [(6, 1)]
        await loop.aclose()
        until(lambda: not in_flight(beside), "it is not given back")
        assert ready(beside)[0] == (6, 0)

    run_tasks(broker, do)


def test_a_task_sees_nothing_of_it(broker: mq.Broker, queue: mq.Queue[Any]) -> None:
    async def do(face: Any) -> list[int]:
        found = []
        async for message in face:
            await message.ack()
            found.append(message.body)
            stats = await face.stats()
            assert stats.in_flight == 0
            if not stats.ready:
                break
        return found

    assert run_tasks(broker, do) == list(range(COUNT))


def test_a_task_that_looks_after_it_has_taken(broker: mq.Broker, queue: mq.Queue[Any]) -> None:
    async def do(face: Any) -> None:
        loop = aiter(face)
        await follow_async(loop, 2)
        assert queue._store.ahead
        assert queue._store.ahead.waiting
        assert (await face.stats()).in_flight == 0
        assert (await face.receive(timeout=0)).body == 2
        await loop.aclose()

    run_tasks(broker, do)


def test_a_task_that_is_cancelled(broker: mq.Broker, queue: mq.Queue[Any], beside: mq.Queue[Any]) -> None:
    async def work(face: Any, acked: asyncio.Event) -> None:
        async for message in face:
            await message.ack()
            if message.body == 2:
                acked.set()
                await asyncio.sleep(PATIENCE)

    async def do(face: Any) -> None:
        acked = asyncio.Event()
        task = asyncio.create_task(work(face, acked))
        await acked.wait()
        assert in_flight(beside) == [(3, 1)]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_tasks(broker, do)
    until(lambda: not in_flight(beside), "it is not given back")
    assert ready(beside)[0] == (3, 0)


def test_a_task_that_gives_up_an_ack_and_goes_on(
    broker: mq.Broker, queue: mq.Queue[Any], beside: mq.Queue[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with asyncio.timeout: the ack is appended all the same, and what it takes is given back."""
    log, goes_on = log_of(queue), threading.Event()
    append = log.append_group

    def held_up(*given: Any, **options: Any) -> list[int]:
        assert goes_on.wait(PATIENCE)
        return append(*given, **options)

    async def do(face: Any) -> None:
        loop, task = aiter(face), asyncio.current_task()
        assert task and await follow_async(loop, 2) == [0, 1]
        message = await anext(loop)
        with monkeypatch.context() as patch:
            patch.setattr(log, "append_group", held_up)
            asyncio.get_running_loop().call_soon(task.cancel)
            with pytest.raises(asyncio.CancelledError):
                await message.ack()
            task.uncancel()
            goes_on.set()
            until(lambda: in_flight(beside) == [(3, 1)], "it is not appended")
        give_back_now(queue, monkeypatch)
        until(lambda: not in_flight(beside), "what it took is not given back")
        assert ready(beside)[0] == (3, 0)
        assert await follow_async(loop, 2) == [3, 4]
        await loop.aclose()

    run_tasks(broker, do)


def test_tasks_take_in_one_append_what_they_ask_for_at_once(broker: mq.Broker, queue: mq.Queue[Any]) -> None:
    queue.publish_many(range(COUNT, 200))
    found: list[int] = []

    async def work(face: Any) -> None:
        async for message in face:
            async with message:
                found.append(message.body)
            if len(found) >= 192:
                return

    async def do(face: Any) -> None:
        before = log_of(queue).seq
        await asyncio.wait_for(asyncio.gather(*[work(face) for _ in range(8)]), PATIENCE)
        assert log_of(queue).seq - before < 150

    run_tasks(broker, do)
    assert len(set(found)) == len(found)


# ── workers ────────────────────────────────────────────────────────────────────────


def test_a_worker_takes_its_next_message_with_the_ack(broker: mq.Broker, queue: mq.Queue[Any]) -> None:
    found: list[int] = []
    broker.consumer("q")(found.append)
    before = log_of(queue).seq
    broker.run(until_empty=True)
    assert found == list(range(COUNT))
    assert log_of(queue).seq - before == 1 + COUNT


def test_a_worker_of_tasks(broker: mq.Broker, queue: mq.Queue[Any]) -> None:
    found: list[int] = []

    async def work() -> None:
        face = await AsyncBroker(lambda: broker)

        @face.consumer("q")
        async def handle(body: int) -> None:
            found.append(body)

        await face.run(until_empty=True)

    before = log_of(queue).seq
    asyncio.run(work())
    assert found == list(range(COUNT))
    assert log_of(queue).seq - before == 1 + COUNT


def test_more_calls_at_once_than_the_face_has_threads(
    broker: mq.Broker, queue: mq.Queue[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits in a thread for what is appended, and tasks publish meanwhile: another thread appends."""
    monkeypatch.setattr(together_module, "PART_MAX", 1)
    queue.publish_many(range(COUNT, 200))

    async def work() -> None:
        face = await AsyncBroker(lambda: broker)

        @face.consumer("q", concurrency=3 * THREADS)
        async def handle(body: int) -> None:
            await face.queue("results").publish(body)

        await asyncio.wait_for(face.run(until_empty=True), PATIENCE)

    asyncio.run(work())
    assert queue.stats().acked == 200
    assert sorted(each.body for each in broker.queue("results").peek(999)) == list(range(200))


@pytest.mark.parametrize("options", [{"batch": 2}, {"prefetch": 4}], ids=["batch", "prefetch"])
def test_a_worker_that_takes_several_at_once(
    broker: mq.Broker, queue: mq.Queue[Any], options: dict[str, int]
) -> None:
    found: list[Any] = []
    broker.consumer("q", **options)(lambda given: found.append(given))
    broker.run(until_empty=True)
    assert queue.stats().acked == COUNT


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The runs that have begun."""
    found: list[Any] = []
    go = Run.go

    def noted(self: Run, *given: Any, **options: Any) -> None:
        found.append(self)
        go(self, *given, **options)

    monkeypatch.setattr(Run, "go", noted)
    return found


def stop(runs: list[Any]) -> None:
    """Tell the worker to stop, and wait until it knows."""
    os.kill(os.getpid(), signal.SIGTERM)
    until(lambda: bool(runs[0]._signals), "it is not told")


def test_a_worker_that_stops_while_it_acks(
    broker: mq.Broker, queue: mq.Queue[Any], beside: mq.Queue[Any], runs: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    found: list[int] = []
    take = mq.Queue._ack_and_take

    def told(self: mq.Queue[Any], message: Any) -> Any:
        if message.body == 2:
            stop(runs)
        return take(self, message)

    monkeypatch.setattr(mq.Queue, "_ack_and_take", told)
    broker.consumer("q")(found.append)
    broker.run()
    assert found == [0, 1, 2]
    assert in_flight(beside) == []
    assert ready(beside)[0] == (3, 0)


def test_a_worker_that_stops_behind_an_ack(
    broker: mq.Broker, queue: mq.Queue[Any], beside: mq.Queue[Any], runs: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    found: list[int] = []
    settle = ThreadSlot._settle

    def told(self: ThreadSlot, call: Any, part: Any, error: Any) -> None:
        settle(self, call, part, error)
        if found[-1] == 2:
            stop(runs)

    monkeypatch.setattr(ThreadSlot, "_settle", told)
    broker.consumer("q")(found.append)
    broker.run()
    assert found == [0, 1, 2]
    assert in_flight(beside) == []
    assert ready(beside)[0] == (3, 0)


def test_a_worker_that_was_given_up_while_it_acks(
    broker: mq.Broker, queue: mq.Queue[Any], beside: mq.Queue[Any], runs: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    found: list[int] = []
    over, done = threading.Event(), threading.Event()
    take = mq.Queue._ack_and_take

    def told(self: mq.Queue[Any], message: Any) -> Any:
        taken = take(self, message)
        if message.body == 2:
            stop(runs)
            assert over.wait(PATIENCE)
            done.set()
        return taken

    monkeypatch.setattr(mq.Queue, "_ack_and_take", told)
    broker.consumer("q")(found.append)
    broker.run(grace=0)
    assert in_flight(beside) == [(3, 1)]
    over.set()
    assert done.wait(PATIENCE)
    until(lambda: not in_flight(beside), "it is not given back")
    assert ready(beside)[0] == (3, 0)
    assert found == [0, 1, 2]


def test_a_worker_whose_handler_raises(broker: mq.Broker, queue: mq.Queue[Any]) -> None:
    seen: list[int] = []

    @broker.consumer("q")
    def handle(body: int) -> None:
        seen.append(body)
        if body == 2 and seen.count(2) == 1:
            raise mq.Retry(delay=0)

    broker.run(until_empty=True)
    assert sorted(seen) == sorted([*range(COUNT), 2])
    assert queue.stats().acked == COUNT


@pytest.fixture(autouse=True)
def told(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    assert "Exception ignored" not in capfd.readouterr().err
