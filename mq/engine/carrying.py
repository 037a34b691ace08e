"""Copies of messages, from a store or an export to another store; cut off anywhere, none is lost or doubled.

A copy notes in the target, with the messages and in one atomic group, the last id that it has brought:

    source   1 2 3 4 5 6 7 8 …            only read
    target   1 2 3 4 5, "up to 5"  ──►    goes on behind 5

A message may come to a queue of the source late, with an old id: as a dead letter, by a replay or a move.
The next copy passes it over, and has to say so.  Therefore the note has how many messages had come to the
queue by then, and where the log ended.  If as many have come since as are behind that end, none came late.
Otherwise it may be that some have gone, or that some came late.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from mq.delivery.options import TOPIC_KEY
from mq.delivery.transfer import Parcel
from mq.engine import incoming, looking, outgoing
from mq.engine.operation import operation
from mq.engine.outgoing import COPIED, OF_TOPICS, Definition, Walk
from mq.engine.store import Store
from mq.errors import MqError, UsageError

SLICE_BYTES: Final = 1 << 20  # put at once, unless one message is longer
SLICE_MESSAGES: Final = 256
DEDUP_IDS: Final = 1000  # put at once

Show = Callable[[int], object]  # told how many messages more are done


class Mark(NamedTuple):
    """How far a queue has been brought into another one: the last id, and how many messages.

    By a copy: all that was in the queue up to that id, when so many messages had come to it and the log ended
    there.  By an import: of which export.
    """

    id: int = -1
    messages: int = 0
    published: int = 0
    end: int = 0
    export: str = "-"

    @property
    def text(self) -> str:
        return " ".join(map(str, self))


class Landing:
    """Where messages of one queue arrive, and how far they have come."""

    def __init__(self, store: Store, key: str, source_id: str, name: str, export: str = "-") -> None:
        """*source_id*, *name*: of the store, and the queue, that they come from.  *export*: its id, if they
        come from one."""
        self._store, self._key = store, key
        self._begin = Mark(export=export)
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

    @property
    def is_of_another(self) -> bool:
        """Whether what an earlier run has noted is of another export, or of a copy."""
        return self.is_begun and self.before.export != self._begin.export

    def texts(self) -> dict[str, str]:
        """What the meta of the queue is to have when it is made for them."""
        return {self._note: self._begin.text}

    def look_again(self) -> None:
        """Once the queue is made."""
        self._known = incoming.texts(self._store, self._key).get(self._note)

    def begin_again(self) -> None:
        """Take no notice of what was brought before."""
        self.before = self.mark = self._begin
        if self._known is not None:  # so that what is cut off now is not gone on with as what was before
            self._put(self._begin, [])

    def note_moment(self, published: int, end: int) -> None:
        """What is stored is of the moment when so many messages had come, and the log ended there."""
        self.mark = self.mark._replace(published=published, end=end)

    def add(self, parcel: Parcel) -> None:
        """Have it stored, with those that come next."""
        self._parcels.append(parcel)
        self._bytes += parcel.size
        if self._bytes >= SLICE_BYTES or len(self._parcels) >= SLICE_MESSAGES:
            self.store()

    def store(self) -> None:
        """Store what was added."""
        while self._parcels:
            # As many as there is room for.  If that is none, the error says so of one.
            count = incoming.room_for(self._store, self._key, self._parcels) or 1
            some = self._parcels[:count]
            self._put(self.mark._replace(id=some[-1].id, messages=self.mark.messages + count), some)
            self.stored += count
            self._parcels = self._parcels[count:]
        self._bytes = 0

    def _put(self, mark: Mark, parcels: list[Parcel]) -> None:
        texts = {self._note: mark.text}
        if not incoming.put(self._store, self._key, parcels, texts, {self._note: self._known}):
            raise MqError(
                f"{self._store.path}: another process stores the same messages now: nothing is doubled; wait"
                " until it is through, and run this again"
            )
        self.mark, self._known = mark, mark.text

    def _read(self, text: str | None) -> Mark:
        if text is None:
            return self._begin
        *counts, export = text.split()
        try:
            id, messages, published, end = map(int, counts)
        except ValueError:
            raise UsageError(
                f"the meta of queue {self._key!r} has no position under {self._note!r}"
            ) from None
        return Mark(id, messages, published, end, export)


# ── copies ─────────────────────────────────────────────────────────────────────────


class Copied(NamedTuple):
    """What became of the messages of one queue, or of those that a topic retains."""

    there: int  # in the source
    copied: int  # by this run
    before: int  # by earlier ones, of those that are in the source
    missing: int  # came with an id that an earlier run had passed, or went while it was read
    damaged: int  # cannot be read
    unsure: int  # of `before`: so many more may have come with such an id; 0: certainly none


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
        return Copied(0, 0, 0, 0, 0, 0)
    if looking.store_id(source) == looking.store_id(target):
        found = found._replace(subscriptions={})  # else both would get all from now on
    if bring_definition(target, to, found, landing):
        landing.look_again()
    passed, late = below(source, key, landing.before.id), _late(source, key, landing.before, found)
    if not late:
        landing.note_moment(found.published, found.end)
    walk = Walk(source, key, landing.before.id)
    for parcel, _ in walk:
        landing.add(parcel)
        show(1)
    landing.store()
    _copy_remembered(source, target, key, to)
    lost = found.messages - passed - landing.stored - walk.expired - walk.damaged
    missing = max(0, lost, passed - landing.before.messages)
    return Copied(found.messages, landing.stored, passed, missing, walk.damaged, max(0, late - missing))


def _late(source: Store, key: str, before: Mark, now: Definition) -> int:
    """How many messages at most have come to the queue with an id that an earlier run had passed."""
    came = now.published - before.published if now.published >= before.published else now.published
    are_later = now.messages - below(source, key, before.end - 1)
    return min(below(source, key, before.id), max(0, came - are_later))


def bring_definition(target: Store, key: str, found: Definition, landing: Landing) -> bool:
    """Make the queue if it is not there, with its subscriptions, in one atomic group."""
    texts = {**found.declaration.meta, **landing.texts()}
    return incoming.define(target, key, found.declaration, texts, found.subscriptions)


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
