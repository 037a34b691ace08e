"""`broker.backup`, and stores made of a store: whole at every moment, and only what is new."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

import mq
from mq.cli import cli
from mq.engine.backup import back_up, clone, restore
from mq.storage.real_disk import RealDisk

SMALL = 1 << 12  # bytes of a segment


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "copy"


def a_store(path: Path, **options: object) -> mq.Broker:
    return mq.open(path, sync="never", segment_bytes=SMALL, **options)  # type: ignore[arg-type]


def bodies(path: Path) -> list[object]:
    with mq.open(path, read_only=True) as broker:
        return [each.body for each in broker.queue("q").peek(10_000_000)]


def content(path: Path) -> dict[str, str]:
    files = (each for each in sorted(path.rglob("*")) if each.is_file())
    return {str(each): hashlib.sha256(each.read_bytes()).hexdigest() for each in files}


# ── a copy ─────────────────────────────────────────────────────────────────────────


def test_a_backup_is_the_store_with_its_id(path, copy):
    with a_store(path) as broker:
        queue = broker.queue("q", max_attempts=7)
        queue.publish_many([{"n": n} for n in range(100)])
        queue.publish("later", delay=3600)
        got = queue.receive()
        assert got is not None
        got.ack()
        broker.backup(copy)
    with mq.open(copy) as backup:
        assert backup.store_id == broker.store_id
        assert backup.queue("q").options()["max_attempts"] == 7
        assert [each.body["n"] for each in backup.queue("q").peek(200)] == list(range(1, 100))
        assert [each.body for each in backup.queue("q").peek(state="delayed")] == ["later"]


def test_a_backup_made_while_threads_publish_has_all_that_was_published_before_it(path, copy):
    with a_store(path) as broker:
        queue, done, stop = broker.queue("q"), [0], threading.Event()

        def publish() -> None:
            while not stop.is_set():
                queue.publish(done[0] + 1)
                done[0] += 1

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            for _ in range(5):
                before = done[0]
                broker.backup(copy)
                after = done[0]
                found = bodies(copy)
                assert found == list(range(1, len(found) + 1))
                assert before <= len(found) <= after + 1
        finally:
            stop.set()
            thread.join()


def test_the_next_backup_copies_only_what_is_new(path, copy):
    with a_store(path) as broker:
        queue = broker.queue("q")
        for _ in range(10):
            queue.publish_many([b"." * 100] * 20)
        broker.backup(copy)
        before = {each.name: each.stat().st_ino for each in (copy / "log").iterdir()}
        assert len(before) > 3
        queue.publish_many([b"+" * 100] * 100)
        broker.backup(copy)
        after = {each.name: each.stat().st_ino for each in (copy / "log").iterdir()}
    whole = sorted(before)[:-1]
    assert {name: after[name] for name in whole} == {name: before[name] for name in whole}
    assert bodies(copy) == [b"." * 100] * 200 + [b"+" * 100] * 100


def test_what_the_store_has_given_back_goes_from_the_copy(path, copy):
    with a_store(path) as broker:
        queue = broker.queue("q")
        queue.publish_many([b"." * 100] * 200)
        broker.backup(copy)
        before = {each.name for each in (copy / "log").iterdir()}
        queue.purge()
        queue.publish("left")
        broker._store.maintenance.compact()
        broker.backup(copy)
    assert not before & {each.name for each in (copy / "log").iterdir()}
    assert bodies(copy) == ["left"]


def test_a_segment_that_goes_before_it_is_copied_takes_nothing_with_it(path, copy):
    """What lived in it was written again further behind."""
    with a_store(path) as broker:
        queue = broker.queue("q")
        queue.publish_many(range(300))
        queue.ack_many([each for each in queue.receive_many(300) if each.body % 3])
        shown = []

        def show(done: int, total: int) -> None:
            if not shown:
                broker._store.maintenance.compact()
            shown.append(done)

        head = broker._store.replica.log.head
        back_up(broker._store, str(copy), show)
        assert broker._store.replica.log.head > head
        assert len(shown) > 1
    with mq.open(copy, clock=lambda: 5e9) as backup:
        assert [each.body for each in backup.queue("q").peek(300)] == list(range(0, 300, 3))


def test_a_store_in_memory_is_saved_by_a_backup(copy):
    with mq.open(":memory:") as broker:
        broker.queue("q").publish("kept")
        broker.backup(copy)
    assert bodies(copy) == ["kept"]


def test_a_backup_through_a_store_that_is_only_read_changes_nothing_there(path, copy):
    with a_store(path) as broker:
        broker.queue("q").publish_many(range(300))
    before = content(path)
    with mq.open(path, read_only=True) as broker:
        broker.backup(copy)
    assert bodies(copy) == list(range(300))
    assert content(path) == before


# ── what stands in the way ─────────────────────────────────────────────────────────


def test_a_copy_that_was_opened_is_not_written_to_any_more(path, copy):
    with a_store(path) as broker:
        broker.backup(copy)
        with mq.open(copy) as opened:
            opened.queue("q").publish("its own")
        with pytest.raises(mq.StorageError, match="may hold messages of its own: choose an empty or a new"):
            broker.backup(copy)
    assert bodies(copy) == ["its own"]


def test_the_store_itself_is_no_place_for_its_backup(path):
    with a_store(path) as broker:
        broker.queue("q").publish("one")
        with pytest.raises(mq.StoreLocked):
            broker.backup(path)
    assert bodies(path) == ["one"]


def test_a_backup_of_another_store_is_left_alone(path, tmp_path, copy):
    with a_store(tmp_path / "other") as other:
        other.queue("q").publish("theirs")
        other.backup(copy)
    with a_store(path) as broker, pytest.raises(mq.StorageError, match="a copy of another store is there"):
        broker.backup(copy)
    assert bodies(copy) == ["theirs"]


def test_other_files_are_left_alone(path, copy):
    copy.mkdir()
    (copy / "letter").write_text("dear")
    with (
        a_store(path) as broker,
        pytest.raises(mq.StorageError, match=r"other files are in there \(letter\)"),
    ):
        broker.backup(copy)
    assert (copy / "letter").read_text() == "dear"


def test_a_newer_backup_is_not_overwritten_by_a_store_that_was_put_back(path, tmp_path, copy):
    """The older backup went on as the store; what it has now is not in the newer one, and the reverse."""
    older = tmp_path / "older"
    with a_store(path) as broker:
        broker.queue("q").publish_many(range(100))
        broker.backup(older)
        broker.queue("q").publish_many(range(100, 300))
        broker.backup(copy)
    with a_store(older) as broker:
        broker.queue("q").publish_many(range(1000, 1200))
        with pytest.raises(mq.StorageError, match="restored from an older backup since: choose an empty"):
            broker.backup(copy)
    assert bodies(copy) == list(range(300))


@pytest.mark.parametrize("wrong", [None, 7, "", "a\0b"])
def test_a_path_that_is_none_is_refused(path, wrong):
    with a_store(path) as broker, pytest.raises(mq.UsageError, match="path is the name of a directory"):
        broker.backup(wrong)


class Full(RealDisk):
    """Room for so many bytes."""

    left = 3 * SMALL

    def pwrite(self, fd: int, data: bytes, offset: int, /) -> int:  # type: ignore[override]
        Full.left -= len(data)
        if Full.left < 0:
            raise OSError(28, "No space left on device")
        return super().pwrite(fd, data, offset)


def test_a_full_disk_leaves_the_earlier_backup(path, copy):
    with a_store(path) as broker:
        queue = broker.queue("q")
        queue.publish_many(range(20))
        back_up(broker._store, str(copy), disk=Full())
        queue.publish_many(range(20, 1000))
        with pytest.raises(mq.DiskFull):
            back_up(broker._store, str(copy), disk=Full())
        found = bodies(copy)
        assert found == list(range(len(found))) and 20 <= len(found) < 1000
        broker.backup(copy)
    assert bodies(copy) == list(range(1000))


# ── stores of their own ────────────────────────────────────────────────────────────


def test_a_clone_is_another_store_with_the_same_messages(path, copy):
    with a_store(path) as broker:
        broker.queue("q").publish_many(range(300))
        made = clone(broker._store, str(copy))
        assert made != broker.store_id
        with pytest.raises(mq.StorageError, match="there is a store already"):
            clone(broker._store, str(copy))
    with mq.open(copy) as cloned:
        assert cloned.store_id == made
        assert [each.body for each in cloned.queue("q").peek(300)] == list(range(300))


def test_a_backup_is_restored_and_stays_as_it_is(path, tmp_path, copy):
    with a_store(path) as broker:
        broker.queue("q").publish_many(range(300))
        broker.backup(copy)
    before = content(copy)
    made = restore(str(copy), str(tmp_path / "restored"))
    with mq.open(tmp_path / "restored") as restored:
        assert restored.store_id == made != broker.store_id
        assert [each.body for each in restored.queue("q").peek(300)] == list(range(300))
    assert content(copy) == before


def test_a_store_that_is_open_is_not_restored_from(path, copy):
    with a_store(path), pytest.raises(mq.StoreLocked):
        restore(str(path), str(copy))
    assert not copy.exists()


# ── on the command line ────────────────────────────────────────────────────────────


def test_the_commands_say_what_they_made(path, tmp_path, copy):
    with a_store(path) as broker:
        broker.queue("q").publish("one")
        run = CliRunner().invoke(cli, ["-s", str(path), "backup", str(copy)])
        assert (run.exit_code, run.stderr) == (0, "")
        assert run.stdout == f"{copy} is a backup: it has the id of the store, {broker.store_id}\n"
        made = tmp_path / "made"
        for command in (["-s", str(path), "clone", str(made)], ["-s", str(made), "restore", str(copy)]):
            shutil.rmtree(made, ignore_errors=True)
            run = CliRunner().invoke(cli, [*command, "--json"])
            assert run.exit_code == 0, run.stderr
            with mq.open(made) as own:
                assert json.loads(run.stdout) == {"path": str(made), "store_id": own.store_id}
                assert own.store_id != broker.store_id
                assert [each.body for each in own.queue("q").peek()] == ["one"]


def test_there_must_be_a_store_to_copy(tmp_path):
    for command in (["backup", "x"], ["clone", "x"]):
        run = CliRunner().invoke(cli, ["-s", str(tmp_path / "nothing"), *command])
        assert (run.exit_code, run.stdout) == (1, "")
        assert "there is no store here" in run.stderr
    run = CliRunner().invoke(cli, ["restore", str(tmp_path / "nothing"), "-s", str(tmp_path / "x")])
    assert run.exit_code == 1 and "there is no store here" in run.stderr


def test_receipts_of_the_store_settle_nothing_in_its_backup(path, copy):
    """The copy has no page: opening it makes one, and an epoch of its own."""
    with a_store(path) as broker:
        broker.queue("q").publish("one")
        held = broker.queue("q").receive()
        assert held is not None
        broker.backup(copy)
        with mq.open(copy) as backup, pytest.raises(mq.StaleReceipt):
            backup.queue("q").ack_many([held.receipt])
