"""kill -9 of one process, at every call that it makes; the others go on without opening anything again.

A child shares the store with this process, and is killed before its nth call to the disk,
or in the middle of its nth write.  Whatever it held is the kernel's to let go of, what it
left half done is for the next one to put in order; and what it was told holds.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import noted
import pytest
from click.testing import CliRunner
from companions import KINDS, NEVER, Companion, Hands
from fakes import QuickDisk, open_on

import mq
from mq.cli import cli

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

SEGMENT_BYTES = 2 << 10
METHODS = ("open", "pwrite", "allocate", "sync", "sync_directory", "rename", "unlink", "lock")


class DeadlyDisk(QuickDisk):
    """Kills its process at call number *at*; a write is half done by then, with *half*."""

    def __init__(self, at: int, *, half: bool) -> None:
        super().__init__()
        self._calls_left, self._half = at, half
        for name in METHODS:
            setattr(self, name, functools.partial(self._called, name, getattr(self, name)))

    def _called(self, name: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if not self._half or name == "pwrite":
            self._calls_left -= 1
            if not self._calls_left:
                if self._half:
                    fd, data, offset = args
                    os.pwrite(fd, data[: len(data) // 2], offset)
                os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **options)

    def unlocker(self, fd: int) -> Callable[[], object]:
        return functools.partial(self._called, "unlock", super().unlocker(fd))


def body(name: str) -> str:
    return f"{name} " * (1 + 40 * ("large" in name))


def a_life(path: Path, disk: DeadlyDisk, tell: Callable[..., None]) -> None:
    """Something of everything: the groups and rotations, the cleaner, a checkpoint, the last words."""
    with open_on(disk, path, segment_bytes=SEGMENT_BYTES, background=False) as broker:
        queue = broker.queue("life", visibility_timeout=NEVER)
        for names in (["first"], ["a", "b", "c"], ["large"], ["large-d", "e", "large-f"]):
            tell("try", *names)
            queue.publish_many([body(name) for name in names])
            tell("told", *names)
        for _ in range(3):
            message = queue.receive()
            name = message.body.split()[0]
            tell("ack", name)
            message.ack()
            tell("acked", name)
        queue.receive().nack(delay=0)
        broker._store.maintenance.run(1)
        broker.flush()


def run_in_child(work: Callable[[Callable[..., None]], None]) -> tuple[int, list[tuple[str, ...]]]:
    """How the child ended, and what it told until then."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work(lambda *words: os.write(writer, "|".join(words).encode() + b"\n"))
            os._exit(0)
        except BaseException:  # noqa: BLE001 the parent is told
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writer)
    with open(reader) as told:
        lines = [tuple(line.rstrip("\n").split("|")) for line in told]
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), lines


@pytest.mark.parametrize("half", [False, True], ids=["before a call", "in the middle of a write"])
def test_the_others_go_on_wherever_one_is_killed(tmp_path, half):
    """P1-P6, P9, P12; in a small process of its own, for a fork of one with all tests in it takes long."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        fresh.submit(others_go_on, tmp_path / "data", half).result()


def others_go_on(path: Path, half: bool) -> None:
    with open_on(QuickDisk(), path, segment_bytes=SEGMENT_BYTES) as broker:
        mail = broker.queue("mail", visibility_timeout=NEVER)
        mail.publish("stays")
        waiting = ["stays"]
        for at in itertools.count(1):
            status, lines = run_in_child(functools.partial(a_life, path, DeadlyDisk(at, half=half)))
            assert status in (0, -signal.SIGKILL)
            mail.publish(f"after {at}")
            waiting.append(f"after {at}")
            check_story(broker.queue("life"), lines)
            clear(broker.queue("life"))
            if at % 10 == 0 or status == 0:
                assert [message.body for message in mail.receive_many(100, timeout=0)] == waiting
                waiting.clear()
            if status == 0:
                break
            if at % 6 == 0:  # else the lives get longer as fast as the deaths come later
                broker._store.maintenance.run(1)
        assert at > (10 if half else 100), "nobody was killed"
    assert CliRunner().invoke(cli, ["--store", str(path), "verify"]).exit_code == 0
    with mq.open(path) as broker:
        assert broker.queue("mail").stats()[:2] == (0, at + 1)


def clear(queue: mq.Queue[Any]) -> None:
    """Nothing is left of it, not even what the dead one held."""
    queue.purge()
    state = queue._channel.state
    if state:
        tag = queue._store.tag
        flights = [*state.flights.items()]
        queue.ack_many(f"{state.number}-{id}-{flight.receipt}-{tag}" for id, flight in flights)


def check_story(queue: mq.Queue[Any], lines: list[tuple[str, ...]]) -> None:
    """What is in the queue against what its publisher and receiver was told."""
    tried = [line[1:] for line in lines if line[0] == "try"]
    told = [line[1:] for line in lines if line[0] == "told"]
    acking = {line[1] for line in lines if line[0] == "ack"}
    acked = {line[1] for line in lines if line[0] == "acked"}
    messages = [*queue.peek(100), *queue.peek(100, state="delayed"), *queue.peek(100, state="in_flight")]
    here = [message.body.split()[0] for message in messages]
    assert [message.body for message in messages] == [body(name) for name in here]
    assert len(here) == len(set(here)), "something is there twice"
    assert set(here) <= {name for group in tried for name in group}
    for group in tried:
        present = [name for name in group if name in here or name in acking]
        assert len(present) in (0, len(group)), f"of {group} only {present}"
    for group in told:
        assert [name for name in group if name not in here and name not in acking] == []
    assert acked.isdisjoint(here)


# ── wherever the signal strikes ────────────────────────────────────────────────────


@pytest.mark.parametrize("how", KINDS)
def test_killed_in_full_traffic_again_and_again(tmp_path, how):
    path = tmp_path / "data"
    told = tmp_path / "told"
    told.touch()
    with mq.open(path, segment_bytes=SEGMENT_BYTES, sync="never") as broker:
        mail = broker.queue("mail")
        for _ in range(4):
            with Companion(how, path, segment_bytes=SEGMENT_BYTES) as other:
                size = told.stat().st_size
                other.begin("call", publish_for_ever, str(told))
                while told.stat().st_size < size + 200:
                    mail.publish("mine")
                other.kill()
            mail.publish("mine")
        bodies = [message.body for message in mail.peek(10**6)]
        numbers = [each for each in bodies if each != "mine"]
        assert len(numbers) == len(set(numbers))
        assert {name for (name,) in noted.read(told)[0]} <= set(numbers)


def publish_for_ever(hands: Hands, told: str) -> None:
    notes = noted.Notes(told)
    for number in itertools.count():
        name = f"{os.getpid()}-{number}"
        hands.publish("mail", name)
        notes.write(name)
