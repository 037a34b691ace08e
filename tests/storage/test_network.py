"""Network file systems are refused by name, before anything is written there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from fakes import open_on

import mq
from mq.storage import locks
from mq.storage.memory_disk import MemoryDisk
from mq.storage.network import is_network, kind_at
from mq.storage.real_disk import RealDisk

MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:30 / /home rw shared:2 - nfs4 server:/home rw,vers=4.2
31 30 8:2 / /home/ada/local rw - xfs /dev/sdb1 rw
32 22 0:31 / /srv/my\040data rw shared:5 master:1 - cifs //server/data rw
33 22 0:32 / /mnt/remote rw - fuse.sshfs ada@server: rw
34 22 8:3 / /over rw - nfs server:/x rw
35 22 8:3 / /over rw - btrfs /dev/sdc rw
36 22 0:40 /container /bound rw - nfs server:/y rw
not a line of it
"""


@pytest.mark.parametrize(
    "path, kind",
    [
        ("/", "ext4"),
        ("/var/data", "ext4"),
        ("/home", "nfs4"),
        ("/home/ada", "nfs4"),
        ("/homes/ada", "ext4"),
        ("/home/ada/local/data", "xfs"),
        ("/home/ada/localdata", "nfs4"),
        ("/srv/my data/store", "cifs"),
        ("/mnt/remote/store", "fuse.sshfs"),
        pytest.param("/over/store", "btrfs", id="what is mounted over another hides it"),
        pytest.param("/bound/store", "nfs", id="a part of one, bound to another place"),
    ],
)
def test_the_mount_that_counts(path, kind):
    assert kind_at(path, MOUNTS) == kind


def test_a_system_that_does_not_say():
    assert kind_at("/anywhere", "") == ""


@pytest.mark.parametrize(
    "kind",
    ["nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "glusterfs", "lustre", "afs", "fuse.sshfs",
     "fuse.glusterfs", "fuse.ceph-fuse", "fuse.s3fs", "NFS", "fakeowner", "virtiofs.virtiofs0",
     "fuse.grpcfuse", "fuse.osxfs"],
)  # fmt: skip
def test_network_file_systems(kind):
    assert is_network(kind)


@pytest.mark.parametrize(
    "kind",
    ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "f2fs", "fuse.gocryptfs", "fuseblk", "", "sshfs"],
)
def test_local_file_systems(kind):
    assert not is_network(kind)


class Elsewhere(RealDisk):
    """A real directory that says that it is on another computer."""

    def file_system(self, path: str) -> str:
        return "nfs4"


def test_a_store_on_another_computer_is_refused_and_nothing_is_made_there(tmp_path):
    path = tmp_path / "data"
    with pytest.raises(mq.Unsupported, match=r"network file system \(nfs4\)"):
        open_on(Elsewhere(), path)
    assert not path.exists()


def test_it_is_not_repaired_there_either(tmp_path):
    mq.open(tmp_path).close()
    with pytest.raises(mq.Unsupported, match="network"), locks.alone(Elsewhere(), str(tmp_path)):
        pass


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting needs root")
def test_a_store_over_two_mounts_is_one_store(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    if subprocess.run(["mount", "--bind", here, there], check=False, capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        with mq.open(here / "data") as one, mq.open(there / "data") as other:
            one.queue("mail").publish("hello")
            assert other.queue("mail").receive(timeout=0)
            assert one.queue("mail").receive(timeout=0) is None
            with pytest.raises(mq.StoreLocked):
                mq.open(there / "data", exclusive=True)
    finally:
        subprocess.run(["umount", "--lazy", there], check=True)  # a page may still be mapped


def test_memory_is_here():
    assert MemoryDisk().file_system("/data") == ""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what is mounted where")
def test_this_machine_says_what_is_mounted():
    assert RealDisk().file_system("/proc/self") == "proc"
