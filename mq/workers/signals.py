"""Signals: SIGTERM and SIGINT are told to a mailbox while its thread works."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from .mailbox import Mailbox


class Signals:
    """SIGTERM and SIGINT go into the mailbox; in another thread than the main one nothing is changed."""

    def __init__(self, mailbox: Mailbox[Any]) -> None:
        self._mailbox = mailbox
        self._before: dict[int, Any] = {}  # handlers
        self._rings = False  # the mailbox's descriptor is told to Python, or may be
        self._fd_before = -1

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            try:
                self._catch(signal.SIGTERM)
                self._catch(signal.SIGINT)
                self._rings = True
                self._fd_before = signal.set_wakeup_fd(self._mailbox.fd, warn_on_full_buffer=False)
            except BaseException:  # of a handler, which comes behind any call
                self.__exit__(None, None, None)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._rings:  # first: the mailbox goes, and its number may be another file's
                signal.set_wakeup_fd(self._fd_before)
        finally:
            try:
                self._put_back(signal.SIGTERM)
            finally:
                self._put_back(signal.SIGINT)

    def _catch(self, number: signal.Signals) -> None:
        handler = signal.getsignal(number)
        if handler is not signal.SIG_IGN:
            self._before[number] = handler if handler is not None else signal.SIG_DFL
            signal.signal(number, self._tell)

    def _put_back(self, number: signal.Signals) -> None:
        if number in self._before:
            signal.signal(number, self._before[number])

    def _tell(self, number: int, _frame: FrameType | None) -> None:
        self._mailbox.put(number)
