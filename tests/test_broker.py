"""A broker: restarting, closing, its threads; and the face that all of mq shows.

What there is to say of its files is in test_store_files.py.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable

import pytest
from calls import CALLS

import mq
from mq.delivery.queue import QueueState

pytestmark = [pytest.mark.conformance, pytest.mark.usefixtures("no_backoff_after_timeouts")]

PATIENCE = 300.0  # seconds after which a test that hangs has failed


# ── the public face ────────────────────────────────────────────────────────────────

FACE = {
    mq.open: (
        "(path, *, sync='always', exclusive=False, read_only=False, recover='refuse',"
        " segment_bytes=67108864, mode=None, clock=None)"
    ),
    mq.Broker.queue: "(self, name, *, type=None, **options)",
    mq.Broker.queues: "(self, *, prefix='', after='', limit=None)",
    mq.Broker.stats: "(self, queues=None)",
    mq.Broker.flush: "(self)",
    mq.Broker.close: "(self)",
    mq.Queue.options: "(self)",
    mq.Queue.publish: "(self, body, **options)",
    mq.Queue.publish_many: "(self, bodies, **options)",
    mq.Queue.receive: "(self, timeout=None, *, visibility_timeout=None)",
    mq.Queue.receive_many: "(self, limit, timeout=None, *, visibility_timeout=None, linger=0, per_group=1)",
    mq.Queue.ack_many: "(self, messages, *, fenced=True)",
    mq.Queue.peek: "(self, limit=10, *, state='ready')",
    mq.Queue.get: "(self, id)",
    mq.Queue.purge: "(self, *, in_flight=False)",
    mq.Queue.stats: "(self)",
    mq.Delivery.ack: "(self)",
    mq.Delivery.nack: "(self, *, delay=None, reason='')",
    mq.Delivery.release: "(self)",
    mq.Delivery.extend: "(self, seconds=None)",
}


@pytest.mark.parametrize("function", FACE, ids=lambda function: function.__qualname__)
def test_names_and_defaults_do_not_change(function):
    bare = [
        each.replace(annotation=inspect.Parameter.empty)
        for each in inspect.signature(function).parameters.values()
    ]
    assert str(inspect.Signature(bare)) == FACE[function]


def test_errors_are_one_tree():
    tree = {
        mq.UsageError: (mq.MqError, ValueError),
        mq.Unsupported: (mq.MqError,),
        mq.Closed: (mq.MqError,),
        mq.BadBody: (mq.MqError,),
        mq.StaleReceipt: (mq.MqError,),
        mq.StorageError: (mq.MqError,),
        mq.StoreLocked: (mq.StorageError,),
        mq.DiskFull: (mq.StorageError,),
        mq.StoreFailed: (mq.StorageError,),
        mq.CorruptStore: (mq.StorageError,),
    }
    assert {error: error.__bases__ for error in tree} == tree


def test_all_that_is_exported_is_there():
    assert all(hasattr(mq, name) for name in mq.__all__)
    assert sorted(mq.__all__) == mq.__all__


# ── opening and closing ────────────────────────────────────────────────────────────


def test_the_store_id_stays(engine, broker):
    assert engine.reopen(broker).store_id == broker.store_id
    assert engine.open("other").store_id != broker.store_id


def test_leaving_the_block_closes_also_on_an_exception(engine):
    with pytest.raises(ValueError), engine.open() as broker:
        raise ValueError
    with pytest.raises(mq.Closed):
        broker.flush()
    engine.reopen(broker).flush()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_closed_broker_says_so(engine, call):
    with engine.open() as broker:
        queue = broker.queue("mail")
        queue.publish_many(["x", "y"])
        held = queue.receive()
    with pytest.raises(mq.Closed, match="closed"):
        call(broker, queue, held)


def test_a_closed_broker_ends_an_iteration(engine):
    with engine.open() as broker:
        queue = broker.queue("mail")
        queue.publish("x")
    assert list(queue) == []


# ── restarting ─────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["after close", "after a kill"])
def restart(request, engine, clock):
    """Open a store, and open it again as after a close or a kill."""
    opened: list[mq.Broker] = []

    def start() -> mq.Broker:
        opened.append(engine.open(clock=clock, segment_bytes=1024, background=False))
        return opened[-1]

    def again() -> mq.Broker:
        opened[-1].close() if request.param == "after close" else engine.abandon(opened[-1])
        return start()

    start()
    return lambda: opened[-1], again


def test_everything_is_there_after_a_restart(restart, clock):
    """P1, P2, P5: states, attempts, deadlines, order, options, totals."""
    broker, again = restart
    queue = broker().queue("mail", visibility_timeout=20)
    queue.publish_many([b"%d" % n * 200 for n in range(6)])
    queue.receive(timeout=0).ack()
    queue.receive(timeout=0)
    queue.receive(timeout=0).nack(delay=50)
    queue.receive(timeout=0).release()
    clock.advance(5)
    expected = queue.stats(), queue.options(), broker().queues()
    states = [
        [(each.id, each.raw, each.attempts, each.due_at, each.created_at) for each in queue.peek(state=state)]
        for state in ("ready", "in_flight", "delayed")
    ]

    queue = again().queue("mail")

    assert (queue.stats(), queue.options(), broker().queues()) == expected
    assert [
        [(each.id, each.raw, each.attempts, each.due_at, each.created_at) for each in queue.peek(state=state)]
        for state in ("ready", "in_flight", "delayed")
    ] == states
    clock.advance(15)
    assert [(each.raw[:1], each.attempts) for each in queue.receive_many(9, timeout=0)] == [
        (b"1", 2), (b"3", 1), (b"4", 1), (b"5", 1),
    ]  # fmt: skip


def test_attempts_count_on_over_restarts(restart, clock):
    _, again = restart
    again().queue("mail").publish("kills its worker")
    for attempt in range(1, 4):
        message = again().queue("mail").receive(timeout=0)
        assert message.attempts == attempt
        clock.advance(31)


def test_a_receipt_as_text_settles_after_a_restart(restart):
    broker, again = restart
    queue = broker().queue("mail")
    queue.publish_many(["x", "y"])
    receipt, other = (message.receipt for message in queue.receive_many(2))
    queue = again().queue("mail")
    assert type(receipt) is str
    queue.ack_many([receipt])
    with pytest.raises(mq.StaleReceipt):
        queue.ack_many([receipt])
    again().queue("another queue's handle will do").ack_many([other])
    assert broker().queue("mail").stats()[:3] == (0, 0, 0)


@pytest.mark.needs("byte positions")
@pytest.mark.needs("quiet")
def test_of_a_batch_which_is_few_records_each_has_its_own_receipt(restart):
    broker, again = restart
    queue = broker().queue("mail")
    queue.publish_many(range(300))
    log = broker()._store.replica.log
    before = log.end
    batch = queue.receive_many(300)
    receipts = [each.receipt for each in batch]
    assert log.end - before < 300 * 10
    assert len(set(receipts)) == 300
    queue.ack_many([batch[7], receipts[8], batch[150]])
    batch[299].nack(delay=0)
    queue = again().queue("mail")
    with pytest.raises(mq.StaleReceipt) as stale:
        queue.ack_many(receipts)
    assert stale.value.ids == tuple(batch[n].id for n in (7, 8, 150, 299))
    queue = again().queue("mail")
    last = queue.receive(timeout=0)
    assert (last.body, last.attempts, queue.stats()[:3], queue.stats().acked) == (299, 2, (0, 1, 0), 299)


def test_a_receipt_from_before_is_stale_if_the_message_was_delivered_again(restart, clock):
    broker, again = restart
    queue = broker().queue("mail")
    queue.publish("x")
    receipt = queue.receive(timeout=0).receipt
    clock.advance(31)
    queue = again().queue("mail")
    queue.receive(timeout=0)
    with pytest.raises(mq.StaleReceipt):
        again().queue("mail").ack_many([receipt])


def test_ids_go_on_growing_after_a_restart(restart):
    broker, again = restart
    ids = [broker().queue("mail").publish("x")]
    for _ in range(4):
        ids.append(again().queue("mail").publish("x"))
    assert ids == sorted(set(ids))


def test_a_clock_that_went_back_over_a_restart_does_not_hold_messages_longer(restart, clock):
    broker, again = restart
    queue = broker().queue("mail")
    queue.publish("x")
    queue.receive(timeout=0)
    clock.advance(-10_000)
    queue = again().queue("mail")
    queue.publish("y")
    assert queue.receive(timeout=0).body == "y"
    clock.advance(10_000 + 30)
    assert queue.receive(timeout=0).body == "x"


def test_a_store_outlives_the_49_days_that_a_record_can_count(restart, clock):
    broker, again = restart
    queue = broker().queue("mail")
    queue.publish("x")
    clock.advance(400 * 86_400)
    queue.publish("y")
    assert queue.stats().oldest_age == 400 * 86_400
    queue = again().queue("mail")
    assert [message.body for message in queue.receive_many(5)] == ["x", "y"]
    assert queue.stats().published == 2


# ── interrupted ────────────────────────────────────────────────────────────────────


@pytest.mark.needs("quiet")
def test_an_interruption_between_log_and_state_is_mended(broker, monkeypatch):
    """P6: Ctrl-C in the one bad line; the message is there once."""

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    queue = broker.queue("mail")
    queue.publish("before")
    with monkeypatch.context() as patch:
        patch.setattr(QueueState, "publish", interrupted)
        patch.setattr(QueueState, "publish_run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            queue.publish("x")
        with pytest.raises(KeyboardInterrupt):
            queue.publish_many(["y", "z"])
    assert queue.stats().published in (2, 4)
    bodies = [message.body for message in queue.receive_many(9)]
    assert bodies == ["before", "x", "y", "z"][: len(bodies)]
    assert queue.publish("after") > 0
    assert queue.receive(timeout=0).body == "after"


def test_an_interrupted_ack_is_an_ack(broker, monkeypatch):
    """P2: it was in the log."""

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    queue = broker.queue("mail")
    queue.publish("x")
    message = queue.receive()
    with monkeypatch.context() as patch:
        patch.setattr(QueueState, "ack", interrupted)
        with pytest.raises(KeyboardInterrupt):
            message.ack()
    assert queue.stats()[:3] == (0, 0, 0)
    with pytest.raises(mq.StaleReceipt):
        message.ack()


# ── several brokers, and what a kill leaves ────────────────────────────────────────


@pytest.mark.needs("sharing")
def test_a_process_may_open_a_store_twice(engine):
    """Two brokers are like two processes."""
    with engine.open() as one, engine.open() as other:
        assert one.store_id == other.store_id
        id = one.queue("mail").publish("x")
        message = other.queue("mail").receive(timeout=0)
        assert (message.id, message.body, one.queue("mail").stats().in_flight) == (id, "x", 1)
        one.close()
        message.ack()
        assert other.queue("mail").stats().acked == 1


@pytest.mark.parametrize("sync", ["always", 0.001, "never"])
def test_what_returned_survives_a_kill_in_every_mode(engine, sync):
    broker = engine.open(sync=sync)
    queue = broker.queue("mail")
    queue.publish_many(range(10))
    queue.receive(timeout=0).ack()
    engine.abandon(broker)
    bodies = [message.body for message in engine.open().queue("mail").receive_many(20)]
    assert bodies == list(range(1, 10))


# ── threads ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sync", ["never", "always"])
def test_eight_threads_lose_and_double_nothing(engine, sync):
    """P1, P3, P12."""
    each, publishers, consumers = (400 if sync == "never" else 40), 4, 4
    got: list[list[tuple[int, int]]] = [[] for _ in range(consumers)]
    ids: list[list[int]] = [[] for _ in range(publishers)]
    stopped = threading.Semaphore(0)
    failures: list[BaseException] = []

    def guarded(work: Callable[[int], None], number: int) -> None:
        try:
            work(number)
        except (mq.MqError, AssertionError) as error:
            failures.append(error)

    with engine.open(sync=sync, segment_bytes=4096) as broker:
        queue = broker.queue("mail")

        def publisher(number: int) -> None:
            for n in range(0, each, 4):
                ids[number].append(queue.publish([number, n]))
                ids[number] += queue.publish_many([[number, n + 1], [number, n + 2], [number, n + 3]])

        def consumer(number: int) -> None:
            while True:
                batch = queue.receive_many(3) if number % 2 else [queue.receive()]
                for message in batch:
                    if message.body == "stop":
                        message.ack()
                        stopped.release()
                        return
                    assert message.attempts == 1
                    got[number].append(tuple(message.body))
                    message.ack()

        consuming = [threading.Thread(target=guarded, args=(consumer, n)) for n in range(consumers)]
        publishing = [threading.Thread(target=guarded, args=(publisher, n)) for n in range(publishers)]
        for thread in consuming + publishing:
            thread.start()
        for thread in publishing:
            thread.join(PATIENCE)
        for _ in consuming:  # one at a time: a batch may hold only one "stop"
            queue.publish("stop")
            stopped.acquire(timeout=PATIENCE)
        for thread in consuming:
            thread.join(PATIENCE)
        assert failures == []
        assert queue.stats()[:3] == (0, 0, 0)
        every = sorted(body for bodies in got for body in bodies)
        assert every == [(number, n) for number in range(publishers) for n in range(each)]
        all_ids = [id for own in ids for id in own]
        assert len(set(all_ids)) == len(all_ids) == publishers * each
        assert all(own == sorted(own) for own in ids)
