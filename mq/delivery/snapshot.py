"""The state as the content of a checkpoint, and back.

`freeze` is quick, and the state must not change meanwhile.  `encode` takes longer, with what
`freeze` returned, while the state goes on.  That works because nothing that `freeze` returns
is changed afterwards: chunks are copied before they change, and the entries of messages are
replaced.

Long arrays are not part of the encoding.  The caller saves them, and loads each when its chunk
is first needed.  A queue is decoded when it is first needed (unloaded.py); one that is not
loaded is encoded as it was.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice, repeat
from struct import pack
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from mq.errors import Unsupported

from . import shares
from .backlog import Arrays, Chunk, Held
from .board import Board
from .calendar import Scheduled
from .dedup import Seen
from .options import Declaration
from .queue import Delayed, Flight, QueueState
from .state import State, declaration_of
from .traits import LEVELS
from .unloaded import Image, Unloaded

# Stands in an encoding where something long goes.  In msgpack the byte 0xC1 begins no value and is in no
# text.  A number may have eight of it, not nine.
HOLE: Final = msgspec.Raw(b"\xc1" * 9 + b"hole")
PART: Final = 1024  # entries that are encoded, and decoded, in one call
E = TypeVar("E", Delayed, Flight)
K = TypeVar("K")
V = TypeVar("V")
Place = tuple[int, ...]
Kept = tuple[Place, Place | None]  # where a chunk's ids are, and its positions
Parts = list["bytes | memoryview | msgspec.Raw"]  # bytes, one after the other
Save = Callable[["array[int]"], Place]
Load = Callable[[int, int, Chunk], Arrays]  # queue number, priority, chunk
Stored = list[tuple[int, int, Kept]]  # of each chunk: first id (of the first: the head), how many, where
Lane = tuple[int, int, Stored]  # priority, the head's index in the first chunk, chunks


class Content(msgspec.Struct, array_like=True):
    """What a checkpoint holds."""

    generation: int
    images: list[Image]
    shares: bytes = b""  # messages that several queues hold: see `shares.Frozen`
    holders: list[tuple[int, ...]] = []
    schedules: list[Scheduled] = []
    moved: list[tuple[int, str, str]] = []  # see `State.moved`


class Contents(msgspec.Struct, array_like=True):
    """What a queue holds, beside what its image says."""

    declaration: Declaration
    declared_at: int
    body_bytes: int
    lanes: list[Lane]
    delayed: bytes  # columns of u64, see COLUMNS
    flights: bytes
    delayed_traits: dict[int, Delayed] = {}  # those that are more than their priority
    flights_traits: dict[int, Flight] = {}
    dedup: dict[str, Seen] = {}


COLUMNS: dict[type, tuple[str, ...]] = {
    Delayed: ("due", "attempts", "position", "backoff_until"),
    Flight: ("receipt", "deadline", "attempts", "position"),
}


class Loaded(NamedTuple):
    """One queue as it was: what its image will be made of."""

    image: Image
    contents: Contents
    lanes: list[list[Held]]
    delayed: list[dict[int, Delayed]]
    flights: list[dict[int, Flight]]
    dedup: dict[str, Seen]


class Frozen(NamedTuple):
    """What was true at one moment."""

    generation: int
    queues: list[Image | Loaded]
    shares: shares.Frozen
    schedules: list[Scheduled]
    moved: list[tuple[int, str, str]]


def freeze(state: State) -> Frozen:
    """What is true now."""
    state.count()
    renames = tuple(state.since_loaded)
    queues: list[Image | Loaded] = [
        msgspec.structs.replace(image, renames=image.renames + renames) if renames else image
        for image in state.unloaded if image.number not in state.queues
    ]  # fmt: skip
    for queue in state.queues.values():
        contents = Contents(declaration_of(queue), queue.declared_at, queue.bytes, [], b"", b"")
        lanes: list[list[Held]] = []
        for priority, lane in [(0, queue.waiting), *queue.lanes.items()]:
            at, held = lane.chunks()
            contents.lanes.append((priority, at, []))
            lanes.append(held)
        goes, alarm = queue.idle.seconds is not None, queue.timers.alarm
        image = Image(
            queue.number, queue.name, goes, 0, *queue.counted, alarm.store, alarm.wall, (), msgspec.Raw(),
            tuple(queue.subscriptions.values()),
        )  # fmt: skip
        delayed, flights, dedup = queue.delayed.keep(), queue.flights.keep(), dict(queue.dedup.items())
        queues.append(Loaded(image, contents, lanes, delayed, flights, dedup))
    shares, schedules = state.board.shared.freeze(), state.calendar.kept()
    return Frozen(state.generation, queues, shares, schedules, state.moved.copy())


def encode(
    frozen: Frozen, save: Save, rest: Callable[[], object] = int
) -> tuple[Parts, set[int], list[tuple[Held, Kept]]]:
    """The bytes in parts, the packs that they name, and what was saved for them and where.

    *rest* is called after each millisecond of it, or so: other threads are to run meanwhile, and to encode
    all that there is, or to decode it, is one call that none of them can interrupt.
    """
    saved: list[tuple[Held, Kept]] = []
    images: list[Image] = []
    holes: list[Parts] = []
    for each in frozen.queues:
        if isinstance(each, Image):
            image: Image = each
            holes.append([each.contents])
        else:
            image, parts = _image(each, save, saved, rest)
            holes.append(parts)
        images.append(msgspec.structs.replace(image, contents=HOLE))
    packs = {pack for image in images for pack in image.packs}
    shares, holders = frozen.shares.columns()
    holes.append(_bin([shares]))
    hole: Any = HOLE
    content = Content(frozen.generation, images, hole, holders, frozen.schedules, frozen.moved)
    return _filled(content, holes), packs, saved


def _filled(whole: object, holes: list[Parts]) -> Parts:
    """*whole* as msgpack, with *holes* in place of each HOLE in it: what is long is not copied for that."""
    first, *pieces = msgspec.msgpack.encode(whole).split(bytes(HOLE))
    found: Parts = [first]
    for parts, piece in zip(holes, pieces, strict=True):
        found += [*parts, piece]
    return found


def _bin(parts: Parts) -> Parts:
    """*parts* together, as one value of msgpack that is bytes."""
    size = sum(map(len, parts))
    if size < 1 << 8:
        return [bytes([0xC4, size]), *parts]
    return [pack(">BH", 0xC5, size) if size < 1 << 16 else pack(">BI", 0xC6, size), *parts]


def _image(
    loaded: Loaded, save: Save, saved: list[tuple[Held, Kept]], rest: Callable[[], object]
) -> tuple[Image, Parts]:
    """The image, and its contents."""
    image, contents, lanes, delayed, flights, dedup = loaded
    lowest = [contents.declared_at, *(each.position for each in image.subscriptions)]
    for (_, _, stored), chunks in zip(contents.lanes, lanes, strict=True):
        lowest += [held.first for held in chunks[:1]]  # a record is never before where its id says
        for held in chunks:
            kept = held.saved
            if kept is None:
                assert held.arrays
                ids, positions = held.arrays
                kept = save(ids), None if positions is None else save(positions)
                saved.append((held, kept))
            stored.append((held.first, held.size, kept))
    # What is kept is believed by every later opening, so it is decoded before.
    _decode(image, msgspec.Raw(msgspec.msgpack.encode(contents)))
    delayed_columns, delayed_traits = _split(delayed, COLUMNS[Delayed], lowest, rest)
    flights_columns, flights_traits = _split(flights, COLUMNS[Flight], lowest, rest)
    lowest += [seen.position for seen in islice(dedup.values(), 1)]  # they are by position
    packs = {place[0] for place in _places(contents)}
    fields = (  # of Contents
        contents.declaration, contents.declared_at, contents.body_bytes, contents.lanes,
        *repeat(HOLE, 5),
    )  # fmt: skip
    holes = [
        _bin(delayed_columns), _bin(flights_columns), _pack(image, delayed_traits, dict[int, Delayed], rest),
        _pack(image, flights_traits, dict[int, Flight], rest), _pack(image, dedup, dict[str, Seen], rest),
    ]  # fmt: skip
    image = msgspec.structs.replace(image, lowest=min(lowest), packs=tuple(sorted(packs)))
    return image, _filled(fields, holes)


def _parts(entries: Iterable[tuple[K, V]], rest: Callable[[], object]) -> Iterator[dict[K, V]]:
    """*entries*, some at a time; *rest* is called behind each part that is full: there may be many queues."""
    items = iter(entries)
    while part := dict(islice(items, PART)):
        yield part
        if len(part) == PART:
            rest()


def _pack(image: Image, entries: dict[Any, Any], kind: Any, rest: Callable[[], object]) -> Parts:
    """*entries* as msgpack: made, and decoded as *kind* to be sure, a part at a time."""
    found: Parts = [_map_head(len(entries))]
    for part in _parts(entries.items(), rest):
        data = msgspec.msgpack.encode(part)
        _decode(image, data, kind)
        found.append(data[len(_map_head(len(part))) :])
    return found


def _map_head(count: int) -> bytes:
    """What msgpack puts before the keys and values of a map."""
    if count < 1 << 4:
        return bytes([0x80 | count])
    return pack(">BH", 0xDE, count) if count < 1 << 16 else pack(">BI", 0xDF, count)


def places(data: bytes | msgspec.Raw) -> Iterator[Place]:
    """Where the arrays are that the encoding names."""
    for image in msgspec.msgpack.decode(data, type=Content).images:
        yield from _places(msgspec.msgpack.decode(image.contents, type=Contents))


def _places(contents: Contents) -> Iterator[Place]:
    for _, _, stored in contents.lanes:
        for _, _, kept in stored:
            yield from (place for place in kept if place)


def restore(data: bytes | msgspec.Raw, load: Load) -> State:
    """The state that was frozen."""
    state = State()
    content = msgspec.msgpack.decode(data, type=Content)
    state.generation, state.moved = content.generation, content.moved
    state.board.shared.restore(content.shares, content.holders)
    state.calendar.restore(content.schedules)
    state.add_unloaded(Unloaded(content.images, partial(_load_queue, state.board, load)))
    return state


def _decode(image: Image, data: msgspec.Raw | bytes, kind: Any = Contents) -> Any:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise Unsupported(
            f"the checkpoint does not say what queue {image.name!r} holds ({error}): delete the store's"
            " directory checkpoint/, which is a cache, and open it again"
        ) from None


def _load_queue(board: Board, load: Load, image: Image) -> QueueState:
    contents: Contents = _decode(image, image.contents)
    queue = QueueState(image.number, image.name, board)
    queue.declare(contents.declaration, contents.declared_at)
    queue.bytes = contents.body_bytes
    for priority, at, stored in contents.lanes:
        if stored:
            chunks = [Chunk.stored(first, size, kept, _loader(load, image.number, priority))
                      for first, size, kept in stored]  # fmt: skip
            queue.ready.lane(priority).restore(at, chunks)
    ids, dues, attempts, positions, rests, levels = _read_columns(contents.delayed, 6)
    entries = map(Delayed, dues, attempts, positions, map(LEVELS.__getitem__, levels), rests)
    queue.delayed.put_all(ids, entries)
    queue.delayed.put_all(contents.delayed_traits.keys(), contents.delayed_traits.values())
    ids, receipts, deadlines, attempts, positions, levels = _read_columns(contents.flights, 6)
    flights = map(Flight, receipts, deadlines, attempts, positions, map(LEVELS.__getitem__, levels))
    queue.flights.put_all(ids, flights)
    queue.flights.put_all(contents.flights_traits.keys(), contents.flights_traits.values())
    queue.dedup.restore(contents.dedup)
    for each in image.subscriptions:
        queue.subscribe(each)
    if queue.delayed or queue.flights:
        queue.reindex()
    else:
        queue.timers.set_alarms()
    for was, now in image.renames:
        queue.follow(was, now)
    queue.counted, queue.unchanged = (image.total, image.live_bytes), True
    board.changed.pop(image.number, None)
    return queue


def _loader(load: Load, number: int, priority: int) -> Callable[[Chunk], Arrays]:
    return lambda chunk: load(number, priority, chunk)


def _split(
    entries: list[dict[int, E]], names: tuple[str, ...], lowest: list[int], rest: Callable[[], object]
) -> tuple[Parts, dict[int, E]]:
    """Ids, then each field and the priority of all entries that are no more, as u64; and the others.

    The lowest position among some is appended to *lowest*.
    """
    columns = [array("Q") for _ in ("id", *names, "priority")]
    others: dict[int, E] = {}
    for part in _parts(chain.from_iterable(each.items() for each in entries), rest):
        plain = {id: entry for id, entry in part.items() if entry.traits.plain}
        others.update({id: entry for id, entry in part.items() if id not in plain})
        columns[0].extend(plain)
        for column, name in zip(columns[1:], names, strict=False):
            column.extend([getattr(entry, name) for entry in plain.values()])
        columns[-1].extend([entry.traits.priority for entry in plain.values()])
        lowest.append(min([entry.position for entry in part.values()]))
    return [memoryview(column).cast("B") for column in columns if column], others


def _read_columns(data: bytes, width: int) -> list[array[int]]:
    words = array("Q")
    words.frombytes(data)
    count = len(words) // width
    return [words[column * count : (column + 1) * count] for column in range(width)]
