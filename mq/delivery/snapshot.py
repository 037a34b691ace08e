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
from collections.abc import Callable
from typing import Any

import msgspec

from .backlog import Arrays, Chunk, Held
from .events import Declaration
from .queue import Delayed, Flight, QueueState
from .state import State, declaration_of

Place = tuple[int, ...]
Kept = tuple[Place, Place | None]  # where a chunk's ids are, and its positions
Save = Callable[["array[int]"], Place]
Load = Callable[[int, Chunk], Arrays]  # queue number, chunk


class Image(msgspec.Struct, array_like=True):
    """One queue."""

    number: int
    declaration: Declaration
    declared_at: int
    body_bytes: int
    at: int  # the head's index in the first chunk
    chunks: list[tuple[int, int, Kept]]  # first id, how many, where
    delayed: bytes  # columns of u64, see COLUMNS
    flights: bytes


COLUMNS: dict[type, tuple[str, ...]] = {
    Delayed: ("due", "attempts", "position"),
    Flight: ("receipt", "deadline", "attempts", "position"),
}

Frozen = list[tuple[Image, list[Held], dict[int, Delayed], dict[int, Flight]]]


def freeze(state: State) -> Frozen:
    """What is true now."""
    frozen: Frozen = []
    for queue in state.queues.values():
        at, chunks = queue.waiting.chunks()
        image = Image(queue.number, declaration_of(queue), queue.declared_at, queue.bytes, at, [], b"", b"")
        frozen.append((image, chunks, queue.delayed.copy(), queue.flights.copy()))
    return frozen


def encode(frozen: Frozen, save: Save) -> tuple[bytes, list[tuple[Held, Kept]]]:
    """The bytes, and what was saved for them and where."""
    saved: list[tuple[Held, Kept]] = []
    for image, chunks, delayed, flights in frozen:
        for held in chunks:
            kept = held.saved
            if kept is None:
                assert held.arrays
                ids, positions = held.arrays
                kept = save(ids), None if positions is None else save(positions)
                saved.append((held, kept))
            image.chunks.append((held.first, held.size, kept))
        image.delayed = _columns(delayed, COLUMNS[Delayed])
        image.flights = _columns(flights, COLUMNS[Flight])
    return msgspec.msgpack.encode([image for image, *_ in frozen]), saved


def restore(data: bytes | msgspec.Raw, load: Load) -> State:
    """The state that was frozen."""
    state = State()
    for image in msgspec.msgpack.decode(data, type=list[Image]):
        queue = QueueState(image.number, image.declaration.name)
        queue.declare(image.declaration, image.declared_at)
        queue.bytes = image.body_bytes

        def loader(chunk: Chunk, number: int = image.number) -> Arrays:
            return load(number, chunk)

        chunks = [Chunk.stored(first, size, kept, loader) for first, size, kept in image.chunks]
        queue.waiting.restore(image.at, chunks)
        for id, due, attempts, position in _rows(image.delayed, 4):
            queue.put_delayed(id, Delayed(due, attempts, position))
        for id, receipt, deadline, attempts, position in _rows(image.flights, 5):
            queue.put_flight(id, Flight(receipt, deadline, attempts, position))
        state.queues[queue.number] = queue
        if queue.name:
            state.by_name[queue.name] = queue
    return state


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
