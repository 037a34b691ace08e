"""Watch: waiting for messages without a thread, as event loops do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mq.api.options import check_many
from mq.api.queue import Queue, ask
from mq.engine import watching
from mq.engine.several import Asked
from mq.engine.store import Store


class Watch:
    """Tells an event loop of messages, made by `broker.watch(notify)`.  Thread-safe.

    A message wakes one of all watches and sleeping receivers that wait for it in this process.  If the
    program does not take it, another one is woken when this watch is armed again, or closed, or after a
    second.

    A watch that the program forgets is closed.  In the child of a fork it is not armed, and can be.
    """

    def __init__(self, store: Store, notify: Callable[[], object]) -> None:
        self._store, self._hold, self._notify = store, store.hold(), notify
        self._watcher = watching.Watcher(store.waiters, self)
        self._asked: Asked[Any] | None = None  # by the last `arm`: a program asks for the same again

    def __repr__(self) -> str:
        return f"<Watch on {self._store.path}>"

    def arm(self, queues: Iterable[Queue[Any]]) -> float:
        """0 if there is a message in one of *queues*; else have `notify` called, once, when there may be one.

        Returns the seconds after which the program is to look again by itself, because something falls due
        then: a delay, a visibility timeout, work of the store.  inf: never, as things are; `notify` comes if
        that changes.

        *queues*: handles of this broker.

        With 0 the watch is not armed.  Nor is it once `notify` has been called: receive what there is with
        timeout=0, and arm it again.  Arming it again before that takes the place of what it was armed for.
        `notify` may come in vain: another receiver was quicker, or the broker was closed.

        Raises UsageError, Closed (the broker is closed: a watch that was armed is notified then).
        """
        listed = list(check_many("queues", queues))
        asked = self._asked
        if asked is None or not asked.is_of(listed):
            asked = self._asked = ask(listed, self._store)
        return watching.arm(self._store, self._watcher, asked.channels)

    def close(self) -> None:
        """Be notified no more; a call of `notify` that has begun may still go on.  It can be armed again.

        Raises UsageError (inside another operation of the same thread).
        """
        watching.disarm(self._store, self._watcher)
