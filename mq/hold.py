"""Hold: what keeps a store open for as long as a program can use it.

    Broker, Queue, Transaction ──► Hold        messages and deliveries: through their queue
                                    ┊
                          the last of them goes
                                    ┊
                                    ▼
                              store.closing.forget()

A program that loses its last reference without calling `close` can not call it any more.
The store is let go of then, as if the process had died: nothing is synced, and the log
does not say that it was closed.  The threads of the store refer to it, but not to its Hold.

The garbage collector calls `forget` in any thread, at any bytecode: inside an operation
on another store, in a background thread of this one, or while it holds a lock of its own.
So `forget` waits for nothing that its own thread may hold.  Where a thread of the store is
in the midst of a step, that thread lets go of the files behind the step.
"""

from __future__ import annotations

from typing import Protocol
from weakref import finalize


class Forgettable(Protocol):
    def forget(self) -> None: ...


class Hold:
    __slots__ = ("__weakref__",)

    def guard(self, store: Forgettable) -> None:
        """Have *store* let go of when this goes.  For `mq.open`: a Store is its maker's to close."""
        # At the end of the process the kernel lets go of everything.
        finalize(self, store.forget).atexit = False
