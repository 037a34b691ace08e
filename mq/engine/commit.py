"""Commit: a plan becomes records, the state, and news.

    plan ──► decode, as recovery would ──► append, in one group ──► fold ──► wake those concerned

Nothing is applied that is not in the log.  `applied` moves last: an interruption anywhere before
leaves it behind the log's end, and the next turn reads the state anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mq.delivery import due, fold, records, ticks
from mq.delivery.due import look_again, next_work
from mq.delivery.plan import Plan, Published
from mq.delivery.queue import QueueState
from mq.delivery.schedules import CATCH_UP_MAX, Schedule
from mq.engine.replica import FOLLOW_BYTES, Replica
from mq.engine.sizes import created_ms, size_of
from mq.engine.zones import zone
from mq.errors import CorruptStore, DiskFull, MqError, UsageError
from mq.notes import WARNING, Notes
from mq.storage.record import HEADER_BYTES

UNDONE: Final = "%s: queue %r: messages that have expired, or failed for the last time, stay there: %s"
LEFT_OUT: Final = (
    f"%s: schedule %r: more than {CATCH_UP_MAX:,} of its ticks were missed: so many were published, and the"
    " others are left out"
)
NO_TICK: Final = "%s: schedule %r: a tick is not published now, which is tried again each second: %s"
# To plan a part of what concerns many: appending and applying it takes twice as long.  And so many bytes
# of records: a process that waits follows two of them with LOCK held, in a part, and is through.
SLICE_SECONDS: Final = 0.000_75
SLICE_BYTES: Final = FOLLOW_BYTES // 2
DUE_AGAIN_MS: Final = 1000  # work that falls due, and cannot be done, is tried again after this


class Committer:
    """Each method is called in a turn."""

    def __init__(self, replica: Replica, notes: Notes) -> None:
        self._replica, self._notes, self._clock = replica, notes, replica.clock
        self.no_room = False  # a tick met a full disk: way is to be made for the next try
        self.downtime_ms = 0  # without any process, before this one opened the store; not in the log yet

    def plan(self) -> Plan:
        """A plan to be made now."""
        state = self._replica.state
        plan = Plan(state, self._clock.now(), self.size_of, self.read)
        state.board.seen = plan.now.store
        state.board.sooner = False
        return plan

    def slice(self, plan: Plan) -> Callable[[], bool]:
        """Whether *plan* is as long by now as others may wait for it."""
        is_late, drafts = self._clock.timer(SLICE_SECONDS), plan.drafts
        return lambda: plan.bytes + HEADER_BYTES * len(drafts) >= SLICE_BYTES or is_late()

    def commit(self, plan: Plan) -> list[int]:
        """Append all of *plan* in one write and apply it, as recovery would; the records' positions.

        Decoded first, by what recovery decodes with: what that refuses is not appended.
        """
        replica, taken = self._replica, plan.decoded()
        positions = replica.log.append_group(plan.now.store, plan.drafts)
        fold.take(replica.state, positions, plan.drafts, taken)
        replica.free()
        has_moved = bool(replica.state.moved)
        if replica.state.renamed:
            replica.waiters.rebind()
        replica.show_generation()
        replica.applied = replica.log.end
        replica.waiters.announce(plan.arrivals(), plan.now)
        if has_moved:  # other processes wait under the old name
            replica.waiters.ring_all()
        return positions

    def do_due(self) -> None:
        """Do a slice of what has fallen due, in whichever queue."""
        now = self._clock.now()
        try:
            if self.downtime_ms:
                self.add_downtime()
            if self.do_tick():
                return  # the next operation comes back for the rest
            is_late = self._clock.timer(SLICE_SECONDS)
            work = next_work(
                self._replica.state, now, self.size_of, self.read, self.created_of, is_late, self._put_off
            )
            if work:
                queue, plan = work
                try:
                    self.commit(plan)
                except UsageError as error:  # a mistake of mq: nothing was appended
                    self._put_off(queue, error)
                else:
                    look_again(self._replica.state, queue, now, self.created_of)
        except DiskFull:
            # Of all queues: no work can be done before there is room.
            self._replica.state.board.next = now.store + DUE_AGAIN_MS

    def do_tick(self) -> bool:
        """Do the tick that is due first; whether there was one that could be done."""
        state, now = self._replica.state, self._clock.now()
        if state.calendar.first() > now.wall:
            return False
        outside = ticks.Outside(self.plan, self._read_body, zone, self._no_tick)
        tick = ticks.next_tick(state, now, outside, self._clock.timer(SLICE_SECONDS))
        if tick is None:
            return False
        try:
            self.commit(tick.plan)
        except (DiskFull, UsageError) as error:  # the second: a mistake of mq; nothing was appended
            if entry := state.calendar.get(tick.schedule.name):
                state.calendar.postpone(entry, now.wall + ticks.AGAIN_MS)
            self._no_tick(tick.schedule, error)
            self.no_room = isinstance(error, DiskFull)
            return False
        if tick.verdict.gives_up:
            self._notes.put_down(WARNING, LEFT_OUT, self._replica.path, tick.schedule.name)
        return True

    def _read_body(self, position: int) -> tuple[int, bytes]:
        stored = self._replica.log.read(position)
        return records.scheduled_body(stored.flags, stored.payload)

    def _no_tick(self, schedule: Schedule, why: MqError) -> None:
        self._notes.put_down_rarely(WARNING, NO_TICK, self._replica.path, schedule.name, why)

    def _put_off(self, queue: QueueState, why: UsageError) -> None:
        """What falls due in *queue* cannot be done: its messages stay, and the other queues' work goes on."""
        self._notes.put_down_rarely(WARNING, UNDONE, self._replica.path, queue.name, why)
        now = self._clock.now()
        queue.postpone(now, now.store + DUE_AGAIN_MS)

    def size_of(self, queue: QueueState, id: int) -> int:
        """What the message takes, as far as its record can be read."""
        position = queue.position(id)
        return 0 if position is None else size_of(self._replica.log, position)

    def created_of(self, queue: QueueState, id: int) -> int | None:
        """When the message was published, wall time; None if its record cannot be read."""
        position = queue.position(id)
        return None if position is None else created_ms(self._replica.log, position)

    def first_retained(self, topic: QueueState) -> int:
        """The index, in `waiting`, of the oldest message that *topic* retains now."""
        return topic.first_retained(self._clock.now(), self.size_of, self.created_of)

    def read(self, queue: QueueState, id: int) -> Published | None:
        """What was published as message *id*; None if its record is damaged."""
        position = queue.position(id)
        assert position is not None
        try:
            stored = self._replica.log.read(position)
        except CorruptStore:
            return None
        flags = stored.flags
        return Published(flags, *records.published_of(stored.kind, flags, stored.time_ms, stored.payload))

    def add_downtime(self) -> None:
        """Log for how long no process was here: queues that go when they are idle stay that much longer.

        And sync it: else every recovery that a power cut undoes would add the downtime again.
        """
        if self.downtime_ms:
            plan = self.plan()
            due.add_downtime(plan, self.downtime_ms)
            if plan.drafts:
                self.commit(plan)
                self._replica.log.sync(self._replica.log.end)
            self.downtime_ms = 0
