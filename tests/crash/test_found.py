"""What the laboratory has found, each as the shortest case that showed it."""

from __future__ import annotations

import errno
from itertools import islice

import pytest

from mq.delivery import records
from mq.delivery.decode import refusals
from mq.errors import StorageError
from mq.storage import repair
from mq.storage.segment import Segment, encode_header

from .disk import SimulatedDisk
from .driver import EPOCH, PATH, Driver, contents, open_store
from .explorer import FAR, determined
from .fate import everything, nothing_but_the_platter
from .history import History

LOG = f"{PATH}/log"


def driver_on(disk: SimulatedDisk) -> Driver:
    return Driver(disk, History())


def killed_at(call: int, disk: SimulatedDisk) -> SimulatedDisk:
    """What is left when a process dies at that call of opening a store on *disk*."""
    left: list[SimulatedDisk] = []

    def look(_: str) -> None:
        if disk.calls == call:
            left.append(disk.after_kill())

    disk.on_change = look
    open_store(disk, lambda: EPOCH)
    return left[0] if left else disk.after_kill()


def bodies(disk: SimulatedDisk) -> list[bytes]:
    return [body for _, _, body in contents(open_store(disk, lambda: FAR))[1]]


@pytest.mark.parametrize("killed", range(1, 45))
def test_what_is_published_after_a_killed_first_opening_survives_the_power_cut(killed):
    """Names above and in the store were synced by its creator only, which died before."""
    with determined(0):
        disk = killed_at(killed, SimulatedDisk())
        d = driver_on(disk)
        d.open()
        d.publish("a", 2)
        survivors = [disk.after_power(nothing_but_the_platter())]
        survivors += [disk.after_power(fate) for fate in islice(everything(), 8)]
        assert [len(bodies(each)) for each in survivors] == [2] * len(survivors)


def test_the_name_of_the_directory_above_a_new_store_is_not_lost():
    with determined(0):
        disk = SimulatedDisk()
        d = driver_on(disk)
        d.open()
        d.publish("a")
        assert len(bodies(disk.after_power(nothing_but_the_platter()))) == 1


def test_a_message_published_behind_a_checkpoint_costs_no_older_one_when_space_is_given_back():
    """The first id of a chunk was overwritten by the first that was appended to it after an opening."""
    with determined(0):
        disk = SimulatedDisk()
        d = driver_on(disk)
        d.open()
        d.publish("stuck", 3)
        d.publish("busy", size=900)  # in the next segment
        d.maintain()  # a checkpoint
        d.reopen()
        d.publish("stuck")
        for _ in range(8):
            d.publish("busy", size=300)
            d.take("busy")
            d.ack()
            d.maintain(1 << 30)
        assert not disk.exists(f"{LOG}/{0:020}.seg")
        assert len(bodies(disk.after_kill())) == 5


