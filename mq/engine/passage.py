"""Moves: inside one store, and to another one; cut off anywhere, no message is lost, doubled, or stuck.

A move to another store holds what is under way in a queue of the source that nothing is received from,
NAME.moving:

    0  target   "this move has begun", synced
    1  source   orders ──► orders.moving        some at once, synced
    2  target   a slice of them, and which ids these are, in one atomic group, synced
    3  source   these ids are dropped, synced; then the next slice

Cut off between 2 and 3, the next run reads in the target which ids are there already, and goes on with 3.
No receiver of the source can take what the target has.  Two runs at once help each other: each slice is
put only if the note of the slice before is the one that was read.  No note comes twice: when all is moved,
one id of the last slice stays.  A note is of one move, by a random text: a store that was put back from a
backup gives out ids again, and none of these is taken for what was moved before.

The way back, also taken if the target has no room:

    1  target   "what is under way goes back", in place of the last note, synced: no slice is put any more
    2  source   orders.moving ──► orders
"""

from __future__ import annotations

import os
from contextlib import suppress
from secrets import token_hex
from typing import Final

from mq.delivery.dead import NAME_BYTES_MAX
from mq.delivery.options import Declaration
from mq.delivery.transfer import Parcel, Transfer
from mq.delivery.under_way import DESTINATION, MOVER, MOVING_SUFFIX, Goal, UnderWay
from mq.engine import commands, incoming, looking, outgoing
from mq.engine.carrying import SLICE_BYTES, SLICE_MESSAGES, Show
from mq.engine.operation import operation
from mq.engine.outgoing import MOVED, Walk
from mq.engine.store import Store
from mq.errors import CorruptStore, DiskFull, MqError, QueueFull, UsageError

ROUND_MESSAGES: Final = 2048  # that are under way at once
BACK: Final = "back"  # in the note, instead of ids: what is under way goes back


# ── inside one store ───────────────────────────────────────────────────────────────


def move_here(store: Store, name: str, to: str, limit: int | None, show: Show) -> int:
    """Move what waits in a queue to another one of the same store, as it is; how many.

    Each slice is one atomic group; ids and bodies stay.  *to* is made with the options of the queue, if it
    is not there.
    """
    _refuse_moving(store, name)
    _refuse_moving(store, to)
    if found := outgoing.definition(store, name):
        incoming.define(store, to, found.declaration, found.declaration.meta)
    transfer, moved = Transfer(to, _end(store)), 0
    while limit is None or moved < limit:
        count = _transfer(store, name, transfer, ROUND_MESSAGES if limit is None else limit - moved)
        if not count:
            break
        moved += count
        show(count)
    return moved


def _transfer(store: Store, name: str, transfer: Transfer, count: int) -> int:
    transfer.go_on(min(count, ROUND_MESSAGES))
    return commands.change(
        store, store.channel(name), transfer.plan, lambda: transfer.more, transfer.again
    )  # fmt: skip


@operation
def _end(store: Store) -> int:
    return store.turn.look(lambda: store.replica.log.end)


def _refuse_moving(store: Store, name: str) -> None:
    """UsageError if it is the queue of a move to another store, under way."""
    found = outgoing.moving(store, name)
    if found and found.queue != name:
        raise UsageError(described(store, found))


# ── to another store ───────────────────────────────────────────────────────────────


def move(
    source: Store, target: Store, name: str, to: str, limit: int | None, show: Show
) -> int:  # fmt: skip
    """Move what waits in a queue to a queue of another store, which is made if it is not there; how many.

    What that has no room for goes back, and QueueFull, DiskFull or UsageError is raised.
    """
    _refuse_moving(source, name)
    moving = moving_name(name)
    found = outgoing.definition(source, name)
    if found is None and outgoing.moving(source, name) is None:
        return 0
    options = found.declaration if found else Declaration(name=name)
    incoming.define(target, to, options, options.meta)
    passage = Passage(source, target, name, to)
    behind, is_over = _end(source), True
    while is_over:
        passage.begin(_moving_options(source, moving, name, options))
        try:
            is_over = not _carry_all(passage, Transfer(moving, behind, run=passage.goal.run), limit, show)
        except (QueueFull, DiskFull, UsageError):
            with suppress(MqError):  # then it is under way still, and the first error says what is wrong
                passage.give_back()
            raise
    count, error = passage.damaged
    if error:
        passage.give_back()
        raise CorruptStore(
            error.path,
            f"{error.reason}; {passage.moved:,} messages were moved, and {count:,} that cannot be read stay"
            f" in {name!r}",
            error.offset,
            error.ids,
        )
    passage.close()
    return passage.moved


