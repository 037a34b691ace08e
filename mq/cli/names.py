"""What queues were called at each place in the log, and which ones damage took messages from."""

from __future__ import annotations

import re
from bisect import bisect_right, insort
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import msgspec

from mq.cli.progress import LogProgress
from mq.delivery import records
from mq.delivery.options import HIDDEN_KEYS, TOPIC_KEY, key_of
from mq.delivery.state import EXCHANGE
from mq.storage.disk import Disk
from mq.storage.look import Found, Gap, Run, found_in
from mq.storage.segment import Segment
from mq.storage.walk import read

MADE_UP: Final = re.compile("(?:unnamed-|#)([0-9]+)")  # what a queue is called that never got a name
# Kinds that say what a queue is called, and whether it gets what is published to topics.
NAMING: Final = frozenset({records.DECLARE, records.DELETE, records.SUBSCRIBE, records.UNSUBSCRIBE})
NEVER: Final = 1 << 64


class Names:
    """What the queues were called at each place in the log: records say only their numbers.

    They are learned as the log is read.  A declaration may stand behind records of its queue, since the
    cleaner moves it to the end; and what was the number of a queue that is deleted may be given to
    another.  So where no name is known yet, all of the log is read for names first, once.
    """

    def __init__(self, disk: Disk, store: str) -> None:
        self._disk, self._store = disk, store
        self._said: dict[int, list[tuple[int, str]]] = {}  # by number: from where on, and the name; "": none
        self._bound: dict[int, list[tuple[str, int, int]]] = {}  # by number: pattern, from where, to where
        self._complete = False

    def begin(self, end: int) -> None:
        if not self._complete:
            self._said.clear()
            self._bound.clear()

    def see(self, each: Segment | None, part: Run | Gap) -> None:
        if self._complete or each is None or isinstance(part, Gap):
            return
        if not NAMING.isdisjoint(part.stretch.kinds()):
            for event in part.stretch.events():
                if event[1] in NAMING:
                    self._read(found_in(each, event, part.dropped))

    def _read(self, item: Found) -> None:
        with suppress(msgspec.MsgspecError):  # of a newer mq
            if item.kind == records.DELETE:
                self._note(item.queue, item.lsn + 1, "")
                self._unbind(item)
            elif item.kind == records.DECLARE:
                self._note(item.queue, item.lsn, key_of(records.decode_declaration(item.payload)))
            elif item.kind == records.SUBSCRIBE:
                said = records.decode_subscribed(item.payload)
                spans = self._bound.setdefault(item.queue, [])
                spans.append((said.pattern, said.bound_at or item.lsn, NEVER))
            else:
                self._unbind(item, item.payload.decode(errors="replace"))

    def _unbind(self, item: Found, pattern: str | None = None) -> None:
        """It has this pattern no more; None: no pattern at all."""
        spans = self._bound.get(item.queue, [])
        spans[:] = [
            (each, start, item.lsn if stop == NEVER and pattern in (None, each) else stop)
            for each, start, stop in spans
        ]

    def _note(self, number: int, start: int, name: str) -> None:
        insort(self._said.setdefault(number, []), (start, name))

    def read_all(self) -> None:
        if not self._complete:
            with LogProgress("reading names") as progress:
                read(self._disk, self._store, records.NEW, _Reading(self, progress))
            self._complete = True

    def bound(self, lsn: int) -> list[int]:
        """The numbers of the queues that had a pattern at *lsn*, as far as the log still says so."""
        self.read_all()
        return [
            number for number, spans in self._bound.items()
            if any(start < lsn < stop for _, start, stop in spans)
        ]  # fmt: skip

    def numbers(self, name: str) -> set[int]:
        """The numbers that a queue called *name* may have had."""
        self.read_all()
        keys = name, TOPIC_KEY + name
        found = {number for number, said in self._said.items() if any(each in keys for _, each in said)}
        if match := MADE_UP.fullmatch(name):
            found.add(int(match[1]))
        return found

    def at(self, number: int, lsn: int) -> str:
        """The name in force at *lsn*, else the next one that queue gets, else what the library calls it.

        If it is what a topic retains, the topic's.
        """
        return self.key(number, lsn).removeprefix(TOPIC_KEY)

    def key(self, number: int, lsn: int) -> str:
        """The same, with what no name of a queue of users begins with."""
        if number == EXCHANGE:
            return ""
        said = self._said.get(number, [])
        after = bisect_right(said, lsn, key=lambda each: each[0])
        if after and said[after - 1][1]:
            return said[after - 1][1]
        if not self._complete:
            self.read_all()
            return self.key(number, lsn)
        if after == len(said):
            return f"unnamed-{number}"
        return said[after][1] or f"#{number}"  # deleted before a declaration named it


class _Reading:
    """Names, and how far the log is read for them."""

    def __init__(self, names: Names, progress: LogProgress) -> None:
        self._names, self._progress = names, progress

    def begin(self, end: int) -> None:
        self._progress.begin(end)
        self._names.begin(end)

    def see(self, each: Segment | None, part: Run | Gap) -> None:
        if isinstance(part, Run):
            self._progress.read(part.start, part.end)
        self._names.see(each, part)


class Lost:
    """Which queues the messages of topics were for that damage took.  Called as `records.message_of` is."""

    def __init__(self, disk: Disk, store: str) -> None:
        self._names = Names(disk, store)
        self._holders: dict[int, tuple[int, ...]] = {}  # by id: the queues, as the damaged record says

    def __call__(self, kind: int, position: int, payload: bytes) -> int | None:
        id = records.message_of(kind, position, payload)
        if id is not None and kind in (records.FANOUT, records.RELOCATE_FANOUT):
            self._holders[id] = records.holders_in(kind, payload)
        return id

    def queues(self, ids: Iterable[int]) -> list[str]:
        """The queues that one of *ids* was for; if its record does not tell, all that had a pattern then."""
        names, found = self._names, set[str]()
        for id in self._holders.keys() & set(ids):
            numbers: Iterable[int] = self._holders[id]
            if not numbers or any(names.key(each, id) == f"unnamed-{each}" for each in numbers):
                numbers = names.bound(id)
            found |= {names.key(number, id) for number in numbers}
        return sorted(name for name in found if name[:1] not in HIDDEN_KEYS)


def were_for(queues: list[str]) -> str:
    """That, behind the messages that were lost, for people; nothing if there are none."""
    return f"; from a topic, for {', '.join(map(repr, queues))}" if queues else ""
