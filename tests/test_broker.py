"""A broker: opening, sharing, syncing, restarting, closing; and the face that all of mq shows."""

from __future__ import annotations

import gc
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from fakes import CountingDisk, QuickDisk, made_here, open_on

import mq
from mq.delivery.queue import QueueState
from mq.storage import shared
from mq.storage.disk import RealDisk

pytestmark = pytest.mark.usefixtures("no_backoff_after_timeouts")

PATIENCE = 300.0  # seconds after which a test that hangs has failed


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "data"


def everything(path: Path) -> dict[str, tuple[bytes, int]]:
    """Each file's bytes and when it was last changed, and each directory's."""
    return {
        str(each.relative_to(path)): (each.read_bytes() if each.is_file() else b"", each.stat().st_mtime_ns)
        for each in [path, *path.rglob("*")]
    }


def killed(path: Path) -> Path:
    """A copy of the store as a SIGKILL right now would leave it."""
    copy = path.with_name(path.name + "-killed")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(path, copy)
    made_here(copy)
    return copy


# ── the public face ────────────────────────────────────────────────────────────────

FACE = {
    mq.open: (
        "(path, *, sync='always', exclusive=False, read_only=False, recover='refuse',"
        " segment_bytes=67108864, mode=None, clock=None)"
    ),
    mq.Broker.queue: "(self, name, *, type=None, **options)",
    mq.Broker.queues: "(self)",
    mq.Broker.stats: "(self)",
    mq.Broker.flush: "(self)",
    mq.Broker.close: "(self)",
    mq.Queue.options: "(self)",
    mq.Queue.publish: "(self, body, **options)",
    mq.Queue.publish_many: "(self, bodies, **options)",
    mq.Queue.receive: "(self, timeout=None, *, visibility_timeout=None)",
    mq.Queue.receive_many: "(self, limit, timeout=None, *, visibility_timeout=None)",
    mq.Queue.ack_many: "(self, messages)",
    mq.Queue.peek: "(self, limit=10, *, state='ready')",
    mq.Queue.get: "(self, id)",
    mq.Queue.purge: "(self)",
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


@pytest.mark.parametrize("kind", [str, Path], ids=["text", "Path"])
def test_a_store_is_made_where_it_is_asked_for(path, kind):
    with mq.open(kind(path / "deep" / "er")) as broker:
        assert broker.path == str(path / "deep" / "er")
        assert len(broker.store_id) == 32
        assert (path / "deep" / "er" / "FORMAT").exists()


def test_the_store_id_stays(path):
    with mq.open(path) as broker:
        first = broker.store_id
    with mq.open(path) as broker:
        assert broker.store_id == first
    with mq.open(path.with_name("other")) as broker:
        assert broker.store_id != first


def test_a_new_store_is_said_where_it_is(tmp_path, monkeypatch, caplog):
    """A relative path that means another directory than one thought looks like lost messages."""
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO", "mq"):
        mq.open("data").close()
        mq.open("data").close()
    assert [record.getMessage() for record in caplog.records] == [f"created the store {tmp_path / 'data'}"]


def test_closing_twice_is_closing_once(path):
    broker = mq.open(path)
    broker.close()
    end = everything(path)
    broker.close()
    assert everything(path) == end
    assert repr(broker) == f"<Broker {path} closed>"


def test_leaving_the_block_closes_also_on_an_exception(path):
    with pytest.raises(ValueError), mq.open(path) as broker:
        raise ValueError
    with pytest.raises(mq.Closed):
        broker.flush()
    mq.open(path).close()


CLOSED_CALLS: dict[str, Callable[[mq.Broker, mq.Queue, mq.Delivery], object]] = {
    "publish": lambda broker, queue, held: queue.publish("x"),
    "publish_many": lambda broker, queue, held: queue.publish_many(["x"]),
    "publish to a new queue": lambda broker, queue, held: broker.queue("new").publish("x"),
    "receive": lambda broker, queue, held: queue.receive(),
    "receive now": lambda broker, queue, held: queue.receive(timeout=0),
    "receive_many": lambda broker, queue, held: queue.receive_many(1, timeout=0),
    "ack": lambda broker, queue, held: held.ack(),
    "nack": lambda broker, queue, held: held.nack(),
    "release": lambda broker, queue, held: held.release(),
    "extend": lambda broker, queue, held: held.extend(),
    "ack_many": lambda broker, queue, held: queue.ack_many([held]),
    "peek": lambda broker, queue, held: queue.peek(),
    "get": lambda broker, queue, held: queue.get(held.id),
    "stats": lambda broker, queue, held: queue.stats(),
    "options": lambda broker, queue, held: queue.options(),
    "purge": lambda broker, queue, held: queue.purge(),
    "declare": lambda broker, queue, held: broker.queue("mail", visibility_timeout=3),
    "queues": lambda broker, queue, held: broker.queues(),
    "broker.stats": lambda broker, queue, held: broker.stats(),
    "flush": lambda broker, queue, held: broker.flush(),
}


@pytest.mark.parametrize("call", CLOSED_CALLS.values(), ids=CLOSED_CALLS)
@pytest.mark.parametrize("where", ["disk", ":memory:"])
def test_a_closed_broker_says_so(path, call, where):
    with mq.open(path if where == "disk" else where) as broker:
        queue = broker.queue("mail")
        queue.publish_many(["x", "y"])
        held = queue.receive()
    with pytest.raises(mq.Closed, match="closed"):
        call(broker, queue, held)


def test_a_closed_broker_ends_an_iteration(path):
    with mq.open(path) as broker:
        queue = broker.queue("mail")
        queue.publish("x")
    assert list(queue) == []


# The directory, LOCK, FORMAT, mark, the segment written to; of others to read from, at most 4.  Before
# Python 3.13 mmap keeps one of its own, for the page.
DESCRIPTORS = 9 if sys.version_info >= (3, 13) else 10
BELL = 1  # more, once somebody has waited; and one for each process that waits elsewhere


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) - 1  # that of the look itself


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc to count descriptors in")
@pytest.mark.parametrize("exclusive", [False, True], ids=["shared", "exclusive"])
def test_descriptors_are_bounded_and_given_back(path, exclusive):
    """P11."""
    for _ in range(5):
        gc.collect()
        before = descriptors()
        with open_on(QuickDisk(), path, segment_bytes=1024, background=False, exclusive=exclusive) as broker:
            queue = broker.queue("mail")
            for _ in range(30):
                queue.publish(b"x" * 500)
            messages = queue.receive_many(30)
            assert [len(message.raw) for message in messages] == [500] * 30
            assert descriptors() == before + DESCRIPTORS
            queue.ack_many(messages)
            broker._store.maintenance.run(1)  # a checkpoint too
            queue.publish("x")
            queue.receive(timeout=0).ack()
            assert descriptors() <= before + DESCRIPTORS
        assert descriptors() == before
        assert not is_mapped(path), "its file system could not be unmounted"
        with mq.open(path, read_only=True) as reader:
            reader.queue("mail").peek(30)
            reader.stats()
        with suppress(mq.StorageError):
            mq.open(path / "FORMAT")
        assert descriptors() == before


