"""Stores of every format that was ever released open, and hold what they held (tests/golden/make_*.py).

Twice: by mq, and by a reader that was written from FORMAT.md alone.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from struct import iter_unpack

import pytest
import reference
from opened import Held, contents

import mq
from mq.storage.recovery import Verdict

V1 = Path(__file__).parent.parent / "golden" / "v1"
START_MS = 1_700_000_000_000
NOW = 1_700_000_100.0

RECOVERED = {
    "letters": {
        209: Held(b"\x00\xff bytes", 1, "delayed"),
        241: Held({"id": 7, "tags": ["a", "b"], "price": 1.5, "none": None}, 1, "in_flight"),
        301: Held(b"", 1, "in_flight"),
        325: Held("of a group, first", 0, "ready"),
        366: Held("of a group, second", 0, "ready"),
        408: Held("of a group, third", 0, "ready"),
        1080: Held("into the second segment " * 20, 0, "ready"),
        3184: Held("after the crash", 0, "ready"),
        3263: Held("last " * 40, 0, "ready"),
    },
    "größen": {803: Held("the other queue " * 8, 0, "ready")},
    "spam": {1619: Held(b"in flight, stays", 1, "in_flight")},
}
CLEANED = {
    "work": {
        175: Held("stays delayed", 1, "delayed"),
        212: Held("stays in flight", 1, "in_flight"),
        7747: Held("stays waiting", 0, "ready"),
        7816: Held("behind the checkpoint", 0, "ready"),
        8248: Held("into the newer segment " * 20, 0, "ready"),
    }
}


def copy(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(V1 / name, tmp_path / name))


def everything(broker: mq.Broker) -> dict[str, dict[int, Held]]:
    return {name: contents(broker, [name]) for name in broker.queues()}


def at(broker: mq.Broker, queue: str, id: int) -> datetime | None:
    message = broker.queue(queue).get(id)
    assert message
    return message.due_at


@pytest.mark.parametrize("read_only", [True, False], ids=["read only", "opened"])
def test_the_store_that_was_killed_and_recovered(tmp_path, read_only):
    path = copy("recovered", tmp_path)
    with mq.open(path, clock=lambda: NOW, read_only=read_only, segment_bytes=1024) as broker:
        assert broker.store_id == "0c0ffee00c0ffee00c0ffee00c0ffee0"
        assert broker._store.replica.verdict is Verdict.CLEAN
        assert everything(broker) == RECOVERED
        letters = broker.queue("letters")
        assert letters.options()["visibility_timeout"] == 45.0
        assert broker.queue("spam").options()["visibility_timeout"] == 30.0
        stats = letters.stats()
        assert (stats.published, stats.acked, stats.failed) == (10, 1, 1)
        assert broker.queue("spam").stats()[:5] == (0, 1, 0, 16, 0.0)
        assert at(broker, "letters", 209) == datetime(2023, 11, 15, 22, 13, 21, tzinfo=UTC)
        assert at(broker, "letters", 241) == datetime(2023, 11, 15, 0, 13, 21, tzinfo=UTC)
        assert at(broker, "letters", 301) == datetime(2023, 11, 14, 22, 15, 5, tzinfo=UTC)
        created = letters.get(325).created_at
        assert created == datetime(2023, 11, 14, 22, 13, 21, tzinfo=UTC)


@pytest.mark.parametrize("checkpoint", [True, False], ids=["with its checkpoint", "from the whole log"])
@pytest.mark.parametrize("read_only", [True, False], ids=["read only", "opened"])
def test_the_store_whose_head_was_dropped(tmp_path, read_only, checkpoint):
    path = copy("cleaned", tmp_path)
    if not checkpoint:
        shutil.rmtree(path / "checkpoint")
    with mq.open(path, clock=lambda: NOW, read_only=read_only, segment_bytes=1024) as broker:
        assert broker._store.replica.verdict is Verdict.OPEN
        assert everything(broker) == CLEANED
        work = broker.queue("work")
        assert work.options()["visibility_timeout"] == 600.0
        assert (work.stats().published, work.stats().acked, work.stats().failed) == (35, 30, 1)
        assert at(broker, "work", 175) == datetime(2023, 11, 14, 23, 13, 20, tzinfo=UTC)
        assert at(broker, "work", 212) == datetime(2023, 11, 15, 22, 13, 20, tzinfo=UTC)
        assert work.get(175).created_at == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    "checkpoint, verdict",
    [
        pytest.param(True, Verdict.CLEAN, id="with its checkpoint"),
        pytest.param(False, Verdict.CORRUPT, id="from the whole log"),
    ],
)
def test_the_checkpoint_is_used(tmp_path, checkpoint, verdict):
    """A damaged ack before its position is not even read.

    The one that lies there is of an older version, and passed over: so a new one is written first.
    """
    path = copy("cleaned", tmp_path)
    if checkpoint:
        with mq.open(path, clock=lambda: NOW, segment_bytes=1024) as broker:
            held = everything(broker)
            broker._store.maintenance.checkpoints.write()
    with (path / "log" / f"{7168:020}.seg").open("r+b") as log:
        log.seek(72 + 7679 - 7168)
        log.write(b"\xff")
    try:
        with mq.open(path, clock=lambda: NOW, read_only=True) as broker:
            assert (broker._store.replica.verdict, everything(broker)) == (verdict, held)
    except mq.CorruptStore:
        assert verdict is Verdict.CORRUPT


def test_a_golden_store_can_be_worked_with(tmp_path):
    """Old receipts settle, new messages come behind all that was ever begun, and it opens again."""
    path = copy("cleaned", tmp_path)
    with mq.open(path, clock=lambda: NOW, segment_bytes=1024) as broker:
        work = broker.queue("work")
        work.ack_many([f"1-212-408-{broker.store_id[:6]}"])
        assert work.publish("new") > 9216  # where the newer segment ends
    with mq.open(path, clock=lambda: NOW, segment_bytes=1024) as broker:
        assert broker._store.replica.verdict is Verdict.CLEAN
        waiting = [message.body for message in broker.queue("work").peek()]
        newer = "into the newer segment " * 20
        assert waiting == ["stays waiting", "behind the checkpoint", newer, "new"]


# ── by FORMAT.md alone ─────────────────────────────────────────────────────────────


def read(name: str) -> list[reference.Segment]:
    store_id, key = reference.read_format(V1 / name / "FORMAT")
    paths = sorted((V1 / name / "log").iterdir())
    return [reference.read_segment(path, store_id, key) for path in paths]


def kinds(segment: reference.Segment) -> str:
    return " ".join(entry.kind for entry in segment.entries)


def test_the_reference_reads_the_recovered_store():
    first, second, torn, last = segments = read("recovered")
    assert [each.number for each in segments] == [0, 1, 2, 3]
    assert [each.base for each in segments] == [0, 1024, 2048, 3072]
    assert [each.capacity for each in segments] == [1024] * 4
    assert [each.created - START_MS for each in segments] == [0, 1000, 1000, 60_000]
    assert kinds(first) == (
        "FENCE CLOSED HEAD DECLARE PUBLISH PUBLISH PUBLISH PUBLISH PUBLISH PUBLISH PUBLISH DELIVER ACK"
        " DELIVER NACK DELIVER RELEASE DELIVER EXTEND DECLARE PUBLISH"
    )
    assert kinds(second) == "FENCE PUBLISH DECLARE PUBLISH PUBLISH PUBLISH DELIVER PURGE"
    assert kinds(torn) == ""
    assert kinds(last) == "FENCE CLOSED HEAD PUBLISH DELIVER PUBLISH CLOSED"

    # Every byte is checksummed, or zero, or void: the last fence voids all from 1807 on.
    assert first.behind.strip(b"\0") == b""
    assert second.behind.strip(b"\0") != b""
    assert torn.behind.strip(b"\0") != b""
    assert last.behind.strip(b"\0") == b""
    assert second.entries[0].fields == (955, 0, 1024, START_MS + 1000)
    assert first.end == 955
    assert last.entries[0].fields == (1807, 0, 1024, START_MS + 60_000)
    assert second.end == 1807

    group = [entry.flags & 1 for entry in first.entries if "of a group" in str(entry.rest)]
    assert group == [1, 1, 0]
    by_lsn = {entry.lsn: entry for entry in first.entries}
    assert (by_lsn[178].flags, by_lsn[209].flags, by_lsn[241].flags) == (0x10, 0x00, 0x20)
    assert by_lsn[178].rest == "Grüße".encode()
    assert by_lsn[489].fields == (178, 7)
    assert by_lsn[565].fields == (209, START_MS + 86_401_000)
    assert by_lsn[565].rest == "später".encode()
    assert by_lsn[724].fields == (241, START_MS + 7_201_000)
    purge = second.entries[-1]
    assert purge.fields == (START_MS + 1000,)
    assert list(iter_unpack("<QI", purge.rest)) == [(1619, len("in flight, stays"))]


def test_the_reference_reads_the_cleaned_store():
    older, newer = read("cleaned")
    assert (older.number, older.base, newer.number, newer.base) == (7, 7168, 8, 8192)
    assert kinds(older) == (
        "FENCE PUBLISH HEAD DECLARE RELOCATE RELOCATE HEAD DELIVER ACK HEAD PUBLISH HEAD PUBLISH"
    )
    assert kinds(newer) == "FENCE PUBLISH"
    assert older.entries[0].fields == (7140, 4096, 1024, START_MS + 30_000)
    assert newer.entries[0].fields == (older.end, 7168, 1024, START_MS + 30_000)
    delayed, in_flight = (entry for entry in older.entries if entry.kind == "RELOCATE")
    assert (delayed.flags, delayed.rest) == (0x10, b"stays delayed")
    assert delayed.fields == (175, START_MS, 1, 1, 0, START_MS + 3_600_000)
    assert in_flight.fields == (212, START_MS, 1, 2, 408, START_MS + 86_400_000)
    heads = [entry.fields[0] for entry in older.entries if entry.kind == "HEAD"]
    assert heads == [5120, 6144, 7168, 7168]  # the last one is the checkpoint's
    assert older.entries[-1].lsn == 7816
    assert [path.name for path in sorted((V1 / "cleaned" / "checkpoint").iterdir())] == [
        f"{7816:020}.ids",
        f"{7816:020}.state",
    ]


@pytest.mark.parametrize("name", ["recovered", "cleaned"])
def test_the_reference_reads_the_mark(name):
    """Both lives ended when all was synced, and nobody has them."""
    segments = read(name)
    head = {"recovered": 0, "cleaned": 7168}[name]
    end = segments[-1].end
    assert reference.read_mark(V1 / name / "mark", reference.read_format(V1 / name / "FORMAT")[1]) == {
        "end": end, "dirty": 0, "synced": end, "syncing": 0, "failed": 0, "head": head, "holder": 0,
        "synced, again": end,
    }  # fmt: skip


def test_behind_a_closing_record_a_head_is_synced_first():
    """Else a power cut could bring the closing record back as the last one, behind ids that were told."""
    first, _, _, last = read("recovered")
    for each in (first, last):
        _, closed, head, then, *_ = each.entries
        assert (closed.kind, head.kind, then.claims) == ("CLOSED", "HEAD", then.lsn)


@pytest.mark.parametrize("name", ["recovered", "cleaned"])
def test_the_claims_in_a_golden_log_only_ever_grow(name):
    claims = [entry.claims for each in read(name) for entry in each.entries]
    assert claims == sorted(claims)
