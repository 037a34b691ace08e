"""Something else than a file under each name in a store: nothing waits for ever, or is done elsewhere."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path

import pytest

import mq
from mq.delivery import records
from mq.delivery.decode import refusals
from mq.storage.real_disk import RealDisk
from mq.storage.repair import repair
from mq.storage.shared import ASLEEP

MEMORY = Path("/dev/shm")  # no sync waits for a disk there
SEGMENT = "log/00000000000000000000.seg"
NEEDED = ["FORMAT", "LOCK", "mark", SEGMENT, "log"]  # without these a store does not open
BESIDE = ["CLEANER", "reserve", "checkpoint", "wake", "wake/0"]


def pipe(path: Path) -> None:
    os.mkfifo(path)


def bound(path: Path) -> None:
    with chdir(path.parent), socket.socket(socket.AF_UNIX) as made:  # a path of at most 100 bytes
        made.bind(path.name)


def directory(path: Path) -> None:
    path.mkdir()


def device(path: Path) -> None:
    path.symlink_to("/dev/null")


def dangling(path: Path) -> None:
    path.symlink_to(path.parent / "elsewhere")


def looping(path: Path) -> None:
    path.symlink_to(path.name)


KINDS: dict[Callable[[Path], None], str] = {
    pipe: "this is a pipe", bound: "this is a socket", directory: "this is a directory",
    device: "this is a device", dangling: "this is a link that leads nowhere",
    looping: "this is a link that leads nowhere",
}  # fmt: skip


def put(path: Path, kind: Callable[[Path], None]) -> None:
    """What is there goes."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    kind(path)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else tmp_path) as directory:
        path = Path(directory) / "data"
        with mq.open(path) as broker:
            broker.queue("q").publish(b"kept")
        yield path


def use(path: Path) -> None:
    with mq.open(path) as broker:
        broker.queue("other").publish(b"more")
        broker.queue("q").receive(timeout=0.001)


def read(path: Path) -> None:
    with mq.open(path, read_only=True) as broker:
        assert broker.queue("q").stats().published == 1


def salvage(path: Path) -> None:
    mq.open(path, recover="salvage").close()


def mend(path: Path) -> None:
    repair(RealDisk(), str(path), records.NEW, records.message_of, refusals)


def look(path: Path) -> None:
    repair(RealDisk(), str(path), records.NEW, records.message_of, refusals, dry_run=True)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", NEEDED)
def test_what_a_store_needs(store, name, kind):
    """One error that names the file, says what it is, and what to do.  Nothing is made or changed."""
    if (name, kind) == ("log", directory):
        return  # that is one
    put(store / name, kind)
    there = sorted(store.rglob("*"))
    for way in (use, salvage, read, mend, look):
        if name == "mark" and way is look:
            continue
        with pytest.raises(mq.StorageError) as caught:
            way(store)
        assert f"{store / name}: " in str(caught.value), way
        assert KINDS[kind] in str(caught.value), way
    assert {each for each in store.rglob("*") if each.name not in ("CLEANER", "reserve")} <= set(there)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", BESIDE)
def test_what_stands_beside(store, name, kind):
    """The store goes on without it, or says what is in the way."""
    if (name, kind) in (("wake/0", pipe), ("wake", directory), ("checkpoint", directory)):
        return  # that is one
    put(store / name, kind)
    for way in (read, use, salvage, mend, look):
        try:
            way(store)
        except mq.StorageError as error:
            assert f"{store / name}: {KINDS[kind]}" in str(error)
    assert not (store / "elsewhere").exists()
    assert not (store / "wake" / "elsewhere").exists()


def test_a_bell_that_is_no_pipe_is_passed_over(store):
    put(store / "wake" / "0", lambda path: path.write_bytes(b"mine"))
    with mq.open(store) as a, mq.open(store) as b:
        for each in (a, b):
            while not each._store.listener.bit:  # the timeout may be over before the wait begins
                assert each.queue("other").receive(timeout=0.001) is None
        assert {a._store.listener.bit, b._store.listener.bit} == {2, 4}
        a._store.turn.mark[ASLEEP] |= 1
        a.queue("other").publish(b"")
    assert (store / "wake" / "0").read_bytes() == b"mine"


@pytest.mark.parametrize("command", ["verify", "inspect", "queues"])
def test_the_command_line_says_it(store, command):
    put(store / SEGMENT, pipe)
    done = subprocess.run(
        [sys.executable, "-m", "mq", command, "-s", str(store)], capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "00000000000000000000.seg: this is a pipe, not a file; move it elsewhere" in done.stderr
    assert len(done.stderr.splitlines()) == 1
