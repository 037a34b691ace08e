"""Ctrl-C, at every place where it can strike; and work that must come to an end.

CPython looks for signals where a Python function begins, and where a call of one written
in C returns.  `interrupted` raises KeyboardInterrupt at the nth such place inside mq:

    for at in itertools.count(1):
        if not interrupted(operation, at):
            break  # it was over before
        …look whether all is well
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any
from unittest import mock

import mq

PATIENCE = 120.0  # seconds after which work that hangs has failed
HERE = os.path.dirname(mq.__file__)


def interrupted(work: Callable[[], object], at: int) -> bool:
    """Run *work*, and interrupt it at place number *at*; False if it has fewer.

    What strikes while a generator is thrown away is swallowed, as in life.
    """
    left = at

    def look(frame: FrameType, event: str, arg: object) -> None:
        nonlocal left
        if event in ("call", "c_return") and frame.f_code.co_filename.startswith(HERE):
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

    with mock.patch.object(sys, "unraisablehook", lambda _: None):
        sys.setprofile(look)
        try:
            work()
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
    return left <= 0


class Work(threading.Thread):
    """A thread that does one thing, and keeps what came of it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._came: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._came = self._work()
        except BaseException as error:  # noqa: BLE001 it is raised again by `result`
            self._error = error

    def result(self) -> Any:
        """What it returned or, raised, what it raised; an error too if it does not end."""
        self.join(PATIENCE)
        assert not self.is_alive(), "it hangs"
        if self._error:
            raise self._error
        return self._came


def in_time(work: Callable[[], Any]) -> Any:
    """What *work* returns; an error if it hangs."""
    return Work(work).result()
