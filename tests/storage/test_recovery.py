"""Every row of the recovery table of FORMAT.md, as a named case; and that recovery can be killed.

The store of most cases is one queue, and its log is a few records in files of a KiB.
"""

from __future__ import annotations

import errno
import os

import pytest
from faults import GO_ON, Faulty, Image, PowerCut, cut_at
from logfiles import (
    ALL,
    CAPACITY,
    IDENTITY,
    OTHER,
    Place,
    ack,
    closed,
    cut,
    declare,
    deliver,
    entry,
    flip,
    mark,
    publish,
    raw,
    segment,
    store,
    zeros,
)
from opened import bodies, contents, open_on

from mq.errors import CorruptStore, StorageError, Unsupported
from mq.storage import record, recovery, shared, walk
from mq.storage.recovery import Verdict

ONE, TWO, THREE = publish(b"one"), publish(b"two"), publish(b"three")
AT_ONE = 56 + 24 + 8  # behind the fence and the declaration
AT_TWO = AT_ONE + 27
AT_THREE = AT_TWO + 27
END = AT_THREE + 29


def log(*parts, **options):
    """The first segment: its fence, the declaration of the queue, and *parts*."""
    return segment(declare(), *parts, **options)


def then(*parts, void_from, **options):
    """The segment after it."""
    return segment(*parts, base=CAPACITY, number=1, void_from=void_from, **options)


def survey(files):
    disk = Image(files)
    disk.make_directory("s/log")
    synced = 0
    if "s/mark" in files:
        synced = int.from_bytes(files["s/mark"][24:32], "little")
    ignore = [].extend
    return recovery.survey(disk, "s/log", IDENTITY, synced, ignore, 17)


def test_the_places_are_where_the_table_says():
    assert log(ONE, TWO, THREE).starts == [56, AT_ONE, AT_TWO, AT_THREE, END]


# ── ends on a record ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "files, verdict, alive",
    [
        pytest.param(store(), Verdict.OPEN, [], id="nothing but FORMAT"),
        pytest.param(store(log(ONE, TWO)), Verdict.OPEN, [b"one", b"two"], id="killed"),
        pytest.param(store(log(ONE, TWO, closed())), Verdict.CLEAN, [b"one", b"two"], id="closed"),
        pytest.param(
            store(log(ONE, closed(), zeros(500))), Verdict.CLEAN, [b"one"], id="closed, zeros behind"
        ),
        pytest.param(store(log(ONE, zeros(500))), Verdict.OPEN, [b"one"], id="preallocated zeros"),
        pytest.param(
            store(log(ONE, closed(), TWO)), Verdict.OPEN, [b"one", b"two"], id="closed, opened, killed"
        ),
        pytest.param(
            store(log(ONE, TWO, deliver(AT_ONE), ack(AT_ONE, 3))), Verdict.OPEN, [b"two"],
            id="an acked message stays away",
        ),
        pytest.param(
            store(log(publish(b"one", more=True), TWO)), Verdict.OPEN, [b"one", b"two"], id="a whole group"
        ),
        pytest.param(
            store(log(ONE), then(TWO, void_from=AT_TWO)), Verdict.OPEN, [b"one", b"two"], id="two segments"
        ),
        pytest.param(
            store(log(ONE), then(TWO, closed(), void_from=AT_TWO)), Verdict.CLEAN, [b"one", b"two"],
            id="two segments, closed",
        ),
        pytest.param(
            store(log(ONE, closed()), then(void_from=AT_TWO + 24)), Verdict.OPEN, [b"one"],
            id="closed, opened and rotated",
        ),
        pytest.param(
            store(log(ONE, raw(b"torn")), then(TWO, void_from=AT_TWO)), Verdict.OPEN, [b"one", b"two"],
            id="void bytes",
        ),
        pytest.param(
            store(log(ONE, TWO), then(THREE, void_from=AT_TWO)), Verdict.OPEN, [b"one", b"three"],
            id="a void record does not count",
        ),
        pytest.param(
            store(
                log(ONE, cut(9, TWO)),
                then(publish(b"void"), void_from=AT_TWO),
                segment(THREE, base=2 * CAPACITY, number=2, void_from=AT_TWO),
            ),
            Verdict.OPEN, [b"one", b"three"], id="a whole segment is void",
        ),
        pytest.param(
            store(log(ONE), then(fence=False, void_from=0)), Verdict.OPEN, [b"one"],
            id="the next segment was created and not used",
        ),
        pytest.param(
            store(log(ONE), then(zeros(900), fence=False, void_from=0)), Verdict.OPEN, [b"one"],
            id="the next segment was created, given room and not used",
        ),
        pytest.param(
            {**store(log(ONE)), "s/log/00000000000000001024.seg": b""}, Verdict.OPEN, [b"one"],
            id="zero-length last segment",
        ),
        pytest.param(
            {**store(log(ONE)), "s/log/00000000000000001024.seg": then(void_from=0).data[:71]},
            Verdict.OPEN, [b"one"], id="last segment's creation is torn",
        ),
        pytest.param(
            {**store(log(ONE)), "s/log/00000000000000001024.seg": bytes(1096)},
            Verdict.OPEN, [b"one"], id="last segment is all zeros",
        ),
        pytest.param(
            {**store(), "s/log/00000000000000000000.seg": b""}, Verdict.OPEN, [],
            id="zero-length only segment",
        ),
        pytest.param(
            store(log(ONE), synced=AT_TWO), Verdict.OPEN, [b"one"], id="all that mark claims is there"
        ),
        pytest.param(
            {**store(log(ONE)), "s/mark": mark(9999, OTHER)}, Verdict.OPEN, [b"one"],
            id="another store's mark claims nothing",
        ),
        pytest.param(
            {**store(log(ONE)), "s/mark": mark(9999)[:4095]}, Verdict.OPEN, [b"one"], id="a short mark"
        ),
    ],
)  # fmt: skip
def test_ends_on_a_record(files, verdict, alive):
    if "s/mark" not in files or files["s/mark"] == mark(AT_TWO):
        assert survey(files).verdict is verdict
    with open_on(Image(files)) as broker:
        assert broker._store.replica.verdict is verdict
        assert bodies(broker) == alive


