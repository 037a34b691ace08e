"""Every flipped bit and every truncation of every file of a small store (P3, P7).

Whatever is done to it, the store either refuses with an error of the tree, or serves
only bodies that were published; and what it does not serve it does not call intact.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from faults import Image
from opened import NOW, contents, open_on

from mq.errors import CorruptStore, MqError, StorageError
from mq.storage import shared
from mq.storage.recovery import Verdict

SEGMENTS = [f"s/log/{base:020}.seg" for base in (0, 1024, 2048)]


DAY = 86_400.0


@cache
def small_store(*, closed: bool = True) -> tuple[dict[str, bytes], dict[int, object]]:
    """Three segments: text, bytes, structures, a group, an ack, a delivery, a nack, a fence, a rotation."""
    disk = Image()
    queue = open_on(disk).queue("a")
    queue.publish_many([b"first", "second", {"third": 3}])
    queue.receive(timeout=0).ack()
    queue.receive(timeout=0).nack(delay=60)
    queue.publish(b"fourth")
    files = disk.files()
    files[SEGMENTS[0]] += b"torn"  # killed while it wrote; the next recovery fences it
    disk = Image(files)
    with open_on(disk) as broker:
        queue = broker.queue("a")
        queue.publish(b"fifth")
        queue.receive(timeout=0)
        queue.publish("sixth")
    disk = Image(disk.files(), preallocates=True)
    broker = open_on(disk, now=NOW + 50 * DAY)  # so long after that it takes a new segment
    queue = broker.queue("a")
    queue.publish(b"seventh")
    queue.publish_many(["eighth", b""])
    expected = contents(broker)
    if closed:
        broker.close()
    return disk.files(), {id: held.body for id, held in expected.items()}


def served(files: dict[str, bytes]) -> tuple[Verdict | None, dict[int, object]]:
    """What the store says of itself and serves; None if it refuses."""
    try:
        broker = open_on(Image(files))
    except CorruptStore as error:
        assert error.path.startswith("s/")
        assert error.offset is not None
        return None, {}
    except MqError:
        return None, {}
    try:
        return broker._store.replica.verdict, {id: held.body for id, held in contents(broker).items()}
    except CorruptStore as error:  # found when it was read
        assert len(error.ids) == 1
        return None, {}


def test_the_small_store_is_what_it_should_be():
    files, expected = small_store()
    assert sorted(path for path in files if "/log/" in path) == SEGMENTS
    assert served(files) == (Verdict.CLEAN, expected)
    assert sorted(map(str, expected.values())) == sorted(
        map(str, ["second", {"third": 3}, b"fourth", b"fifth", "sixth", b"seventh", "eighth", b""])
    )
    open_files, open_expected = small_store(closed=False)
    assert served(open_files) == (Verdict.OPEN, open_expected)


def used(path: str, data: bytes) -> int:
    """Where the preallocated zeros begin, but for a few."""
    return min(len(data), len(data.rstrip(b"\0")) + 3)


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "killed"])
@pytest.mark.parametrize("path", SEGMENTS)
def test_a_flipped_bit_is_reported_or_harmless(path, closed):
    files, expected = small_store(closed=closed)
    whole = Verdict.CLEAN if closed else Verdict.OPEN
    data = files[path]
    refused = 0
    # Each bit; of the killed store every seventh: prime to eight, so all bits of a byte have their turn.
    for bit in range(0, used(path, data) * 8, 1 if closed else 7):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        verdict, bodies = served({**files, path: bytes(damaged)})
        if verdict is None:
            refused += 1
        else:
            # Only void and unused bytes may pass; what nobody claims, of no message.
            assert bodies == expected, bit
            assert verdict in (whole, Verdict.TORN), bit
    assert refused


@pytest.mark.parametrize("path", SEGMENTS)
def test_a_flipped_bit_without_mark_is_never_a_false_clean(path):
    """The honest limit: what only mark claims may read as torn; but never as whole, and never altered."""
    files, expected = small_store()
    files = {name: data for name, data in files.items() if name != "s/mark"}
    data = files[path]
    for bit in range(path != SEGMENTS[0], used(path, data) * 8, 11):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        verdict, bodies = served({**files, path: bytes(damaged)})
        if verdict in (Verdict.CLEAN, Verdict.OPEN):
            assert bodies == expected, bit
        assert bodies.items() <= expected.items(), bit
        if path != SEGMENTS[-1]:  # later records claim all of it
            assert verdict is None or bodies == expected


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "killed"])
@pytest.mark.parametrize("path", SEGMENTS)
def test_a_truncation_is_reported_or_harmless(path, closed):
    files, expected = small_store(closed=closed)
    data = files[path]
    end = len(data.rstrip(b"\0"))
    for size in range(min(len(data), end + 3)):
        verdict, bodies = served({**files, path: data[:size]})
        if verdict is not None:
            assert bodies == expected, size
        if size < end and path != SEGMENTS[0]:
            assert verdict is None, size  # in the first, the torn bytes are void


@pytest.mark.parametrize("path", SEGMENTS)
def test_a_truncation_without_mark_invents_nothing(path):
    files, expected = small_store()
    files = {name: data for name, data in files.items() if name != "s/mark"}
    data = files[path]
    for size in range(len(data.rstrip(b"\0"))):
        verdict, bodies = served({**files, path: data[:size]})
        assert bodies.items() <= expected.items(), size
        assert verdict is not Verdict.CLEAN or bodies == expected, size
        if path != SEGMENTS[-1]:
            assert verdict is None or bodies == expected, size


def test_un_synced_bytes_may_be_cut_off_anywhere_and_never_count_as_damage():
    """P7, P9: sync="never", then a power cut: one file has a prefix, the others all or what was synced."""
    disk = Image()
    with open_on(disk) as broker:
        broker.queue("a").publish_many([b"kept", b"kept too"])
    broker = open_on(disk, sync="never")
    mark = disk.files()["s/mark"]
    queue = broker.queue("a")
    queue.publish_many([b"x" * 100, b"y" * 100])
    queue.receive(timeout=0).ack()
    for n in range(4):
        queue.publish(b"%d" % n * 400)
    synced, written = disk.synced_files(), disk.files()
    published = {id: held.body for id, held in contents(broker).items()}
    assert sum("/log/" in path for path in written) == 3
    for path in SEGMENTS:
        for size in range(len(synced[path]), len(written[path]), 3):
            for others in (written, synced):
                verdict, bodies = served({**others, path: written[path][:size], "s/mark": mark})
                assert verdict is not None, (path, size)
                bodies = {id: body for id, body in bodies.items() if body != b"kept"}  # its ack may be lost
                assert b"kept too" in bodies.values()
                assert bodies.items() <= published.items()


# ── FORMAT and mark ────────────────────────────────────────────────────────────────


def test_a_damaged_format_is_refused_whatever_the_damage():
    files, _ = small_store()
    line = files["s/FORMAT"]
    cases = [line[:size] for size in range(len(line))]
    for bit in range(len(line) * 8):
        damaged = bytearray(line)
        damaged[bit // 8] ^= 1 << bit % 8
        cases.append(bytes(damaged))
    for damaged in cases:
        disk = Image({**files, "s/FORMAT": damaged})
        with pytest.raises((CorruptStore, StorageError)):
            open_on(disk)
        assert disk.files()["s/FORMAT"] == damaged


def test_no_flipped_bit_of_mark_hides_or_harms_anything():
    """Only key and synced are believed, and synced stands there twice."""
    files, expected = small_store()
    page = files["s/mark"]
    key = page[:8]
    plain = shared.read_mark(Image(files), "s/mark", key)
    for bit in range(len(page) * 8):
        damaged = bytearray(page)
        damaged[bit // 8] ^= 1 << bit % 8
        words = shared.read_mark(Image({"s/mark": bytes(damaged)}), "s/mark", key)
        if shared.claimed(words) == shared.claimed(plain) and bit >= shared.WORDS * 64 and bit % 127:
            continue  # what recovery takes from the page is the same
        verdict, bodies = served({**files, "s/mark": bytes(damaged)})
        assert (verdict, bodies) == (Verdict.CLEAN, expected), bit


def test_no_truncation_of_mark_hides_or_harms_anything():
    files, expected = small_store()
    for size in (*range(0, 4096, 7), 4095):
        assert served({**files, "s/mark": files["s/mark"][:size]}) == (Verdict.CLEAN, expected)


def test_every_file_of_the_store_was_damaged_here():
    files, _ = small_store()
    assert set(files) == {*SEGMENTS, "s/FORMAT", "s/mark", "s/LOCK", "s/CLEANER", "s/reserve"}
    assert not files["s/LOCK"] + files["s/CLEANER"] + files["s/reserve"].strip(b"\0")


# ── a store with a head, moved messages and a checkpoint ───────────────────────────

GOLDEN = Path(__file__).parent.parent / "golden" / "v1" / "cleaned"


@cache
def cleaned_store() -> tuple[dict[str, bytes], dict[int, object]]:
    files = {
        f"s/{path.relative_to(GOLDEN)}": path.read_bytes() for path in GOLDEN.rglob("*") if path.is_file()
    }
    verdict, expected = served(files)
    assert verdict is Verdict.OPEN
    assert len(expected) == 5
    return files, expected


def flipped(data: bytes, step: int = 1) -> Iterator[bytes]:
    for bit in range(0, len(data.rstrip(b"\0")) * 8, step):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        yield bytes(damaged)


@pytest.mark.parametrize("name", ["00000000000000007816.state", "00000000000000007816.ids"])
def test_a_damaged_checkpoint_costs_only_time(name):
    files, expected = cleaned_store()
    path = f"s/checkpoint/{name}"
    data = files[path]
    for damaged in (*flipped(data), *(data[:size] for size in range(len(data)))):
        assert served({**files, path: damaged}) == (Verdict.OPEN, expected)


@pytest.mark.parametrize("checkpoint", [True, False], ids=["with its checkpoint", "from the whole log"])
@pytest.mark.parametrize("base", [7168, 8192])
def test_damage_in_a_log_whose_head_was_dropped_is_reported_or_harmless(base, checkpoint):
    """Before the checkpoint a damaged body is found when it is read, and a damaged ack does not matter."""
    files, expected = cleaned_store()
    files = {path: data for path, data in files.items() if checkpoint or "/checkpoint/" not in path}
    path = f"s/log/{base:020}.seg"
    for damaged in flipped(files[path], 7):
        verdict, bodies = served({**files, path: damaged})
        assert verdict is None or bodies == expected
