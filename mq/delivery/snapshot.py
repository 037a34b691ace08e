"""The state as something to keep, and back.

`freeze` is quick and needs the state to hold still; `encode` takes its time with what
freeze gave, while the state goes on.  That works because nothing that freeze hands out
is changed afterwards: chunks are copied before they change, flights and delayed
messages are replaced.

Long arrays are not part of the encoding.  The caller keeps them wherever it likes, and
gives them back when a chunk is first needed.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from .backlog import Arrays, Backlog, Chunk, Held
from .dedup import Seen
from .events import Declaration, Failed
from .queue import Delayed, Flight, QueueState
from .state import State, declaration_of
from .traits import LEVELS, PLAIN, Traits

Place = tuple[int, ...]
Kept = tuple[Place, Place | None]  # where a chunk's ids are, and its positions
Save = Callable[["array[int]"], Place]
Load = Callable[[int, int, Chunk], Arrays]  # queue number, priority, chunk
Stored = list[tuple[int, int, Kept]]  # of each chunk: first id, how many, where
Row = tuple[int, int, str | None, int, str | None, tuple[Failed, ...]]  # id, then the fields of Traits


class Image(msgspec.Struct, array_like=True):
    """One queue."""

    number: int
    declaration: Declaration
    declared_at: int
    body_bytes: int
    at: int  # the head's index in the first chunk
    chunks: Stored
    delayed: bytes  # columns of u64, see COLUMNS
    flights: bytes
    lanes: list[tuple[int, int, Stored]] = []  # of other priorities: which, head's index, chunks
    traits: list[Row] = []  # of what is delayed or in flight, and not plain
    dedup: list[tuple[str, int, int, int]] = []  # dedup id, then the fields of Seen


COLUMNS: dict[type, tuple[str, ...]] = {
    Delayed: ("due", "attempts", "position", "rests"),
    Flight: ("receipt", "deadline", "attempts", "position"),
}


class Frozen(NamedTuple):
    """One queue as it was: its image, to be filled with the rest."""

    image: Image
    lanes: list[tuple[Stored, list[Held]]]
    delayed: dict[int, Delayed]
    flights: dict[int, Flight]
    dedup: list[tuple[str, Seen]]


def freeze(state: State) -> list[Frozen]:
    """What is true now."""
    frozen: list[Frozen] = []
    for queue in state.queues.values():
        at, held = queue.waiting.chunks()
        image = Image(queue.number, declaration_of(queue), queue.declared_at, queue.bytes, at, [], b"", b"")
        lanes = [(image.chunks, held)]
        for priority, lane in queue.lanes.items():
            at, held = lane.chunks()
            stored: Stored = []
            image.lanes.append((priority, at, stored))
            lanes.append((stored, held))
        frozen.append(
            Frozen(image, lanes, queue.delayed.copy(), queue.flights.copy(), list(queue.dedup.items()))
        )
    return frozen


def encode(frozen: list[Frozen], save: Save) -> tuple[bytes, list[tuple[Held, Kept]]]:
    """The bytes, and what was saved for them and where."""
    saved: list[tuple[Held, Kept]] = []
    for image, lanes, delayed, flights, dedup in frozen:
        for stored, chunks in lanes:
            for held in chunks:
                kept = held.saved
                if kept is None:
                    assert held.arrays
                    ids, positions = held.arrays
                    kept = save(ids), None if positions is None else save(positions)
                    saved.append((held, kept))
                stored.append((held.first, held.size, kept))
        image.delayed = _columns(delayed, COLUMNS[Delayed])
        image.flights = _columns(flights, COLUMNS[Flight])
        image.traits = [*_traits(delayed), *_traits(flights)]
        image.dedup = [(key, *seen) for key, seen in dedup]
    return msgspec.msgpack.encode([each.image for each in frozen]), saved


def places(frozen: list[Frozen]) -> Iterator[Place]:
    """Where the arrays are that the encoding names."""
    for each in frozen:
        for stored, _ in each.lanes:
            for _, _, kept in stored:
                yield from (place for place in kept if place)


def restore(data: bytes | msgspec.Raw, load: Load) -> State:
    """The state that was frozen."""
    state = State()
    for image in msgspec.msgpack.decode(data, type=list[Image]):
        queue = QueueState(image.number, image.declaration.name, state.board)
        queue.declare(image.declaration, image.declared_at)
        queue.bytes = image.body_bytes
        for priority, at, stored in [(0, image.at, image.chunks), *image.lanes]:
            _restore_lane(queue.lane(priority), at, stored, _loader(load, image.number, priority))
        traits = {id: _known(Traits(*rest)) for id, *rest in image.traits}  # type: ignore[arg-type]
        for id, due, attempts, position, rests in _rows(image.delayed, 5):
            queue.delayed[id] = Delayed(due, attempts, position, traits.get(id, PLAIN), rests)
        for id, receipt, deadline, attempts, position in _rows(image.flights, 5):
            queue.flights[id] = Flight(receipt, deadline, attempts, position, traits.get(id, PLAIN))
        for key, *seen in image.dedup:
            queue.dedup.note(key, Seen(*seen))
        queue.reindex()
        state.queues[queue.number] = queue
        if queue.name:
            state.by_name[queue.name] = queue
    return state


def _restore_lane(lane: Backlog, at: int, stored: Stored, load: Callable[[Chunk], Arrays]) -> None:
    lane.restore(at, [Chunk.stored(first, size, kept, load) for first, size, kept in stored])


def _loader(load: Load, number: int, priority: int) -> Callable[[Chunk], Arrays]:
    return lambda chunk: load(number, priority, chunk)


def _traits(entries: dict[int, Any]) -> Iterator[Row]:
    for id, entry in entries.items():
        traits: Traits = entry.traits
        if traits is not PLAIN:
            yield id, traits.priority, traits.group, traits.expires, traits.origin, traits.failures


def _known(traits: Traits) -> Traits:
    """The one object that stands for all that are as plain as this."""
    return LEVELS[traits.priority] if traits.plain else traits


def _columns(entries: dict[int, Any], names: tuple[str, ...]) -> bytes:
    """Ids, then each field of all entries, as u64."""
    if not entries:
        return b""
    words = array("Q", entries)
    for name in names:
        words.extend([getattr(entry, name) for entry in entries.values()])
    return words.tobytes()


def _rows(data: bytes, width: int) -> zip[tuple[int, ...]]:
    words = array("Q")
    words.frombytes(data)
    count = len(words) // width
    return zip(*(words[column * count : (column + 1) * count] for column in range(width)), strict=True)