# ── bad bytes that nobody claims ───────────────────────────────────────────────────


@pytest.mark.parametrize(
    "files, end, alive",
    [
        pytest.param(store(log(ONE, cut(9, TWO))), AT_TWO, [b"one"], id="torn in the header"),
        pytest.param(store(log(ONE, cut(25, TWO))), AT_TWO, [b"one"], id="torn in the body"),
        pytest.param(store(log(ONE, cut(9, TWO), zeros(99))), AT_TWO, [b"one"], id="torn, zeros behind"),
        pytest.param(store(log(ONE, zeros(99), raw(b"\1"))), AT_TWO, [b"one"], id="garbage behind zeros"),
        pytest.param(
            store(log(ONE, lambda place: ONE(Place(place.segment, AT_ONE)))), AT_TWO, [b"one"],
            id="a record of this segment, at another place",
        ),
        pytest.param(store(log(ONE, flip(TWO, 0))), AT_TWO, [b"one"], id="checksum"),
        pytest.param(store(log(ONE, flip(TWO, 26))), AT_TWO, [b"one"], id="body"),
        pytest.param(
            store(log(ONE, flip(TWO, 26), THREE)), AT_TWO, [b"one"],
            id="an intact record behind claims nothing",
        ),
        pytest.param(
            store(log(ONE, flip(TWO, 26), publish(b"three", claims=AT_TWO))), AT_TWO, [b"one"],
            id="an intact record behind claims just what is intact",
        ),
        pytest.param(
            store(log(ONE, publish(b"two", more=True))), AT_TWO, [b"one"], id="a group without its last"
        ),
        pytest.param(
            store(log(ONE, publish(b"two", more=True), cut(26, THREE))), AT_TWO, [b"one"],
            id="a group with its last torn",
        ),
        pytest.param(
            store(log(publish(b"one", more=True), publish(b"two", more=True), flip(THREE, 25))), AT_ONE, [],
            id="a group is dropped whole",
        ),
        pytest.param(
            store(log(ONE, cut(20, TWO)), then(THREE, void_from=AT_THREE)), AT_TWO, [b"one"],
            id="the older segment has a hole, the newer is there",
        ),
        pytest.param(
            store(log(ONE), then(THREE, void_from=AT_THREE)), AT_TWO, [b"one"],
            id="the older segment's end never came",
        ),
        pytest.param(
            store(log(ONE), then(cut(25, THREE), void_from=AT_TWO)), CAPACITY + 56, [b"one"],
            id="torn in the second segment",
        ),
        pytest.param(
            {**store(log(ONE)), "s/log/00000000000000001024.seg": then(void_from=AT_TWO).data[:100]},
            AT_TWO, [b"one"], id="the fence itself is torn",
        ),
        pytest.param(
            {**store(), "s/log/00000000000000000000.seg": segment().data[:100]}, 0, [],
            id="the very first fence is torn",
        ),
        pytest.param(
            store(log(ONE, cut(9, TWO)), then(fence=False, void_from=0)), AT_TWO, [b"one"],
            id="torn, and a recovery that came as far as the next header",
        ),
        pytest.param(
            store(log(ONE, cut(9, TWO)), synced=AT_TWO), AT_TWO, [b"one"],
            id="mark claims just what is intact",
        ),
    ],
)  # fmt: skip
def test_torn(files, end, alive):
    found = survey(files)
    assert (found.verdict, found.end, found.error) == (Verdict.TORN, end, None)
    disk = Image(files)
    with open_on(disk) as broker:
        assert broker._store.replica.verdict is Verdict.TORN
        assert bodies(broker) == alive
        more = broker.queue("a").publish(b"more")
        assert more >= found.next_base
        for path, data in files.items():  # torn bytes stay where they are
            if path.startswith("s/log/") and len(data) > 72:
                assert disk.files()[path].startswith(data)
    with open_on(disk) as broker:
        assert broker._store.replica.verdict is Verdict.CLEAN
        assert bodies(broker) == [*alive, b"more"]


