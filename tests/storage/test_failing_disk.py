"""Disks that are full, that fail once, that fail for good: what is raised, and what is there afterwards.

Every failure is placed before every call of its kind in a short life of a store; so
each also hits the making of the store, a rotation, recovery, a checkpoint and closing.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Any

import pytest
from faults import EIO, ENOSPC, GO_ON, Faulty, Image, PowerCut, cut_at, failing
from logfiles import cut, declare, publish, segment, store
from opened import bodies, contents, open_on

from mq.api.broker import Broker
from mq.engine.store import Store
from mq.errors import CorruptStore, DiskFull, MqError, StorageError, StoreFailed
from mq.storage import shared
from mq.storage.log import Log
from mq.storage.memory_disk import MemoryDisk
from mq.storage.reader import OPEN_SEGMENTS_MAX
from mq.storage.recovery import Verdict
from mq.storage.rotation import Rotation
from mq.storage.tail import EARLIER_MAX


def fresh(disk=None):
    """A store with one synced message, and its disk, which does not fail yet."""
    image = disk or Image()
    faulty = Faulty(image)
    broker = open_on(faulty)
    broker.queue("a").publish(b"kept")
    return image, faulty, broker, broker.queue("a")


# ── full ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG], ids=errno.errorcode.get)
def test_a_full_disk_is_refused_before_anything_is_torn_and_when_there_is_room_it_goes_on(code):
    """P6: nothing was published; nothing has to be opened again."""
    image, faulty, broker, queue = fresh()
    faulty.hook = failing("allocate", code)
    done = 0
    with pytest.raises(DiskFull, match="free some space"):
        while True:
            queue.publish(b"%d" % done * 300)
            done += 1
    before = bodies(broker)
    for _ in range(3):
        with pytest.raises(DiskFull):
            queue.publish_many([b"x" * 500, b"y" * 500])
    assert bodies(broker) == before
    assert broker._store.replica.log.failure.error is None
    with open_on(Image(image.files())) as reopened:  # killed here
        assert reopened._store.replica.verdict is Verdict.OPEN
        assert bodies(reopened) == before
    faulty.hook = None
    queue.publish_many([b"x" * 500, b"y" * 500])
    broker.close()
    with open_on(image) as reopened:
        assert reopened._store.replica.verdict is Verdict.CLEAN
        assert bodies(reopened) == [*before, b"x" * 500, b"y" * 500]


def test_closing_on_a_full_disk_still_syncs():
    image, faulty, broker, queue = fresh()
    broker._store.sync_always = False
    while broker._store.replica.log.end + 24 + 100 < 1024:
        queue.publish(bytes(76))
    queue.publish(bytes(1024 - broker._store.replica.log.end - 24))  # no room left for the closing record
    everything = bodies(broker)
    faulty.hook = failing("allocate", ENOSPC)
    broker.close()
    with open_on(Image(image.synced_files())) as reopened:
        assert bodies(reopened) == everything


# ── failed writes ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("many", [False, True], ids=["publish", "publish_many"])
def test_a_failed_write_fails_the_store_until_it_is_opened_again(many):
    image, faulty, broker, queue = fresh()

    def tear(name, args):
        if name == "pwrite":
            fd, data, offset = args
            image.pwrite(fd, data[: len(data) // 2], offset)
            raise OSError(EIO, os.strerror(EIO))
        return GO_ON

    faulty.hook = tear
    with pytest.raises(StoreFailed, match="whole or not at all") as caught:
        queue.publish_many([b"lost", b"too"]) if many else queue.publish(b"lost")
    assert caught.value.path == "s/log/00000000000000000000.seg"
    faulty.hook = None  # the disk is well again, and that does not help
    for refused in (
        lambda: queue.publish(b"more"),
        lambda: queue.publish_many([b"more"]),
        lambda: queue.receive(timeout=0),
        lambda: queue.purge(),
        lambda: broker.queue("b").publish(b"more"),
        lambda: broker.queue("a", visibility_timeout=3),
    ):
        with pytest.raises(StoreFailed):
            refused()
    broker.close()
    with open_on(image) as reopened:
        assert reopened._store.replica.verdict is Verdict.TORN
        assert bodies(reopened) == [b"kept"]
        reopened.queue("a").publish(b"more")


def test_a_write_that_failed_after_all_was_written_is_there_once():
    """P6: a publish that raised may be there whole."""
    image, faulty, broker, queue = fresh()

    def fail_late(name, args):
        if name == "pwrite":
            image.pwrite(*args)
            raise OSError(EIO, os.strerror(EIO))
        return GO_ON

    faulty.hook = fail_late
    with pytest.raises(StoreFailed):
        queue.publish(b"there")
    broker.close()
    with open_on(image) as reopened:
        assert bodies(reopened) == [b"kept", b"there"]


def test_what_was_received_before_a_failure_cannot_be_settled_after_it():
    image, faulty, broker, queue = fresh()
    delivery = queue.receive(timeout=0)
    faulty.hook = failing("pwrite", EIO, times=1)
    for settle in (delivery.ack, delivery.ack, delivery.nack, delivery.release, delivery.extend):
        with pytest.raises(StoreFailed):
            settle()
    broker.close()
    with open_on(image) as reopened:
        assert bodies(reopened) == [b"kept"]


# ── failed syncs ───────────────────────────────────────────────────────────────────


class Forgetful(Image):
    """A sync that fails leaves the pages clean: the cache has what was written, the disk never will.

    That is what Linux does.  A later sync answers OK and brings only what was written since.
    """

    def __init__(self, files=None):
        super().__init__(files)
        self.broken = False
        self._dirty: dict[str, list[tuple[int, bytes]]] = {}

    def _path(self, fd):
        return next(path for path, file in self._files.items() if file is self._file(fd))

    def pwrite(self, fd, data, offset, /):
        self._dirty.setdefault(self._path(fd), []).append((offset, data))
        return super().pwrite(fd, data, offset)

    def sync(self, fd):
        path = self._path(fd)
        writes = self._dirty.pop(path, [])
        if self.broken:
            raise OSError(EIO, os.strerror(EIO))
        disk = bytearray(self._synced.get(path, b""))
        for offset, data in writes:
            disk.extend(bytes(max(0, offset + len(data) - len(disk))))
            disk[offset : offset + len(data)] = data
        self._synced[path] = bytes(disk)


def test_a_failed_sync_is_never_tried_again_and_what_it_lost_is_rewritten():
    """P1, P6: after a re-open from the cache and another sync, the disk has what the cache has."""
    image, faulty, broker, queue = fresh(Forgetful())
    image.broken = True
    with pytest.raises(StoreFailed, match="outcome is unknown"):
        queue.publish(b"in doubt")
    image.broken = False
    syncs = faulty.counts["sync"]
    for _ in range(3):
        with pytest.raises(StoreFailed):
            queue.publish(b"refused")
        with pytest.raises(StoreFailed):
            broker.flush()
    broker.close()
    assert faulty.counts["sync"] == syncs
    assert b"in doubt" not in b"".join(image.synced_files().values())
    with open_on(image) as reopened:
        assert bodies(reopened) == [b"kept", b"in doubt"]
        assert b"in doubt" in b"".join(image.synced_files().values())
        reopened.queue("a").publish(b"later")
        with open_on(Image(image.synced_files())) as after_power_cut:
            assert bodies(after_power_cut) == [b"kept", b"in doubt", b"later"]


def test_a_failed_sync_moves_no_watermark():
    image, faulty, broker, queue = fresh()
    synced = broker._store.replica.log.synced
    faulty.hook = failing("sync", EIO, times=1)
    with pytest.raises(StoreFailed):
        queue.publish(b"in doubt")
    words = shared.read_mark(image, "s/mark", image.files()["s/mark"][:8])
    assert words[shared.SYNCED] == broker._store.replica.log.synced == synced
    assert words[shared.FAILED] == 1


class WrittenAlone(Image):
    """The kernel writes what is dirty by itself, and fails: each descriptor that is open then is told once.

    One that is opened later is not: another program was told first, or the file left the memory.
    """

    def __init__(self):
        super().__init__()
        self._owed: dict[int, int] = {}  # errors, by descriptor

    def lose(self, path):
        self._owed = {fd: EIO for fd, file in self._open.items() if file is self._files[path]}

    def close(self, fd, /):
        super().close(fd)
        self._owed.pop(fd, None)

    def sync(self, fd):
        if code := self._owed.pop(fd, 0):
            raise OSError(code, os.strerror(code))
        super().sync(fd)


@pytest.mark.parametrize("segments", [2, 3, 4, 5])
def test_what_the_kernel_could_not_write_by_itself_fails_the_next_sync(segments):
    """P1, P7: also if the log goes on in another segment by then, and every process has closed this one."""
    disk = WrittenAlone()
    broker = open_on(disk, sync="never")
    log, queue = broker._store.replica.log, broker.queue("a")
    while len(log.segments) < segments:
        queue.publish(bytes(300))
    assert log.synced < log.segments[1].base
    for fd in list(log.reader._readers.values()):  # they are for reading, and there may be none
        disk.close(fd)
    log.reader._readers.clear()
    disk.lose(f"s/log/{log.segments[0].base:020}.seg")
    with pytest.raises(StoreFailed, match="outcome is unknown"):
        broker.flush()
    assert log.synced < log.segments[1].base
    broker.close()


def test_descriptors_of_segments_that_are_not_on_the_disk_yet_are_few():
    """P11: before there are more, what was written is synced."""
    image = Image()
    faulty = Faulty(image)
    with open_on(faulty, sync="never") as broker:
        log, queue = broker._store.replica.log, broker.queue("a")
        queue.publish(b"")
        before = len(image._open)
        for _ in range(100):
            queue.publish(bytes(300))
        assert len(log.segments) > 20
        assert len(image._open) <= before + EARLIER_MAX + OPEN_SEGMENTS_MAX
        assert log.segments[-EARLIER_MAX - 2].base < log.synced < log.end
        broker.flush()
        assert len(image._open) <= before + OPEN_SEGMENTS_MAX
    assert not image._open


def test_a_segment_that_another_process_gave_back_is_open_no_more(tmp_path):
    """P11: its room would not come back."""

    def open_deleted():
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        found = [os.readlink(each) for each in links if os.path.islink(each)]
        return [path for path in found if path.startswith(str(tmp_path)) and path.endswith("(deleted)")]

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("no /proc here")
    stores = [
        Store(str(tmp_path), sync="never", read_only=False, segment_bytes=4096, clock=None, background=False)
        for _ in range(2)
    ]
    one, other = map(Broker, stores)
    try:
        queue = one.queue("a")
        for _ in range(3):
            queue.publish(bytes(1000))
            queue.receive(timeout=0).ack()
        while len(stores[0].replica.log.segments) < 3:
            queue.publish(bytes(1000))
        before = other.queue("a").stats().ready  # it has followed, and is in the last segment, too
        written_to = stores[1].replica.log.writing
        assert stores[0].maintenance.cleaning.clean()
        assert other.queue("a").stats().ready == before
        assert stores[1].replica.log.writing == written_to
        assert not open_deleted()
    finally:
        one.close()
        other.close()


@pytest.mark.parametrize("method", ["sync", "sync_directory"])
@pytest.mark.parametrize("code", [EIO, ENOSPC], ids=errno.errorcode.get)
def test_a_failed_sync_of_a_new_segment_fails_the_store_too(method, code):
    """Tried again it would answer OK for a name, or a header, that the disk never got."""
    image, faulty, broker, queue = fresh()
    broker._store.sync_always = False  # so that the next sync is the rotation's
    faulty.hook = failing(method, code, times=1)
    with pytest.raises(StoreFailed):
        for n in range(10):
            queue.publish(b"%d" % n * 300)
    for _ in range(2):
        with pytest.raises(StoreFailed):
            queue.publish(b"refused")
    everything = bodies(open_on(Image(image.files())))
    broker.close()
    with open_on(image) as reopened:
        assert bodies(reopened) == everything
        for n in range(5):
            reopened.queue("a").publish(b"%d" % n * 300)


def test_a_rotation_without_descriptors_harms_nothing():
    """What is written after it stands where it is looked for."""
    image, faulty, broker, queue = fresh()
    faulty.hook = failing("open", errno.EMFILE)
    with pytest.raises(StorageError, match="ulimit"):
        for n in range(10):
            queue.publish(b"%d" % n * 300)
    faulty.hook = None
    for n in range(10, 20):
        queue.publish(b"%d" % n * 150)
    everything = bodies(broker)
    assert b"19" * 150 in everything
    with open_on(Image(image.files())) as reopened:
        assert bodies(reopened) == everything


def test_a_rotation_that_is_interrupted_is_made_good(monkeypatch):
    """Ctrl-C between any two of its steps, each in its turn."""
    for room, step in ((Rotation, "_create"), (Log, "enter"), (Log, "write")):
        image, _, broker, queue = fresh()
        plain, armed = getattr(room, step), [True]

        def interrupt(self, *args, plain=plain, armed=armed, log=broker._store.replica.log, **options):
            if armed and len(log.segments) + (plain.__name__ == "_create") > 1:
                armed.clear()
                raise KeyboardInterrupt
            return plain(self, *args, **options)

        monkeypatch.setattr(room, step, interrupt)
        published = [b"kept"]
        for n in range(12):
            try:
                queue.publish(b"%d" % n * 300)
            except KeyboardInterrupt:
                continue
            published.append(b"%d" % n * 300)
        monkeypatch.undo()
        assert not armed
        assert bodies(broker) == published
        with open_on(Image(image.files())) as reopened:
            assert bodies(reopened) == published


# ── a failure before every call ────────────────────────────────────────────────────


def life(disk, confirmed):
    """A store's life: made, filled over rotations, cleaned, closed; notes what was confirmed."""
    with open_on(disk) as broker:
        queue = broker.queue("a")
        for n in range(3):
            body = b"%d" % n * 350
            queue.publish(body)
            confirmed.append(body)
        group = [b"g" * 200, b"h" * 200]
        queue.publish_many(group)
        confirmed.extend(group)


