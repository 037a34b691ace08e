"""A broker that a program forgets without closing it is let go of, and said to have been forgotten."""

from __future__ import annotations

import gc
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import maintaining, open_on, threads_alive, wait_in_vain

import mq
from mq.engine.store import Store
from mq.hold import Hold
from mq.storage.real_disk import RealDisk
from mq.storage.shared import ASLEEP

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc to count descriptors in")

PATIENCE = 60  # seconds after which something that does not happen has failed
FORGOTTEN = r"data: never closed: call close\(\)"


others: set[threading.Thread] = set()  # those of other tests


@pytest.fixture(autouse=True)
def know_the_others() -> None:
    others.clear()
    others.update(threads_alive())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


def opened(path: Path) -> list[str]:
    """The files of the store that this process has open."""
    descriptors = Path("/proc/self/fd")
    names = [os.readlink(each) for each in descriptors.iterdir() if os.path.lexists(each)]
    return sorted(os.path.relpath(name, path) for name in names if name.startswith(str(path)))


def own_threads() -> list[threading.Thread]:
    return [each for each in threads_alive() if each not in others]


def threads() -> list[str]:
    return sorted(each.name for each in own_threads())


def leave(broker: mq.Broker) -> None:
    pass


def wait_for_a_message(broker: mq.Broker) -> None:
    wait_in_vain(broker.queue("mail"))


def give_space_back(broker: mq.Broker) -> None:
    queue = broker.queue("mail")
    while "mq-maintenance" not in threads():
        queue.publish(bytes(300))
        queue.receive(timeout=0).ack()


def read_much(broker: mq.Broker) -> None:
    queue = broker.queue("mail")
    for _ in range(30):
        queue.publish(bytes(300))
    queue.peek(30)


USES: dict[str, Callable[[mq.Broker], None]] = {
    "not used": leave, "waiting": wait_for_a_message, "cleaning": give_space_back, "reading": read_much,
}  # fmt: skip
OPENINGS: dict[str, dict[str, Any]] = {
    "always": {}, "seconds": {"sync": 0.001}, "never": {"sync": "never"}, "exclusive": {"exclusive": True},
}  # fmt: skip


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("options", OPENINGS.values(), ids=OPENINGS)
def test_a_forgotten_broker_keeps_nothing(path, use, options) -> None:
    """P11: no descriptor, no lock, no thread."""
    broker = mq.open(path, segment_bytes=4096, **options)
    use(broker)
    broker.queue("mail").publish(b"stays")
    mine = own_threads()
    with pytest.warns(ResourceWarning, match=FORGOTTEN):
        del broker
        gc.collect()
        for thread in mine:
            thread.join(PATIENCE)
    assert opened(path) == []
    assert threads() == []
    with mq.open(path, exclusive=True) as again:
        bodies = [message.body for message in again.queue("mail").peek(100)]
    assert b"stays" in bodies


def messages(broker: mq.Broker) -> mq.Queue[Any]:
    queue = broker.queue("mail")
    queue.publish_many([b"one", b"two"])
    return queue


def iterator(broker: mq.Broker) -> Iterator[mq.Delivery[Any]]:
    found = iter(messages(broker))
    next(found)
    return found


KEEPING: dict[str, Callable[[mq.Broker], object]] = {
    "broker": lambda broker: broker,
    "queue": lambda broker: messages(broker),
    "delivery": lambda broker: messages(broker).receive(),
    "message": lambda broker: messages(broker).peek()[0],
    "iterator": iterator,
    "bound method": lambda broker: messages(broker).publish,
    "transaction": lambda broker: broker.transaction().__enter__(),
}


@pytest.mark.parametrize("keep", KEEPING.values(), ids=KEEPING)
def test_whatever_can_use_the_store_keeps_it(path, keep) -> None:
    kept = keep(mq.open(path))
    gc.collect()
    assert len(opened(path)) > 3
    if isinstance(kept, mq.Delivery):
        kept.ack()
        assert kept.raw == b"one"
    with pytest.warns(ResourceWarning, match=FORGOTTEN):
        del kept
        gc.collect()
    assert opened(path) == []


def test_a_receiver_that_waits_keeps_it(path) -> None:
    def receive() -> None:
        got.append(mq.open(path).queue("mail").receive(timeout=PATIENCE).body)

    got: list[object] = []
    with warnings.catch_warnings(), mq.open(path) as other:
        warnings.simplefilter("ignore", ResourceWarning)
        waiting = threading.Thread(target=receive)
        waiting.start()
        while not other._store.turn.mark[ASLEEP]:
            waiting.join(0.001)
        gc.collect()
        other.queue("mail").publish(b"one")
        waiting.join(PATIENCE)
        assert got == [b"one"]


def test_what_was_closed_or_lives_in_memory_alone_is_forgotten_in_silence(path) -> None:
    broker = mq.open(path)
    queue = broker.queue("mail")
    broker.close()
    memory = mq.open(":memory:").queue("mail")
    memory.publish(b"x")
    del broker, queue, memory
    gc.collect()  # warnings are errors


def test_nothing_is_synced_and_the_next_one_finds_what_was_published(path) -> None:
    """As when the process dies: the log does not say that it was closed."""
    with pytest.warns(ResourceWarning, match=FORGOTTEN):
        mq.open(path, sync="never").queue("mail").publish(b"one")
        gc.collect()
    with mq.open(path) as again:
        assert [message.body for message in again.queue("mail").peek()] == [b"one"]


