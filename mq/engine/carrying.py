"""Messages from one store to another: copied, or moved; cut off anywhere, they are neither lost nor doubled.

A copy notes in the target, with the messages and in one atomic group, the last id that it has brought:

    source   1 2 3 4 5 6 7 8 …            only read
    target   1 2 3 4 5, "up to 5"  ──►    goes on behind 5

A move holds what is under way in a queue of the source that nothing is received from, NAME.moving:

    1  source   orders ──► orders.moving        some at once, synced
    2  target   a slice of them, and which ids these are, in one atomic group, synced
    3  source   these ids are dropped, synced; then the next slice

Cut off between 2 and 3, the next run reads in the target which ids are there already, and goes on with 3.
No receiver of the source can take what the target has.  Two runs at once help each other: each slice is
put only if the note of the slice before is the one that was read.  No note comes twice: when all is moved,
one id of the last slice stays.  A note is of one move, by a random text: a store that was put back from a
backup gives out ids again, and none of these is taken for what was moved before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from secrets import token_hex
from typing import Final, NamedTuple

from mq.delivery.options import TOPIC_KEY, Declaration
from mq.delivery.transfer import Parcel, Transfer
from mq.engine import commands, incoming, looking, outgoing, subscribing
from mq.engine.names import check_name
from mq.engine.operation import operation
from mq.engine.outgoing import COPIED, DESTINATION, MOVED, OF_TOPICS, Definition, Walk
from mq.engine.store import Store
from mq.errors import CorruptStore, MqError, UsageError

SLICE_BYTES: Final = 1 << 20  # put at once, unless one message is longer
SLICE_MESSAGES: Final = 256
ROUND_MESSAGES: Final = 2048  # that are under way at once
MOVING_SUFFIX: Final = ".moving"
DEDUP_IDS: Final = 1000  # put at once

Show = Callable[[int], object]  # told how many messages more are done


class Mark(NamedTuple):
    """How far a queue has been brought into another one: the last id, and how many messages."""

    id: int = -1
    messages: int = 0


class Landing:
    """Where messages of one queue arrive, and how far they have come."""

    def __init__(self, store: Store, key: str, source_id: str, name: str) -> None:
        """*source_id*, *name*: of the store, and the queue, that they come from."""
        self._store, self._key = store, key
        self._note = f"{COPIED}{source_id} {name.replace(TOPIC_KEY, 'topic ')}"
        self._known = incoming.texts(store, key).get(self._note)
        self.before = self.mark = self._read(self._known)
        self.stored = 0  # by this run
        self._parcels: list[Parcel] = []
        self._bytes = 0

    @property
    def is_begun(self) -> bool:
        """Whether an earlier run has noted something."""
        return self._known is not None

    def texts(self) -> dict[str, str]:
        """What the meta of the queue is to have when it is made for them."""
        return {self._note: _text(Mark())}

    def look_again(self) -> None:
        """Once the queue is made."""
        self._known = incoming.texts(self._store, self._key).get(self._note)

    def begin_again(self) -> None:
        """Take no notice of what was brought before."""
        self.before = self.mark = Mark()

    def add(self, parcel: Parcel) -> None:
        """Have it stored, with those that come next."""
        self._parcels.append(parcel)
        self._bytes += parcel.size
        if self._bytes >= SLICE_BYTES or len(self._parcels) >= SLICE_MESSAGES:
            self.store()

    def store(self) -> None:
        """Store what was added."""
        if not self._parcels:
            return
        mark = Mark(self._parcels[-1].id, self.mark.messages + len(self._parcels))
        text = _text(mark)
        if not incoming.put(
            self._store, self._key, self._parcels, {self._note: text}, {self._note: self._known}
        ):
            raise MqError(
                f"{self._store.path}: another process stores the same messages now: nothing is doubled; wait"
                " until it is through, and run this again"
            )
        self.stored += len(self._parcels)
        self.mark, self._known = mark, text
        self._parcels, self._bytes = [], 0

    def _read(self, text: str | None) -> Mark:
        if text is None:
            return Mark()
        try:
            id, count = map(int, text.split())
        except ValueError:
            raise UsageError(
                f"the meta of queue {self._key!r} has no position under {self._note!r}"
            ) from None
        return Mark(id, count)


def _text(mark: Mark) -> str:
    return f"{mark.id} {mark.messages}"


# ── copies ─────────────────────────────────────────────────────────────────────────


class Copied(NamedTuple):
    """What became of the messages of one queue, or of those that a topic retains."""

    there: int  # in the source
    copied: int  # by this run
    before: int  # by earlier ones, of those that are in the source
    missing: int  # came with an id that an earlier run had passed, or went while it was read
    damaged: int  # cannot be read


def copy(
    source: Store, target: Store, key: str, to: str, show: Show, *, again: bool = False
) -> Copied:  # fmt: skip
    """Copy all messages of a queue, or of what a topic retains, that were not copied before.

    *key*, *to*: of the queue in the source, and in the target, where it is made if it is not there.
    *again*: those that were copied before as well.
    """
    landing = Landing(target, to, looking.store_id(source), key)
    if again:
        landing.begin_again()
    found = outgoing.definition(source, key)
    if found is None:
        return Copied(0, 0, 0, 0, 0)
    if bring_definition(target, to, found, landing):
        landing.look_again()
    passed = below(source, key, landing.before.id)
    walk = Walk(source, key, landing.before.id)
    for parcel, _ in walk:
        landing.add(parcel)
        show(1)
    landing.store()
    _copy_remembered(source, target, key, to)
    lost = found.messages - passed - landing.stored - walk.expired - walk.damaged
    late = passed - landing.before.messages
    return Copied(found.messages, landing.stored, passed, max(0, lost, late), walk.damaged)


def bring_definition(target: Store, key: str, found: Definition, landing: Landing) -> bool:
    """Make the queue if it is not there; its subscriptions too, unless it was made by another program."""
    texts = {**found.declaration.meta, **landing.texts()}
    made = incoming.define(target, key, found.declaration, texts)
    if made or landing.is_begun:
        for pattern, match in found.subscriptions.items():
            subscribing.subscribe(target, target.channel(key), pattern, match)
    return made


@operation
def below(store: Store, key: str, id: int) -> int:
    """How many messages with ids up to *id* the queue holds."""
    return store.turn.look(partial(_below, store, key, id))


def _below(store: Store, key: str, id: int) -> int:
    held = store.replica.state.named(key)
    if held is None:
        return 0
    lanes = sum(lane.rank(id + 1) for lane in (held.waiting, *held.lanes.values()))
    return lanes + sum(each <= id for tried in (held.delayed, held.flights) for each in tried)


def _copy_remembered(source: Store, target: Store, key: str, to: str) -> None:
    ids = outgoing.remembered(source, key)
    for at in range(0, len(ids), DEDUP_IDS):
        incoming.remember(target, to, ids[at : at + DEDUP_IDS])


def copy_rest(source: Store, target: Store) -> None:
    """What belongs to no queue: dedup ids of topics, and schedules that the target has not."""
    _copy_remembered(source, target, OF_TOPICS, OF_TOPICS)
    for each in outgoing.schedules(source):
        incoming.schedule(target, each)


# ── moves ──────────────────────────────────────────────────────────────────────────


def move_here(store: Store, name: str, to: str, limit: int | None, show: Show) -> int:
    """Move what waits in a queue to another one of the same store, as it is; how many.

    Each slice is one atomic group; ids and bodies stay.
    """
    _refuse_under_way(store, name)
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


def move(
    source: Store, target: Store, name: str, to: str, limit: int | None, show: Show
) -> int:  # fmt: skip
    """Move what waits in a queue to a queue of another store, which is made if it is not there; how many."""
    _refuse_under_way(source, name)
    found = outgoing.definition(source, name)
    if found is None:
        return 0
    incoming.define(target, to, found.declaration, found.declaration.meta)
    passage = Passage(source, target, name, to, found.declaration)
    transfer, moved = Transfer(passage.name, _end(source)), passage.carry(show)
    while limit is None or moved < limit:
        left = ROUND_MESSAGES if limit is None else limit - moved
        if not _transfer(source, name, transfer, left):
            break
        moved += passage.carry(show)
    passage.close()
    count, error = passage.damaged
    if error:
        raise CorruptStore(
            error.path,
            f"{error.reason}; {moved:,} messages were moved, and {count:,} that cannot be read stay in"
            f" {passage.name!r}",
            error.offset,
            error.ids,
        )
    return moved


def _refuse_under_way(store: Store, name: str) -> None:
    if said := incoming.texts(store, name).get(DESTINATION):
        found = outgoing.definition(store, name)
        raise UsageError(_elsewhere(name, found.messages if found else 0, said))


class Passage:
    """What is under way from a queue to that of another store."""

    def __init__(self, source: Store, target: Store, name: str, to: str, options: Declaration) -> None:
        self._source, self._target, self._to = source, target, to
        self.name = check_name(name + MOVING_SUFFIX)
        self.damaged: tuple[int, CorruptStore | None] = (0, None)  # how many cannot be read, and the first
        self._said: str | None = None  # the note, as it was read last
        self._note = f"{MOVED}{looking.store_id(source)} {self.name}"
        self._goal = f"{looking.store_id(target)} {to}"
        moving = Declaration(
            name=self.name, paused=True, expired=options.expired,
            dead_letter=options.dead_letter or looking.options(source, source.channel(name))[1],
        )  # fmt: skip
        while not incoming.define(source, self.name, moving, {DESTINATION: f"{self._goal} {token_hex(8)}"}):
            if self._run():
                break
            said = incoming.texts(source, self.name).get(DESTINATION)
            left = outgoing.definition(source, self.name)
            if left and said is None:
                raise UsageError(
                    f"a move keeps what is under way in {self.name!r}, and there is another queue of that"
                    " name: rename it first"
                )
            if left and left.messages:
                raise UsageError(_elsewhere(self.name, left.messages, said))
            incoming.delete_if_empty(source, self.name)

    def _run(self) -> str:
        """What no other move has, also of a store that was put back from a backup; "": it goes elsewhere."""
        goal, _, run = incoming.texts(self._source, self.name).get(DESTINATION, "").rpartition(" ")
        return run if goal == self._goal else ""

    def carry(self, show: Show) -> int:
        """Put all that is under way into the target, and drop it in the source; how many."""
        moved = 0
        while True:
            note = self._said = incoming.texts(self._target, self._to).get(self._note)
            run = self._run()
            incoming.take_away(self._source, self.name, _ids(note, run))
            self._source.flush()  # before the note of what it drops is replaced
            parcels = self._slice()
            if not parcels:
                return moved
            if run != self._run():
                continue  # another process has ended this move, and begun another
            ids = " ".join([run, *(str(parcel.id) for parcel in parcels)])
            if incoming.put(self._target, self._to, parcels, {self._note: ids}, {self._note: note}):
                self._target.flush()  # before they are dropped
                moved += len(parcels)
                show(len(parcels))

    def _slice(self) -> list[Parcel]:
        found: list[Parcel] = []
        size = 0
        walk = Walk(self._source, self.name, -1)
        for parcel, _ in walk:
            found.append(parcel)
            size += parcel.size
            if size >= SLICE_BYTES or len(found) >= SLICE_MESSAGES:
                break
        self.damaged = walk.damaged, walk.error
        return found

    def close(self) -> None:
        """All that was under way is there, and dropped here."""
        incoming.delete_if_empty(self._source, self.name)
        self._source.flush()
        if self._said:  # its ids take room; what is left differs from each other note
            run, *_, last = self._said.split()
            incoming.put(self._target, self._to, (), {self._note: f"{run} {last}"}, {self._note: self._said})


def _ids(note: str | None, run: str) -> list[int]:
    """Those that *note* names, if it is of that move."""
    of, *ids = (note or "").split() or [""]
    return [int(each) for each in ids] if of == run else []


def _elsewhere(name: str, count: int, said: str | None) -> str:
    goal, _, _ = (said or "").rpartition(" ")
    return (
        f"{name!r} holds {count:,} messages that a move to another store ({goal}) has left under way, some of"
        " which may be there: run that move again first"
    )
