"""A turn without a lock: the mutex keeps out the threads of this process, and no process is kept out.

change     follow what has come, decide, append.  Another writer was first: Conflict, so decide again
look       ask for the end of the log, and wait until all before it has come
refuse     what this process knows says that nothing is to be done, or allowed: it looks, and decides again
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Any, TypeVar

from mq.engine.ahead import Aheads
from mq.engine.log import Conflict
from mq.engine.turn import Turn
from mq.errors import MqError, StoreFailed
from mq.storage.disk import Disk

T = TypeVar("T")


class StreamTurn(Turn):
    follower: Any
    ahead: Aheads
    """What loops have taken and not handed out: what their threads do next is done without it."""

    def __init__(self, path: str, disk: Disk, *, exclusive: bool, in_line: bool) -> None:
        # Exclusive: it has files, and a page, that no other process shares.
        super().__init__(path, disk, exclusive=True, in_line=False)

    def take(self, do: Callable[[], T]) -> T:
        """Run *do*, again after a Conflict, and once more if it changed nothing, and others have appended."""
        sure = False
        while True:
            with self.mutex:
                try:
                    self.enter()
                    before = self.follower.log.end
                    try:
                        result = do()
                    except StoreFailed:
                        raise  # it may be there: decided again, it would be there twice
                    except MqError:
                        if sure or self.follower.log.end != before or not self.is_behind():
                            raise
                    else:
                        if sure or self.follower.log.end != before or not self.is_behind():
                            return result
                    sure = True
                except Conflict:
                    continue
                finally:
                    self.leave()

    def come_in_alone(self) -> None:
        follower = self.follower
        follower.log.arrivals.look()
        if follower.applied != follower.log.end or follower.log.known_end > follower.log.end:
            follower.catch_up()
        if self.ahead.waiting:
            self.ahead.first(get_ident())

    def come_in_to_look(self) -> None:
        self.follower.log.barrier()
        self.come_in_alone()

    def is_behind(self) -> bool:
        log = self.follower.log
        return bool(log.barrier() > log.end)

    def is_free(self) -> bool:
        return False  # each turn waits for a server
