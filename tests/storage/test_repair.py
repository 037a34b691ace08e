"""Repair: a flipped bit or a truncation costs what it hits, and nothing else (P3, P7, P8, P10)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

import pytest
from faults import Image
from opened import NOW, Held, contents, open_on

from mq.broker import Broker
from mq.delivery import events
from mq.storage import segment
from mq.storage.repair import Loss, repair
from mq.storage.walk import Found, walk
from mq.store import Store

DAY = 86_400.0
STEP = int(os.environ.get("MQ_DAMAGE_STEP", "13"))  # of bits; prime to 8, so that each of a byte has its turn
Files = Mapping[str, bytes]


class Made(NamedTuple):
    """A store that is whole, and what there is to know of it."""

    files: dict[str, bytes]
    expected: dict[int, Held]
    order: dict[str, list[int]]  # what is ready, by queue
    published: dict[int, object]  # every body that ever was, by id
    records: dict[str, list[tuple[int, int, Found]]]  # by file: start, stop, record


def plain() -> Image:
    """Three segments of two queues: groups, an ack, a nack, deliveries, torn bytes behind a fence."""
    disk = Image()
    broker = open_on(disk)
    a, b = broker.queue("a"), broker.queue("b", visibility_timeout=5)
    a.publish_many([b"first", "second", {"third": 3}])
    b.publish("for b")
    a.receive(timeout=0).ack()
    a.receive(timeout=0).nack(delay=60)
    a.publish(b"fourth")
    files = disk.files()
    files[f"s/log/{0:020}.seg"] = files[f"s/log/{0:020}.seg"].rstrip(b"\0") + b"torn"
    disk = Image(files)
    with open_on(disk) as broker:
        a = broker.queue("a")
        a.publish(b"fifth")
        a.receive(timeout=0)
        a.publish("sixth")
    disk = Image(disk.files(), preallocates=True)
    broker = open_on(disk, now=NOW + 50 * DAY)  # so long after that it takes a new segment
    a = broker.queue("a")
    a.publish(b"seventh")
    a.publish_many(["eighth", b"", "tenth"])
    broker.queue("b").publish({"last": True})
    return disk


def cleaned() -> Image:
    """The head has moved on: messages and declarations stand where the cleaner put them; a checkpoint."""
    disk = Image()
    broker = Broker(
        Store(
            "s", sync="always", read_only=False, segment_bytes=1024, clock=lambda: NOW, disk=disk,
            background=False,
        )
    )  # fmt: skip
    a, b = broker.queue("a"), broker.queue("b")
    a.publish("stays")
    b.publish({"stays": "too"})
    a.receive(timeout=0).nack(delay=60)
    for number in range(24):
        b.publish(b"%d" % number * 20)
    for delivery in b.receive_many(20, timeout=0):
        delivery.ack()
    maintenance = broker._store.maintenance
    maintenance.clean()
    maintenance.checkpoint()
    a.publish_many(["after", "the checkpoint"])
    return disk


def closed() -> Image:
    """Two segments, closed in order."""
    disk = Image()
    with open_on(disk) as broker:
        queue = broker.queue("a")
        queue.publish_many([b"%d" % number * 30 for number in range(12)])
        queue.receive(timeout=0).ack()
        queue.publish_many([b"x" * 200, b"y" * 200, b"z" * 200])
    return disk


MAKERS = {each.__name__: each for each in (plain, cleaned, closed)}


@cache
def made(name: str) -> Made:
    disk = MAKERS[name]()
    files = {path: data for path, data in disk.files().items() if path != "s/reserve"}
    broker = open_on(Image(files), now=NOW + 50 * DAY, read_only=True)
    expected, order = contents(broker), ready(broker)
    walked = walk(Image(files), "s", events.PUBLISH)
    published: dict[int, object] = {}
    records: dict[str, list[tuple[int, int, Found]]] = {}
    for file in walked.files:
        for item in walked.items(file):
            assert isinstance(item, Found)
            start = file.segment.offset(item.lsn)
            records.setdefault(file.path, []).append((start, start + item.size, item))
            id = events.message_of(item.kind, item.lsn, item.payload)
            if id is not None:
                published[id] = events.body_of(item.kind, item.ms, item.payload)[1]
    assert walked.verdict == ("clean" if name == "closed" else "open")
    return Made(files, expected, order, published, records)


def ready(broker: Broker) -> dict[str, list[int]]:
    return {name: [each.id for each in broker.queue(name).peek(10_000)] for name in broker.queues()}


class Repaired(NamedTuple):
    losses: list[Loss]
    held: dict[int, Held]
    raw: dict[int, bytes]
    order: dict[str, list[int]]
    files: dict[str, bytes]


def mended(files: Files, *, now: float = NOW + 50 * DAY) -> Repaired:
    """The store after a repair, a second one having found nothing to do."""
    disk = Image(files)
    losses = repair(disk, "s", events.PUBLISH, events.message_of)
    repaired = disk.files()
    assert repair(Image(repaired), "s", events.PUBLISH, events.message_of) == []
    again = Image(repaired)
    repair(again, "s", events.PUBLISH, events.message_of)
    assert again.files() == repaired
    # Looking at it changes nothing, and opening it for good leaves nothing to be repaired either.
    broker = open_on(disk, now=now)
    held, order = contents(broker), ready(broker)
    raw = {
        message.id: message.raw
        for name in broker.queues()
        for state in ("ready", "delayed", "in_flight")
        for message in broker.queue(name).peek(10_000, state=state)
    }
    return Repaired(losses, held, raw, order, repaired)


def flips(data: bytes, step: int, upto: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Every *step*th bit inverted in its turn; zeros at the end but for a few are left out."""
    used = min(len(data), len(data.rstrip(b"\0")) + 3) if upto is None else upto
    for bit in range(0, used * 8, step):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        yield bit // 8, bytes(damaged)


