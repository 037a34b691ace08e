"""The fold: records in, queues out.  Nothing else changes what is true.

    state = State()
    state.apply(records)      at recovery, and for what another handle appended

Live operations call the same methods of QueueState, one record at a time.  Records
about messages or queues that are gone are ignored: a tombstone may outlive what it
buried.
"""

from __future__ import annotations

from collections.abc import Iterable
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

    def apply(self, records: Iterable[tuple[int, int, int, int, int, bytes, int, int]]) -> None:
        """Do what *records* say: (lsn, kind, flags, queue, ms, buffer, start, stop) each.

        The payload is buffer[start:stop]; only what needs it cuts it out.
        """
        queues = self.queues
        for lsn, kind, _flags, number, _ms, buffer, start, stop in records:
            if kind == events.DECLARE:
                self.declare(number, buffer[start:stop])
            elif queue := queues.get(number):
                if kind == events.PUBLISH:
                    queue.publish(lsn, stop - start)
                elif kind == events.DELIVER:
                    id, deadline = events.DELIVER_PAYLOAD.unpack_from(buffer, start)
                    queue.deliver(id, lsn, deadline)
                elif kind == events.ACK:
                    queue.ack(*events.ACK_PAYLOAD.unpack_from(buffer, start))
                else:
                    self._apply_rare(queue, lsn, kind, buffer, start)
            elif kind not in events.KIND_NAMES:
                raise _unknown(lsn, kind)

    def _apply_rare(self, queue: QueueState, lsn: int, kind: int, buffer: bytes, start: int) -> None:
        if kind == events.NACK:
            queue.nack(*events.NACK_PAYLOAD.unpack_from(buffer, start))
        elif kind == events.RELEASE:
            queue.release(*events.RELEASE_PAYLOAD.unpack_from(buffer, start))
        elif kind == events.EXTEND:
            queue.extend(*events.EXTEND_PAYLOAD.unpack_from(buffer, start))
        elif kind == events.PURGE:
            queue.purge(*events.PURGE_PAYLOAD.unpack_from(buffer, start))
        else:
            raise _unknown(lsn, kind)

    def declare(self, number: int, payload: bytes) -> QueueState:
        """Make the queue, or change its options."""
        name, changes = events.decode_declare(payload)
        if unknown := changes.keys() - events.OPTION_NAMES:
            raise Unsupported(
                f"queue {name!r} has the option {min(unknown)!r}, which this mq does not know; upgrade mq"
            )
        queue = self.queues.get(number)
        if queue is None:
            queue = self.queues[number] = self.by_name[name] = QueueState(number, name)
        queue.options = msgspec.structs.replace(queue.options, **changes)
        return queue

    def free_number(self) -> int | None:
        """A number for a new queue; None if there are too many."""
        number = len(self.queues) + 1
        return number if number <= QUEUES_MAX else None


def _unknown(lsn: int, kind: int) -> Unsupported:
    return Unsupported(
        f"the log at position {lsn}: records of kind {kind} are not known to this mq; upgrade mq"
    )