def calls_in_a_life(method):
    faulty = Faulty(Image())
    life(faulty, [])
    return faulty.counts[method]


@pytest.mark.parametrize("times", [1, 1 << 30], ids=["once", "for good"])
@pytest.mark.parametrize(
    "method", ["open", "pread", "pwrite", "allocate", "size", "sync", "sync_directory", "rename"]
)
def test_a_failure_of_any_call_loses_nothing_that_was_confirmed(method, times):
    """P1, P3, P6, and: nothing but errors of the tree is ever raised."""
    for code in (EIO, ENOSPC):
        for after in range(calls_in_a_life(method)):
            image = Image()
            confirmed: list[bytes] = []
            try:
                life(Faulty(image, failing(method, code, after=after, times=times)), confirmed)
            except MqError as error:
                assert str(error)
            with open_on(Image(image.files())) as reopened:  # the process has ended
                found = bodies(reopened)
            assert found[: len(confirmed)] == confirmed
            assert set(found) <= {b"%d" % n * 350 for n in range(3)} | {b"g" * 200, b"h" * 200}
            assert len(found) == len(set(found))


@pytest.mark.parametrize("power, partly", [(False, True), (True, False)], ids=["killed", "power cut"])
def test_a_life_that_ends_at_any_call_loses_nothing_that_was_confirmed(power, partly):
    call, ended = 0, False
    while not ended:
        image, confirmed = Image(), []
        try:
            life(Faulty(image, cut_at(image, call, partly=partly)), confirmed)
            ended = True
        except PowerCut:
            pass
        with open_on(Image(image.synced_files() if power else image.files())) as reopened:
            found = bodies(reopened)
            assert reopened._store.replica.verdict is not Verdict.CORRUPT
        assert found[: len(confirmed)] == confirmed
        assert len(found) - len(confirmed) in (0, 1, 2)
        call += 1