def check_order(store: Made, found: Repaired) -> None:
    for name, ids in found.order.items():
        assert ids == sorted(ids), name


SEGMENTS = [
    pytest.param(name, path, id=f"{name}-{int(path[6:26])}")
    for name in MAKERS
    for path in sorted(made(name).records)
]


@pytest.mark.parametrize("name, path", SEGMENTS)
def test_a_flipped_bit_costs_at_most_the_record_that_it_is_in(name: str, path: str) -> None:
    store = made(name)
    repaired = 0
    for at, data in flips(store.files[path], STEP):
        found = mended({**store.files, path: data})
        repaired += bool(found.losses)
        hit = [each for start, stop, each in store.records[path] if start <= at < stop]
        may_go = {events.message_of(each.kind, each.lsn, each.payload) for each in hit}
        may_return = {int.from_bytes(each.payload[:8], "little") for each in hit if each.kind == events.ACK}
        assert store.expected.keys() - found.held.keys() <= may_go, at
        assert found.held.keys() - store.expected.keys() <= may_return, at
        for id, body in found.raw.items():
            assert body == store.published[id], (at, id)
        check_order(store, found)
        reported = {id for loss in found.losses for id in loss.ids}
        assert store.expected.keys() - found.held.keys() <= reported, at
        if not hit and at >= segment.HEADER_BYTES:
            assert not found.losses, at  # void
    assert repaired


@pytest.mark.parametrize("name, path", SEGMENTS)
def test_a_truncation_costs_what_was_cut_off(name: str, path: str) -> None:
    store = made(name)
    for size in range(0, len(store.files[path].rstrip(b"\0")), -(-STEP // 4)):
        found = mended({**store.files, path: store.files[path][:size]})
        cut = [each for _, stop, each in store.records[path] if stop > size]
        may_go = {events.message_of(each.kind, each.lsn, each.payload) for each in cut}
        may_return = {int.from_bytes(each.payload[:8], "little") for each in cut if each.kind == events.ACK}
        assert store.expected.keys() - found.held.keys() <= may_go, size
        assert found.held.keys() - store.expected.keys() <= may_return, size
        for id, body in found.raw.items():
            assert body == store.published[id], (size, id)
        check_order(store, found)
        assert bool(found.losses) == bool(cut) or not found.losses, size


@pytest.mark.parametrize("name, path", SEGMENTS)
def test_a_missing_segment_costs_what_was_in_it(name: str, path: str) -> None:
    store = made(name)
    found = mended({each: data for each, data in store.files.items() if each != path})
    here = [each for _, _, each in store.records[path]]
    may_go = {events.message_of(each.kind, each.lsn, each.payload) for each in here}
    may_return = {int.from_bytes(each.payload[:8], "little") for each in here if each.kind == events.ACK}
    assert store.expected.keys() - found.held.keys() <= may_go
    assert found.held.keys() - store.expected.keys() <= may_return
    assert found.losses
    check_order(store, found)


@pytest.mark.parametrize("name", MAKERS)
def test_damage_to_what_stands_beside_the_log_costs_nothing(name: str) -> None:
    store = made(name)
    for path, original in store.files.items():
        if "/log/" in path:
            continue
        upto = 64 if path == "s/mark" else len(original)
        cases = [data for _, data in flips(original, STEP, upto)]
        cases += [original[:size] for size in range(0, upto, STEP)]
        for data in cases:
            found = mended({**store.files, path: data})
            assert found.held == store.expected, path
            assert found.order == store.order, path
        gone = {each: data for each, data in store.files.items() if each != path}
        assert mended(gone).held == store.expected, path
