"""Disks that fork in the midst of what mq does with them, as the handler of a signal may.

`explore()` looks what becomes of a copy to mapped room that the parent gave up, and the child would make.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from fakes import QuickDisk, open_on

import mq
from mq.storage.window import Window

PATIENCE = 120  # seconds after which a child that hangs has failed: a disk may take one for five publishes


class Forking(QuickDisk):
    """Forks behind one of its calls, as the handler of a signal that comes during it.  The child waits.

    It goes on, with what the parent was about, when `let_go` is called: the parent may be far ahead then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.left = -1  # calls until then
        self.child = 0
        self._gate = os.pipe()

    def _called(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.child = os.fork()
            if self.child == 0:
                signal.alarm(PATIENCE)
                os.read(self._gate[0], 1)

    def let_go(self) -> int:
        """How the child ended."""
        os.write(self._gate[1], b"!")
        _, status = os.waitpid(self.child, 0)
        return status


def watched(name: str) -> Callable[..., Any]:
    plain = getattr(QuickDisk, name)

    def call(self: Forking, *args: Any, **options: Any) -> Any:
        result = plain(*args, **options) if name == "pwrite" else plain(self, *args, **options)
        self._called()
        return result

    return call


class ForksInMemory(Forking):
    """The same, where the end of the log is mapped: before and behind each copy."""

    lock = watched("lock")

    def may_map(self, path: str) -> bool:
        return True

    def window(self, fd: int, offset: int, size: int) -> Any:
        window = super().window(fd, offset, size)
        self._called()
        return window and ForkingWindow(self, window)


class ForkingWindow:
    def __init__(self, disk: Any, window: Window) -> None:
        self._disk, self._window = disk, window

    def __getitem__(self, part: slice) -> bytes:
        return self._window[part]

    def __setitem__(self, part: slice, data: bytes) -> None:
        self._disk._called()
        self._window[part] = data
        self._disk._called()

    def ready(self, start: int, size: int) -> bool:
        self._disk._called()
        return self._window.ready(start, size)

    def close(self) -> None:
        self._window.close()


class Interrupted(ForksInMemory):
    """Forks before a copy; the parent is interrupted there."""

    armed = False  # it is the next one

    def window(self, fd: int, offset: int, size: int) -> Any:
        window = super().window(fd, offset, size)
        return window and InterruptedWindow(self, window._window)


class InterruptedWindow(ForkingWindow):
    def __setitem__(self, part: slice, data: bytes) -> None:
        disk = self._disk
        if disk.armed:
            disk.armed, disk.left = False, 1
            disk._called()
            if disk.child:
                raise KeyboardInterrupt
        self._window[part] = data


PUBLISHES: tuple[Callable[[mq.Queue[Any]], object], ...] = (
    lambda mail: mail.publish("inside"),
    lambda mail: mail.publish_many(["inside", "inside too"]),
)


def explore() -> str:
    """What is wrong; "" if nothing."""
    with tempfile.TemporaryDirectory(prefix="mq-") as directory:
        return next(filter(None, (_explore(f"{directory}/{n}", do) for n, do in enumerate(PUBLISHES))), "")


def _explore(path: str, publish: Callable[[mq.Queue[Any]], object]) -> str:
    parent, disk = os.getpid(), Interrupted()
    broker = open_on(disk, path, sync="never", background=False)
    mail = broker.queue("mail")
    mail.publish("before")
    disk.armed = True
    try:
        with suppress(mq.StoreFailed, KeyboardInterrupt):
            publish(mail)
            if os.getpid() != parent:
                os._exit(3)  # it says that it has done what it has not
    finally:
        if os.getpid() != parent:
            os._exit(0)
    theirs = "the parent's" + "." * 99
    mail.publish(theirs)
    if status := disk.let_go():
        return f"P12: the child ended with {status}"
    try:
        found = [each.body for each in mail.peek(9)]
    except mq.MqError as error:
        return f"P3: {error}"
    finally:
        broker.close()
    return "" if found == ["before", theirs] else f"P1: {found}"