def test_a_damaged_body_costs_only_itself():
    """P10: found when it is read; its neighbours are served, and the store stays open."""
    image, _, broker, queue = fresh()
    ids = [queue.publish(b"%d" % n * 30) for n in range(3)]
    each = broker._store.replica.log.segments[0]
    file = image._files[f"s/log/{each.name}"]
    file[each.offset(ids[1]) + 30] ^= 4
    with pytest.raises(MqError, match=f"message {ids[1]} does not pass its checksum") as caught:
        queue.get(ids[1])
    assert (caught.value.offset, caught.value.ids) == (each.offset(ids[1]), (ids[1],))
    assert queue.get(ids[0]).body == b"0" * 30
    assert queue.get(ids[2]).body == b"2" * 30
    queue.publish(b"more")


def test_a_body_that_cannot_be_read_costs_only_itself():
    _, faulty, _, queue = fresh()
    id = queue.publish(b"second")
    faulty.hook = failing("pread", EIO)
    with pytest.raises(MqError, match=f"message {id} cannot be read"):
        queue.get(id)
    faulty.hook = None
    assert queue.get(id).body == b"second"


@pytest.mark.parametrize(
    "code, says",
    [
        (errno.EACCES, "permission denied"), (errno.EPERM, "permission denied"), (errno.ENOMEM, "try again"),
        (errno.ENOLCK, os.strerror(errno.ENOLCK)),
    ],
)  # fmt: skip
def test_a_body_that_this_process_cannot_read_is_not_called_damaged(code, says):
    """Nor has it failed an attempt."""
    _, faulty, broker, queue = fresh()
    broker.queue("a", max_attempts=1)
    queue.publish(b"second")
    faulty.hook = failing("pread", code)
    for operation in (lambda: queue.receive(timeout=0), lambda: queue.peek(2), lambda: queue.receive_many(2)):
        with pytest.raises(StorageError, match=says) as caught:
            operation()
        assert not isinstance(caught.value, CorruptStore)
        assert caught.value.path.endswith(".seg")
    faulty.hook = None
    delivery = queue.receive(timeout=0)
    assert (delivery.raw, delivery.attempts) == (b"kept", 1)
    assert queue.stats().dead_lettered == 0


