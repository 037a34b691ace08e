"""What a store stands on may change under it: the working directory, the threads to be had, the files
that a reader looks at."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import open_on

import mq
from mq.api.broker import Broker
from mq.delivery import records
from mq.delivery.decode import refusals
from mq.engine.store import Store
from mq.storage import shared
from mq.storage.disk import Disk
from mq.storage.real_disk import RealDisk
from mq.storage.repair import repair

PATIENCE = 120.0  # seconds after which a test that hangs has failed
SEGMENT_BYTES = 1024


# ── the working directory ──────────────────────────────────────────────────────────


def test_a_store_with_a_relative_path_stays_where_it_was_opened(tmp_path: Path, monkeypatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    with mq.open("data", segment_bytes=SEGMENT_BYTES) as broker:
        queue = broker.queue("mail")
        queue.publish(b"first")
        monkeypatch.chdir(elsewhere)
        for _ in range(8):
            queue.publish(bytes(300))  # new segments are begun
        assert queue.receive(timeout=0).body == b"first"
        assert broker.stats().segments > 2
        with mq.open(tmp_path / "data", read_only=True) as reader:
            assert reader.queue("mail").stats()[:2] == (8, 1)
    assert list(elsewhere.iterdir()) == []
    with mq.open(tmp_path / "data") as again:
        assert again.queue("mail").stats()[:2] == (8, 1)


def test_a_reader_with_a_relative_path_goes_on_reading_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with mq.open("data") as writer, mq.open("data", read_only=True) as reader:
        monkeypatch.chdir("/")
        writer.queue("mail").publish(b"one")
        assert [message.body for message in reader.queue("mail").peek()] == [b"one"]


# ── modules, and names that cannot be looked up ─────────────────────────────────────

NO_MODULES = """
import os, sys, mq

class Nowhere:
    @staticmethod
    def find_spec(name, path=None, target=None):
        asked.append(name)

asked = []
sys.meta_path[:] = [Nowhere]
with mq.open(sys.argv[1], sync=0.1, segment_bytes=1 << 20) as broker:
    queue = broker.queue("mail", max_attempts=2)
    for _ in range(1200):
        queue.publish(bytes(1000))
    while batch := queue.receive_many(100, timeout=0):
        queue.ack_many(batch)
    queue.publish({"to": "ada"}, delay=0.001, headers={"from": "ops"}, group="g")
    queue.receive(timeout=60).nack(delay=0, reason="closed")
    with broker.transaction() as tx:
        tx.publish("sent", "done")
    assert broker.stats().processes
    with mq.open(sys.argv[1], read_only=True) as reader:
        assert reader.queue("sent").stats().ready
assert not asked, asked
os._exit(0)  # Python itself imports at its end
"""


def test_a_program_that_can_import_nothing_any_more_uses_a_store(tmp_path: Path) -> None:
    """As in one that has changed its root or its user, or whose Python was just upgraded."""
    program = [sys.executable, "-c", NO_MODULES, str(tmp_path / "data")]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with mq.open(tmp_path / "data", read_only=True) as reader:
        assert reader.queue("sent").stats().ready == 1


def opened(path: Path) -> None:
    mq.open(path).close()


def looked_at(path: Path) -> None:
    mq.open(path, read_only=True).close()


def salvaged(path: Path) -> None:
    mq.open(path, recover="salvage").close()


def repaired(path: Path) -> None:
    repair(RealDisk(), str(path), records.NEW, records.message_of, refusals)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize(
    "name, work",
    [("FORMAT", opened), ("FORMAT", looked_at), ("FORMAT", salvaged), ("FORMAT", repaired),
     ("mark", looked_at), ("mark", repaired)],
)  # fmt: skip
def test_a_file_that_cannot_be_looked_up_is_not_taken_for_missing(
    tmp_path: Path, monkeypatch, name: str, work: Callable[[Path], None], code: int
) -> None:
    """A missing FORMAT is written anew by a repair, and without `mark` damage reads as a torn tail."""
    with mq.open(tmp_path) as broker:
        broker.queue("mail").publish(b"one")
    before = {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()}
    stat = os.stat

    def fail(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        if isinstance(path, str) and os.path.basename(path) == name:
            raise OSError(code, os.strerror(code))
        return stat(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", fail)
        with pytest.raises(mq.StorageError) as caught:
            work(tmp_path)
    assert type(caught.value) is mq.StorageError
    assert caught.value.path == str(tmp_path / name)
    assert {each: each.read_bytes() for each in before} == before
    with mq.open(tmp_path) as broker:
        assert broker.queue("mail").receive(timeout=0).body == b"one"


# ── threads ────────────────────────────────────────────────────────────────────────


class Threads:
    """Whether the library gets threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there_are_none = True
        self.refused: list[str] = []
        start = threading.Thread.start

        def start_or_not(thread: threading.Thread) -> None:
            if self.there_are_none and thread.name.startswith("mq-"):
                self.refused.append(thread.name)
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_or_not)