def is_mapped(path: Path) -> bool:
    maps = Path("/proc/self/maps")
    return maps.exists() and str(path) in maps.read_text()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc to count descriptors in")
def test_descriptors_are_bounded_beside_another_broker_that_waits(path):
    """P11: of two brokers in one process, each has its own."""
    gc.collect()
    before = descriptors()
    with mq.open(path, segment_bytes=1024) as one, mq.open(path, segment_bytes=1024) as other:
        for n in range(40):
            one.queue("mail").publish(b"%d" % n * 200)
            message = other.queue("mail").receive(timeout=PATIENCE)
            message.ack()
        assert other.queue("mail").receive(timeout=0.01) is None  # its bell is made
        one.queue("mail").publish("x")  # and rung
        for broker in (one, other):
            broker._store.maintenance.stop()  # it may have a descriptor at the moment
        assert descriptors() <= before + 2 * (DESCRIPTORS + BELL)
    assert descriptors() == before


# ── restarting ─────────────────────────────────────────────────────────────────────


def closed(broker: mq.Broker, path: Path) -> Path:
    broker.close()
    return path


def abandoned(broker: mq.Broker, path: Path) -> Path:
    return killed(path)


@pytest.fixture(params=[closed, abandoned], ids=["after close", "after a kill"])
def restart(request, path, clock):
    """Open a store, and open it again as after a close or a kill."""
    opened: list[mq.Broker] = []

    def start(where: Path = path) -> mq.Broker:
        # Without a thread beside: a copy of the files is to be a state that a kill may leave.
        opened.append(open_on(RealDisk(), where, clock=clock, segment_bytes=1024, background=False))
        return opened[-1]

    def again() -> mq.Broker:
        return start(request.param(opened[-1], Path(opened[-1].path)))

    start()
    yield lambda: opened[-1], again
    for broker in opened:
        broker.close()


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