# ── bytes that were once durable are gone or altered ───────────────────────────────


@pytest.mark.parametrize(
    "files, path, offset, ids",
    [
        pytest.param(
            store(log(ONE, flip(TWO, 24), publish(b"three", claims=ALL))), 0, AT_TWO, (AT_TWO,),
            id="damage below the watermark of a later record",
        ),
        pytest.param(
            store(log(ONE, flip(TWO, 24)), synced=AT_THREE), 0, AT_TWO, (AT_TWO,), id="damage below mark's"
        ),
        pytest.param(
            store(log(ONE, flip(TWO, 24)), synced=AT_TWO + 1), 0, AT_TWO, (AT_TWO,),
            id="the first damaged byte is the last that mark claims",
        ),
        pytest.param(
            store(log(ONE, flip(TWO, 24)), then(publish(b"three", claims=AT_THREE), void_from=AT_THREE)),
            0, AT_TWO, (AT_TWO,), id="damage below the watermark of a later segment",
        ),
        pytest.param(
            store(log(ONE, flip(TWO, 24)), then(void_from=AT_THREE, claims=AT_THREE)),
            0, AT_TWO, (AT_TWO,), id="only a fence claims it",
        ),
        pytest.param(
            store(log(ONE, flip(TWO, 6), publish(b"three", claims=ALL))), 0, AT_TWO, (AT_TWO,),
            id="a damaged length",
        ),
        pytest.param(
            store(log(ONE, flip(TWO, 8), publish(b"three", claims=ALL))), 0, AT_TWO, (AT_TWO,),
            id="a damaged position",
        ),
        pytest.param(
            store(log(ONE, zeros(27), publish(b"three", claims=ALL))), 0, AT_TWO, (), id="zeros in its place"
        ),
        pytest.param(
            store(log(flip(ONE, 25), flip(TWO, 25), publish(b"three", claims=ALL))), 0, AT_ONE,
            (AT_ONE, AT_TWO), id="two damaged, both named",
        ),
        pytest.param(
            store(log(publish(b"one", more=True), flip(publish(b"two", more=True), 25), THREE), synced=END),
            0, AT_TWO, (AT_ONE, AT_TWO, AT_THREE), id="damage in a group costs the group",
        ),
        pytest.param(store(log(ONE), synced=AT_THREE), 0, AT_TWO, (), id="cut off at a record"),
        pytest.param(store(log(ONE, cut(9, TWO)), synced=AT_THREE), 0, AT_TWO, (), id="cut off in a header"),
        pytest.param(
            store(log(ONE, cut(26, TWO)), synced=AT_THREE), 0, AT_TWO, (AT_TWO,), id="cut off in a body"
        ),
        pytest.param(store(synced=1), 0, -72, (), id="the only segment is missing"),
        pytest.param(
            {**store(synced=1), "s/log/00000000000000000000.seg": b""}, 0, -72, (),
            id="zero-length only segment, claimed",
        ),
        pytest.param(store(log(ONE), synced=CAPACITY + 56), 0, AT_TWO, (), id="the last segment is missing"),
        pytest.param(
            {**store(log(ONE), synced=CAPACITY + 56), "s/log/00000000000000001024.seg": b""}, 0, AT_TWO, (),
            id="zero-length last segment, claimed",
        ),
        pytest.param(
            store(log(ONE), then(zeros(500), fence=False, void_from=0), synced=CAPACITY + 56), 0, AT_TWO, (),
            id="the last segment lost all its records",
        ),
        pytest.param(store(then(ONE, void_from=0)), 0, -72, (), id="the first segment is missing"),
        pytest.param(
            store(log(ONE), segment(TWO, base=2 * CAPACITY)), 1024, -72, (), id="a middle segment is missing"
        ),
        pytest.param(
            {
                **store(log(ONE), segment(TWO, base=2 * CAPACITY)),
                "s/log/00000000000000001024.seg": b"",
            },
            1024, -72, (), id="zero-length middle segment",
        ),
        pytest.param(
            {"s/FORMAT": IDENTITY.line(), "s/log/00000000000000000000.seg": b"\0" + log(ONE).data[1:]},
            0, -72, (), id="a bad header with records behind",
        ),
        pytest.param(
            {"s/FORMAT": IDENTITY.line(), "s/log/00000000000000000000.seg": log(ONE, identity=OTHER).data},
            0, -72, (), id="another store's segment",
        ),
        pytest.param(
            {**store(log(ONE)), "s/log/00000000000000001024.seg": log(ONE).data}, 1024, -72, (),
            id="a copy under another name",
        ),
        pytest.param(
            {**store(log(ONE)), "s/log/00000000000000005000.seg": log(ONE).data}, 1024, -72, (),
            id="a copy under a name with a gap before it",
        ),
    ],
)  # fmt: skip
def test_corrupt(files, path, offset, ids):
    """Refused, naming file, offset and ids; nothing is changed; not by reading only either."""
    for read_only in (False, True):
        disk = Image(files)
        with pytest.raises(CorruptStore) as caught:
            open_on(disk, read_only=read_only)
        error = caught.value
        assert error.path == f"s/log/{path:020}.seg"
        assert (error.offset, error.ids) == (offset + 72, ids)
        left = disk.files()
        assert {path: left[path] for path in files if path != "s/mark"} == {
            path: data for path, data in files.items() if path != "s/mark"
        }