@pytest.mark.parametrize("code", [errno.EIO, errno.EBADMSG, errno.ENOENT])
def test_what_the_disk_does_not_give_back_is_damage(code):
    _, faulty, _, queue = fresh()
    faulty.hook = failing("pread", code)
    with pytest.raises(CorruptStore, match=r"the file is missing|the disk fails") as caught:
        queue.receive(timeout=0)
    assert caught.value.ids


def test_a_torn_store_on_a_full_disk_says_so_and_opens_once_there_is_room():
    image = Image(store(segment(declare(), publish(b"one"), cut(9, publish(b"two")))))
    with pytest.raises(DiskFull):
        open_on(Faulty(image, failing("allocate", ENOSPC)))
    with open_on(image) as broker:
        assert bodies(broker) == [b"one"]
        assert len(contents(broker)) == 1


class Struck(BaseException):
    """Out of a signal's handler."""


def struck(name: str, args: tuple[Any, ...]) -> Any:
    if name == "sync":
        raise Struck
    return GO_ON


@pytest.mark.parametrize(
    "hook, error",
    [
        pytest.param(failing("allocate", ENOSPC), DiskFull, id="a full disk"),
        pytest.param(failing("pwrite", errno.EFBIG, times=1), DiskFull, id="a limit of the size of files"),
        pytest.param(failing("sync", errno.EMFILE), StoreFailed, id="no descriptor"),
        pytest.param(struck, Struck, id="a signal"),
    ],
)
def test_what_follows_a_closing_record_is_on_the_disk_first_also_if_that_failed_once(hook, error):
    """Else a power cut leaves the closing record as the last one, and ids are given out again."""
    image = Image()
    open_on(image).close()
    faulty = Faulty(image)
    queue = open_on(faulty, sync="never").queue("a")
    faulty.hook = hook
    with suppress(error):  # `publish` tries once more on a full disk
        queue.publish(b"never")
    faulty.hook = None
    given = [queue.publish(b"unsynced") for _ in range(3)]
    with open_on(Image(image.synced_files())) as after_power_cut:
        assert after_power_cut.queue("a").publish(b"new") > given[-1]


def test_the_memory_disk_says_of_a_closed_file_what_a_real_one_says():
    """A reader whose descriptor another thread has closed relies on it."""
    disk = MemoryDisk()
    fd = disk.open("f", write=True, create=True)
    disk.close(fd)
    for use in (lambda: disk.pread(fd, 1, 0), lambda: disk.pwrite(fd, b"", 0), lambda: disk.close(fd)):
        with pytest.raises(OSError, match="Bad file descriptor"):
            use()
