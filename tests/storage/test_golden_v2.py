"""The golden store of revision 2 (tests/golden/make_v2.py): by mq, and by FORMAT.md alone."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
import reference
from opened import Held, contents

import mq
from mq.storage.recovery import Verdict

UPGRADED = Path(__file__).parent.parent / "golden" / "v2" / "upgraded"
NOW = 1_700_000_100.0
START_MS, SET_MS = 1_700_000_060_000, 1_790_000_000_000

LETTERS = {
    209: Held(b"\x00\xff bytes", 1, "delayed"),
    241: Held({"id": 7, "tags": ["a", "b"], "price": 1.5, "none": None}, 1, "in_flight"),
    301: Held(b"", 1, "in_flight"),
    325: Held("of a group, first", 1, "delayed"),
    366: Held("of a group, second", 0, "ready"),
    408: Held("of a group, third", 0, "ready"),
    1080: Held("into the second segment " * 20, 0, "ready"),
    3184: Held("after the crash", 0, "ready"),
    3263: Held("last " * 40, 0, "ready"),
}
NEW = ["in 1970", "in 2026", "behind the checkpoint"]


def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(UPGRADED, tmp_path / "s"))


@pytest.mark.parametrize("checkpoint", [True, False], ids=["with its checkpoint", "from the whole log"])
@pytest.mark.parametrize("read_only", [True, False], ids=["read only", "opened"])
def test_the_store_of_revision_2(tmp_path, read_only, checkpoint):
    path = copy(tmp_path)
    if not checkpoint:
        shutil.rmtree(path / "checkpoint")
    with mq.open(path, clock=lambda: NOW, read_only=read_only, segment_bytes=1024) as broker:
        assert broker._store.replica.verdict is Verdict.OPEN
        found = contents(broker, ["letters"])
        assert {id: found[id] for id in LETTERS} == LETTERS
        letters = broker.queue("letters")
        assert [each.body for each in letters.peek()][-3:] == NEW
        assert [letters.get(id).created_at.year for id in sorted(found)[-3:]] == [1970, 2026, 2026]
        assert letters.get(325).created_at == datetime(2023, 11, 14, 22, 13, 21, tzinfo=UTC)
        assert letters.get(325).failures[0].reason == "rests"
        assert broker.queue("replies").options()["delete_when_abandoned"] == 600
        assert [each.body for each in broker.queue("replies").peek()] == ["for nobody"]
        assert broker.queues() == ["größen", "letters", "passing", "replies", "spam"]


def test_the_reference_reads_the_store_of_revision_2():
    log = reference.read_log(UPGRADED)
    assert [each.features for each in log] == [0, 1, 1, 1, 1, 1]
    walls = [each.wall for each in log]
    assert [each.created for each in log][:2] == [START_MS, START_MS]
    assert walls[:2] == [START_MS, 100_000]
    assert all(SET_MS < wall < SET_MS + 10_000 for wall in walls[2:])
    kinds = [" ".join(entry.kind for entry in each.entries) for each in log]
    assert kinds[0] == "FENCE CLOSED HEAD PUBLISH DELIVER PUBLISH CLOSED"
    assert kinds[1].startswith("FENCE CLOCK CLOSED HEAD DECLARE PUBLISH")
    assert [each.startswith("FENCE CLOCK") for each in kinds] == [False, *[True] * 5]
    entries = [entry for each in log for entry in each.entries]
    (nack,) = (entry for entry in entries if entry.kind == "NACK")
    assert (nack.flags, nack.fields) == (0x30, (325, START_MS + 900_000, START_MS))
    (resting,) = (entry for entry in entries if entry.kind == "RELOCATE" and entry.fields[3] == 3)
    assert resting.fields == (325, 1_700_000_001_000, 1, 3, 0, START_MS + 900_000)
    queues = reference.State(log).by_name()
    assert {id: each.body for id, each in queues["letters"].messages.items() if id in LETTERS} == {
        id: held.body for id, held in LETTERS.items()
    }
    created = sorted(queues["letters"].messages.items())
    assert [each.created // 1000 for _, each in created[-3:]] == [100, SET_MS // 1000 + 2, SET_MS // 1000 + 8]


def test_the_page_of_version_2():
    """FORMAT.md §6, word by word."""
    page = memoryview((UPGRADED / "mark").read_bytes()).cast("Q")
    end = reference.read_log(UPGRADED)[-1].end
    assert page[:7].tolist() == [int.from_bytes(reference.read_format(UPGRADED / "FORMAT")[1], "little"),
                                 end, 0, end, 0, 0, 3072]  # fmt: skip
    assert page[7:10].tolist() == [0, end, 0]
    offset = page[11] - (page[11] >> 63 << 64)
    assert offset == START_MS - 50_000
    assert page[14:18].tolist() == [2, 0x0102030405060708, 4026531834, 0]
    assert not any(page[18:])


TOPICS = UPGRADED.parent / "topics"


def opened(golden: Path, tmp_path: Path, read_only: bool, checkpoint: bool) -> mq.Broker:
    """A copy of a golden store that was not closed."""
    path = Path(shutil.copytree(golden, tmp_path / "s"))
    if not checkpoint:
        shutil.rmtree(path / "checkpoint")
    broker = mq.open(path, clock=lambda: SET_MS / 1000, read_only=read_only, segment_bytes=1024)
    assert broker._store.replica.verdict is Verdict.OPEN
    return broker


@pytest.mark.parametrize("checkpoint", [True, False], ids=["with its checkpoint", "from the whole log"])
@pytest.mark.parametrize("read_only", [True, False], ids=["read only", "opened"])
def test_the_store_with_topics(tmp_path, read_only, checkpoint):
    with opened(TOPICS, tmp_path, read_only, checkpoint) as broker:
        assert broker.queues() == ["bills", "late", "mail", "mail.dead", "passing"]
        assert broker.subscriptions() == [("orders.#", "bills"), ("orders.*", "mail")]
        assert broker.stats().unrouted == 1
        mail, bills, dead = broker.queue("mail"), broker.queue("bills"), broker.queue("mail.dead")
        assert [each.body for each in mail.peek()] == ["to mail", b"both"]
        (both,) = bills.peek()
        assert (both.body, both.topic, both.headers) == (b"both", "orders", {"kind": "invoice"})
        assert both.id == mail.peek()[1].id
        first, second = dead.peek()
        assert [first.body, second.body] == [{"n": 1}, {"n": 1}]
        assert (first.origin, second.origin, first.priority) == ("mail", "bills", 3)
        late = broker.queue("late").peek()
        assert [(each.body, each.topic) for each in late] == [("kept", "kept"), ("before", None)]
        state = broker._store.replica.state
        assert state.topic("kept").waiting.first(9) == [late[0].id]
        assert state.board.shared.holders(late[0].id)
        if not read_only:
            assert broker.topic("orders.eu").publish("again", dedup_id="o-1") == first.id


def test_the_reference_reads_the_store_with_topics():
    log = reference.read_log(TOPICS)
    kinds = {entry.kind for each in log for entry in each.entries}
    assert {"FANOUT", "RELOCATE_FANOUT", "SUBSCRIBE", "UNSUBSCRIBE", "BACKFILL"} <= kinds
    state = reference.State(log)
    queues = state.by_name()
    assert {name: [each.body for each in queue.messages.values()] for name, queue in queues.items()} == {
        "bills": [b"both"], "late": ["before", "kept"], "mail": ["to mail", b"both"],
        "mail.dead": [{"n": 1}, {"n": 1}], "passing": [],
    }  # fmt: skip
    assert state.queues[0].totals["dropped"] == 1
    assert list(queues["mail"].patterns) == ["orders.*"]


SCHEDULES = UPGRADED.parent / "schedules"
BEAT = {"name": "beat", "queue": "health", "every": 0.5, "missed": "all", "ttl": 30.0, "headers": {"k": "v"}}
REPORT = {"name": "report", "queue": "ticks", "topic": True, "cron": "0 9 * * MON", "tz": "Europe/Berlin"}


@pytest.mark.parametrize("checkpoint", [True, False], ids=["with its checkpoint", "from the whole log"])
@pytest.mark.parametrize("read_only", [True, False], ids=["read only", "opened"])
def test_the_store_with_schedules(tmp_path, read_only, checkpoint):
    with opened(SCHEDULES, tmp_path, read_only, checkpoint) as broker:
        beat, report = broker.schedules()
        assert beat[:5] == ("beat", "health", None, 0.5, "UTC")
        assert beat.next_at == datetime.fromtimestamp(SET_MS / 1000 + 3, UTC)
        assert beat.last_at == datetime.fromtimestamp(SET_MS / 1000 + 2.75, UTC)
        assert report == (
            "report", "ticks", "0 9 * * MON", None, "Europe/Berlin",
            datetime(2026, 9, 28, 7, 0, tzinfo=UTC), None,
        )  # fmt: skip
        assert broker.queue("health").stats().published == 5
        assert {each.body for each in broker.queue("health").peek()} == {b"\x00raw"}


def test_the_reference_reads_the_store_with_schedules():
    log = reference.read_log(SCHEDULES)
    kinds = [entry.kind for each in log for entry in each.entries]
    assert {"SCHEDULE", "TICK", "UNSCHEDULE"} <= set(kinds)
    found = reference.State(log).schedules
    assert found["beat"].items() >= {**BEAT, "body": b"\x00raw", "next": SET_MS + 3000}.items()
    assert found["report"].items() >= {**REPORT, "body": {"n": 1}, "priority": 3, "last": 0}.items()
    assert found.keys() == {"beat", "report"}