def test_a_claim_of_mark_survives_a_refusal():
    """P7: asked again, the store is refused again."""
    disk = Image(store(log(ONE, flip(TWO, 24)), synced=AT_THREE))
    for _ in range(3):
        with pytest.raises(CorruptStore):
            open_on(disk)


# ── unknown, foreign ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", [0, 6, 15, 39, 255])
@pytest.mark.parametrize("queue", [1, 9], ids=["known queue", "unknown queue"])
def test_an_unknown_kind_with_a_valid_checksum_is_refused_by_name(kind, queue):
    files = store(log(ONE, entry(kind, b"?", queue=queue), TWO))
    for read_only in (False, True):
        with pytest.raises(Unsupported, match=f"kind {kind} "):
            open_on(Image(files), read_only=read_only)


def test_an_unknown_option_of_a_queue_is_refused_by_name():
    files = store(segment(entry(16, b"\x82\xa4name\xa1a\xa6shards\x03")))
    with pytest.raises(Unsupported, match="unknown field `shards`"):
        open_on(Image(files))


@pytest.mark.parametrize(
    "name", ["notes.txt", "x.seg", "0.seg", "00000000000000000000.seg.tmp", "٠" * 20 + ".seg"]
)
def test_a_foreign_file_in_the_log_is_named(name):
    files = {**store(log(ONE)), f"s/log/{name}": b"hello"}
    with pytest.raises(StorageError, match="not a segment of the log; move it") as caught:
        open_on(Image(files))
    assert caught.value.path == f"s/log/{name}"


