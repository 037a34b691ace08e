"""What the laboratory has found, each as the shortest case that showed it."""

from __future__ import annotations

from itertools import islice

import pytest

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
    """Names above and in the store were synced by its creator only, who died before."""
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
