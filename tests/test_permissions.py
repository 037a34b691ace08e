"""Who may use a store: its files have one owner, group and mode, whoever makes them.

Accounts are numbers here, which need no entry anywhere.  A process takes one on in a child.
"""

from __future__ import annotations

import os
import stat
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes import wait_in_vain

import mq
from mq.delivery import records
from mq.delivery.decode import refusals
from mq.storage.real_disk import RealDisk
from mq.storage.repair import repair

SERVICE, OTHER, GROUP, OWN_GROUP = 61_001, 61_002, 61_100, 61_200
BODY = b"x" * 700
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can take on another account"
)


@pytest.fixture
def path() -> Iterator[Path]:
    """Not below tmp_path: each pytest that starts shuts the directory of all of them to other accounts."""
    with tempfile.TemporaryDirectory() as base:
        os.chmod(base, 0o711)
        yield Path(base, "data")


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def modes(path: Path) -> dict[str, str]:
    """Of every file and directory of the store."""
    return {
        str(each.relative_to(path)): oct(stat.S_IMODE(each.stat().st_mode))
        for each in [path, *sorted(path.rglob("*"))]
    }


def use(path: Path, **options: object) -> None:
    """Everything that makes files: new segments, checkpoints, a pipe, the cleaner's lock, room kept back."""
    with mq.open(path, segment_bytes=1024, sync="never", **options) as broker:  # type: ignore[call-overload]
        queue = broker.queue("mail")
        for _ in range(3):
            queue.publish(BODY)
            queue.receive(timeout=0).ack()
        wait_in_vain(broker.queue("idle"))
        queue.publish(BODY)
        broker._store.maintenance.checkpoints.write()
        broker._store.maintenance.compact()


def as_account(uid: int, groups: list[int], work: Callable[[], None], mask: int = 0o022) -> None:
    pid = os.fork()
    if not pid:
        try:
            os.setgroups(groups)
            os.setgid(groups[0])
            os.setuid(uid)
            os.umask(mask)
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 — told by the exit code
            traceback.print_exc()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077], ids=oct)
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o660, 0o666], ids=oct)
def test_a_new_store_has_the_mode_that_was_asked_for_whatever_the_umask(path, mode, mask):
    with umask(mask):
        use(path, mode=mode)
    directory = mode | (mode & 0o444) >> 2
    found = modes(path)
    expected = {
        name: oct(directory if (path / name).is_dir() else mode) for name in found
    }  # fmt: skip
    assert found == expected
    assert {"FORMAT", "LOCK", "mark", "CLEANER", "wake/0", "checkpoint", "log"} <= found.keys()


def test_without_a_mode_the_umask_decides_and_only_once(path):
    with umask(0o027):
        use(path)
    assert set(modes(path).values()) == {"0o640", "0o750"}
    with umask(0o077):
        use(path, mode=0o666)  # it is there already
    assert set(modes(path).values()) == {"0o640", "0o750"}


def test_a_directory_that_is_there_keeps_its_mode(path):
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    use(path, mode=0o660)
    assert modes(path)["."] == "0o755"


def test_what_repair_makes_is_as_the_rest(path):
    use(path, mode=0o660)
    (path / "FORMAT").unlink()
    with umask(0o077):
        assert repair(RealDisk(), str(path), records.NEW, records.message_of, refusals)
    segment = sorted((path / "log").iterdir())[-1]
    data = bytearray(segment.read_bytes())
    data[8:20] = bytes(12)  # of its header
    segment.write_bytes(data)
    with umask(0o077):
        assert repair(RealDisk(), str(path), records.NEW, records.message_of, refusals)
    assert set(modes(path).values()) == {"0o660", "0o770"}
    assert [name for name in modes(path) if name.startswith("quarantine/")]


@needs_root
def test_root_does_not_lock_a_service_out_of_its_store(path):
    path.mkdir()
    os.chown(path, SERVICE, GROUP)
    as_account(SERVICE, [GROUP], lambda: use(path))
    use(path)
    for each in path.rglob("*"):
        assert (each.stat().st_uid, each.stat().st_gid) == (SERVICE, GROUP), each
    as_account(SERVICE, [GROUP], lambda: use(path))


@needs_root
def test_root_that_makes_the_store_makes_it_for_the_owner_of_the_directory(path):
    path.mkdir()
    os.chown(path, SERVICE, GROUP)
    use(path)
    as_account(SERVICE, [GROUP], lambda: use(path))


@needs_root
def test_members_of_a_group_share_a_store_whatever_their_umask(path):
    path.mkdir()
    os.chown(path, SERVICE, GROUP)
    path.chmod(0o2775)
    as_account(SERVICE, [OWN_GROUP, GROUP], lambda: use(path), mask=0o002)
    as_account(OTHER, [OTHER, GROUP], lambda: use(path), mask=0o022)
    as_account(SERVICE, [OWN_GROUP, GROUP], lambda: use(path), mask=0o022)
    for each in path.rglob("*"):
        assert each.stat().st_gid == GROUP, each
        assert each.stat().st_mode & 0o060 == 0o060, each


@needs_root
def test_a_group_that_cannot_be_given_gets_no_rights(path):
    """A file that ends up in another group is not opened to that one."""
    path.mkdir(mode=0o777)
    path.chmod(0o777)
    as_account(SERVICE, [GROUP], lambda: use(path, mode=0o666))

    def make_one() -> None:
        disk = RealDisk()
        assert disk.resemble(str(path / "FORMAT"))
        disk.close(disk.open(str(path / "new"), write=True, create=True))

    (path / "FORMAT").chmod(0o660)
    as_account(SERVICE, [OWN_GROUP], make_one)
    found = (path / "new").stat()
    assert found.st_gid == OWN_GROUP
    assert stat.S_IMODE(found.st_mode) == 0o640, "as the umask has it, and no more"


def test_links_and_files_that_are_there_keep_their_owner_and_mode(path):
    """Root is not led to a file of another."""
    path.mkdir()
    target = path.with_name("target")
    target.write_bytes(b"")
    target.chmod(0o604)
    (path / "LOCK").symlink_to(target)
    use(path, mode=0o660)
    assert oct(stat.S_IMODE(target.stat().st_mode)) == "0o604"