def test_of_a_batch_which_is_few_records_each_has_its_own_receipt(restart):
    broker, again = restart
    queue = broker().queue("mail")
    queue.publish_many(range(300))
    log = broker()._store.log
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


@pytest.mark.parametrize("where", ["disk", ":memory:"])
def test_an_interruption_between_log_and_state_is_mended(path, monkeypatch, where):
    """P6: Ctrl-C in the one bad line; the message is there once."""

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    with mq.open(path if where == "disk" else where) as broker:
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


def test_an_interrupted_ack_is_an_ack(monkeypatch):
    """P2: it was in the log."""

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    with mq.open(":memory:") as broker:
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


# ── :memory: ───────────────────────────────────────────────────────────────────────


def test_memory_is_private_and_gone_at_close(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with mq.open(":memory:", segment_bytes=1024) as one, mq.open(":memory:") as two:
        for _ in range(20):
            one.queue("mail").publish(b"x" * 300)
        assert two.queues() == []
        assert one.stats().segments > 5
        assert len(one.queue("mail").receive_many(30)) == 20
        one.flush()
    with mq.open(":memory:") as three:
        assert three.queues() == []
    assert list(tmp_path.iterdir()) == []


# ── read-only ──────────────────────────────────────────────────────────────────────

CHANGES = {
    name: CLOSED_CALLS[name]
    for name in (
        "publish", "publish_many", "publish to a new queue", "receive", "receive now", "receive_many",
        "ack_many", "purge", "declare",
    )
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("beside", ["a live writer", "nobody"])
def test_a_reader_refuses_every_change(path, change, beside):
    with mq.open(path) as writer:
        writer.queue("mail").publish_many(["x", "y"])
        held = writer.queue("mail").receive()
        if beside == "nobody":
            writer.close()
        before = everything(path)
        with (
            mq.open(path, read_only=True) as reader,
            pytest.raises((mq.Unsupported, mq.UsageError), match=r"read_only|another broker"),
        ):
            change(reader, reader.queue("mail"), held)
        assert everything(path) == before


def test_a_reader_of_a_declared_queue_may_declare_what_is_so_already(path):
    with mq.open(path) as writer:
        writer.queue("mail", visibility_timeout=3)
    with mq.open(path, read_only=True) as reader:
        assert reader.queue("mail", visibility_timeout=3).options()["visibility_timeout"] == 3.0


def test_a_reader_sees_what_a_live_writer_does(path, clock):
    with (
        mq.open(path, segment_bytes=1024, clock=clock) as writer,
        mq.open(path, read_only=True, clock=clock) as reader,
    ):
        queue, seen = writer.queue("mail"), reader.queue("mail")
        assert (reader.queues(), seen.stats().ready) == ([], 0)
        ids = queue.publish_many([b"x" * 300] * 10)
        assert reader.queues() == ["mail"]
        assert [message.id for message in seen.peek(20)] == ids
        message = queue.receive()
        assert seen.get(message.id).state == "in_flight"
        message.ack()
        assert seen.get(message.id) is None
        assert seen.stats() == queue.stats()
        assert reader.stats().queues == writer.stats().queues
        writer.queue("mail", visibility_timeout=9)
        assert seen.options()["visibility_timeout"] == 9.0
        queue.purge()
        assert seen.peek() == []


def test_a_reader_writes_nothing_at_all(path):
    with open_on(RealDisk(), path, segment_bytes=1024, background=False) as writer:
        queue = writer.queue("mail")
        queue.publish_many([b"x" * 300] * 10)
        queue.receive_many(3)
        for where in (path, killed(path)):
            before = everything(where)
            look(where)
            assert everything(where) == before


def look(path: Path) -> None:
    with mq.open(path, read_only=True) as reader:
        for name in reader.queues():
            queue = reader.queue(name)
            queue.peek(), queue.peek(state="in_flight"), queue.stats(), queue.options(), queue.get(80)
        reader.stats()
        reader.flush()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc to count descriptors in")
def test_a_reader_that_cannot_open_leaves_no_descriptor(path):
    mq.open(path).close()
    Path(path, "FORMAT").write_bytes(b"damaged")
    before = descriptors()
    for _ in range(3):
        with pytest.raises(mq.CorruptStore):
            mq.open(path, read_only=True)
    assert descriptors() == before


def test_a_reader_needs_no_permission_to_write():
    """As another user, if the tests run as root, whom no permission stops."""
    with tempfile.TemporaryDirectory() as base:
        path = Path(base, "data")
        with mq.open(path) as writer:
            writer.queue("mail").publish("x")
        Path(base).chmod(0o755)
        for each in [*path.rglob("*"), path]:
            each.chmod(0o555 if each.is_dir() else 0o444)
        try:
            if os.geteuid() == 0:
                os.seteuid(65_534)
            assert not os.access(path / "mark", os.W_OK, effective_ids=True)
            with mq.open(path, read_only=True) as reader:
                assert [message.body for message in reader.queue("mail").peek()] == ["x"]
            with pytest.raises(mq.StorageError, match=r"permission denied.*read-only") as raised:
                mq.open(path)
            assert raised.value.path.startswith(str(path))
        finally:
            os.seteuid(os.getuid())
            for each in [path, *path.rglob("*")]:
                each.chmod(0o755)


def test_several_readers_at_once(path):
    with mq.open(path) as writer:
        writer.queue("mail").publish("x")
        readers = [mq.open(path, read_only=True) for _ in range(3)]
        assert [reader.queue("mail").stats().ready for reader in readers] == [1, 1, 1]
        for reader in readers:
            reader.close()
        with pytest.raises(mq.Closed):
            readers[0].queue("mail").stats()


def test_threads_of_a_reader_look_at_once_and_none_is_told_that_it_is_closed(path):
    """One reads the log anew, and lets go of the files that another one is just looking at."""
    with mq.open(path, sync="never") as writer, mq.open(path, read_only=True) as reader:
        mail, looked = writer.queue("mail"), []

        def look() -> None:
            for _ in range(100):
                mail.publish("x")
                looked.append(reader.stats().segments)

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert looked == [1] * 400


# ── sharing, or not ────────────────────────────────────────────────────────────────

OPEN_AND_WAIT = """
import sys, mq
with mq.open(sys.argv[1], exclusive=sys.argv[2] == "True") as broker:
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("theirs, ours", [(True, False), (True, True), (False, True)])
def test_who_wants_a_store_alone_is_told_who_has_it_and_who_comes_then_too(path, theirs, ours):
    holder = subprocess.Popen(
        [sys.executable, "-c", OPEN_AND_WAIT, path, str(theirs)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(mq.StoreLocked, match=f"process {holder.pid}; close it there") as raised:
            mq.open(path, exclusive=ours)
        assert (raised.value.pid, raised.value.path) == (holder.pid, str(path))
        holder.kill()
        holder.wait(PATIENCE)
        mq.open(path, exclusive=ours).close()


def test_a_process_may_open_a_store_twice(path):
    """Two brokers are like two processes."""
    with mq.open(path) as one, mq.open(path) as other:
        assert one.store_id == other.store_id
        id = one.queue("mail").publish("x")
        message = other.queue("mail").receive(timeout=0)
        assert (message.id, message.body, one.queue("mail").stats().in_flight) == (id, "x", 1)
        one.close()
        message.ack()
        assert other.queue("mail").stats().acked == 1


def test_a_process_cannot_have_a_store_alone_twice(path):
    with mq.open(path, exclusive=True):
        for exclusive in (True, False):
            with pytest.raises(mq.StoreLocked) as raised:
                mq.open(path, exclusive=exclusive)
            assert raised.value.pid == os.getpid()
    mq.open(path, exclusive=True).close()


def test_whoever_is_refused_leaves_the_store_as_it_was(path):
    with mq.open(path, exclusive=True) as broker:
        queue = broker.queue("mail")
        queue.publish("x")
        before = everything(path)
        with pytest.raises(mq.StoreLocked):
            mq.open(path)
        assert everything(path) == before
        queue.receive(timeout=0).ack()


# ── sync ───────────────────────────────────────────────────────────────────────────


def test_always_syncs_every_publish_before_it_returns(path):
    disk = CountingDisk()
    with open_on(disk, path, sync="always") as broker:
        queue = broker.queue("mail")
        queue.publish("the first of a session says so, on the disk")
        for publish in (lambda: queue.publish("x"), lambda: queue.publish_many(["x"] * 50)):
            before = disk.log_syncs()
            publish()
            assert disk.log_syncs() == before + 1
            assert broker._store.turn.mark[shared.SYNCED] == broker._store.log.end


def test_settling_does_not_wait_for_the_disk(path):
    disk = CountingDisk()
    with open_on(disk, path, sync="always") as broker:
        queue = broker.queue("mail")
        queue.publish_many(["x"] * 6)
        before = disk.log_syncs()
        a, b, c, d = queue.receive_many(4)
        a.ack()
        b.nack()
        c.release()
        d.extend(5)
        queue.ack_many([d])
        queue.purge()
        assert disk.log_syncs() == before
        queue.publish("y")
        assert disk.log_syncs() == before + 1


def test_never_syncs_nothing_until_it_is_asked_to(path):
    disk = CountingDisk()
    with open_on(disk, path, sync="never") as broker:
        queue = broker.queue("mail")
        queue.publish("the first of a session says so, on the disk")
        before = disk.log_syncs()
        for _ in range(20):
            queue.publish("x")
        queue.publish_many(["x"] * 20)
        assert disk.log_syncs() == before
        broker.flush()
        assert disk.log_syncs() == before + 1
        broker.flush()
        assert disk.log_syncs() == before + 1
        queue.publish("x")
        before = disk.log_syncs()
    assert disk.log_syncs() > before, "closing syncs"


def test_a_sync_reaches_every_segment_that_was_written(path):
    disk = CountingDisk()
    with open_on(disk, path, sync="never", segment_bytes=1024) as broker:
        queue = broker.queue("mail")
        queue.publish("x")
        broker.flush()
        before = disk.syncs.copy()
        for _ in range(10):
            queue.publish(b"x" * 500)
        written = {os.path.basename(each.name) for each in broker._store.log.segments[1:]}
        broker.flush()
        after = disk.syncs - before
        assert all(after[name] >= 1 for name in written)
        assert len(written) > 3


def test_seconds_sync_in_the_background_until_the_broker_is_closed(path):
    synced = threading.Event()

    class Telling(CountingDisk):
        def sync(self, fd: int) -> None:
            super().sync(fd)
            if threading.current_thread() is not threading.main_thread():
                synced.set()

    disk = Telling()
    before = threading.active_count()
    with open_on(disk, path, sync=0.001) as broker:
        broker.queue("mail").publish("x")
        assert synced.wait(PATIENCE)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_a_publish_under_seconds_does_not_wait_for_the_disk(path):
    disk = CountingDisk()
    with open_on(disk, path, sync=3600.0) as broker:
        queue = broker.queue("mail")
        queue.publish("the first of a session says so, on the disk")
        before = disk.log_syncs()
        for _ in range(20):
            queue.publish("x")
        assert disk.log_syncs() == before


@pytest.mark.parametrize("sync", ["always", 0.001, "never"])
def test_what_returned_survives_a_kill_in_every_mode(path, sync):
    with mq.open(path, sync=sync) as broker:
        queue = broker.queue("mail")
        queue.publish_many(range(10))
        queue.receive(timeout=0).ack()
        with mq.open(killed(path)) as after:
            bodies = [message.body for message in after.queue("mail").receive_many(20)]
        assert bodies == list(range(1, 10))


# ── threads ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sync", ["never", "always"])
def test_eight_threads_lose_and_double_nothing(path, sync):
    """P1, P3, P12."""
    each, publishers, consumers = (400 if sync == "never" else 40), 4, 4
    got: list[list[tuple[int, int]]] = [[] for _ in range(consumers)]
    ids: list[list[int]] = [[] for _ in range(publishers)]
    failures: list[BaseException] = []

    def guarded(work: Callable[[int], None], number: int) -> None:
        try:
            work(number)
        except (mq.MqError, AssertionError) as error:
            failures.append(error)

    with mq.open(path, sync=sync, segment_bytes=4096) as broker:
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
        for thread in consuming:
            while thread.is_alive():  # one at a time: a batch may hold only one "stop"
                if queue.stats().ready == queue.stats().in_flight == 0:
                    queue.publish("stop")
                thread.join(0.01)
        assert failures == []
        assert queue.stats()[:3] == (0, 0, 0)
        every = sorted(body for bodies in got for body in bodies)
        assert every == [(number, n) for number in range(publishers) for n in range(each)]
        all_ids = [id for own in ids for id in own]
        assert len(set(all_ids)) == len(all_ids) == publishers * each
        assert all(own == sorted(own) for own in ids)


def test_concurrent_publishers_share_syncs_and_are_all_durable(path):
    """P1: what returned is on the disk, whoever synced it."""
    with open_on(CountingDisk(), path, sync="always") as broker:
        queue = broker.queue("mail")
        behind: list[int] = []

        def publisher() -> None:
            for _ in range(25):
                id = queue.publish("x")
                if broker._store.log.synced <= id:
                    behind.append(id)

        threads = [threading.Thread(target=publisher) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert behind == []
        assert queue.stats().ready == 200


# ── size ───────────────────────────────────────────────────────────────────────────


def test_ten_thousand_queues(path):
    with mq.open(path, sync="never") as broker:
        for n in range(10_000):
            broker.queue(f"q{n}").publish(n)
        broker.queue("q77").receive().ack()
    with mq.open(path) as broker:
        assert broker.queues() == sorted(f"q{n}" for n in range(10_000))
        assert broker.queue("q9999").receive(timeout=0).body == 9999
        stats = broker.stats().queues
        assert len(stats) == 10_000
        assert (stats["q77"].ready, stats["q78"].ready, stats["q9999"].in_flight) == (0, 1, 1)


def test_a_body_of_sixty_megabytes(path):
    body = os.urandom(1 << 20) * 60
    with mq.open(path, sync="never") as broker:
        broker.queue("mail").publish(b"before")
        broker.queue("mail").publish(body)
        broker.queue("mail").publish(b"after")
    with mq.open(path) as broker:
        queue = broker.queue("mail")
        assert broker.stats().live_bytes == len(body) + 11
        assert [message.raw for message in queue.receive_many(3)] == [b"before", body, b"after"]


def test_broker_stats(path, clock):
    with mq.open(path, segment_bytes=4096, clock=clock) as broker:
        assert broker.stats().queues == {}
        broker.queue("a").publish_many([b"x" * 1000] * 8)
        broker.queue("b").publish(b"yy")
        broker.queue("b").receive().ack()
        stats = broker.stats()
        assert stats.queues == {"a": broker.queue("a").stats(), "b": broker.queue("b").stats()}
        assert stats.live_bytes == 8000
        segments = list((path / "log").iterdir())
        assert stats.segments == len(segments)
        assert stats.disk_bytes == sum(each.stat().st_size for each in segments)


def test_a_large_body_is_not_kept_once_it_was_delivered(path):
    """P11: what is read ahead is small."""
    with mq.open(path) as broker:
        queue = broker.queue("mail")
        queue.publish_many([b"small", bytes(1 << 20), b"small too"])
        tracemalloc.start()
        try:
            for _ in range(2):
                queue.receive(timeout=0).ack()
            gc.collect()
            assert tracemalloc.get_traced_memory()[0] < 1 << 19
        finally:
            tracemalloc.stop()
        assert queue.receive(timeout=0).body == b"small too"
