"""What judges the fault tests: it says what is wrong, and nothing where nothing is."""

from __future__ import annotations

from pathlib import Path

import noted
import pytest
from accounts import Accounts, Held
from auditor import Audit, audit
from crc32c import crc32c

from mq.delivery import records
from mq.delivery.attributes import Attributes
from mq.nats import message as codec

STORY = "try mail 1 2\ntold mail 1 2\ntry mail 3\ngot mail 1 100 1\ntry jobs 7\ntold jobs 7\n"


def held(*mail: int, jobs: tuple[int, ...] = (7,), done: tuple[int, ...] = (), altered: int = 0) -> Held:
    return {
        "mail": [(number, number != altered) for number in mail],
        "jobs": [(number, True) for number in jobs],
        "done": [(number, True) for number in done],
    }


@pytest.mark.parametrize(
    "more, here, complaint",
    [
        ("", held(1, 2), ""),
        ("", held(1, 2, 3), ""),
        ("ack mail 1\n", held(2), ""),
        ("back mail 1\ngot mail 1 100 2\n", held(1, 2), ""),
        ("failed StoreFailed publish no answer\ntook 2.5 publish\nend\n", held(1, 2), ""),
        ("got jobs 7 107 1\ncarry jobs 7\ncarried jobs 7\n", held(1, 2, jobs=(), done=(7,)), ""),
        ("failed CorruptStore publish message 7 is missing\n", held(1, 2), "P7"),
        ("told mail 3\n", held(1, 2), "P1"),
        ("", held(1, 2, jobs=()), "P1"),
        ("ack mail 1\nacked mail 1\n", held(1, 2), "P2"),
        ("", held(1, 2, altered=1), "P3"),
        ("", held(1, 2, 4), "P3"),
        ("altered mail 1 100 1\n", held(1, 2), "P3"),
        ("try mail 5 6\n", held(1, 2, 5), "P4"),
        ("got jobs 7 107 1\ncarry jobs 7\ncarried jobs 7\n", held(1, 2), "P4"),
        ("carry jobs 7\n", held(1, 2, done=(7,)), "P6 P4"),
        ("", held(1, 2, 2), "P6"),
        ("try mail 4\nfailed StorageError publish nothing was stored\n", held(1, 2), ""),
        ("try mail 4\nfailed StorageError publish nothing was stored\n", held(1, 2, 4), "P6"),
        ("try mail 4\nfailed StoreFailed publish who knows\n", held(1, 2, 4), ""),
        ("got mail 1 100 1\n", held(1, 2), "P12"),
        ("ack mail 1\nacked mail 1\nacked mail 1\n", held(2), "P12"),
        ("got lines 3 103 1\ngot lines 3 103 1\n", held(1, 2), "P12"),
    ],
)
def test_the_accounts_find_what_is_wrong(tmp_path: Path, more: str, here: Held, complaint: str) -> None:
    notes = tmp_path / "1.publish"
    noted.write(notes, STORY + more)
    wrong = Accounts([notes]).complaints(here)
    assert " ".join(each.partition(":")[0] for each in wrong) == complaint


# ── the stream ─────────────────────────────────────────────────────────────────────

STORE = "cafe"
LINES = 5  # the number of a queue


def stream(*steps: tuple[int, list[codec.Draft]]) -> list[tuple[int, bytes]]:
    """A stream of a message for each step: its time, its records."""
    found: list[tuple[int, bytes]] = []
    before = (0, 0)
    for seq, (time_ms, drafts) in enumerate(steps, 1):
        (data,) = codec.encode(drafts).messages(crc32c(STORE.encode()), before, seq, time_ms)
        found.append((seq, data))
        before = seq, codec.head_of(data).crc
    return found


def published(seq: int) -> int:
    """The id of the message whose record is the first in that message of the stream."""
    return codec.begin_of(seq) | codec.HEAD.size + codec.RECORD.size


def publish(group: str | None = None) -> codec.Draft:
    return records.publish(LINES, 0, b"x", Attributes(group=group))


def deliver(id: int, deadline: int) -> codec.Draft:
    return records.DELIVER, 0, LINES, records.encode_deliveries([id], deadline)


def ack(id: int) -> codec.Draft:
    return records.ACK, 0, LINES, records.ACK_PAYLOAD.pack(id, 1)


def back(id: int) -> codec.Draft:
    return records.release(LINES, id)


def again(id: int, deadline: int = 0) -> codec.Draft:
    """Appended again, because its place in the stream is about to be trimmed."""
    place = (1, records.IN_FLIGHT, ONE, deadline) if deadline else (0, records.WAITING, 0, 0)
    return records.relocate(LINES, id, 1, place, 0, b"x", None)


ONE, TWO = published(1), published(2)


@pytest.mark.parametrize(
    "steps, complaint",
    [
        ([(1, [publish()]), (2, [deliver(ONE, 9)]), (3, [ack(ONE)])], ""),
        ([(1, [publish()]), (2, [deliver(ONE, 9)]), (9, [deliver(ONE, 20)])], ""),
        ([(1, [publish()]), (2, [deliver(ONE, 9)]), (3, [back(ONE)]), (4, [deliver(ONE, 9)])], ""),
        ([(1, [publish("g")]), (1, [publish("h")]), (2, [deliver(TWO, 9)])], ""),
        ([(1, [publish()]), (2, [deliver(ONE, 9)]), (8, [deliver(ONE, 20)])], "P12"),
        ([(1, [publish()]), (2, [deliver(ONE, 9)]), (3, [ack(ONE)]), (9, [deliver(ONE, 20)])], "P2"),
        ([(1, [publish("g")]), (1, [publish("g")]), (2, [deliver(TWO, 9)])], "P5"),
    ],
)  # fmt: skip
def test_the_audit_finds_what_is_wrong(steps: list[tuple[int, list[codec.Draft]]], complaint: str) -> None:
    assert said(audit(stream(*steps), STORE)) == complaint


@pytest.mark.parametrize(
    "steps, complaint",
    [
        ([(3, [again(ONE, 9)]), (9, [deliver(ONE, 20)]), (10, [ack(ONE)])], ""),
        ([(3, [again(ONE)]), (4, [deliver(ONE, 20)])], ""),
        ([(3, [deliver(ONE, 9)]), (4, [again(ONE, 9)]), (9, [deliver(ONE, 20)])], ""),
        ([(3, [again(ONE, 9)]), (4, [deliver(ONE, 20)])], "P12"),
        ([(3, [publish()]), (4, [ack(published(3))]), (5, [again(published(3))])], "P2"),
    ],
)
def test_the_audit_knows_what_was_trimmed(
    steps: list[tuple[int, list[codec.Draft]]], complaint: str
) -> None:  # fmt: skip
    """Its first two messages are not in the stream any more."""
    assert said(audit(stream((1, [publish()]), (2, [deliver(ONE, 9)]), *steps)[2:], STORE)) == complaint


def test_the_audit_finds_what_is_damaged() -> None:
    whole = stream((1, [publish()]), (2, [publish()]), (3, [publish()]))
    assert said(audit(whole, STORE)) == ""
    assert said(audit([whole[0], whole[2]], STORE)) == "P7 P7"  # one is missing, and the next was behind it
    flipped = bytes([*whole[1][1][:-1], whole[1][1][-1] ^ 1])
    assert said(audit([whole[0], (2, flipped), whole[2]], STORE)) == "P7"
    assert said(audit([(1, whole[0][1]), (2, whole[0][1])], STORE)) == "P7"


def said(found: Audit) -> str:
    return " ".join(each.partition(":")[0] for each in found.wrong)