class Unlinking(RealDisk):
    """Says when a file is given back."""

    def __init__(self) -> None:
        super().__init__()
        self.unlinked = threading.Event()

    def unlink(self, path: str) -> None:
        super().unlink(path)
        self.unlinked.set()


def test_a_cleaner_that_cannot_be_started_stops_no_publish_and_is_tried_again(tmp_path, monkeypatch) -> None:
    """It is a thread, and the system may be out of threads for a while."""
    threads, disk = Threads(monkeypatch), Unlinking()
    broker = open_on(disk, tmp_path, sync="never", segment_bytes=SEGMENT_BYTES)
    queue = broker.queue("mail")

    def traffic() -> None:
        for _ in range(20):
            queue.publish(bytes(300))
            queue.receive(timeout=0).ack()

    traffic()
    assert threads.refused
    assert set(threads.refused) == {"mq-maintenance", "mq-scheduler"}
    threads.there_are_none = False
    traffic()
    assert disk.unlinked.wait(PATIENCE), "nothing is given back"
    broker.close()


def test_a_store_that_never_gets_a_cleaner_closes(tmp_path, monkeypatch) -> None:
    threads = Threads(monkeypatch)
    with mq.open(tmp_path, sync="never", segment_bytes=SEGMENT_BYTES) as broker:
        queue = broker.queue("mail")
        for _ in range(20):
            queue.publish(bytes(300))
            queue.receive(timeout=0).ack()
        queue.publish(b"stays")
    assert "mq-maintenance" in threads.refused
    with mq.open(tmp_path) as again:
        assert [message.body for message in again.queue("mail").peek()] == [b"stays"]


def test_a_receiver_waits_though_nobody_can_listen_for_other_processes(tmp_path, monkeypatch) -> None:
    threads = Threads(monkeypatch)
    with mq.open(tmp_path) as broker:
        queue = broker.queue("mail")
        while "mq-listener" not in threads.refused:  # the timeout may be over before the wait begins
            assert queue.receive(timeout=0.001) is None
        threads.there_are_none = False
        assert queue.receive(timeout=0.001) is None
        queue.publish(b"one")
        assert queue.receive(timeout=0).body == b"one"


def test_an_opening_that_gets_no_thread_to_sync_with_keeps_no_lock(tmp_path, monkeypatch) -> None:
    """Without it the promise of `sync` could not be kept, so the store is not opened, and nothing stays."""
    Threads(monkeypatch)
    with pytest.raises(mq.StorageError, match="new thread"):
        mq.open(tmp_path, sync=1.0)
    with Broker(store_alone(tmp_path)) as alone:
        alone.queue("mail").publish(b"one")


def store_alone(path: Path) -> Store:
    return Store(
        str(path), sync="always", read_only=False, segment_bytes=SEGMENT_BYTES, clock=None, exclusive=True
    )


# ── a reader beside a cleaner ──────────────────────────────────────────────────────


class Overtaken(RealDisk):
    """A reader's disk: when it first asks how large a segment is, *meanwhile* happens."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Any = None

    def open(self, path: str, *, write: bool = False, create: bool = False) -> int:
        if path.endswith(".seg") and self.meanwhile:
            work, self.meanwhile = self.meanwhile, None
            work()
        return super().open(path, write=write, create=create)


def test_a_reader_counts_segments_that_vanish_while_it_counts(tmp_path) -> None:
    """It has the picture from before, and the files are those from after."""
    writer = open_on(RealDisk(), tmp_path, sync="never", segment_bytes=SEGMENT_BYTES, background=False)
    queue = writer.queue("mail")
    queue.publish(b"stays")
    for _ in range(10):
        queue.publish(bytes(300))
    disk = Overtaken()
    reader = Broker(
        Store(
            str(tmp_path), sync="always", read_only=True, segment_bytes=SEGMENT_BYTES, clock=None, disk=disk
        )
    )
    before = reader.stats()
    for message in queue.receive_many(11)[1:]:
        message.ack()
    reader.queue("mail").stats()  # it has seen that, and not what comes now
    disk.meanwhile = writer._store.maintenance.compact
    stats = reader.stats()
    assert disk.meanwhile is None, "it opened no segment"
    assert stats.disk_bytes <= before.disk_bytes
    assert reader.queue("mail").stats().in_flight == 1
    reader.close()
    writer.close()


def test_a_reader_that_cannot_read_the_page_says_so(tmp_path, monkeypatch):
    """An error of mq, that names the file, and no OSError."""

    def fail(disk: Disk, path: str, key: bytes) -> list[int]:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    with mq.open(tmp_path / "data") as broker:
        broker.queue("mail").publish("x")
        with mq.open(tmp_path / "data", read_only=True) as reader:
            with monkeypatch.context() as planted:
                planted.setattr(shared, "read_mark", fail)
                with pytest.raises(mq.StorageError, match="mark: Input/output error"):
                    reader.queue("mail").peek()
            assert [message.body for message in reader.queue("mail").peek()] == ["x"]
