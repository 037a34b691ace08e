"""Each descriptor of a store is closed, or made another file's, before each kind of operation.

An operation returns, and what it did is in the log, or it raises one MqError that names a file of the
store and says what to do.  The other file is never written to, cut, or locked, but for what is said in
docs/decisions/0029: a segment that is not synced, and LOCK, are looked at once a second.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

PROGRAM = r'''
import fcntl, itertools, os, shutil, sys, traceback
import mq
from mq.errors import MqError

path, name = sys.argv[1:]
BODY = b"." * 1000


def wait(broker):
    """Until it has a bell: on a busy machine the timeout may be over before the wait begins."""
    while not broker._store.listener.bit:
        assert broker.queue("other").receive(timeout=0.001) is None


class Life:
    """A store with what each operation needs, and another broker that waits in it."""

    def __init__(self, sync):
        shutil.rmtree(path, ignore_errors=True)
        self.now = 2e9
        self.a = mq.open(path, segment_bytes=65536, sync=sync, clock=lambda: self.now)
        self.b = None
        self.store, self.q = self.a._store, self.a.queue("q")
        self.q.publish_many([BODY] * 50)
        self.q.publish_many([BODY] * 50)
        self.held = self.q.receive(timeout=0)
        self.q.publish(BODY)
        self.done = []

    def fd(self):
        held = self.store.turn.held()
        if name == "bell":
            wait(self.a)
            return self.store.listener._bell
        if name == "other's bell":
            self.b = mq.open(path, clock=lambda: self.now)
            wait(self.b)
            self.store.turn.mark[self.q._channel.word] = bit = self.b._store.listener.bit
            self.store.listener.ring(self.q._channel.word)
            self.store.turn.mark[self.q._channel.word] = bit
            return self.store.listener._bells[bit.bit_length() - 1]
        if name == "reader":
            return next(iter(self.store.replica.log.reader._readers.values()))
        if name == "segment":
            return self.store.replica.log.fd
        return self.store.turn.locks.directory if name == "directory" else held[name]


def publish(life):
    life.done.append(life.q.publish(BODY + b"new"))


def receive(life):
    assert life.q.receive(timeout=0).raw == BODY


def ack(life):
    life.held.ack()


def rotate(life):
    for _ in range(100):
        publish(life)


def clean(life):
    life.q.purge()
    life.store.maintenance.compact()


def save(life):
    life.store.maintenance.checkpoints.write()


def flush(life):
    life.a.flush()


def look(life):
    assert len(life.q.peek(3)) == 3
    life.a.stats()


def expire(life):
    life.q.publish(BODY, ttl=0.5)
    life.now += 2
    life.q.receive(timeout=0)


def declare(life):
    life.a.queue("q", max_length=50, overflow="drop_oldest")
    publish(life)


def close(life):
    life.a.close()


OPERATIONS = [publish, receive, ack, rotate, clean, save, flush, look, expire, declare, close]


def mine(foreign):
    """Whether nothing was done to the program's own file."""
    with open(foreign, "rb") as file:
        same = file.read() == b"mine"
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return same and name == "LOCK"
    return same


def check(sync, operation, harm, late):
    life = Life(sync)
    foreign = path + ".mine"
    with open(foreign, "wb") as file:
        file.write(b"mine")
    own = None
    if harm == "directory":
        shutil.rmtree(foreign + ".d", ignore_errors=True)
        os.mkdir(foreign + ".d")
        own = os.open(foreign + ".d", os.O_RDONLY)
    elif harm != "close":
        own = os.open(foreign if harm == "file" else "/dev/null", os.O_RDWR)
    if late:
        life.now += 1.1
    fd = life.fd()
    os.close(fd) if own is None else os.dup2(own, fd)
    excused = name == "segment" and not late
    try:
        for do in (operation, close):
            try:
                do(life)
            except MqError as error:
                text = str(error)
                assert path in text, text
                assert "the program closed descriptor" in text, text
                assert "close the store in all processes, then open it again" in text, text
            assert excused or mine(foreign), "the program's own file was touched"
        if harm == "directory":
            assert os.listdir(foreign + ".d") == []
    finally:
        if own is not None:
            os.close(own)
            os.close(fd)
        for broker in filter(None, (life.a, life.b)):
            try:
                broker.close()
            except MqError:
                pass
    if life.done and not (name == "segment" and sync != "always"):
        with mq.open(path, read_only=True) as again:
            for id in life.done:
                assert again.queue("q").get(id).raw == BODY + b"new", "an acknowledged message is gone"


wrong = 0
harms = ["close", "file", "null"] + ["directory"] * (name == "directory")
cases = [*itertools.product(("never", "always"), OPERATIONS, ["file"], (False, True))]
cases += itertools.product(("never", "always", 3600.0), (publish, rotate, flush), harms, (False,))
if name == "bell":  # the thread that listens there notices within a second, for which a close waits
    cases = cases[::25]
for sync, operation, harm, late in cases:
    try:
        check(sync, operation, harm, late)
    except BaseException as error:
        wrong += 1
        print(sync, operation.__name__, harm, late)
        traceback.print_exception(error, file=sys.stdout)
sys.exit(wrong != 0)
'''

MEMORY = Path("/dev/shm")  # no sync waits for a disk there
NAMES = ["directory", "FORMAT", "LOCK", "mark", "bell", "other's bell", "segment", "reader"]


@pytest.mark.parametrize("name", NAMES)
def test_a_descriptor_that_the_program_closed_costs_one_clear_error(tmp_path: Path, name: str) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else tmp_path) as directory:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, f"{directory}/data", name],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
