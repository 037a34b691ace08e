"""A store's files: opening, sharing, reading only, syncing, size.

What behaves the same on every kind of log is in test_broker.py.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from calls import CHANGES
from fakes import CountingDisk, QuickDisk, made_here, open_on, wait_in_vain

import mq
from mq.storage import shared
from mq.storage.real_disk import RealDisk

pytestmark = [pytest.mark.file_store, pytest.mark.usefixtures("no_backoff_after_timeouts")]

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


# ── opening and closing ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", [str, Path], ids=["text", "Path"])
def test_a_store_is_made_where_it_is_asked_for(path, kind):
    with mq.open(kind(path / "deep" / "er")) as broker:
        assert broker.path == str(path / "deep" / "er")
        assert len(broker.store_id) == 32
        assert (path / "deep" / "er" / "FORMAT").exists()


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
        wait_in_vain(other.queue("mail"))  # its bell is made
        one.queue("mail").publish("x")  # and rung
        for broker in (one, other):
            broker._store.maintenance.stop()  # it may have a descriptor at the moment
        assert descriptors() <= before + 2 * (DESCRIPTORS + BELL)
    assert descriptors() == before


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
    gc.collect()
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
            with pytest.raises(mq.StorageError, match=r"permission denied.*read_only=True") as raised:
                mq.open(path)
            assert raised.value.path.startswith(str(path))
        finally:
            os.seteuid(os.getuid())
            for each in [path, *path.rglob("*")]:
                each.chmod(0o755)


def test_a_directory_of_another_user_says_what_helps():
    """Opening it read-only does not: as another user, if the tests run as root, whom no permission stops."""
    with tempfile.TemporaryDirectory() as base:
        path = Path(base, "data")
        mq.open(path).close()
        Path(base).chmod(0o755)
        path.chmod(0o700 if os.geteuid() == 0 else 0)
        try:
            if os.geteuid() == 0:
                os.seteuid(65_534)
            for read_only in (False, True):
                with pytest.raises(mq.StorageError, match=r"permission denied.*run as a user who may read"):
                    mq.open(path, read_only=read_only)
        finally:
            os.seteuid(os.getuid())
            path.chmod(0o755)


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
            assert broker._store.turn.mark[shared.SYNCED] == broker._store.replica.log.end


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
        written = {os.path.basename(each.name) for each in broker._store.replica.log.segments[1:]}
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
    before = set(threading.enumerate())
    with open_on(disk, path, sync=0.001) as broker:
        broker.queue("mail").publish("x")
        assert synced.wait(PATIENCE)
        mine = [each for each in threading.enumerate() if each not in before]
        assert sorted(each.name for each in mine) == ["mq-scheduler", "mq-sync"]
    for each in mine:
        each.join(PATIENCE)
    assert set(threading.enumerate()) <= before


def test_a_publish_under_seconds_does_not_wait_for_the_disk(path):
    disk = CountingDisk()
    with open_on(disk, path, sync=3600.0) as broker:
        queue = broker.queue("mail")
        queue.publish("the first of a session says so, on the disk")
        before = disk.log_syncs()
        for _ in range(20):
            queue.publish("x")
        assert disk.log_syncs() == before


def test_concurrent_publishers_share_syncs_and_are_all_durable(path):
    """P1: what returned is on the disk, whoever synced it."""
    with open_on(CountingDisk(), path, sync="always") as broker:
        queue = broker.queue("mail")
        behind: list[int] = []

        def publisher() -> None:
            for _ in range(25):
                id = queue.publish("x")
                if broker._store.replica.log.synced <= id:
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
        assert broker.queue("q9999").receive(timeout=0, visibility_timeout=3600).body == 9999
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
