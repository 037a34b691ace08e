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
from mq.engine.backup import back_up, clone
from mq.storage.real_disk import RealDisk

SMALL = 1 << 12  # bytes of a segment


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "copy"


def a_store(path: Path, segment_bytes: int = SMALL) -> mq.Broker:
    return mq.open(path, sync="never", segment_bytes=segment_bytes)


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
    with a_store(path, segment_bytes=1 << 20) as broker:
        queue, done, stop = broker.queue("q"), [0], threading.Event()

        def publish() -> None:
            while not stop.is_set() and done[0] < 5000:
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
        with pytest.raises(mq.StorageError, match="choose a directory beside it"):
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
        with pytest.raises(mq.StorageError, match="restored from an older backup since, or one of"):
            broker.backup(copy)
    assert bodies(copy) == list(range(300))


@pytest.mark.parametrize("wrong", [None, 7, "", "a\0b"])
def test_a_path_that_is_none_is_refused(path, wrong):
    with a_store(path) as broker, pytest.raises(mq.UsageError, match="path is the name of a directory"):
        broker.backup(wrong)


def test_a_store_that_lost_its_format_is_left_alone(path, copy):
    with a_store(copy) as other:
        other.queue("q").publish("precious")
    for name in ("FORMAT", "mark"):
        (copy / name).unlink()
    before = content(copy)
    with a_store(path) as broker:
        broker.queue("q").publish("theirs")
        with pytest.raises(mq.StorageError, match="a copy of another store is there"):
            broker.backup(copy)
    assert content(copy) == before


@pytest.mark.parametrize("inside", ["log", "log/x", "x", "..", "."])
def test_a_backup_is_not_in_the_store_and_does_not_hold_it(path, inside):
    with a_store(path) as broker:
        broker.queue("q").publish("one")
        before = {each for each in content(path) if "mark" not in each}
        with pytest.raises(mq.StorageError, match="choose a directory beside it"):
            broker.backup(path / inside)
        assert {each for each in content(path) if "mark" not in each} == before
    assert bodies(path) == ["one"]


def test_damage_in_the_store_does_not_get_into_the_copy(path, copy):
    """The segment has grown, so it is copied again; what the copy has of it must be the same."""
    with a_store(path, segment_bytes=1 << 20) as broker:
        queue = broker.queue("q")
        queue.publish_many([b"precious %d" % n for n in range(1000)])
        broker.backup(copy)
        (segment,) = (path / "log").iterdir()
        at = segment.read_bytes().index(b"precious 7")
        with segment.open("r+b") as file:
            file.seek(at)
            file.write(b"P")
        queue.publish("more")
        with pytest.raises(mq.StorageError, match="nothing was written over"):
            broker.backup(copy)
    assert len(bodies(copy)) == 1000


def test_a_segment_that_is_missing_is_named(path, copy):
    with a_store(path) as broker:
        queue = broker.queue("q")
        for _ in range(10):
            queue.publish_many([b"." * 100] * 20)
        broker.flush()
        missing = sorted((path / "log").iterdir())[2]
        missing.rename(path / "elsewhere")
        with pytest.raises(mq.CorruptStore, match="the segment is missing: `mq verify`"):
            broker.backup(copy)
        (path / "elsewhere").rename(missing)
        broker.backup(copy)
    assert len(bodies(copy)) == 200


def test_the_copy_of_a_private_store_is_private(path, copy):
    with mq.open(path, mode=0o600) as broker:
        broker.queue("q").publish("secret")
        copy.mkdir(0o755)
        broker.backup(copy)
        broker.backup(copy.with_name("new"))
    made = [each for each in (*copy.rglob("*"), *copy.with_name("new").rglob("*")) if each.is_file()]
    assert {each.stat().st_mode & 0o077 for each in made if each.stat().st_size} == {0}
    assert copy.with_name("new").stat().st_mode & 0o777 == 0o700


def test_a_store_that_kept_nothing_of_what_the_copy_has_takes_its_place(path, copy):
    with a_store(path) as broker:
        queue = broker.queue("q")
        queue.publish_many(range(100))
        broker.backup(copy)
        for _ in range(40):
            queue.purge()
            queue.publish_many(range(100, 200))
            broker._store.maintenance.compact()
        assert broker._store.replica.log.head > max(
            int(each.stem) + each.stat().st_size for each in (copy / "log").iterdir()
        )

        def stop(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            back_up(broker._store, str(copy), stop)
        assert bodies(copy) == list(range(100))
        broker.backup(copy)
    assert bodies(copy) == list(range(100, 200))


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
        with pytest.raises(mq.StorageError, match="a store is there, or a part of one"):
            clone(broker._store, str(copy))
    with mq.open(copy) as cloned:
        assert cloned.store_id == made
        assert [each.body for each in cloned.queue("q").peek(300)] == list(range(300))


def restore(backup: Path, path: Path) -> mq.Broker:
    run = CliRunner().invoke(cli, ["restore", str(backup), "-s", str(path), "--json"])
    assert run.exit_code == 0, run.stderr
    restored = mq.open(path)
    assert restored.store_id == json.loads(run.stdout)["store_id"]
    return restored


def test_a_backup_is_restored_and_stays_as_it_is(path, tmp_path, copy):
    with a_store(path) as broker:
        broker.queue("q").publish_many(range(300))
        broker.backup(copy)
    before = content(copy)
    with restore(copy, tmp_path / "restored") as restored:
        assert restored.store_id != broker.store_id
        assert [each.body for each in restored.queue("q").peek(300)] == list(range(300))
    assert content(copy) == before


def test_what_a_clone_left_that_was_cut_off_is_no_part_of_the_next(path, copy):
    shown = []

    def stop(done: int, total: int) -> None:
        shown.append(done)
        if len(shown) == 2:
            raise KeyboardInterrupt

    with a_store(path) as broker:
        broker.queue("q").publish_many(range(300))
        broker.queue("q").publish_many(range(300))
        with pytest.raises(KeyboardInterrupt):
            clone(broker._store, str(copy), stop)
        with pytest.raises(mq.StorageError, match="or a part of one: choose an empty or a new directory"):
            clone(broker._store, str(copy))


def test_a_damaged_backup_is_not_restored_without_a_word(path, tmp_path, copy):
    with a_store(path) as broker:
        for n in range(20):
            broker.queue("q").publish(b"precious %d" % n)
        broker.backup(copy)
    (segment,) = (copy / "log").iterdir()
    data = segment.read_bytes()
    segment.write_bytes(data.replace(b"precious 7", b"precious 8"))
    run = CliRunner().invoke(cli, ["restore", str(copy), "-s", str(tmp_path / "restored")])
    assert run.exit_code == 4 and "mq verify" in run.stderr
    assert not (tmp_path / "restored").exists()


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