def test_segments_without_format_are_not_taken_for_a_new_store():
    files = store(log(ONE))
    del files["s/FORMAT"]
    with pytest.raises(StorageError, match="no FORMAT"):
        open_on(Image(files))


# ── record-shaped bodies ───────────────────────────────────────────────────────────


def test_a_body_that_is_a_valid_record_stays_a_body():
    """P3.  The bait is the next message's own record, byte for byte, before damage and behind it."""
    plain = log(ONE, TWO, THREE)
    bait = plain.data[plain.segment.offset(AT_THREE) :]
    disk = Image(store(log(publish(bait), publish(bait * 3), publish(bait[1:]))))
    with open_on(disk) as broker:
        assert bodies(broker) == [bait, bait * 3, bait[1:]]
    for at in range(24 + len(bait)):
        damaged = store(log(ONE, flip(publish(bait), at), publish(bait)))
        disk = Image(damaged)
        with open_on(disk) as broker:
            assert broker._store.replica.verdict is Verdict.TORN
            assert bodies(broker) == [b"one"]


@pytest.mark.parametrize(
    "base, verdict",
    [
        pytest.param(1 << 32, Verdict.TORN, id="a record of 4 GiB on, where its low half says: not heard"),
        pytest.param(0, Verdict.CORRUPT, id="made by who knows the key: heard"),
    ],
)
def test_a_body_cannot_claim_that_something_was_synced(base, verdict):
    """The second case shows that the first one's body stands where the scanner looks."""
    liar = publish(b"liar", claims=ALL)
    bait = liar(Place(segment(base=base).segment, base + AT_TWO + 24))
    assert survey(store(log(ONE, flip(publish(bait), 3)))).verdict is verdict


# ── far positions ──────────────────────────────────────────────────────────────────


def far(*parts, capacity, **options):
    """A log whose second segment begins at *capacity*."""
    first = segment(declare(), capacity=capacity)
    return first, segment(*parts, base=capacity, number=1, void_from=first.end, **options)


def test_positions_go_on_beyond_four_gib():
    """The low half wraps inside a segment, and synced_lag saturates between segments."""
    base = (1 << 32) - CAPACITY - 200  # this mq goes on in the next segment
    disk = Image(store(*far(publish(b"one"), closed(), capacity=base)))
    with open_on(disk, segment_bytes=4096) as broker:
        queue = broker.queue("a")
        ids = [queue.publish(b"%d" % n) for n in range(20)]
        assert ids[0] < 1 << 32 < ids[-1]
        receipts = [queue.receive(timeout=0) for _ in range(5)]
        for delivery in receipts:
            delivery.ack()
        expected = contents(broker)
    assert len(expected) == 16
    with open_on(disk) as broker:
        assert broker._store.replica.verdict is Verdict.CLEAN
        assert contents(broker) == expected


def test_damage_beyond_four_gib_is_found_and_named():
    base = (1 << 32) - 60
    files = far(publish(b"one"), flip(publish(b"two"), 24), publish(b"three", claims=ALL), capacity=base)
    place = files[1].starts[1]
    with pytest.raises(CorruptStore) as caught:
        open_on(Image(store(*files)))
    assert (caught.value.offset, caught.value.ids) == (72 + place - base, (place,))
    assert place > 1 << 32


@pytest.mark.parametrize(
    "lag, verdict",
    [
        pytest.param(0xFFFF_FFFF, Verdict.TORN, id="saturated: no claim"),
        pytest.param(0xFFFF_FFFE, Verdict.CORRUPT, id="just not: a claim"),
    ],
)
def test_a_saturated_lag_is_no_claim(lag, verdict):
    """The record behind the damage stands at 8 GiB: read as a claim, the lag would be one of 4 GiB."""
    base = 1 << 33
    first = segment(declare(), flip(publish(b"one"), 24), capacity=base)
    claim = 56 + base - lag  # of the record behind the fence
    second = segment(publish(b"two", claims=claim), base=base, number=1, void_from=first.end)
    assert record.HEADER.unpack_from(second.data, 72 + 56)[3] == lag
    found = survey(store(first, second))
    assert found.verdict is verdict


