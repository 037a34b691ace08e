"""All queues of a store: by number and by name, what they hold together, what lives where in the log.

What changes them is in fold.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Final

import msgspec

from .board import Board
from .calendar import Calendar, Entry
from .listing import Listing
from .options import HIDDEN_KEYS, TOPIC_KEY, Declaration
from .queue import QueueState
from .subscription import Subscription
from .topics import Routes
from .unloaded import Unloaded

QUEUES_MAX: Final = 65_535
LARGE: Final = 2000  # messages: to load a queue with so many takes some milliseconds
LOOK_IDS: Final = 8192  # looked at in one part, when what lives in a segment is looked for
DECLARATION: Final = None  # stands for a queue's declaration, among its messages and dedup ids
# A message id, a dedup id, a subscription, a schedule, the declaration.
Live = int | str | Subscription | Entry | None
MOVED_MAX: Final = 1024  # renames that are kept for processes that were far behind: 60 KB in a checkpoint
EXCHANGE: Final = 0  # the number of what belongs to no queue: what is known of topics, and schedules


class State:
    def __init__(self) -> None:
        self.queues: dict[int, QueueState] = {}  # those that are loaded, by number
        self.unloaded = Unloaded()  # the others
        # Calls what it is given, a function that loads a large queue: in a turn of a process that follows the
        # others, without LOCK.  None: it is called at once.
        self.apart: Callable[[Callable[[], QueueState | None]], QueueState | None] | None = None
        self._by_name: dict[str, QueueState] = {}
        self._listing = Listing()  # all names in order, once they are asked for
        self.board = Board()
        # The position of the last record that changed a definition: a queue or an option.  The methods of the
        # fold that change one set it.  So a number never means two things, wherever a process begins to read.
        self.generation = 0
        self.routes = Routes()  # which queues get what is published to a topic
        self.calendar: Final = Calendar(self.board, EXCHANGE)
        self.renamed: set[str] = set()  # names that mean another queue than before, or none
        # The last renames, in order: the position, and the names that the queue had, and has from there on.
        self.moved: list[tuple[int, str, str]] = []
        # Renames, for queues that are not loaded: they name others as these were called before.
        self.since_loaded: list[tuple[str, str]] = []
        self._total = self._live_bytes = 0  # of all queues, as of when each was counted
        # While `within` goes through all that is live: messages that went to another queue meanwhile,
        # with its number.
        self._moves: list[tuple[int, int]] | None = None

    # ── the queues ─────────────────────────────────────────────────────────────────

    def queue(self, number: int) -> QueueState | None:
        """Queue *number*, loaded; None if there is none."""
        return self.queues.get(number) or self._load(number)

    def named(self, name: str) -> QueueState | None:
        """The queue *name*, loaded; None if there is none."""
        if queue := self._by_name.get(name):
            return queue
        number = self.unloaded.number(name)
        return None if number is None else self.queue(number)

    def name(self, number: int) -> str:
        """Of queue *number*; "" if there is none."""
        queue = self.queues.get(number)
        return queue.name if queue else self.unloaded.name(number)

    def topic(self, name: str) -> QueueState | None:
        """What the topic *name* retains, loaded; None if nothing is."""
        return self.named(TOPIC_KEY + name)

    def exchange(self) -> QueueState | None:
        """What belongs to no queue; None if there is nothing."""
        return self.queue(EXCHANGE)

    def names(self) -> set[str]:
        """Of all queues."""
        return {name for name in self._keys() if name and name[0] not in HIDDEN_KEYS}

    def hidden(self) -> list[QueueState]:
        """The queues that are no users', loaded, but for what belongs to no queue."""
        keys = [name for name in self._keys() if name and name[0] in HIDDEN_KEYS]
        return [queue for name in keys if (queue := self.named(name))]

    def topics(self) -> set[str]:
        """The names of all that retain something."""
        return {name[1:] for name in self._keys() if name and name[0] == TOPIC_KEY}

    def _keys(self) -> set[str]:
        return {*self._by_name, *self.unloaded.names()}

    def listed(self, prefix: str, after: str, limit: int | None) -> list[str]:
        """The first *limit* names, in order, that begin with *prefix* and come behind *after*."""
        return self._listing.part(self.names, prefix, after, limit)

    def size(self) -> int:
        """How many queues there are; one more if loading it was interrupted."""
        return len(self.queues) + len(self.unloaded) - (EXCHANGE in self.queues)

    def add_unloaded(self, unloaded: Unloaded) -> None:
        """Have these too, each once it is needed.  Those that go when they are idle are needed now."""
        self.unloaded = unloaded
        for image in list(unloaded):
            self._total += image.total
            self._live_bytes += image.live_bytes
            for each in image.subscriptions:
                self.routes.bind(image.number, each.pattern, each.match)
            if image.goes or not image.name:
                self.queue(image.number)
            else:
                self.board.set_alarms(image.number, image.store_alarm, image.wall_alarm)

    def _load(self, number: int) -> QueueState | None:
        if self.apart and self.unloaded.total(number) >= LARGE:
            queue = self.apart(partial(self.unloaded.made, number))
        else:
            queue = self.unloaded.made(number)
        if queue:
            for was, now in self.since_loaded:
                queue.follow(was, now)
            # In this order: interrupted anywhere, it is there.
            self.queues[number] = queue
            if queue.name:
                self._by_name.setdefault(queue.name, queue)
            self.unloaded.forget(number)
        return queue

    def made(self, number: int) -> QueueState:
        """Queue *number*; a new one without a name, if there is none."""
        return self.queues.get(number) or self.queue(number) or self._add(number)

    def _add(self, number: int) -> QueueState:
        queue = self.queues[number] = QueueState(number, "", self.board)
        queue.mark_changed()
        return queue

    # ── for the fold ───────────────────────────────────────────────────────────────

    def bind(self, queue: QueueState, before: str) -> None:
        """*queue* was declared; *before*: the name that it had until then."""
        if queue.number == EXCHANGE:
            return
        if before != queue.name:
            if self._by_name.get(before) is queue:
                self._drop_name(before)
            self.renamed |= {before, queue.name}
            if queue.name[:1] not in HIDDEN_KEYS:
                self._listing.add(queue.name)
        self._by_name[queue.name] = queue

    def rename(self, was: str, now: str, position: int) -> None:
        """A queue has another name from *position* on: whatever names it follows."""
        for queue in self.queues.values():
            queue.follow(was, now)
        if len(self.unloaded):
            self.since_loaded.append((was, now))
        self.calendar.rename(was, now)
        self.moved.append((position, was, now))
        del self.moved[:-MOVED_MAX]

    def note_move(self, number: int, id: int) -> None:
        """Message *id* goes to queue *number*."""
        if self._moves is not None:
            self._moves.append((number, id))

    def note_moves(self, number: int, ids: Iterable[int]) -> None:
        """`note_move` for many."""
        if self._moves is not None:
            self._moves += [(number, id) for id in ids]

    def delete(self, queue: QueueState) -> None:
        queue.delete()
        self._total -= queue.counted[0]
        self._live_bytes -= queue.counted[1]
        queue.counted = (0, 0)
        self.board.forget(queue.number)
        self.routes.forget(queue.number)
        self.unloaded.forget(queue.number)  # there still if loading it was interrupted, and it would be back
        del self.queues[queue.number]
        if self._by_name.get(queue.name) is queue:
            self._drop_name(queue.name)
        self.renamed.add(queue.name)

    def _drop_name(self, name: str) -> None:
        del self._by_name[name]
        if self.unloaded.number(name) is None:
            self._listing.remove(name)

    def free_number(self, taken: Collection[int] = ()) -> int | None:
        """A number for a new queue, not among *taken*; None if there are too many."""
        number = self.size() + len(taken) + 1
        used = self.queues, self.unloaded, taken
        if number > QUEUES_MAX or any(number in each for each in used):  # some were deleted, or lost
            every = range(1, QUEUES_MAX + 1)
            return next((each for each in every if not any(each in some for some in used)), None)
        return number

    def name_the_nameless(self) -> None:
        """Give a name to queues whose declaration was lost, so that their messages can be reached.

        Called when all records are applied: until then a declaration may still come.
        """
        for number, queue in self.queues.items():
            if not queue.name and queue.total() and number != EXCHANGE:
                name = f"unnamed-{number}"
                while self.named(name):
                    name += "-again"
                queue.name, self._by_name[name] = name, queue
                self._listing.add(name)
                self.renamed.add(name)

    def is_stocked(self, queue: QueueState) -> bool:
        """Whether a receiver has to look at *queue*: it holds a message, or has to know that it is in use."""
        if queue.total() or queue.delivery_needs_plan:
            return True
        queue.unchanged = True  # in this order: its next change puts it back
        self.board.stocked.discard(queue.number)
        return False

    def keep_only(self, is_kept: Callable[[tuple[int, ...]], bool]) -> None:
        """Rely on what a checkpoint holds only where *is_kept* says that it is still there."""
        for image in list(self.unloaded):
            if not all(is_kept((pack,)) for pack in image.packs):
                self.queue(image.number)
        for queue in self.queues.values():
            for lane in [queue.waiting, *queue.lanes.values()]:
                lane.keep_only(is_kept)

    # ── what the cleaner asks ───────────────────────────────────────────────────────

    def total(self) -> int:
        """How many messages there are, in all queues and wherever they are."""
        self.count()
        return self._total

    def live_bytes(self) -> int:
        """What all that is live takes in the log."""
        self.count()
        return self._live_bytes + self.calendar.bytes - self.board.shared.extra_bytes

    def count(self) -> None:
        """Count again what has changed: there may be thousands of queues, of which few have."""
        changed = self.board.changed
        while changed:
            number = next(reversed(changed))
            if queue := self.queues.get(number):
                before, now = queue.counted, (queue.total(), queue.live_bytes())
                queue.counted = now
                self._total += now[0] - before[0]
                self._live_bytes += now[1] - before[1]
                queue.unchanged = True
            changed.pop(number, None)

    def within(self, base: int, limit: int) -> Iterator[list[tuple[QueueState, Live]]]:
        """All that is live in [base, limit), in parts of (queue, what): ids, dedup ids, declarations.

        The state may change between two parts.  A message only ever leaves `waiting`, unless
        it comes from another queue.  So those that wait come first; then all others by id,
        wherever they are by then; then those that went to another queue meanwhile.  None
        is missed.
        """
        self._moves = []
        try:
            yield from self.look_within(base, limit)
            yield from self._moved_meanwhile()
        finally:
            self._moves = None

    def _moved_meanwhile(self) -> Iterator[list[tuple[QueueState, Live]]]:
        while self._moves:
            moves, self._moves = self._moves, []
            yield [(queue, id) for number, id in moves if (queue := self.queue(number))]

    def look_within(self, base: int, limit: int) -> Iterator[list[tuple[QueueState, Live]]]:
        """The same, for a caller that sees to it that nothing changes between two parts."""
        self._load_below(limit)
        if entries := self.calendar.within(base, limit):
            yield [(self.made(EXCHANGE), each) for each in entries]
        for queue in list(self.queues.values()):
            if base <= queue.declared_at < limit:
                yield [(queue, DECLARATION)]
            if keys := queue.dedup.within(base, limit):
                yield [(queue, key) for key in keys]
            if queue.subscriptions:
                several = queue.subscriptions.values()
                yield [(queue, each) for each in several if base <= each.position < limit]
            for lane in [queue.waiting, *queue.lanes.values()]:
                for ids in lane.within(base, limit):
                    yield [(queue, id) for id in ids]
        tried = [(queue, ids) for queue in self.queues.values() for ids in queue.tried_below(limit)]
        for queue, ids in tried:
            for at in range(0, len(ids), LOOK_IDS):
                yield [(queue, id) for id in ids[at : at + LOOK_IDS] if _stands(queue, id, base, limit)]

    def positions_within(self, base: int, limit: int) -> tuple[list[int], list[int]]:
        """The positions of the records of all that `look_within` finds: of messages, and of the rest.

        Each position is there once.  The record of a publish says a dedup id, too: while the message lives,
        it is one of messages.
        """
        messages: list[int] = []
        others = [entry.position or 0 for entry in self.calendar.within(base, limit)]
        self._load_below(limit)
        for queue in self.queues.values():
            if base <= queue.declared_at < limit:
                others.append(queue.declared_at)
            others += queue.dedup.positions_within(base, limit)
            others += [at for each in queue.subscriptions.values() if base <= (at := each.position) < limit]
            for lane in [queue.waiting, *queue.lanes.values()]:
                for part in lane.positions_within(base, limit):
                    messages += part
            for tried in queue.delayed.below(limit):
                messages += [at for each in tried.values() if base <= (at := each.position) < limit]
            for flying in queue.flights.below(limit):
                messages += [at for each in flying.values() if base <= (at := each.position) < limit]
        alone = set(others)
        alone.difference_update(messages)
        return list(set(messages)) if self.board.shared.extra_bytes else messages, list(alone)

    def _load_below(self, limit: int) -> None:
        """Load the queues of which a record may stand before *limit*."""
        for image in list(self.unloaded):
            if image.lowest < limit:
                self.queue(image.number)


def stands_at(queue: QueueState, what: Live) -> int | None:
    """The position of the record of *what*; None if it does not live any more."""
    if queue.gone:
        return None
    if what is DECLARATION:
        return queue.declared_at
    if isinstance(what, str):
        seen = queue.dedup.seen(what)
        return seen.position if seen else None
    if isinstance(what, Subscription):
        known = queue.subscriptions.get(what.pattern)
        return known.position if known else None
    if isinstance(what, Entry):
        return what.position
    return queue.position(what)


def _stands(queue: QueueState, id: int, base: int, limit: int) -> bool:
    position = queue.position(id)
    return position is not None and base <= position < limit


def declaration_of(queue: QueueState) -> Declaration:
    """The declaration that says all that is known of *queue* now."""
    totals = queue.totals
    return msgspec.structs.replace(
        queue.options, name=queue.name.removeprefix(TOPIC_KEY), was="", paused=queue.paused,
        idle_until=queue.idle.until, published=totals.published, acked=totals.acked, failed=totals.failed,
        expirations=totals.expirations, dead_lettered=totals.dead_lettered, dropped=totals.dropped,
    )  # fmt: skip
