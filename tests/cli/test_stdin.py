"""Standard input: what waits for it sees every signal."""

from __future__ import annotations

import io
import os
import signal
import threading
from types import FrameType

import pytest
from companions import wait_until_asleep

from mq.cli import stdin

SLOW_SECONDS = 120.0  # for what takes a millisecond


class Striker(threading.Thread):
    """Waits until the main thread waits, and gets a signal itself: no system call is interrupted.

    As one that comes just before a read.
    """

    def __init__(self, number: int, pipe: int) -> None:
        """*pipe* is closed at the end: then whatever reads from it ends."""
        super().__init__()
        self._number, self._pipe, self._main = number, pipe, threading.get_native_id()
        self._ended, self.in_time = threading.Event(), False

    def run(self) -> None:
        wait_until_asleep(self._main)
        signal.pthread_kill(threading.get_ident(), self._number)
        self.in_time = self._ended.wait(SLOW_SECONDS)
        os.close(self._pipe)

    def end(self) -> None:
        self._ended.set()
        self.join()


def test_a_signal_that_no_read_was_there_for_ends_the_waiting() -> None:
    here, there = os.pipe()
    striker = Striker(signal.SIGINT, there)
    try:
        with pytest.raises(KeyboardInterrupt), io.BufferedReader(stdin._Waiting(here)) as source:
            striker.start()
            source.readline()
    finally:
        striker.end()
        os.close(here)  # it was left open
    assert striker.in_time
    assert signal.set_wakeup_fd(-1) == -1


def test_a_signal_whose_handler_goes_on_costs_no_input() -> None:
    def write(number: int, _frame: FrameType | None) -> None:
        os.write(there, b"one\ntwo\n")

    here, there = os.pipe()
    striker = Striker(signal.SIGUSR1, there)
    before = signal.signal(signal.SIGUSR1, write)
    try:
        with io.BufferedReader(stdin._Waiting(here)) as source:
            striker.start()
            assert (source.readline(), source.readline()) == (b"one\n", b"two\n")
    finally:
        striker.end()
        signal.signal(signal.SIGUSR1, before)
        os.close(here)
    assert striker.in_time
