"""Descriptors that a program closes, and opens again for itself: the standard streams, and those of a store.

Each test is a program of its own: what it does to its descriptors is not to be done to pytest's.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mq
from mq.storage.real_disk import RealDisk

HEAD = """
import os, sys, mq
from mq.errors import StoreFailed
path = sys.argv[1]
BODY = b"." * 1000

def own_descriptors():
    return [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and is_store(fd)]

def is_store(fd):
    try:
        return f"{os.readlink(f'/proc/self/fd/{fd}')}/".startswith(f"{path}/")
    except OSError:
        return False

def steal(fds):
    "The program closes them, and opens files of its own, which get their numbers."
    for fd in fds:
        os.close(fd)
    for fd in fds:
        assert os.open(f"{path}.mine.{fd}", os.O_RDWR | os.O_CREAT) == fd
"""


def run(path: Path, program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", HEAD + program, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def mine(path: Path) -> dict[str, bytes]:
    """What the program's own files hold."""
    return {each.name: each.read_bytes() for each in path.parent.glob("data.mine.*")}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.mark.parametrize("closed", [(0,), (2,), (1, 2), (0, 1, 2)], ids=str)
def test_what_a_program_prints_to_a_closed_stream_never_goes_into_the_store(path, closed):
    """Neither the segments nor the page, a pipe, a lock or a temporary file gets such a number."""
    run(
        path,
        f"""
said = os.dup(1)
for fd in {closed}:
    os.close(fd)
a = mq.open(path, segment_bytes=65536, sync="never")
b = mq.open(path, segment_bytes=65536)
q = a.queue("q")
for number in range(300):
    q.publish(BODY)
    for fd in {closed}:
        try:
            os.write(fd, b"some text that goes astray" * 9)
        except OSError:
            pass
    assert not any(is_store(fd) for fd in range(3)), number
    if number % 10 == 0:
        q.receive_many(9)
        assert b.queue("other").receive(timeout=0.001) is None
a._store.maintenance.checkpoints.write()
assert not any(is_store(fd) for fd in range(3))
with mq.open(path, read_only=True) as reader:
    assert reader.queue("q").stats().published == 300
    assert not any(is_store(fd) for fd in range(3))
b.close()
a.close()
""",
    )
    with mq.open(path) as again:
        assert again.queue("q").stats().published == 300
        assert {each.raw for each in again.queue("q").receive_many(1000)} <= {b"." * 1000}
    verified = subprocess.run(
        [sys.executable, "-m", "mq", "verify", "-s", str(path)], check=False, capture_output=True
    )
    assert verified.returncode == 0, verified.stdout


def test_publishes_are_not_acknowledged_into_another_file(path):
    """sync="always": not one.  The message of the failed publish, and no other, is unknown."""
    out = run(
        path,
        """
a = mq.open(path)
q = a.queue("q")
for _ in range(3):
    q.publish(BODY)
steal(own_descriptors())
done = 0
try:
    while True:
        q.publish(BODY)
        done += 1
except StoreFailed as error:
    print(done, error)
for operation in (lambda: q.publish(BODY), lambda: q.receive(timeout=0), a.flush):
    try:
        operation()
    except StoreFailed:
        pass
    else:
        raise AssertionError(operation)
a.close()
""",
    )
    done, _, error = out.partition(" ")
    assert done == "0"
    assert "the program closed descriptor" in error
    with mq.open(path) as again:
        assert 3 <= again.queue("q").stats().published <= 4
    assert b"".join(mine(path).values()).count(b"." * 1000) <= 1, "more than one publish went there"


def test_what_another_process_synced_is_not_acknowledged_either(path):
    """It syncs the segment, and does not know that this process wrote to another file."""
    out = run(
        path,
        """
a, b = mq.open(path), mq.open(path)
q = a.queue("q")
q.publish(BODY)
assert b.queue("q").stats().ready == 1
q.publish(BODY)
ours, theirs = a._store.replica.log.syncing, b._store.replica.log.syncing
def wait(upto, wait=ours.commit.wait):
    try:
        theirs._wait_to_sync()
        theirs._sync_for_all()
    finally:
        theirs._lock.unlock()
    wait(upto)
    assert ours._confirmed < upto, "this process has synced itself"
ours.commit.wait = wait
steal([a._store.replica.log.fd])
try:
    q.publish(BODY)
except StoreFailed as error:
    print(error)
else:
    raise AssertionError("acknowledged")
sys.stdout.flush()
os._exit(0)
""",
    )
    assert "the program closed descriptor" in out


@pytest.mark.parametrize("sync", ["'never'", "3600.0"])
def test_at_most_a_second_goes_into_another_file_and_that_is_told(path, sync):
    out = run(
        path,
        f"""
now = [2e9]
a = mq.open(path, sync={sync}, clock=lambda: now[0])
q = a.queue("q")
for _ in range(3):
    q.publish(BODY)
steal(own_descriptors())
try:
    for number in range(100):
        now[0] += 0.02
        q.publish(BODY)
except StoreFailed as error:
    print(number, error)
before = {{each: os.path.getsize(os.path.join(os.path.dirname(path), each))
          for each in os.listdir(os.path.dirname(path)) if "mine" in each}}
try:
    q.publish(BODY)
except StoreFailed:
    pass
a.close()
after = {{each: os.path.getsize(os.path.join(os.path.dirname(path), each)) for each in before}}
assert before == after
for each in os.listdir("/proc/self/fd"):
    assert not is_store(int(each)), os.readlink(f"/proc/self/fd/{{each}}")
for name in before:
    os.write(int(name.rpartition(".")[2]), b"still mine")
""",
    )
    number, _, error = out.partition(" ")
    assert int(number) <= 51
    assert "the program closed descriptor" in error
    with mq.open(path) as again:
        mapped = RealDisk().may_map(str(path))  # then they go to the segment, and not to what has its number
        assert again.queue("q").stats().published == 3 + mapped * int(number)


@pytest.mark.parametrize("name", ["LOCK", "FORMAT", "mark", "data", ".seg"])
def test_one_descriptor_that_was_closed_twice_by_a_careless_program(path, name):
    out = run(
        path,
        f"""
now = [2e9]
a = mq.open(path, sync="never", clock=lambda: now[0])
q = a.queue("q")
q.publish(BODY)
held = a._store.turn.held() | {{".seg": a._store.replica.log.fd, "data": a._store.turn.locks.directory}}
fd = held[{name!r}]
steal([fd])
now[0] += 1.1
try:
    q.publish(BODY)
except StoreFailed as error:
    print(error)
a.close()
os.write(fd, b"still mine")
""",
    )
    assert "the program closed descriptor" in out
    assert mine(path) == dict.fromkeys(mine(path), b"still mine")
    with mq.open(path) as again:
        assert again.queue("q").stats().published == 1


def test_descriptors_that_are_only_closed(path):
    out = run(
        path,
        """
a = mq.open(path)
q = a.queue("q")
q.publish(BODY)
os.closerange(3, 256)
for _ in range(2):
    try:
        q.publish(BODY)
    except StoreFailed as error:
        print(error)
a.close()
""",
    )
    assert out.count("the program closed descriptor") == 2
    with mq.open(path) as again:
        assert again.queue("q").stats().published == 1


def test_a_daemon_that_closes_all_it_inherited_goes_on(path):
    """As python-daemon does, after a fork."""
    run(
        path,
        """
a = mq.open(path)
q = a.queue("q")
q.publish(BODY)
pid = os.fork()
if not pid:
    os.closerange(3, 256)
    q.publish(BODY)
    a.close()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert q.stats().published == 2
a.close()
""",
    )
