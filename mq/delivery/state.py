"""The fold: records in, queues out.  Nothing else changes what is true.

    state = State()
    state.apply(records)      at recovery, and for what another handle appended

Live operations call the same methods of QueueState, one record at a time.  Records
about messages that are gone are ignored: a tombstone may outlive what it buried.  And
a queue's messages may come before its declaration, which compaction moved behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from mq.errors import Unsupported

from . import events
from .queue import QueueState

QUEUES_MAX: Final = 65_535


class State:
    def __init__(self) -> None:
        self.queues: dict[int, QueueState] = {}
        self.by_name: dict[str, QueueState] = {}
        self.names = 0  # how often a name came to mean another queue

    # ── the fold ───────────────────────────────────────────────────────────────────

    def apply(self, records: Iterable[tuple[int, int, int, int, int, bytes, int, int]]) -> None:
        """Do what *records* say: (lsn, kind, flags, queue, ms, buffer, start, stop) each.

        The payload is buffer[start:stop]; only what needs it cuts it out.
        """
        queues = self.queues
        # Publishes in a row go in at once: a backlog is mostly that.
        run: list[int] = []
        publisher, run_bytes = -1, 0
        for lsn, kind, flags, number, _ms, buffer, start, stop in records:
            if kind == events.PUBLISH and number == publisher:
                run.append(lsn)
                run_bytes += stop - start
                continue
            if run:
                queues[publisher].publish_run(run, run_bytes)
                run, publisher = [], -1
            queue = queues.get(number) or self._add(number)
            if kind == events.PUBLISH:
                publisher, run, run_bytes = number, [lsn], stop - start
            elif kind == events.DELIVER:
                id, deadline = events.DELIVER_PAYLOAD.unpack_from(buffer, start)
                queue.deliver(id, lsn, deadline, flags)
            elif kind == events.ACK:
                queue.ack(*events.ACK_PAYLOAD.unpack_from(buffer, start))
            else:
                self._apply_rare(queue, lsn, kind, buffer, start, stop)
        if run:
            queues[publisher].publish_run(run, run_bytes)

    def _apply_rare(
        self, queue: QueueState, lsn: int, kind: int, buffer: bytes, start: int, stop: int
    ) -> None:
        if kind == events.DECLARE:
            self.declare(queue.number, lsn, buffer[start:stop])
        elif kind == events.NACK:
            queue.nack(*events.NACK_PAYLOAD.unpack_from(buffer, start))
        elif kind == events.RELEASE:
            queue.release(*events.RELEASE_PAYLOAD.unpack_from(buffer, start))
        elif kind == events.EXTEND:
            queue.extend(*events.EXTEND_PAYLOAD.unpack_from(buffer, start))
        elif kind == events.PURGE:
            (cutoff,) = events.PURGE_PAYLOAD.unpack_from(buffer, start)
            kept = buffer[start + events.PURGE_PAYLOAD.size : stop]
            queue.purge(cutoff, events.KEPT_PAYLOAD.iter_unpack(kept))
        elif kind == events.RELOCATE:
            id, _created, attempts, place, receipt, when = events.RELOCATE_PAYLOAD.unpack_from(buffer, start)
            size = stop - start - events.RELOCATE_PAYLOAD.size
            queue.relocate(id, lsn, size, attempts, place, receipt, when)
        else:
            raise Unsupported(
                f"the log at position {lsn}: records of kind {kind} are not known to this mq; upgrade mq"
            )

    def declare(self, number: int, lsn: int, payload: bytes) -> QueueState:
        """Make the queue, or change what is known of it."""
        queue = self.queues.get(number) or self._add(number)
        if self.by_name.get(queue.name) is queue:
            del self.by_name[queue.name]
        try:
            queue.declare(events.decode_declaration(payload), lsn)
        except msgspec.ValidationError as error:
            raise Unsupported(
                f"the log at position {lsn}: a queue is declared as this mq does not know it ({error});"
                " upgrade mq"
            ) from None
        if self.by_name.get(queue.name) is not queue:
            self.by_name[queue.name] = queue
            self.names += 1
        return queue

    def _add(self, number: int) -> QueueState:
        queue = self.queues[number] = QueueState(number, "")
        return queue

    def free_number(self) -> int | None:
        """A number for a new queue; None if there are too many."""
        number = len(self.queues) + 1
        if number in self.queues or number > QUEUES_MAX:  # some declaration was lost, and its number with it
            return next((each for each in range(1, QUEUES_MAX + 1) if each not in self.queues), None)
        return number

    def name_the_nameless(self) -> None:
        """Give a name to queues whose declaration was lost, so that their messages can be reached.

        Once all is applied: until then a declaration may still come.
        """
        for number, queue in self.queues.items():
            if not queue.name and queue.total():
                name = f"unnamed-{number}"
                while name in self.by_name:
                    name += "-again"
                queue.name, self.by_name[name] = name, queue

    def keep_only(self, is_kept: Callable[[tuple[int, ...]], bool]) -> None:
        """Rely on what a checkpoint holds only where *is_kept* says that it is still there."""
        for queue in self.queues.values():
            queue.waiting.keep_only(is_kept)

    # ── what compaction asks ───────────────────────────────────────────────────────

    def total(self) -> int:
        """How many messages there are, in all queues and wherever they are."""
        return sum(queue.total() for queue in self.queues.values())

    def live_bytes(self) -> int:
        """What all that is live takes in the log."""
        messages = sum(
            queue.bytes + queue.total() * events.MESSAGE_OVERHEAD_BYTES for queue in self.queues.values()
        )
        return messages + len(self.queues) * events.DECLARATION_BYTES

    def within(self, base: int, limit: int) -> Iterator[list[tuple[QueueState, int]]]:
        """Whatever is live in [base, limit), a part at a time: (queue, message id), id 0 for its declaration.

        The state may change between two parts.  A message only ever leaves `waiting`, so
        those come first, and all others in one part at the end: none is missed.
        """
        for queue in list(self.queues.values()):
            if base <= queue.declared_at < limit:
                yield [(queue, 0)]
            for ids in queue.waiting.within(base, limit):
                yield [(queue, id) for id in ids]
        yield [(queue, id) for queue in self.queues.values() for id in queue.tried_within(base, limit)]


def declaration_of(queue: QueueState) -> events.Declaration:
    """The declaration that says all that is known of *queue* now."""
    return events.Declaration(
        queue.name, queue.options.visibility_timeout, queue.published, queue.acked, queue.failed
    )
