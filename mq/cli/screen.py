"""A whole terminal, while a command shows something on it; given back however that ends.

Ctrl-Z, SIGTSTP    given back, and the process stops
SIGCONT            taken again, with what stood on it
SIGTERM, SIGHUP    KeyboardInterrupt, with the number of the signal
"""

from __future__ import annotations

import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final

from mq.cli import output

BEGIN: Final = "\033[?1049h\033[?25l"  # another screen, without a cursor
END: Final = "\033[?25h\033[?1049l"
HOME: Final = "\033[H"
CLEAR_LINE: Final = "\033[K"
CLEAR_BELOW: Final = "\033[J"


class Screen:
    def __init__(self) -> None:
        self.keys = sys.stdin.fileno() if output.is_terminal(sys.stdin) else None
        """A descriptor on which keys come at once; None: standard input is elsewhere."""
        self._before = termios.tcgetattr(self.keys) if self.keys is not None else None
        self._handlers: dict[signal.Signals, Any] = {}  # as they were
        self._frame = b""

    def show(self, lines: list[str]) -> None:
        self._frame = (HOME + f"{CLEAR_LINE}\n".join(lines) + CLEAR_LINE + CLEAR_BELOW).encode()
        output.stream().write(self._frame)
        output.flush()

    def begin(self) -> None:
        meant = {signal.SIGTERM: self._stop, signal.SIGHUP: self._stop, signal.SIGTSTP: self._suspend}
        for number, handler in {**meant, signal.SIGCONT: self._resume}.items():
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, handler)
        self._take()

    def end(self) -> None:
        self._give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _take(self) -> None:
        if self.keys is not None:
            tty.setcbreak(self.keys)
        _write(BEGIN.encode() + self._frame)

    def _give_back(self) -> None:
        if self.keys is not None and self._before is not None:
            with suppress(termios.error):  # after SIGHUP there may be no terminal any more
                termios.tcsetattr(self.keys, termios.TCSADRAIN, self._before)
        _write(END.encode())

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    def _suspend(self, number: int, _frame: FrameType | None) -> None:
        self._give_back()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        # It goes on here, also where no shell is there that could let it go on, and it did not stop.
        signal.signal(number, self._suspend)
        self._take()

    def _resume(self, _number: int, _frame: FrameType | None) -> None:
        self._take()


def _write(data: bytes) -> None:
    """Past the buffer, into which a signal may have come."""
    with suppress(OSError):
        os.write(sys.stdout.fileno(), data)


@contextmanager
def screen() -> Iterator[Screen]:
    """The terminal of standard output, while this lasts."""
    found = Screen()
    try:
        found.begin()
        yield found
    finally:
        found.end()
