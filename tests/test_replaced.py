"""A store that is moved, replaced or taken apart while a process has it open.

Nothing of what has the name now is touched; the process that has the old one is told, and says where
that is; what was acknowledged meanwhile is in there.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from fakes import FakeClock, open_on, threads_alive, wait_in_vain

import mq
from mq.api.broker import Broker
from mq.delivery import records
from mq.delivery.decode import refusals
from mq.storage import record, segment
from mq.storage.disk import Inode
from mq.storage.real_disk import RealDisk
from mq.storage.repair import repair

BODY = b"." * 1000
MANY = 3000  # of these, more than two segments
PATIENCE = 60.0  # seconds after which a test that hangs has failed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


def opened(path: Path, clock: FakeClock | None = None, **options: object) -> Broker:
    return mq.open(path, segment_bytes=1 << 20, clock=clock, **options)  # type: ignore[arg-type]


def count(broker: Broker) -> int:
    return broker.queue("q").stats().ready if "q" in broker.queues() else 0


def published(broker: Broker, most: int) -> tuple[int, mq.StorageError | None]:
    """How many of *most* single publishes returned; and what stopped them."""
    queue = broker.queue("q")
    for number in range(most):
        try:
            queue.publish(BODY)
        except mq.StorageError as error:
            return number, error
    return most, None


def clean(path: Path) -> bool:
    return (
        subprocess.run([sys.executable, "-m", "mq", "verify", "--store", str(path)], check=False).returncode
        == 0
    )


# ── the directory ──────────────────────────────────────────────────────────────────


def renamed(path: Path) -> Path:
    old = path.with_name("data.old")
    os.rename(path, old)
    return old


def relinked(path: Path) -> Path:
    """*path* was a link."""
    old = path.resolve()
    new = path.with_name("new")
    new.mkdir()
    path.unlink()
    path.symlink_to(new)
    return old


@pytest.mark.parametrize("sync", ["always", "never"])
@pytest.mark.parametrize("move", [renamed, relinked])
def test_a_store_that_was_moved_touches_nothing_of_what_has_its_name_now(tmp_path, path, move, sync):
    if move is relinked:
        (tmp_path / "first").mkdir()
        path.symlink_to(tmp_path / "first")
    a = opened(path, sync=sync)
    a.queue("q").publish_many([BODY] * 500)
    old = move(path)
    b = open_on(RealDisk(), path, sync="never", background=False)  # nothing of its own happens meanwhile
    b.queue("q").publish_many([BODY] * 2500)
    before = sorted((each, each.stat().st_size) for each in path.rglob("*"))
    done, error = published(a, MANY)
    assert done < MANY
    assert isinstance(error, mq.StoreFailed)
    assert error.path == str(path)
    assert str(old) in str(error)
    for operation in (
        lambda: a.queue("q").publish(BODY), lambda: a.queue("q").receive(timeout=0), a.queues, a.flush
    ):  # fmt: skip
        with pytest.raises(mq.StoreFailed, match="another directory has this name now"):
            operation()
    a.close()
    assert sorted((each, each.stat().st_size) for each in path.rglob("*")) == before
    assert count(b) == 2500
    b.close()
    with opened(path) as again:
        assert count(again) == 2500
    with opened(old) as again:
        assert count(again) == 500 + done
    assert clean(path)
    assert clean(old)


@pytest.mark.parametrize("restored", [False, True], ids=["gone", "restored"])
def test_a_store_that_was_deleted_says_so(path, restored):
    backup = path.with_name("backup")
    with opened(path) as first:
        first.queue("q").publish(BODY)
    shutil.copytree(path, backup)
    clock = FakeClock(2e9)
    a = opened(path, clock, sync="never")
    a.queue("q").publish(BODY)
    shutil.rmtree(path)
    if restored:
        shutil.copytree(backup, path)
    clock.advance(1.1)
    with pytest.raises(mq.StoreFailed, match=r"another directory|gone from here"):
        a.queue("q").publish(BODY)
    with suppress(mq.StoreFailed):
        a.close()
    if restored:
        with opened(path) as b:
            assert count(b) == 1
    else:
        assert not path.exists()


def test_a_close_says_that_the_store_was_moved_if_nothing_else_did(path):
    a = opened(path)
    a.queue("q").publish(BODY)
    old = renamed(path)
    path.mkdir()
    with pytest.raises(mq.StoreFailed, match="another directory has this name now"):
        a.close()
    assert list(path.iterdir()) == []
    with opened(old) as again:
        assert count(again) == 1


def test_those_who_opened_a_moved_store_where_it_is_now_go_on(path):
    clock = FakeClock()
    a = opened(path, clock)
    a.queue("q").publish(BODY)
    old = renamed(path)
    with opened(old, clock) as other:
        assert count(other) == 1
        clock.advance(1.1)
        with pytest.raises(mq.StoreFailed):
            a.queue("q").publish(BODY)
        other.queue("q").publish(BODY)
        a.close()
        other.queue("q").publish(BODY)
        assert count(other) == 3


def test_a_reader_does_not_go_over_to_another_store(path):
    with opened(path) as a:
        a.queue("q").publish(BODY)
        reader = mq.open(path, read_only=True)
        assert count(reader) == 1
        renamed(path)
        with opened(path) as b:
            b.queue("q").publish_many([BODY] * 2)
            with pytest.raises(mq.StoreFailed, match=r"data\.old"):
                count(reader)
        reader.close()
        with pytest.raises(mq.StoreFailed):
            a.flush()
            a.close()


def files(path: Path) -> dict[str, int]:
    """Every file below *path*, and when it last changed."""
    return {str(each.relative_to(path)): each.stat().st_mtime_ns for each in path.rglob("*")}


def restored_with_garbage(path: Path) -> None:
    """A copy that was made meanwhile, in which another process has published since."""
    shutil.copytree(path.with_name("data.old"), path)
    with open_on(RealDisk(), path, sync="never", segment_bytes=1 << 20, background=False) as other:
        other._store.maintenance._run = lambda _: None
        for _ in range(12):
            other.queue("q").publish(bytes(1 << 20))
            other.queue("q").receive(timeout=0).ack()


INSTEAD: dict[str, Callable[[Path], object]] = {
    "another": lambda path: opened(path).close(),
    "none": lambda path: None,
    "an empty directory": lambda path: path.mkdir(),
    "a copy of it, with garbage": restored_with_garbage,
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("instead", INSTEAD.values(), ids=INSTEAD)
def test_a_child_does_not_go_over_to_another_store(path, instead):
    """It says so each time, touches nothing, begins no thread, and goes on once its own is back."""
    a = opened(path)
    a.queue("q").publish(BODY)
    renamed(path)
    instead(path)
    before = files(path)

    def work() -> None:
        if instead is not restored_with_garbage:
            for _ in range(2):
                with pytest.raises(mq.StorageError, match=r"another store|no such file|not a store"):
                    a.queue("q").publish(BODY)
            assert files(path) == before
        else:
            for _ in range(2):
                with pytest.raises(mq.StoreFailed, match="another store"):
                    a.queue("q").publish(BODY)
        assert [each.name for each in threads_alive("")] == ["MainThread"]
        if path.exists():
            path.rename(path.with_name("data.instead"))
        path.with_name("data.old").rename(path)
        a.queue("q").publish(BODY)
        assert count(a) == 2

    pid = os.fork()
    if not pid:
        try:
            signal.alarm(int(PATIENCE))
            work()
            os._exit(7)
        except BaseException:  # noqa: BLE001  told by the exit code
            traceback.print_exc()
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    a.close()
    with opened(path) as again:
        assert count(again) == 2


# ── a file ─────────────────────────────────────────────────────────────────────────


def delete(file: Path) -> None:
    shutil.rmtree(file) if file.is_dir() else file.unlink()


def replace(file: Path) -> None:
    """As a restore does: the same bytes, in another file."""
    copy = file.with_name(file.name + ".copy")
    shutil.copytree(file, copy) if file.is_dir() else shutil.copy(file, copy)
    delete(file)
    copy.rename(file)


FILES = ["FORMAT", "LOCK", "mark", "log", "log/00000000000000000000.seg"]


@pytest.mark.parametrize("harm", [delete, replace])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_goes_ends_the_work_and_makes_no_second_history(path, name, harm):
    """The others that have it open stop, too, and none comes in."""
    clock = FakeClock()
    a, b = opened(path, clock), opened(path, clock)
    a.queue("q").publish(BODY)
    assert count(b) == 1
    harm(path / name)
    there = {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}
    if (name, harm) != (FILES[-1], replace):  # there a newcomer sees the same page and reads the same bytes
        with pytest.raises(mq.StorageError):
            opened(path, clock)
    clock.advance(1.1)
    with pytest.raises(mq.StoreFailed, match=f"{name}: (deleted|replaced) while the store was open"):
        a.queue("q").publish(BODY)
    with pytest.raises(mq.StoreFailed):
        b.queue("q").publish(BODY)
    with pytest.raises(mq.StorageError):
        opened(path, clock)
    a.close()
    with pytest.raises(mq.StorageError):
        opened(path, clock)
    with suppress(mq.StoreFailed):
        b.close()
    changed = {each.name for each, data in there.items() if each.read_bytes() != data}
    assert changed <= {"mark"}, "what has the name now was written to"
    if harm is replace or name in ("LOCK", "mark"):
        with opened(path, clock) as again:
            assert count(again) == 1
        assert clean(path)


def test_only_lock_deleted_and_both_go_on_as_fast_as_they_can(path):
    """No message that was acknowledged is lost."""
    a = opened(path, sync="never")
    assert published(a, 500) == (500, None)
    (path / "LOCK").unlink()
    with pytest.raises(mq.StoreFailed, match="close the store in all processes"):
        opened(path)
    done, error = published(a, 1 << 20)  # until it looks: a second, or a segment
    assert "LOCK: replaced while the store was open" in str(error)  # the one that was refused has made it
    a.close()
    with opened(path) as again:
        assert count(again) == 500 + done
    assert clean(path)


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("harm", [delete, replace])
@pytest.mark.parametrize("names", [("FORMAT",), ("LOCK",), ("FORMAT", "LOCK"), ("FORMAT", "LOCK", "mark")])
def test_repair_never_runs_beside_a_live_process(path, names, harm, exclusive):
    with opened(path, exclusive=exclusive) as a:
        a.queue("q").publish(BODY)
        for name in names:
            harm(path / name)
        there = {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}
        for dry_run in (False, True):
            with pytest.raises(mq.StoreLocked):
                repair(RealDisk(), str(path), records.NEW, records.message_of, refusals, dry_run=dry_run)
        with pytest.raises(mq.StorageError) as refused:
            opened(path, recover="salvage")
        assert not isinstance(refused.value, mq.CorruptStore)
        assert {each: each.read_bytes() for each in there} == there
        with pytest.raises(mq.StoreFailed):
            a.close()
    repair(RealDisk(), str(path), records.NEW, records.message_of, refusals)
    with opened(path) as again:
        assert count(again) == 1


def test_a_segment_that_is_cut_short_is_noticed(path):
    clock = FakeClock()
    a = opened(path, clock)
    a.queue("q").publish_many([BODY] * 2)
    os.truncate(path / FILES[-1], 1500)
    clock.advance(1.1)
    with pytest.raises(mq.StoreFailed, match="cut short"):
        a.queue("q").publish(BODY)
    a.close()


def test_a_segment_that_another_history_uses_is_not_removed(path):
    """Should two processes ever write under two locks, the second one finds what the first has begun."""
    a = opened(path)
    a.queue("q").publish(BODY)
    log = a._store.replica.log
    following = Path(log.directory) / f"{log.segments[-1].limit:020}.seg"
    last = log.segments[-1]
    new = segment.Segment(1, last.limit, last.capacity, last.created_ms, last.seed)
    fence = record.FENCE_PAYLOAD.pack(log.end + 100, 0, new.capacity, new.created_ms)
    seed = record.seed(a._store.replica.identity.key, new.base)
    used = segment.encode_header(a._store.replica.identity, new) + record.encode(
        seed, new.base, 0, 0, record.FENCE, 0, 0, fence
    )
    following.write_bytes(used)
    done, error = published(a, 2000)
    assert done < 1100
    assert "another process uses it" in str(error)
    assert following.read_bytes() == used
    a._store.close()


def test_a_segment_that_another_process_has_dropped_is_not_missed(path):
    """A process that slept meanwhile still has it open, and closes in peace, or goes on."""
    a, b, c = (opened(path) for _ in range(3))
    for each in (a, c):
        each.queue("q").publish(BODY)
    assert published(b, 3000) == (3000, None)
    for message in b.queue("q").receive_many(3002):
        message.ack()
    b._store.maintenance.compact()
    assert not (path / FILES[-1]).exists()
    a.close()
    c.queue("q").publish(BODY)
    assert count(b) == 1
    c.close()
    b.close()


def test_pipes_that_go_are_made_again(path):
    """A receiver in another process hears within the second in between, and by its pipe afterwards."""
    clock = FakeClock()
    with opened(path, clock) as a, opened(path, clock) as b:
        for each in (a, b):
            wait_in_vain(each.queue("q"))
        shutil.rmtree(path / "wake")
        for each in (a, b):
            each._store.listener.look_after_pipes()
        assert sorted(os.listdir(path / "wake")) == ["0", "1"]
        assert a._store.listener.bit != b._store.listener.bit


def test_checkpoints_that_go_are_made_again(path):
    with opened(path) as a:
        a.queue("q").publish_many([BODY] * 200)
        shutil.rmtree(path / "checkpoint")
        a._store.maintenance.checkpoints.write()
        assert len(list((path / "checkpoint").glob("*.state"))) == 1


def test_a_segment_that_another_process_dropped_is_not_missed(tmp_path):
    """It went on in a later one, and cleaned this one: so a process that did not look since finds no name."""
    path = str(tmp_path / "data")
    with mq.open(path) as idle, mq.open(path) as busy:
        idle.queue("mail").publish(b"")
        busy.queue("mail").receive(timeout=0).ack()
        busy._store.maintenance.compact()
        with idle._store.turn.mutex:
            idle._store.replica.log.watch.stand()
        assert idle.queue("mail").receive(timeout=0) is None


class Ending(RealDisk):
    """While the files of the store are compared, a thread that cleans comes to its end, if it can."""

    def __init__(self) -> None:
        super().__init__()
        self.end: Callable[[], object] | None = None
        self.ended = threading.Event()

    def inode_at(self, path: str) -> Inode | None:
        if self.end and path.endswith("LOCK"):
            end, self.end = self.end, None
            threading.Thread(target=self._run, args=(end,)).start()
            self.ended.wait(0.1)  # it must not end here: then this passes
        return super().inode_at(path)

    def _run(self, end: Callable[[], object]) -> None:
        end()
        self.ended.set()


def test_a_cleaner_that_ends_while_the_files_are_compared_was_not_robbed(path):
    """Its descriptor goes with it, and this was taken for one that the program had closed."""
    clock, disk = FakeClock(), Ending()
    with open_on(disk, path, clock=clock, background=False) as broker:
        queue = broker.queue("q")
        queue.publish(b"one")
        with ExitStack() as stack:
            assert stack.enter_context(broker._store.alone_cleaning())
            disk.end = stack.pop_all().close
            clock.advance(2)
            queue.publish(b"two")
        assert disk.ended.wait(PATIENCE)
        assert count(broker) == 2
