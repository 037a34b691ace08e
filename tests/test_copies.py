"""Stores that were copied with cp, tar and the like, also while they were in use, and backups put back."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from fakes import QuickDisk, open_on

import mq
from mq.cli import cli
from mq.storage import shared
from mq.storage.real_disk import RealDisk

BODY = b"." * 500
SMALL = 1 << 14  # bytes of a segment


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


def a_store(path: Path, sync: str = "never") -> mq.Broker:
    return open_on(QuickDisk(), path, sync=sync, segment_bytes=SMALL, background=False)


def copy(source: Path, target: Path, *, page: Path | None = None) -> Path:
    """File by file; *page*: of which directory, copied at another time."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("wake"))
    if page:
        shutil.copyfile(page / "mark", target / "mark")
    return target


def verify(path: Path) -> int:
    return CliRunner().invoke(cli, ["verify", "-s", str(path)]).exit_code


def bodies(path: Path) -> list[bytes]:
    with open_on(QuickDisk(), path) as broker:
        return [each.body for each in broker.queue("q").peek(1000)]


def mark_inode(path: Path) -> int:
    return (path / "mark").stat().st_ino


# ── the page ───────────────────────────────────────────────────────────────────────


def test_a_copy_whose_page_is_newer_than_its_log_opens_and_says_so(path, tmp_path, caplog):
    """The page is copied after the log; it claims what the copied log does not have."""
    with a_store(path) as broker:
        queue = broker.queue("q")
        queue.publish_many([b"%d" % n for n in range(40)])
        broker.flush()
        early = copy(path, tmp_path / "early")
        queue.publish_many([b"late"] * 40)
        broker.flush()
        torn = copy(early, tmp_path / "copy", page=path)
    assert verify(torn) == 0
    with mq.open(torn, read_only=True) as reader:
        assert len(reader.queue("q").peek(1000)) == 40
    with caplog.at_level(logging.INFO, "mq"):
        assert bodies(torn) == [b"%d" % n for n in range(40)]
    assert [each.message for each in caplog.records if "a copy of a store" in each.message]
    caplog.clear()
    with caplog.at_level(logging.INFO, "mq"):
        assert len(bodies(torn)) == 40
    assert caplog.text == ""
    assert verify(torn) == 0


def test_a_checkpoint_that_is_newer_than_the_log_claims_nothing_in_a_copy(path, tmp_path):
    with a_store(path) as broker:
        queue = broker.queue("q")
        queue.publish_many([b"%d" % n for n in range(40)])
        broker.flush()
        early = copy(path, tmp_path / "early")
        queue.publish_many([b"late"] * 2000)
        broker._store.maintenance.run(1)
        broker.flush()
    (late,) = path.glob("checkpoint/*.state")
    shutil.copy(late, early / "checkpoint")
    assert verify(early) in (0, 4)
    for _ in range(2):
        assert len(bodies(early)) == 40
    assert verify(early) == 0


def test_a_hole_below_what_records_claim_stays_damage_in_a_copy(path, tmp_path):
    """P7: it may be damage of the original."""
    with a_store(path, "always") as broker:
        queue = broker.queue("q")
        for _ in range(90):
            queue.publish(BODY)
        broken = copy(path, tmp_path / "copy")
    middle = sorted(broken.glob("log/*.seg"))[1]
    os.truncate(middle, 5000)
    with pytest.raises(mq.CorruptStore):
        mq.open(broken)


def test_a_copy_that_lacks_what_was_given_back_meanwhile_says_what_to_do(path, tmp_path):
    with a_store(path) as broker:
        queue = broker.queue("q")
        queue.publish_many([BODY] * 90)
        broken = copy(path, tmp_path / "copy")
    sorted(broken.glob("log/*.seg"))[0].unlink()
    for read_only in (True, False, True):  # it stays a copy until it opens
        with pytest.raises(mq.CorruptStore, match=r"copy again; else: .*missing.*`mq repair`"):
            mq.open(broken, read_only=read_only)
    for command in ("inspect", "verify"):
        found = CliRunner().invoke(cli, [command, "-s", str(broken)])
        assert found.exit_code == 4 and "copy again; else" in found.stderr
    whole = copy(path, tmp_path / "whole")
    for directory, copied in ((broken, True), (whole, True), (path, False)):
        text = CliRunner().invoke(cli, ["verify", "-s", str(directory)]).stdout
        assert ("this is a copy" in text) == copied
        told = CliRunner().invoke(cli, ["verify", "--json", "-s", str(directory)]).stdout
        assert json.loads(told.splitlines()[-1])["copy"] == copied
    mq.open(broken, recover="salvage").close()
    os.truncate(sorted(broken.glob("log/*.seg"))[0], 5000)
    with pytest.raises(mq.CorruptStore) as error:
        mq.open(broken)
    assert "copy again" not in str(error.value)


def test_the_page_stays_the_same_over_closing_killing_and_moving(path, tmp_path):
    a_store(path).close()
    inode = mark_inode(path)
    path.rename(tmp_path / "moved")
    broker = a_store(tmp_path / "moved")
    tag = broker._store.tag
    broker._store.let_go()
    with a_store(tmp_path / "moved") as broker:
        assert broker._store.tag == tag
    assert mark_inode(tmp_path / "moved") == inode


# ── receipts ───────────────────────────────────────────────────────────────────────


