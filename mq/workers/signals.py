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
        self._before: dict[int, Any] = {}
        self._fd_before: int | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            try:
                self._fd_before = signal.set_wakeup_fd(self._mailbox.fd, warn_on_full_buffer=False)
                self._catch(signal.SIGTERM)
                self._catch(signal.SIGINT)
            except BaseException:
                self.__exit__(None, None, None)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd_before is not None:  # first: the mailbox goes, and its number may be another file's
            signal.set_wakeup_fd(self._fd_before)
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _catch(self, number: signal.Signals) -> None:
        if signal.getsignal(number) is not signal.SIG_IGN:
            self._before[number] = signal.signal(number, self._tell)

    def _tell(self, number: int, _frame: FrameType | None) -> None:
        self._mailbox.put(number)