def test_unused_segments_go_from_the_last_so_that_a_death_in_between_leaves_no_gap():
    """Two were begun and not used; the first was made again while the second still stood behind it."""
    with determined(0):
        disk = SimulatedDisk()
        d = driver_on(disk)
        d.open()
        d.publish("a", size=600)
        files = disk.after_kill()
        log = open_store(files, lambda: EPOCH)._store.replica.log
        for _ in range(2):  # begun, and died before the fence
            base = log.segments[-1].limit if not files.exists(f"{LOG}/{1024:020}.seg") else 2048
            begun = Segment(base // 1024, base, 1024, 1_700_000_000_000, 0)
            header = encode_header(log.rotation._identity, begun)
            fd = files.open(f"{LOG}/{base:020}.seg", write=True, create=True)
            files.pwrite(fd, header, 0)
        cut = files.after_kill()
        left: list[SimulatedDisk] = []
        cut.on_change = lambda _: left.append(cut.after_kill())
        again = driver_on(cut)
        again.open()
        again.publish("a", size=600)
        assert len(left) > 10
        assert all(len(bodies(each)) in (1, 2) for each in left)


def test_an_id_that_was_given_out_is_not_given_again_after_a_power_cut():
    """A receipt, or an id noted elsewhere, from before the cut would mean another message."""
    with determined(0):
        disk = SimulatedDisk()
        d = driver_on(disk)
        d.open(sync="never")
        d.publish("a")
        lost = d.history.ids[b"0."]
        later = driver_on(disk.after_power(nothing_but_the_platter()))
        later.open()
        later.publish("b")
        assert later.history.ids[b"0."] != lost


@pytest.mark.parametrize("close", [True, False], ids=["closed", "killed"])
def test_an_idle_queue_outlives_an_opening_that_is_cut_off(close):
    """Its fence had the time of the opening, and the next process took that for the end of the downtime."""
    with determined(0):
        disk = SimulatedDisk()
        d = driver_on(disk)
        d.open()
        for name in "cd":
            d.declare(name, 20.0, delete_when_idle=50.0)
        if close:
            d.close()
        left: list[SimulatedDisk] = []
        opening = disk.after_kill()

        def look(_: str) -> None:
            left.append(opening.after_kill())
            left.extend(opening.after_power(fate) for fate in islice(everything(), 8))

        opening.on_change = look
        open_store(opening, lambda: EPOCH + 3600)
        assert len(left) > 10
        for each in left:
            later = Driver(each, History(), start=EPOCH + 7200)
            later.open()
            later.fall_due()
            assert [name for name, _ in contents(open_store(each.after_kill(), later.tick))[0]] == ["c", "d"]


@pytest.mark.parametrize("at", [90, 200], ids=["in a fence", "in a record"])
def test_a_repair_whose_sync_failed_is_done_again(at):
    """What it had written was in memory and passed for clean: the next one found nothing to mend."""
    with determined(0):
        disk = SimulatedDisk()
        d = driver_on(disk)
        d.open()
        d.publish("a", 3, size=200)
        d.publish("a", 2, size=200)
        d.close()
        store = disk.after_power(nothing_but_the_platter())
        _, segment = min((path, file) for path, file in store.walk() if path.startswith(LOG))
        segment.base = segment.cache = segment.cache[:at] + bytes(40) + segment.cache[at + 40 :]
        failed = 0
        for nth in range(1, 60):
            copy = store.after_kill()
            if not repaired_at_the_second_try(copy, nth):
                break
            failed += 1
            bodies(copy.after_power(nothing_but_the_platter()))  # it opens
        assert failed >= 2


def repaired_at_the_second_try(disk: SimulatedDisk, nth: int) -> bool:
    """Whether the *nth* sync failed in the first."""
    plain, seen = disk.sync, 0

    def sync(fd: int) -> None:
        nonlocal seen
        seen += 1
        if seen == nth:
            disk.strike(errno.EIO)
        plain(fd)

    disk.sync = sync  # type: ignore[method-assign]
    try:
        repair.repair(disk, PATH, records.NEW, records.message_of, refusals)
        return False
    except (OSError, StorageError):
        repair.repair(disk, PATH, records.NEW, records.message_of, refusals)
        return True


def test_a_checkpoint_written_while_a_segment_is_dropped_names_the_new_head(monkeypatch):
    """It named the head from before, whose segment was unlinked a moment later: the store did not open."""
    with determined(0):
        disk = SimulatedDisk()
        d = driver_on(disk)
        d.open()
        d.publish("a")
        for _ in range(6):
            d.publish("busy", size=300)
            d.take("busy")
            d.ack()
        maintenance, log = d._broker._store.maintenance, d._broker._store.replica.log
        plain, written = log.sync, []

        def sync_and_write_a_checkpoint(upto: int) -> None:
            plain(upto)
            if not written:
                written.append(upto)
                maintenance.checkpoints.write()  # the cleaner has said the new head, and not dropped yet

        monkeypatch.setattr(log, "sync", sync_and_write_a_checkpoint)
        assert maintenance.cleaning.clean() > 0
        assert written and not disk.exists(f"{LOG}/{0:020}.seg")
        assert bodies(disk.after_kill()) == bodies(disk.after_power(nothing_but_the_platter())) == [b"0."]


def test_a_second_subscription_from_the_past_brings_nothing_that_was_settled():
    """What came from the past by the first one came again by the second: it counted only from then on."""
    with determined(0):
        d = driver_on(SimulatedDisk())
        d.open()
        d.retain(100)
        d.fan_out()
        d.start_in_the_past("a", "#")
        d.take("a")
        d.ack()
        d.start_in_the_past("a", "t")
        assert bodies(d.disk.after_kill()) == [b"0."]  # which the topic retains, and no queue holds
