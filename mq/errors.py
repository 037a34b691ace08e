"""What can go wrong, as one small tree.  Every message says what to do next.

MqError
├── UsageError        a bad name, number or type; nothing was done
├── Unsupported       written by a newer mq, or not possible here
├── Closed            the broker is closed
├── BadBody           a body does not fit the queue's type; `.raw` is still there
├── QueueFull         a queue's limits leave no room; nothing was published
├── StaleReceipt      settled, or delivered again, since
└── StorageError      carries path, offset and reason
    ├── StoreLocked   another process has the store
    ├── DiskFull      no room; nothing was done
    ├── StoreFailed   a write or an fsync failed; the outcome is unknown
    └── CorruptStore  bytes that were once durable are gone or altered
"""

from __future__ import annotations

import copyreg
import os
from collections.abc import Callable
from typing import Any

ADVICE = "`mq verify` names what is affected, `mq repair` keeps everything else"


class MqError(Exception):
    """The root of every error that mq raises on purpose."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        # As it is, and not made anew from its text: a pool of processes hands errors on.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class UsageError(MqError, ValueError):
    """An argument that cannot be right.  Nothing was done."""


class Unsupported(MqError):
    """This version of mq, or this system, cannot do that."""


class Closed(MqError):
    """The broker was closed."""


class BadBody(MqError):
    """The body does not fit the queue's type.  `message.raw` has the bytes as stored."""


class QueueFull(MqError):
    """The queue holds as much as its limits allow.  Nothing was published."""


class StaleReceipt(MqError):
    """The delivery was settled, or the message was delivered again, since.

    No other delivery was touched.  If it was delivered again, the work is done
    twice: make it idempotent, or give it a longer visibility timeout.

    ids    of the messages that this is about
    """

    def __init__(self, ids: tuple[int, ...]) -> None:
        self.ids = ids
        listed = ", ".join(map(str, ids[:10])) + (", …" if len(ids) > 10 else "")
        super().__init__(
            f"message {listed}: settled or delivered again since; if delivered again, its work is done twice"
        )


class StorageError(MqError):
    """Something is wrong with the files.

    path      of the file or directory
    offset    where in the file, in bytes; None: it is about no place
    reason    what is wrong, and what to do
    """

    path: str
    offset: int | None
    reason: str

    def __init__(self, path: str, reason: str, offset: int | None = None) -> None:
        self.path, self.reason, self.offset = path, reason, offset
        place = path if offset is None else f"{path} at offset {offset}"
        super().__init__(f"{place}: {reason}")


class StoreLocked(StorageError):
    """Another process has the store for itself, or does not let go of its lock.

    pid    which process it is; None: the system does not say
    """

    pid: int | None
    seconds: float

    def __init__(self, path: str, pid: int | None, *, seconds: float = 0.0, sure: bool = True) -> None:
        """*seconds*: how long it has had a lock that is meant to be held for microseconds.

        *sure*: the system says that it is this *pid*; else the process says so, and may be in
        another container, where numbers are its own.  No lock outlives its process, so there is
        none to be removed: no text here speaks of files.
        """
        self.pid, self.seconds = pid, seconds
        holder = f"process {pid}" if pid else "another process"
        if pid == os.getpid():
            holder = "this process" if sure else f"this process, or process {pid} of another container"
        if seconds:
            reason = (
                f"{holder} has held its lock for {seconds:g} seconds: if it is stopped, continue it or end it"
            )
        else:
            reason = f"the store is in use by {holder}; close it there, or wait"
        super().__init__(path, reason)


class DiskFull(StorageError):
    """No room.  Nothing was done and nothing is torn."""


class StoreFailed(StorageError):
    """A write or an fsync failed, or could not be made, so what the disk holds is unknown.

    mq does not retry one that failed: after a failed fsync a second one may report success for
    bytes that are gone.  Re-open the store; recovery reads back, checks and
    rewrites what was never confirmed.
    """


class CorruptStore(StorageError):
    """Bytes that were once durable no longer pass their checksum.

    Nothing is guessed and nothing was changed.

    ids    of the messages that are known to be affected
    """

    def __init__(self, path: str, reason: str, offset: int | None = None, ids: tuple[int, ...] = ()) -> None:
        self.ids = ids
        super().__init__(path, reason, offset)