def _carry_all(passage: Passage, transfer: Transfer, limit: int | None, show: Show) -> bool:
    """False if another process has brought this move to its end."""
    while passage.carry(show):
        if limit is not None and passage.moved >= limit:
            return True
        left = ROUND_MESSAGES if limit is None else limit - passage.moved
        if not _transfer(passage.source, passage.queue, transfer, left):
            return not transfer.is_over
    return False


def moving_name(name: str) -> str:
    """Of the queue with what is under way; UsageError if no queue can be called so."""
    moving = name + MOVING_SUFFIX
    if (over := len(moving.encode()) - NAME_BYTES_MAX) > 0:
        raise UsageError(
            f"a move keeps what is under way in a queue called NAME{MOVING_SUFFIX}, whose name would be"
            f" {over:,} bytes too long here: rename the queue first"
        )
    return moving


def _moving_options(store: Store, moving: str, name: str, options: Declaration) -> Declaration:
    graves = options.dead_letter or looking.options(store, store.channel(name))[1]
    return Declaration(name=moving, paused=True, expired=options.expired, dead_letter=graves)


class Passage:
    """What is under way from a queue to that of another store."""

    def __init__(self, source: Store, target: Store, name: str, to: str) -> None:
        self.source, self._target, self.queue, self._to = source, target, name, to
        self.name = moving_name(name)
        self.goal = Goal(looking.store_id(target), "", to)
        self.moved = 0
        self.damaged: tuple[int, CorruptStore | None] = (0, None)  # how many cannot be read, and the first
        self._note = f"{MOVED}{looking.store_id(source)} {self.name}"
        self._mover = {MOVER: f"{os.getpid()} {target.path}"}

    def begin(self, moving: Declaration) -> None:
        """Begin a move, or go on with one; *moving*: options of the queue with what is under way."""
        while not (self._begin_here(moving) and self._begin_there()):
            pass

    def _begin_here(self, moving: Declaration) -> bool:
        """Have a queue for what is under way; UsageError if another move has it."""
        goal = self.goal._replace(run=token_hex(8))
        if incoming.define(self.source, self.name, moving, {DESTINATION: str(goal), **self._mover}):
            self.goal = goal
            return True
        found = outgoing.moving(self.source, self.queue)
        if found is None:
            if outgoing.definition(self.source, self.name):
                raise UsageError(
                    f"a move keeps what is under way in {self.name!r}, and there is another queue of that"
                    " name: rename it first"
                )
            return False
        if found.goal._replace(run="") == self.goal._replace(run=""):
            self.goal = found.goal
            text = {DESTINATION: str(found.goal)}
            return incoming.put(self.source, self.name, (), self._mover, text)
        if found.messages or mover(self.source, found):
            raise UsageError(described(self.source, found))
        incoming.delete_if_empty(self.source, self.name)
        return False

    def _begin_there(self) -> bool:
        """Have a note of this move in the target, before anything is under way."""
        note = self._noted()
        if _run_of(note) == self.goal.run:
            if not _goes_back(note):
                return True
            put_back(self.source, self.queue, self.goal.run)
            return False
        found = outgoing.moving(self.source, self.queue)
        if found and found.goal.run == self.goal.run and found.messages:
            raise self._lost()
        if not incoming.put(self._target, self._to, (), {self._note: self.goal.run}, {self._note: note}):
            return False
        self._target.flush()
        return True

    def _noted(self) -> str | None:
        return incoming.texts(self._target, self._to).get(self._note)

    def _is_over(self) -> bool:
        """Whether another process has brought this move to its end."""
        found = outgoing.moving(self.source, self.queue)
        return found is None or found.goal.run != self.goal.run

    def _lost(self) -> MqError:
        return MqError(
            f"{self._target.path}: queue {self._to!r} has no note of this move any more: it was deleted or"
            f" renamed there, and some of what is under way in {self.name!r} may be in it; give it its name"
            f" back and run this again, or put all back with `mq move {self.queue} --back`"
        )

    def carry(self, show: Show) -> bool:
        """Put all that is under way into the target, and drop it in the source.

        False if another process has brought this move to its end.
        """
        while True:
            note = self._noted()
            if _run_of(note) != self.goal.run or _goes_back(note):
                if self._is_over():
                    return False
                raise self._lost() if _run_of(note) != self.goal.run else self._taken_back()
            self._drop(note)
            parcels = self._slice()
            if not parcels:
                return True
            if self._is_over():  # these may be of another move, which goes elsewhere
                return False
            parcels = parcels[: incoming.room_for(self._target, self._to, parcels) or 1]
            ids = " ".join([self.goal.run, *(str(parcel.id) for parcel in parcels)])
            if incoming.put(self._target, self._to, parcels, {self._note: ids}, {self._note: note}):
                self._target.flush()  # before they are dropped
                self.moved += len(parcels)
                show(len(parcels))

    def _taken_back(self) -> MqError:
        return MqError(
            f"{self.source.path}: another process puts back what is under way in {self.name!r}: nothing is"
            " lost or doubled; run this again"
        )

    def _drop(self, note: str | None) -> None:
        """Drop in the source what the target has, synced before the note of it is replaced."""
        incoming.take_away(self.source, self.name, _ids(note))
        self.source.flush()

    def _slice(self) -> list[Parcel]:
        found: list[Parcel] = []
        size = 0
        walk = Walk(self.source, self.name, -1)
        for parcel, _ in walk:
            found.append(parcel)
            size += parcel.size
            if size >= SLICE_BYTES or len(found) >= SLICE_MESSAGES:
                break
        self.damaged = walk.damaged, walk.error
        return found

    def close(self) -> None:
        """All that was under way is there, and dropped here."""
        incoming.delete_if_empty(self.source, self.name)
        self.source.flush()
        note = self._noted()
        if note and _run_of(note) == self.goal.run and (ids := _ids(note)):
            # Its ids take room; what is left differs from each other note.
            incoming.put(
                self._target, self._to, (), {self._note: f"{self.goal.run} {ids[-1]}"}, {self._note: note}
            )

    def give_back(self) -> int:
        """Put what is under way back to where it came from, but for what the target has; how many."""
        while not self._is_over():
            note = self._noted()
            if _run_of(note) != self.goal.run:
                raise self._lost()
            self._drop(note)
            goes = {self._note: f"{self.goal.run} {BACK}"}
            if incoming.put(self._target, self._to, (), goes, {self._note: note}):
                self._target.flush()
                return put_back(self.source, self.queue, self.goal.run)
        return 0


