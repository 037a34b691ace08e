"""What a handler raises to say what becomes of its message."""

from __future__ import annotations


class Retry(Exception):
    """A handler raises it: the message failed, and is tried again.

    *delay*: seconds until then; None (the default): the queue's backoff.
    *reason*: text that is kept with the message, in `failures`.
    """

    delay: float | None
    reason: str

    def __init__(self, delay: float | None = None, reason: str = "") -> None:
        super().__init__(reason)
        self.delay, self.reason = delay, reason


class Reject(Exception):
    """A handler raises it: the message goes to the dead letters now.

    *reason*: text that is kept with the message, in `failures`.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
