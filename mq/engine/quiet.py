"""Whether nothing has happened: then the listener, which comes by each second, goes again at once.

A look takes LOCK and asks for each file: it is most of what an idle process costs, and keeps the others out
for a moment.  Mostly it finds nothing.  What may have happened since the last one shows without any lock:

    another process appended            the end on the page has moved
    one died while it appended          a word of the page says that it is inside
    one rang here                       it has taken this process's bit from a word of the page
    the wall clock was set              it is ahead of store time by another time than before
    something falls due                 it is time; or there was a message where one waits
    a file of the store was replaced    nothing tells: so there is a look each ten seconds
"""

from __future__ import annotations

from typing import Final

from mq.engine.clock import Clock
from mq.engine.listener import Listener
from mq.engine.turn import Turn
from mq.engine.waiters import Waiters
from mq.storage.shared import DIRTY, END, FAILED, INSIDE, SLOTS

BEATS: Final = 9  # of the listener, between two looks
SKEW_MS: Final = 20  # a program that keeps the wall clock right may move it so far
ALL_INSIDE: Final = slice(INSIDE, INSIDE + SLOTS)
NONE_INSIDE: Final = [0] * SLOTS


class Quiet:
    def __init__(self, turn: Turn, waiters: Waiters, clock: Clock) -> None:
        self._turn, self._waiters, self._clock = turn, waiters, clock
        self._left = 0  # beats without a look
        # As of the last look.
        self._end = 0
        self._words: set[int] = set()  # of the page: where one waits here
        self._skew_ms = 0  # how far the wall clock was ahead
        self._until_ms = 0  # nothing falls due before then, store time

    def looked(self) -> None:
        """A look has found all that there was; called in a turn."""
        waiters, now = self._waiters, self._clock.now()
        board = waiters.state.board
        self._left, self._end, self._words = BEATS, self._turn.mark[END], set(waiters.armed)
        self._skew_ms = now.wall - now.store
        self._until_ms = 0 if board.due(now) is not None or waiters.may_find() else board.next

    def goes_on(self, listener: Listener) -> bool:
        """Whether a look would find nothing; called by the thread of *listener*, which holds no lock."""
        mark, now = self._turn.mark, self._clock.now()
        self._left -= 1
        return (
            self._left >= 0
            and mark[END] == self._end
            and not (mark[DIRTY] or mark[FAILED])
            and mark[ALL_INSIDE].tolist() == NONE_INSIDE
            and listener.will_be_rung(self._words)
            and now.store < self._until_ms
            and abs(now.wall - now.store - self._skew_ms) <= SKEW_MS
        )
