"""The fold: records in, queues out.  Nothing else changes what is true.

    state = State()
    state.apply(stretches)      at recovery, and for what another handle appended

Live operations call the same methods of QueueState, for one message or for the run of them
that a record names.  Plain records in a row are done at once, as a run of their own (runs.py).

Records about messages that are gone are ignored, but for the totals: a tombstone may outlive
what it buried.  And a queue's messages may come before its declaration, which compaction moved
behind them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Final

import msgspec

from mq.errors import Unsupported

from . import records, runs
from .board import Board
from .decode import Draft, Event, NotUnderstood, decode
from .dedup import Seen
from .options import Declaration
from .queue import QueueState, Taken
from .runs import PUBLISHES, UNCHAINED, Run, Stretch
from .traits import Traits, with_failure
from .unloaded import Unloaded

QUEUES_MAX: Final = 65_535
LOOK_IDS: Final = 8192  # looked at in one part, when what lives in a segment is looked for
DECLARATION: Final = None  # stands for a queue's declaration, among its messages and dedup ids
Live = int | str | None  # a message id, a dedup id, the declaration


class State:
    def __init__(self) -> None:
        self.queues: dict[int, QueueState] = {}  # those that are awake
        self.unloaded = Unloaded()
        self._by_name: dict[str, QueueState] = {}
        self.board = Board()
        self.renamed: set[str] = set()  # names that mean another queue than before, or none
        self._total = self._live_bytes = 0
        # While somebody goes through all that is live: messages that went to another queue meanwhile.
        self._moves: list[tuple[int, int]] | None = None

    # ── the queues ─────────────────────────────────────────────────────────────────

    def queue(self, number: int) -> QueueState | None:
        """Queue *number*, awake; None if there is none."""
        return self.queues.get(number) or self._load(number)

    def named(self, name: str) -> QueueState | None:
        """The queue *name*, awake; None if there is none."""
        if queue := self._by_name.get(name):
            return queue
        number = self.unloaded.number(name)
        return None if number is None else self.queue(number)

    def names(self) -> set[str]:
        return {*self._by_name, *self.unloaded.names()}

    def size(self) -> int:
        """How many queues there are; one more if waking it was interrupted."""
        return len(self.queues) + len(self.unloaded)

    def add_unloaded(self, unloaded: Unloaded) -> None:
        """Have these, too, each once it is needed.  Those that go when they are not used are needed now."""
        self.unloaded = unloaded
        for image in list(unloaded):
            self._total += image.total
            self._live_bytes += image.live_bytes
            if image.goes or not image.name:
                self.queue(image.number)
            else:
                self.board.set_alarms(image.number, image.store_alarm, image.wall_alarm)

    def _load(self, number: int) -> QueueState | None:
        queue = self.unloaded.made(number)
        if queue:  # in this order: interrupted anywhere, it is there
            self.queues[number] = queue
            if queue.name:
                self._by_name.setdefault(queue.name, queue)
            self.unloaded.forget(number)
        return queue

    # ── the fold ───────────────────────────────────────────────────────────────────

    def apply(self, stretches: Iterable[Stretch]) -> None:
        """Do what the records in *stretches* say, in their order."""
        for stretch in stretches:
            lsns, labels, lengths, buffer, origin, _ = stretch
            if len(labels) < runs.RUN_LEAST:
                pass
            elif number := runs.publisher(distinct := set(labels)):  # a backlog is mostly that
                self._queue_of(number).publish_run(lsns, sum(lengths))
                continue
            elif runs.is_worth_it(labels, distinct):
                self._apply_runs(stretch)
                continue
            for lsn, label, length in zip(lsns, labels, lengths, strict=True):
                self._apply_one(lsn, label, length, buffer, lsn - origin)

    def _queue_of(self, number: int) -> QueueState:
        """Queue *number*; made, if there is none."""
        return self.queues.get(number) or self.queue(number) or self._add(number)

    def _apply_runs(self, stretch: Stretch) -> None:
        """The same for records of which nearly all are plain: those in a row at once."""
        lsns, labels, lengths, buffer, origin, _ = stretch
        outlines = zip(lsns, labels, lengths, strict=True)
        begin = 0
        while begin < len(lsns):
            by_queue: dict[int, Run] = {}
            other = runs.gather(outlines, buffer, origin, by_queue)
            behind = len(lsns) if other is None else bisect_left(lsns, other[0], begin)
            for number, run in by_queue.items():
                if not self._queue_of(number).do_run(run):
                    for at in range(begin, behind):
                        if labels[at] >> 16 == number and labels[at] & UNCHAINED not in PUBLISHES:
                            self._apply_one(lsns[at], labels[at], lengths[at], buffer, lsns[at] - origin)
            if other:
                self._apply_one(*other, buffer, other[0] - origin)
            begin = behind + 1

    def _apply_one(self, lsn: int, label: int, length: int, buffer: Any, start: int) -> None:
        """Do what the record at *lsn* says.  What nearly all are is not decoded in full."""
        kind, flags, number, stop = label & 0xFF, label >> 8 & 0xFF, label >> 16, start + length
        queue = self.queues.get(number) or self.queue(number) or self._add(number)
        if kind == records.PUBLISH and flags in records.PLAIN_FLAGS:
            queue.publish(lsn, length)
        elif kind == records.DELIVER and length == 16 and not flags & records.UNKNOWN_TO_DELIVER:
            id, deadline = records.DELIVER_PAYLOAD.unpack_from(buffer, start)
            queue.deliver(id, lsn, deadline, flags)
        elif kind == records.ACK and length == 12 and not flags & records.UNKNOWN:
            queue.ack(*records.ACK_PAYLOAD.unpack_from(buffer, start))
        else:
            try:
                event = decode(kind, flags, buffer, start, stop)
            except NotUnderstood as error:
                raise Unsupported(
                    f"the log at position {lsn}: {error}; upgrade mq or, if an older mq wrote it by"
                    " mistake, let `mq repair` leave it out"
                ) from None
            self.do(queue, lsn, kind, flags, event)

    def take(self, positions: Iterable[int], drafts: Iterable[Draft], taken: Iterable[Event]) -> None:
        """Do what *drafts* say, which stand at *positions* now, and which were decoded before."""
        for lsn, (kind, flags, number, _), event in zip(positions, drafts, taken, strict=True):
            self.do(self.queue(number) or self._add(number), lsn, kind, flags, event)

    def do(self, queue: QueueState, lsn: int, kind: int, flags: int, event: Event) -> None:
        """Do what one record says; *event*: as it was decoded."""
        if kind == records.PUBLISH:
            queue.publish_with(lsn, *event)
        elif kind == records.ACK:
            queue.ack_run(*event)
        elif kind == records.DELIVER:
            ids, deadline = event
            queue.deliver_run(ids, lsn, deadline, flags)
        elif kind == records.NACK:
            queue.nack(*event)
        elif kind == records.RELOCATE:
            id, *rest = event
            queue.relocate(id, lsn, *rest)
        elif kind == records.RELEASE:
            queue.release(*event)
        elif kind == records.EXTEND:
            queue.extend(*event)
        elif kind == records.MOVE:
            self._move(queue, flags, *event)
        elif kind == records.DROP:
            self._drop(queue, flags, *event)
        elif kind == records.DECLARE:
            self._declare(queue, lsn, *event)
        elif kind == records.PURGE:
            queue.purge(*event)
        elif kind == records.RESCHEDULE:
            queue.reschedule(*event)
        elif kind == records.DEDUP:
            id, until, key = event
            queue.remember(key, Seen(id, until, lsn))
        elif kind == records.RENEW:
            queue.renew(*event)
        else:
            assert kind == records.DELETE, kind
            self._delete(queue)

    def declare(self, number: int, lsn: int, payload: bytes) -> QueueState:
        """Make the queue, or change what is known of it: as the DECLARE record at *lsn* does."""
        queue = self.queue(number) or self._add(number)
        self._declare(queue, lsn, records.decode_declaration(payload))
        return queue

    def _declare(self, queue: QueueState, lsn: int, declaration: Declaration) -> None:
        before = queue.name
        if before != declaration.name:
            if self._by_name.get(before) is queue:
                del self._by_name[before]
            self.renamed |= {before, declaration.name}
        queue.declare(declaration, lsn)
        self._by_name[queue.name] = queue

    def _move(self, queue: QueueState, flags: int, said: records.Move) -> None:
        """To the dead letters, with what happened to it; or back, as if it had never been tried."""
        died = bool(flags & records.DIED)
        queue.dead_lettered += died
        queue.failed += bool(flags & records.FAILED)
        queue.expirations += bool(flags & records.EXPIRED)
        target = self.queue(said.to)
        if target:  # also if the message is gone: then all the totals are of what came in, and went
            target.published += 1
        taken = queue.take(said.id)
        if taken is None:
            return
        queue.bytes -= said.size
        if self._moves is not None:
            self._moves.append((said.to, said.id))
        before = taken.traits
        if died:
            traits = Traits(before.priority, before.group, said.expires, said.origin, before.failures)
            traits = with_failure(traits, records.Failed(said.at, taken.attempts, said.reason))
        else:
            traits = Traits(before.priority, before.group, said.expires)
        target = target or self._add(said.to)
        target.arrive(said.id, said.size, Taken(0, taken.position, traits))

    def _drop(self, queue: QueueState, flags: int, pairs: Iterable[tuple[int, int]]) -> None:
        for id, size in pairs:
            queue.expirations += bool(flags & records.EXPIRED)
            queue.dropped += bool(flags & records.OVERFLOWED)
            queue.drop(id, size)

    def _delete(self, queue: QueueState) -> None:
        queue.delete()
        self._total -= queue.counted[0]
        self._live_bytes -= queue.counted[1]
        queue.counted = (0, 0)
        self.board.forget(queue.number)
        self.unloaded.forget(queue.number)  # there still if waking it was interrupted, and it would be back
        del self.queues[queue.number]
        if self._by_name.get(queue.name) is queue:
            del self._by_name[queue.name]
        self.renamed.add(queue.name)

    def _add(self, number: int) -> QueueState:
        queue = self.queues[number] = QueueState(number, "", self.board)
        queue.mark_changed()
        return queue

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

        Once all is applied: until then a declaration may still come.
        """
        for number, queue in self.queues.items():
            if not queue.name and queue.total():
                name = f"unnamed-{number}"
                while self.named(name):
                    name += "-again"
                queue.name, self._by_name[name] = name, queue
                self.renamed.add(name)

    def is_stocked(self, queue: QueueState) -> bool:
        """Whether a receiver has to look at *queue*: it holds a message, or is to be told of receivers."""
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

    # ── what compaction asks ───────────────────────────────────────────────────────

    def total(self) -> int:
        """How many messages there are, in all queues and wherever they are."""
        self.count()
        return self._total

    def live_bytes(self) -> int:
        """What all that is live takes in the log."""
        self.count()
        return self._live_bytes

    def count(self) -> None:
        """Count again what has changed: there may be thousands of queues, of which few have."""
        while changed := self.board.changed:
            number, queue = next(reversed(changed.items()))
            before, now = queue.counted, (queue.total(), queue.live_bytes())
            queue.counted = now
            self._total += now[0] - before[0]
            self._live_bytes += now[1] - before[1]
            queue.unchanged = True
            del changed[number]

    def within(self, base: int, limit: int) -> Iterator[list[tuple[QueueState, Live]]]:
        """Whatever is live in [base, limit), a part at a time: (queue, message id, or what it is).

        The state may change between two parts.  A message only ever leaves `waiting`, unless
        it comes from another queue; so those come first, then all others by id, wherever
        they are by then, then those that went from one queue to another meanwhile: none
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
        """The same, for one look at all of it, while nothing changes."""
        self._load_below(limit)
        for queue in list(self.queues.values()):
            if base <= queue.declared_at < limit:
                yield [(queue, DECLARATION)]
            if keys := queue.dedup.within(base, limit):
                yield [(queue, key) for key in keys]
            for lane in [queue.waiting, *queue.lanes.values()]:
                for ids in lane.within(base, limit):
                    yield [(queue, id) for id in ids]
        tried = [(queue, [*queue.delayed, *queue.flights]) for queue in self.queues.values()]
        for queue, ids in tried:
            for at in range(0, len(ids), LOOK_IDS):
                yield [(queue, id) for id in ids[at : at + LOOK_IDS] if _stands(queue, id, base, limit)]

    def positions_within(self, base: int, limit: int) -> tuple[list[int], list[int]]:
        """Where the records of all that `look_within` finds stand: of messages, and of the rest."""
        messages: list[int] = []
        others: list[int] = []
        self._load_below(limit)
        for queue in self.queues.values():
            if base <= queue.declared_at < limit:
                others.append(queue.declared_at)
            others += queue.dedup.positions_within(base, limit)
            for lane in [queue.waiting, *queue.lanes.values()]:
                for part in lane.positions_within(base, limit):
                    messages += part
            for tried in (queue.delayed, queue.flights):
                messages += [at for each in tried.values() if base <= (at := each.position) < limit]
        return messages, others

    def _load_below(self, limit: int) -> None:
        """Have those awake of which anything may stand before *limit*."""
        for image in list(self.unloaded):
            if image.lowest < limit:
                self.queue(image.number)


def stands_at(queue: QueueState, what: Live) -> int | None:
    """The position of the record that says it; None if it does not live any more."""
    if queue.gone:
        return None
    if what is DECLARATION:
        return queue.declared_at
    if isinstance(what, str):
        seen = queue.dedup.seen(what)
        return seen.position if seen else None
    return queue.position(what)


def _stands(queue: QueueState, id: int, base: int, limit: int) -> bool:
    position = queue.position(id)
    return position is not None and base <= position < limit


def declaration_of(queue: QueueState) -> Declaration:
    """The declaration that says all that is known of *queue* now."""
    return msgspec.structs.replace(
        queue.options, name=queue.name, paused=queue.paused, idle_until=queue.idle_until,
        published=queue.published, acked=queue.acked, failed=queue.failed,
        expirations=queue.expirations, dead_lettered=queue.dead_lettered, dropped=queue.dropped,
    )  # fmt: skip