def test_a_receipt_from_before_a_backup_was_put_back_settles_nothing(path, tmp_path):
    """Ids and positions are given out again, and mean something else."""
    with a_store(path) as broker:
        broker.queue("q").publish(b"old")
    backup = copy(path, tmp_path / "backup")

    def receive() -> mq.Receipt:
        with a_store(path) as broker:
            delivery = broker.queue("q").receive(timeout=0)
            assert delivery
            return delivery.receipt

    before = receive()
    shutil.rmtree(path)
    copy(backup, path)
    after = receive()
    assert before != after
    with a_store(path) as broker:
        queue = broker.queue("q")
        with pytest.raises(mq.StaleReceipt):
            queue.ack_many([before])
        *numbers, tag = after.split("-")
        older = "-".join([*numbers, tag[:6]])  # of an older mq, which did not say which history
        for settle in (queue.ack_many, queue.extend_many):
            with pytest.raises(mq.StaleReceipt) as caught:
                settle([before, older], fenced=False)
            assert len(caught.value.ids) == 2
        assert queue.stats().in_flight == 1
        queue.extend_many([older])
        queue.ack_many([after])


def test_a_receipt_survives_restarts_and_a_kill(path):
    with a_store(path) as broker:
        broker.queue("q").publish_many([b"one", b"two"])
    broker = a_store(path)
    receipts = [broker.queue("q").receive(timeout=0).receipt for _ in range(2)]
    broker._store.let_go()
    for receipt in receipts:
        with a_store(path) as broker:
            broker.queue("q").ack_many([receipt])


def test_a_store_that_lost_its_page_has_another_epoch(path):
    with a_store(path) as broker:
        tag = broker._store.tag
    (path / "mark").unlink()
    with a_store(path) as broker:
        assert broker._store.tag != tag
        assert broker._store.tag[:6] == tag[:6]


def test_every_segment_says_the_epoch(path):
    """Those before may be given back."""
    with a_store(path) as broker:
        for _ in range(90):
            broker.queue("q").publish(BODY)
        epochs = {each.epoch for each in broker._store.replica.log.segments}
        assert epochs == {broker._store.replica.log.epoch}
        assert epochs != {0}
        with mq.open(path, sync="never") as other:
            assert other._store.tag == broker._store.tag


# ── copies that are links ──────────────────────────────────────────────────────────


def linked(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, copy_function=os.link, ignore=shutil.ignore_patterns("wake"))
    return target


@pytest.mark.parametrize("copy_first", [True, False])
def test_two_stores_that_are_links_to_the_same_files_write_none_of_them_together(path, tmp_path, copy_first):
    with a_store(path) as broker:
        broker.queue("q").publish_many([b"both"] * 3)
    broker = a_store(path)
    broker.queue("q").publish(b"before")
    other = linked(path, tmp_path / "linked")
    if not copy_first:
        broker.queue("q").publish(b"in the shared file")
    assert verify(other) == 0
    with mq.open(other, read_only=True) as reader:
        assert reader.queue("q").peek(1)
    with a_store(other) as twin:
        held = {
            os.path.basename(name): os.fstat(fd)
            for name, fd in twin._store.turn.held().items()
            if name and fd >= 0
        }
        assert all(each.st_nlink == 1 for each in held.values())
        broker.queue("q").publish(b"original")
        twin.queue("q").publish(b"copy")
        assert twin._store.tag != broker._store.tag
        ours = [each.body for each in broker.queue("q").peek(99)]
        theirs = [each.body for each in twin.queue("q").peek(99)]
    broker.close()
    shared_by_both = [b"both"] * 3 + [b"before"] + [b"in the shared file"] * (not copy_first)
    assert ours == bodies(path) == [*shared_by_both, b"original"]
    assert theirs == bodies(other) == [*shared_by_both, b"copy"]
    assert verify(path) == verify(other) == 0


def test_cleaning_a_linked_copy_takes_nothing_from_the_original(path, tmp_path):
    with a_store(path) as broker:
        for _ in range(90):
            broker.queue("q").publish(BODY)
        other = linked(path, tmp_path / "linked")
        with a_store(other) as twin:
            twin.queue("q").purge()
            twin._store.maintenance.compact()
        assert len(broker.queue("q").peek(200)) == 90
    assert len(bodies(path)) == 90
    assert bodies(other) == []


# ── how a copy is known ────────────────────────────────────────────────────────────


def test_a_file_that_gets_the_inode_number_of_another_is_told_apart(tmp_path):
    disk, path, seen = RealDisk(), tmp_path / "file", set()
    for _ in range(5):
        fd = disk.open(str(path), write=True, create=True)
        seen.add((disk.inode(fd), disk.made(fd)))
        disk.close(fd)
        path.unlink()
    assert len(seen) == 5


def test_the_page_of_an_older_mq_is_believed(path, tmp_path):
    """It does not say where it was made."""
    with a_store(path) as broker:
        broker.queue("q").publish(BODY)
    with (path / "mark").open("r+b") as file:
        file.seek(8 * shared.ORIGIN)
        file.write(bytes(16))
    os.truncate(min(path.glob("log/*.seg")), 300)
    with pytest.raises(mq.CorruptStore):
        mq.open(path)


TOOLS = {
    "cp -a": "cp -a data copy",
    "tar": "mkdir copy && tar -cf - -C data . | tar -xf - -C copy",
    "cp -al": "cp -al data copy",
}


@pytest.mark.parametrize("command", TOOLS.values(), ids=TOOLS)
def test_a_store_that_a_process_has_open_is_copied_by_tools(path, tmp_path, command):
    with a_store(path) as broker:
        broker._store.listener._claim()  # its pipe
        broker.queue("q").publish(b"one")
        subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert bodies(tmp_path / "copy") == [b"one"]