# ── recovery itself ────────────────────────────────────────────────────────────────

TO_RECOVER = [
    pytest.param(store(), [], id="new"),
    pytest.param(store(log(ONE, TWO)), [b"one", b"two"], id="open"),
    pytest.param(store(log(ONE, cut(9, TWO))), [b"one"], id="torn"),
    pytest.param(
        store(log(ONE, cut(20, TWO)), then(THREE, void_from=AT_THREE)), [b"one"], id="torn over two segments"
    ),
    pytest.param(
        {**store(log(ONE, cut(9, TWO))), "s/log/00000000000000001024.seg": b"mq-"}, [b"one"],
        id="torn, and a torn creation",
    ),
]  # fmt: skip


@pytest.mark.parametrize("power, partly", [(False, True), (True, False)], ids=["killed", "power cut"])
@pytest.mark.parametrize("files, alive", TO_RECOVER)
def test_recovery_may_be_cut_at_every_call_and_run_again(places, files, alive, power, partly):
    """P8, also nested: the second run is cut as well, and a third still finds everything."""

    def left(disk):
        return disk.synced_files() if power else disk.files()

    def run(files, call):
        """What is left when recovery is cut at *call*; None if it was through before."""
        disk = Image(files)
        try:
            open_on(Faulty(disk, cut_at(disk, call, partly=partly)))
        except PowerCut:
            return left(disk)
        return None

    first = 0
    while (once := run(files, first)) is not None:
        for second in places(5):
            if (twice := run(once, second - 1)) is None:
                break
            with open_on(Image(twice)) as broker:
                assert bodies(broker) == alive
                broker.queue("a").publish(b"more")
                assert bodies(broker) == [*alive, b"more"]
        first += 1
    assert first > 3


def test_what_was_never_confirmed_is_rewritten_and_synced():
    disk = Image(store(log(ONE, TWO), synced=AT_TWO))
    written = []

    def hook(name, args):
        if name == "pwrite":
            written.append(args[1:])
        return GO_ON

    before = disk.files()["s/log/00000000000000000000.seg"]
    with open_on(Faulty(disk, hook)):
        assert (before, 0) in written  # the page that it is in


def test_opening_again_changes_nothing():
    """But for words of the page that are hints."""

    def left():
        files = disk.files()
        words = shared.read_mark(disk, "s/mark", files.pop("s/mark")[:8])
        return files, [words[each] for each in (shared.END, shared.HEAD, shared.SYNCED, shared.SYNCED_TWIN)]

    disk = Image(store(log(ONE, cut(9, TWO))))
    open_on(disk)
    once = left()
    open_on(disk)
    assert left() == once


def begun():
    """A store whose log goes on in a segment that was never used, on a disk of its own for the log."""
    disk = Image(store(log(ONE), then(fence=False, void_from=0)))

    def hook(name, args):
        if name == "rename" and os.path.dirname(args[0]) != os.path.dirname(args[1]):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return GO_ON

    return disk, Faulty(disk, hook)


def test_a_log_on_another_file_system_is_recovered():
    """`log` may be a link: what is renamed into it was made in it."""
    disk, faulty = begun()
    with open_on(faulty) as broker:
        assert bodies(broker) == [b"one"]
    with open_on(disk) as again:
        assert again._store.replica.verdict is Verdict.CLEAN


def test_a_segment_that_was_being_made_means_nothing():
    """Whoever made it was killed before the rename; others may be looking meanwhile."""
    disk, faulty = begun()
    disk._files["s/log/segment.tmp"] = bytearray(b"something")
    with open_on(disk, read_only=True) as reader:
        assert bodies(reader) == [b"one"]
    assert walk.walk(disk, "s", 17).verdict == "open"
    with open_on(faulty) as broker:
        assert bodies(broker) == [b"one"]
    assert "s/log/segment.tmp" not in disk.files()
