"""A plan: records that are to be appended together, all of them or none.

Every decision ends in a plan.  It may need queues that do not exist yet, such as that for the dead
letters of another; their declarations are part of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec.structs import replace

from mq.errors import UsageError

from . import idle, records
from .attributes import Failed
from .decode import check
from .now import Now
from .options import Declaration, Options, replaced
from .queue import QueueState
from .records import Draft, Event, Move, Subscribed
from .state import EXCHANGE, QUEUES_MAX, State, declaration_of
from .traits import changes_in, expiring, traits_of, with_failure

SizeOf = Callable[[QueueState, int], int]
"""The size of a message: how many bytes were published, which only its record tells."""


class Published(NamedTuple):
    """What was published, as the record of a message has it."""

    flags: int
    created_ms: int
    data: bytes  # the body, then attributes if there are any


Read = Callable[[QueueState, int], Published | None]
"""What was published; None if it cannot be read."""


class Plan:
    def __init__(self, state: State, now: Now, size_of: SizeOf, read: Read) -> None:
        self.state, self.now, self.size_of, self.read = state, now, size_of, read
        self.drafts: list[Draft] = []
        self.bytes = 0  # of the drafts' payloads
        self._new: dict[str, int] = {}  # by name, the numbers of the queues that it makes
        self.released: set[int] = set()  # receipts: of what goes back with a message before it in its batch
        self.freed: dict[int, dict[int, int]] = {}  # by queue number: the ids that leave it, and their sizes
        self._coming: set[tuple[int, int]] = set()  # queue and id: shared messages that go to another one
        self._has_exchange = False

    def add(self, kind: int, flags: int, queue: int, payload: bytes) -> int:
        """The draft's place among them."""
        self.drafts.append((kind, flags, queue, payload))
        self.bytes += len(payload)
        return len(self.drafts) - 1

    def add_to_run(self, kind: int, queue: int, part: bytes) -> None:
        """Add *part* to the last draft if that is of the same kind and queue; RUN_MAX parts at most."""
        if self.drafts:
            last, flags, number, payload = self.drafts[-1]
            if last == kind and number == queue and not flags and len(payload) < records.RUN_MAX * len(part):
                self.drafts[-1] = kind, 0, queue, payload + part
                self.bytes += len(part)
                return
        self.add(kind, 0, queue, part)

    def number(self, name: str) -> int:
        """The number of the queue *name*, which is declared if it is not there."""
        if queue := self.state.named(name):
            return queue.number
        if name not in self._new:
            self.declare(name, {})
        return self._new[name]

    def exchange(self) -> None:
        """See to it that there is what belongs to no queue: a publish to a topic counts there."""
        found = self.state.exchange()
        if not self._has_exchange and (found is None or found.declared_at < 0):
            declaration = declaration_of(found) if found else Declaration(name="")
            self.add(*records.declare(EXCHANGE, declaration))
        self._has_exchange = True

    def declare(self, name: str, changes: dict[str, Any]) -> None:
        """Make the queue, or change what is known of it."""
        queue = self.state.named(name)
        declaration = declaration_of(queue) if queue else Declaration(name=name)
        number = queue.number if queue else self.state.free_number(self._new.values())
        if number is None:
            raise UsageError(f"{QUEUES_MAX:,} queues is the most in a store: delete some first")
        if not queue:
            self._new[name] = number
        changed = replaced(declaration, changes)
        stays = idle.shortest(changed)
        if stays is not None and changes.keys() & {"delete_when_idle", "delete_when_abandoned"}:
            changed = replaced(changed, {"idle_until": self.now.store + int(stays * 1000)})
        self.add(*records.declare(number, changed))

    def replace(self, name: str, by: QueueState) -> int:
        """Queue *by* takes the place of the queue *name*, which holds nothing, if it is there; its number."""
        queue = self.state.named(name)
        declaration = declaration_of(queue) if queue else Declaration(name=name)
        if queue:
            self.add(*records.delete(queue.number))
        published = declaration.published + by.totals.published
        self.add(*records.declare(by.number, replaced(declaration, {"published": published})))
        for each in queue.subscriptions.values() if queue else ():
            self.add(*records.subscribe(by.number, Subscribed(each.pattern, each.match, each.bound_at)))
        self._new[name] = by.number
        return by.number

    def decoded(self) -> list[Event]:
        """The events, for the fold.  UsageError if recovery would refuse one: then append nothing."""
        return [check(draft) for draft in self.drafts]

    def arrivals(self) -> dict[int, int]:
        """The numbers of the queues that this concerns, and how many messages come to each."""
        found: dict[int, int] = {}
        for kind, _, number, payload in self.drafts:
            found[number] = found.get(number, 0) + (kind in (records.PUBLISH, records.RELOCATE))
            if kind == records.FANOUT:
                for each in records.queues_of(payload):
                    found[each] = found.get(each, 0) + 1
            if kind == records.MOVE:
                to = records.moved_to(payload)
                found[to] = found.get(to, 0) + 1
        return found

    def options(self, number: int) -> Options:
        queue = self.state.queue(number)
        return queue.options if queue else Options()

    def expires(self, number: int, ttl: float | None = None) -> int:
        """When what arrives in a queue now expires; 0: never."""
        if ttl is None:
            ttl = self.options(number).ttl
        return 0 if ttl is None else self.now.wall + int(ttl * 1000)

    def move(self, queue: QueueState, flags: int, move: Move) -> None:
        """The message goes to another queue.

        One that is there already, as part of the same fan-out, cannot be there twice: a copy of it
        with an id of its own goes there instead.
        """
        id, to = move.id, move.to
        if id in self.state.board.shared:
            target = self.state.queue(to)
            if (to, id) in self._coming or (target and id in target):
                self._move_copy(queue, flags, move)
                return
            self._coming.add((to, id))
        self.add(*records.move(queue.number, flags, move))

    def _move_copy(self, queue: QueueState, flags: int, move: Move) -> None:
        read = self.read(queue, move.id)
        if read:  # else its body is damaged, and the one that is there already says so
            said, _ = records.attributes_of(read.flags, read.data)
            traits, facts = expiring(traits_of(said), move.expires), (0, records.WAITING, 0, 0)
            if flags & records.WHOLE:
                traits, facts = queue.history(move.id, self.now), queue.facts(move.id)
                if facts[1] == records.IN_FLIGHT:  # timed out: nothing else that is in flight is moved
                    facts = facts[0], records.WAITING, 0, 0
            if flags & records.DIED:
                failure = Failed(move.at, queue.attempts(move.id), move.reason)
                before = replace(traits, origin=move.origin, failures=queue.traits(move.id).failures)
                traits = with_failure(before, failure)
            changes = changes_in(said, traits)
            self.add(*records.relocate(move.to, 0, read.created_ms, facts, read.flags, read.data, changes))
        self.add(*records.drop(queue.number, flags, [(move.id, move.size)]))

    def free(self, queue: QueueState, id: int, size: int) -> None:
        """The message leaves *queue* with this plan."""
        self.freed.setdefault(queue.number, {})[id] = size
