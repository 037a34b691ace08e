"""Once a second, and before names are relied on: are the files still the store's?  See standing.py."""

from __future__ import annotations

from .explain import explain
from .segment import Segment
from .shared import END
from .standing import CHECK_MS
from .tail import Tail


class Watch:
    def __init__(self, tail: Tail) -> None:
        self._tail, self._failure = tail, tail.failure
        self._stood_ms = 0  # when the files were last found to be the store's

    def stand(self) -> None:
        """StoreFailed, for good, unless the files are still the store's; called with the store's mutex."""
        tail = self._tail
        if (standing := tail.owner.standing) and tail.writing:
            fd, last = tail.writing
            path, size = tail.reader.path(last), last.offset(tail.end) if tail.end > last.base else 0
            with explain(path):
                trouble = standing.trouble(path, fd, size)
            # Processes that have gone on since may have dropped the segment, as they do.  The page
            # is read after that was seen: its end has moved long before.
            behind = tail.mark[END] > last.limit
            if trouble and not (behind and trouble.path == path and not trouble.stolen):
                self._failure.lose(trouble)

    def stand_again(self, now_ms: int) -> None:
        """The same, if a second has passed since."""
        if now_ms > self._stood_ms + CHECK_MS:
            self.stand()
            self._stood_ms = now_ms
            self._tail.owner.stood()

    def stand_by(self, writing: tuple[int, Segment] | None) -> None:
        """StoreFailed if *writing* is another file's by now; with `Tail.using` held, or the mutex."""
        if writing:
            fd, last = writing
            self._failure.require_own(self._tail.reader.path(last), fd)