# ── wherever the garbage collector comes by ────────────────────────────────────────


class InTheMidst(RealDisk):
    """Calls something where a thread of the store uses the disk."""

    def __init__(self, name: str, thread: str) -> None:
        super().__init__()
        self.thread, self.work, self.done = thread, None, threading.Event()
        plain = getattr(super(), name)

        def with_work(*args: Any, **options: Any) -> Any:
            if self.work and threading.current_thread().name == self.thread:
                work, self.work = self.work, None
                work()
                self.done.set()
            return plain(*args, **options)

        setattr(self, name, with_work)


@pytest.mark.parametrize(
    "name, thread",
    [
        pytest.param("sync", "mq-sync", id="in the background sync"),
        pytest.param("lock", "mq-maintenance", id="in a turn of the cleaner"),
        pytest.param("unlink", "mq-maintenance", id="between its turns"),
        pytest.param("listen", "mq-listener", id="before it listens"),
    ],
)
def test_a_broker_may_be_forgotten_in_the_midst_of_its_own_threads(path, name, thread) -> None:
    disk = InTheMidst(name, thread)
    broker = open_on(disk, path, sync=0.001 if thread == "mq-sync" else "never", segment_bytes=4096)
    broker._hold.guard(broker._store.closing)
    kept = [broker.queue("mail")]
    store = broker._store
    mine: list[threading.Thread] = []
    del broker

    def forget() -> None:
        mine.extend(own_threads())
        kept.clear()
        gc.collect()

    with pytest.warns(ResourceWarning, match=FORGOTTEN):
        if thread == "mq-listener":
            wait_in_vain(kept[0])
        disk.work = forget
        with warnings.catch_warnings():
            warnings.simplefilter("always", ResourceWarning)
            for _ in range(100_000):
                if disk.done.is_set():
                    break
                use_once(kept)
        assert disk.done.wait(PATIENCE)
        for each in mine:
            each.join(PATIENCE)
    assert store.turn.gone
    assert opened(path) == []
    mq.open(path, exclusive=True).close()


def use_once(kept: list[mq.Queue[Any]]) -> None:
    try:
        queue = kept[0]
    except IndexError:
        return
    queue.publish(bytes(300))
    if message := queue.receive(timeout=0):
        message.ack()


def test_a_broker_may_be_forgotten_inside_an_operation_on_another(path, tmp_path) -> None:
    first, ready = [mq.open(path)], []

    class Forgetting(RealDisk):
        def pwrite(self, fd: int, data: bytes, offset: int) -> int:  # type: ignore[override]
            if ready:
                first.clear()
                gc.collect()
            return os.pwrite(fd, data, offset)

    with open_on(Forgetting(), tmp_path / "other", background=False) as other:
        ready.append(True)
        with pytest.warns(ResourceWarning, match=FORGOTTEN):
            other.queue("mail").publish(b"one")
        assert opened(path) == []
        assert other.queue("mail").receive(timeout=0).body == b"one"


def test_two_that_are_forgotten_while_each_others_threads_work_wait_for_neither(path, tmp_path) -> None:
    """A thread that has a store's lock never waits for another store's."""
    stores = [
        Store(
            str(tmp_path / name), sync="never", read_only=False, segment_bytes=4096, clock=None,
            disk=RealDisk(), background=False,
        )
        for name in "ab"
    ]  # fmt: skip
    brokers = [mq.Broker(store) for store in stores]
    barrier = threading.Barrier(2)

    def work(own: int) -> None:
        with maintaining(stores[own]):
            barrier.wait(PATIENCE)
            stores[1 - own].closing.forget()
        stores[own].let_go_if_forgotten()

    with pytest.warns(ResourceWarning):
        workers = [threading.Thread(target=work, args=(own,), daemon=True) for own in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(PATIENCE)
    assert not any(worker.is_alive() for worker in workers)
    assert opened(tmp_path) == []
    del brokers


# ── forks ──────────────────────────────────────────────────────────────────────────


def in_a_fork(work: Callable[[], object]) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", ResourceWarning)
                work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("options", [{}, {"exclusive": True}, {"sync": 0.5}], ids=["", "exclusive", "sync"])
def test_a_child_that_forgets_what_it_inherited_says_nothing_and_harms_nobody(path, options) -> None:
    kept = [mq.open(path, **options)]
    kept[0].queue("mail").publish(b"one")
    raised: list[object] = []

    def forget() -> None:
        sys.unraisablehook = raised.append
        kept.clear()
        gc.collect()
        assert raised == []

    in_a_fork(forget)
    kept[0].queue("mail").publish(b"two")
    assert kept[0].queue("mail").stats().ready == 2
    with pytest.raises(mq.StoreLocked):
        mq.open(path, exclusive=True)
    kept[0].close()


def test_readers_are_forgotten_too(path) -> None:
    with mq.open(path) as broker:
        broker.queue("mail").publish(b"one")
        reader = mq.open(path, read_only=True)
        assert reader.queue("mail").peek()
        inside = len(opened(path))
        in_a_fork(lambda: None)
        with pytest.warns(ResourceWarning, match=FORGOTTEN):
            del reader
            gc.collect()
        assert len(opened(path)) < inside


def test_a_hold_is_one_for_all_handles(broker: mq.Broker) -> None:
    assert isinstance(broker._hold, Hold)
    assert broker.queue("mail")._hold is broker._hold
