"""Repair: a flipped bit or a truncation costs what it hits, and nothing else (P3, P7, P8, P10)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

import pytest
from faults import Faulty, Image, PowerCut, cut_at
from logfiles import items_of
from opened import NOW, Held, contents, open_on

from mq.api.broker import Broker
from mq.delivery import records
from mq.delivery.decode import refusals
from mq.engine.store import Store
from mq.errors import CorruptStore
from mq.storage import record, segment, shared
from mq.storage.look import Found
from mq.storage.repair import Loss, repair
from mq.storage.walk import walk

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
    maintenance.cleaning.clean()
    maintenance.checkpoints.write()
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
    walked = walk(Image(files), "s", records.PUBLISH)
    published: dict[int, object] = {}
    by_file: dict[str, list[tuple[int, int, Found]]] = {}
    for file in walked.files:
        for item in items_of(walked, file):
            assert isinstance(item, Found)
            start = file.segment.offset(item.lsn)
            by_file.setdefault(file.path, []).append((start, start + item.size, item))
            id = records.message_of(item.kind, item.lsn, item.payload)
            if id is not None:
                published[id] = records.body_of(item.kind, item.flags, item.ms, item.payload)[1]
    assert walked.verdict == ("clean" if name == "closed" else "open")
    return Made(files, expected, order, published, by_file)


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
    losses = repair(disk, "s", records.NEW, records.message_of, refusals)
    repaired = disk.files()
    assert repair(Image(repaired), "s", records.NEW, records.message_of, refusals) == []
    again = Image(repaired)
    repair(again, "s", records.NEW, records.message_of, refusals)
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
        may_go = {records.message_of(each.kind, each.lsn, each.payload) for each in hit}
        may_return = {int.from_bytes(each.payload[:8], "little") for each in hit if each.kind == records.ACK}
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
        may_go = {records.message_of(each.kind, each.lsn, each.payload) for each in cut}
        may_return = {int.from_bytes(each.payload[:8], "little") for each in cut if each.kind == records.ACK}
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
    may_go = {records.message_of(each.kind, each.lsn, each.payload) for each in here}
    may_return = {int.from_bytes(each.payload[:8], "little") for each in here if each.kind == records.ACK}
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


# ── how it is done ─────────────────────────────────────────────────────────────────


def fix(disk: Image | Faulty, *, dry_run: bool = False) -> list[Loss]:
    return repair(disk, "s", records.NEW, records.message_of, refusals, dry_run=dry_run)  # type: ignore[arg-type]


def flipped(files: Files, path: str, *offsets: int) -> dict[str, bytes]:
    data = bytearray(files[path])
    for at in offsets:
        data[at] ^= 0x10
    return {**files, path: bytes(data)}


def places(name: str, kind: int) -> list[tuple[str, int, Found]]:
    """Where the records of *kind* begin: file and offset."""
    return [
        (path, start, each)
        for path, found in sorted(made(name).records.items())
        for start, _, each in found
        if each.kind == kind
    ]


def worst() -> dict[str, bytes]:
    """FORMAT, a header, a fence, some records, and a whole segment: all of it at once."""
    store = made("plain")
    first, second, third = sorted(store.records)
    files = flipped(store.files, first, 3, segment.HEADER_BYTES + 5, store.records[first][3][0] + 30)
    files = flipped(files, third, segment.HEADER_BYTES + 5, segment.HEADER_BYTES + 70)
    files["s/FORMAT"] = b"mq what?\n"
    del files[second]
    return files


@pytest.mark.parametrize("partly", [False, True], ids=["before a call", "in the middle of a write"])
@pytest.mark.parametrize("name", ["plain", "cleaned"])
def test_it_may_be_killed_at_every_call_and_run_again(name: str, partly: bool) -> None:
    """P8: in the end the same is served as if nothing had come in between, and the first copies are there."""
    if name == "plain":
        files = worst()
    else:
        path, at, _ = places(name, records.RELOCATE)[0]
        files = flipped(made(name).files, path, at + 30, segment.HEADER_BYTES + 30, 60)
    whole = mended(files)
    assert len(whole.losses) >= 3
    for call in range(1000):
        image = Image(files)
        try:
            fix(Faulty(image, cut_at(image, call, partly=partly)))
        except PowerCut:
            pass
        else:
            break
        found = mended(image.files())
        assert found.held == whole.held, call
        assert copies(whole) <= copies(found), call
    assert call > 20


def copies(found: Repaired) -> set[bytes]:
    return {data for path, data in found.files.items() if "/quarantine/" in path}


def test_what_was_damaged_is_copied_before_it_is_touched() -> None:
    """P10."""
    store = made("plain")
    path, at, hit = places("plain", records.PUBLISH)[0]
    files = flipped(store.files, path, at + 2, at + 26)
    image = Image(files)
    (loss,) = fix(image)
    copy = image.files()[loss.copy]
    assert loss.copy == f"s/quarantine/{path[6:]}-{at}.bin"
    assert (loss.path, loss.offset, loss.size, loss.ids) == (path, at, hit.size, (hit.lsn,))
    assert copy == files[path][at : at + hit.size]
    # Only the header was written over.
    after = image.files()[path]
    assert after[at + record.HEADER_BYTES :] == files[path][at + record.HEADER_BYTES :]
    assert after[:at] == files[path][:at]


def test_a_store_that_is_whole_or_torn_is_left_as_it_is() -> None:
    for name in MAKERS:
        files = made(name).files
        image = Image(files)
        assert fix(image) == []
        assert image.files() == files
        last = max(made(name).records)
        torn = {**files, last: files[last][: made(name).records[last][-1][1]] + b"torn"}
        image = Image(torn)
        assert fix(image) == []
        assert image.files() == torn


def test_a_dry_run_says_the_same_and_changes_nothing() -> None:
    image = Image(worst())
    before = image.files()
    said = fix(image, dry_run=True)
    assert image.files() == before
    assert said == fix(image)


def test_a_group_around_the_damage_is_two_groups() -> None:
    """What stands before it is applied, and what follows too: one bad record costs only itself."""
    disk = Image()
    with open_on(disk, segment_bytes=1 << 16) as broker:
        ids = broker.queue("a").publish_many([b"%d" % number for number in range(5)])
    path = f"s/log/{0:020}.seg"
    files = flipped(disk.files(), path, ids[2] + segment.HEADER_BYTES + 8)
    found = mended(files)
    assert found.order == {"a": [ids[0], ids[1], ids[3], ids[4]]}
    assert found.losses[0].ids == (ids[2],)


def test_messages_of_a_queue_whose_declaration_was_lost_can_be_reached() -> None:
    disk = Image()
    with open_on(disk, segment_bytes=1 << 16) as broker:
        broker.queue("a").publish("in a")
        broker.queue("empty", visibility_timeout=5)
        broker.queue("b").publish("in b")
        broker.queue("c").publish("in c")
    declared = [
        item for file in walk(disk, "s", records.NEW).files
        for item in items_of(walk(disk, "s", records.NEW), file)
        if isinstance(item, Found) and item.kind == records.DECLARE
    ]  # fmt: skip
    path = f"s/log/{0:020}.seg"
    files = disk.files()
    for item in declared[1:3]:
        files = flipped(files, path, item.lsn + segment.HEADER_BYTES + 26)
    disk = Image(files)
    fix(disk)
    with open_on(disk) as broker:
        assert broker.queues() == ["a", "c", "unnamed-3"]
        # Numbers that are taken stay so, although some are not known any more.
        broker.queue("b").publish("new")
        assert [each.body for each in broker.queue("c").peek()] == ["in c"]
    with open_on(disk) as broker:
        assert broker.queues() == ["a", "b", "c", "unnamed-3"]
        broker.queue("unnamed-3").receive(timeout=0).ack()
        assert [each.body for each in broker.queue("b").peek()] == ["new"]
    with open_on(disk) as broker:
        assert broker.queues() == ["a", "b", "c"]


def test_the_bytes_of_a_missing_tail_are_never_issued_again() -> None:
    """Somebody may still know the ids that were lost."""
    store = made("closed")
    last = max(store.records)
    disk = Image({path: data for path, data in store.files.items() if path != last})
    (_, loss) = fix(disk)
    synced = shared.read_mark(Image(store.files), "s/mark", store.files["s/mark"][:8])[shared.SYNCED]
    assert loss.copy == ""
    with open_on(disk) as broker:
        assert broker.queue("a").publish("new") >= synced


def test_with_every_segment_gone_the_store_opens_empty() -> None:
    store = made("closed")
    disk = Image({path: data for path, data in store.files.items() if path not in store.records})
    assert fix(disk)
    with open_on(disk) as broker:
        assert broker.queues() == []
        assert broker.queue("a").publish("new") > max(store.published)
    assert fix(disk) == []


def test_a_checkpoint_that_claims_more_than_the_log_has_keeps_its_claim() -> None:
    """P7: killed after the checkpoints are dropped, the next repair still knows what was on the disk."""
    store = made("cleaned")
    last = max(store.records)
    files = {path: data for path, data in store.files.items() if path != "s/mark"}
    at = [start for start, _, each in store.records[last] if each.kind == record.HEAD][-1]
    files[last] = files[last][: at + 5]  # what is left says by itself where the log begins
    whole = mended(files, now=NOW)
    assert whole.losses
    calls = 0
    for call in range(1000):
        image = Image(files)
        try:
            fix(Faulty(image, cut_at(image, call)))
        except PowerCut:
            calls += 1
            if fix(Image(image.files()), dry_run=True):
                with pytest.raises(CorruptStore):
                    open_on(Image(image.files()))
            else:  # only a last sync was left out: the log says itself that something was lost
                assert lost(image)
                assert contents(open_on(Image(image.files()))) == whole.held
        else:
            break
    assert calls


def lost(image: Image) -> list[Found]:
    """The LOST records in it."""
    walked = walk(image, "s", records.NEW)
    items = [item for file in walked.files for item in items_of(walked, file)]
    return [item for item in items if isinstance(item, Found) and item.kind == record.LOST]


def test_damage_where_damage_was_repaired_is_copied_too() -> None:
    """P10: the first copy stays as it is."""
    store = made("plain")
    path, at, _ = places("plain", records.PUBLISH)[0]
    image = Image(flipped(store.files, path, at + 26))
    (first,) = fix(image)
    before = image.files()[first.copy]
    image = Image(flipped(image.files(), path, at + 27))
    (second,) = fix(image)
    assert second.copy == f"s/quarantine/{path[6:]}-{at}.2.bin"
    assert image.files()[first.copy] == before
    assert image.files()[second.copy] != before


def test_another_stores_segment_is_not_written_over() -> None:
    files = dict(made("plain").files)
    other = made("closed").files
    path = f"s/log/{1024:020}.seg"
    assert path in other
    files[path] = other[path]
    image = Image(files)
    with pytest.raises(CorruptStore, match="another store"):
        fix(image)
    assert image.files()[path] == files[path]


def test_a_long_stretch_becomes_several_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mq.storage.repair.LOST_BYTES_MAX", 100)
    for name in MAKERS:
        store = made(name)
        for path in store.records:
            found = mended({each: data for each, data in store.files.items() if each != path})
            assert found.losses


# ── salvage ────────────────────────────────────────────────────────────────────────


def test_salvage_repairs_serves_the_rest_and_logs_what_was_lost(caplog: pytest.LogCaptureFixture) -> None:
    store = made("plain")
    path, at, hit = next(each for each in places("plain", records.PUBLISH) if each[2].payload == b"fourth")
    files = flipped(store.files, path, at + 25)
    with pytest.raises(CorruptStore, match="mq repair"):
        open_on(Image(files))
    broker = Broker(
        Store(
            "s", sync="always", read_only=False, segment_bytes=1024, clock=lambda: NOW, disk=Image(files),
            salvage=True,
        )
    )  # fmt: skip
    assert contents(broker).keys() == store.expected.keys() - {hit.lsn}
    lines = [each.getMessage() for each in caplog.records if each.name == "mq"]
    assert len(lines) == 1
    assert f"{path} at offset {at}" in lines[0]
    assert str(hit.lsn) in lines[0]


def test_salvage_of_a_store_that_is_whole_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    Store(
        "s", sync="always", read_only=False, segment_bytes=1024, clock=lambda: NOW,
        disk=Image(made("plain").files), salvage=True,
    )  # fmt: skip
    assert not caplog.records


def test_a_segment_that_was_given_back_is_not_called_missing() -> None:
    """Where the log begins is said behind the damage."""
    path, at, _ = places("cleaned", records.PUBLISH)[0]
    assert path == min(made("cleaned").records) > f"s/log/{0:020}.seg"
    files = flipped(made("cleaned").files, path, at + 26)
    assert walk(Image(files), "s", records.PUBLISH).missing == []
    assert len(mended(files).losses) == 1