def _run_of(note: str | None) -> str:
    return (note or "").partition(" ")[0]


def _goes_back(note: str | None) -> bool:
    return note is not None and note.endswith(f" {BACK}")


def _ids(note: str | None) -> list[int]:
    """Those that *note* names."""
    _, *ids = (note or "").split() or [""]
    return [] if ids == [BACK] else [int(each) for each in ids]


# ── the way back ───────────────────────────────────────────────────────────────────


def back(source: Store, target: Store, name: str) -> int:
    """Put what an unfinished move from the queue *name* to *target* has left under way back; how many.

    What *target* has already stays there.  UsageError if the move goes elsewhere.
    """
    found = outgoing.moving(source, name)
    if found is None:
        return 0
    if found.goal.store_id != looking.store_id(target):
        raise UsageError(f"{target.path} is another store: {described(source, found)}")
    passage = Passage(source, target, found.queue, found.goal.to)
    passage.goal = found.goal
    return passage.give_back()


def put_back(store: Store, name: str, run: str) -> int:
    """Put all that is under way, in the move *run* from the queue *name*, back; how many.

    Also if the queue is full: that was in it before.  It is made again if it was deleted.
    """
    moving, moved = moving_name(name), 0
    incoming.define(store, name, Declaration(name=name), {})
    transfer = Transfer(name, _end(store), run=run, past_limits=True)
    while count := _transfer(store, moving, transfer, ROUND_MESSAGES):
        moved += count
    incoming.delete_if_empty(store, moving)
    store.flush()
    return moved


def mover(store: Store, found: UnderWay) -> int:
    """The process that moves it now, if it is another one; 0: none, or the system does not say."""
    pid = found.pid
    return pid if pid and pid != os.getpid() and pid in looking.processes(store) else 0


def described(store: Store, found: UnderWay) -> str:
    """What is under way, and what to do."""
    pid, where = mover(store, found), found.path or found.goal.store_id
    text = (
        f"{found.messages:,} messages of {found.queue!r} are under way, in {found.queue + MOVING_SUFFIX!r},"
        f" to queue {found.goal.to!r} of another store ({where})"
    )
    if pid:
        return f"{text}: process {pid} moves them now; wait until it is through"
    return (
        f"{text}, left by a move that was cut off: some of them may be there; run that move again, or put"
        f" them back with `mq move {found.queue} --back`"
    )
