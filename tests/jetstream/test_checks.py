"""What judges the fault tests: it says what is wrong, and nothing where nothing is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import noted
import pytest
from accounts import Accounts, Held
from auditor import Audit, audit
from crc32c import crc32c

from mq.delivery import records
from mq.delivery.attributes import Attributes
from mq.delivery.options import Declaration
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
    flags = [0 if all(kind == records.PUBLISH for kind, *_ in drafts) else codec.TAKES for _, drafts in steps]
    return flagged(*((*step, each, 0) for step, each in zip(steps, flags, strict=True)))


def flagged(*steps: tuple[int, list[codec.Draft], int, int]) -> list[tuple[int, bytes]]:
    """The same; of each step also the flags, and how many messages before it its writer did not know."""
    found: list[tuple[int, bytes]] = []
    heads = {0: 0}
    compared = fence = (0, 0)
    for seq, (time_ms, drafts, flags, missed) in enumerate(steps, 1):
        known = seq - 1 - missed
        mark = fence if flags & codec.SHARED else compared
        (data,) = codec.encode(drafts).messages(
            crc32c(STORE.encode()), mark, seq, time_ms, flags, (known, heads[known])
        )
        found.append((seq, data))
        heads[seq] = codec.head_of(data).crc
        if not flags & codec.SHARED:
            compared = seq, heads[seq]
        if flags & (codec.FENCE | codec.HOLD):
            fence = compared
    return found


def published(seq: int) -> int:
    """The id of the message whose record is the first in that message of the stream."""
    return codec.begin_of(seq) | codec.HEAD.size + codec.RECORD.size


def publish(group: str | None = None, expires: int = 0) -> codec.Draft:
    return records.publish(LINES, 0, b"x", Attributes(group=group, expires=expires))


def deliver(id: int, deadline: int) -> codec.Draft:
    return records.DELIVER, 0, LINES, records.encode_deliveries([id], deadline)


def ack(id: int) -> codec.Draft:
    return records.ACK, 0, LINES, records.ACK_PAYLOAD.pack(id, 1)


def nack(id: int, due: int = 0) -> codec.Draft:
    return records.nack(LINES, id, due, 5, "")


def extend(id: int, deadline: int) -> codec.Draft:
    return records.extend(LINES, id, deadline)


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


BEGIN, TAKEN, COMPARED, PLAIN = codec.FENCE, codec.SHARED | codec.TAKES, codec.TAKES, codec.SHARED
MOST = records.DECLARE, 0, LINES, records.encode_declaration(Declaration(name="lines", max_attempts=1))
ATTEMPTS_AFTER: list[Any] = [  # the attempts of each message behind these, and what is wrong
    pytest.param([(2, [deliver(ONE, 9)], TAKEN, 0)], [1], "", id="a first delivery"),
    pytest.param(
        [(2, [deliver(ONE, 9)], TAKEN, 0), (2, [deliver(ONE, 9)], TAKEN, 1)], [1], "", id="the second of two"
    ),
    pytest.param(
        [(2, [deliver(ONE, 9)], TAKEN, 0), (2, [deliver(ONE, 9)], COMPARED, 1)], [1], "",
        id="compared, and did not know of it",
    ),
    pytest.param(
        [(2, [deliver(ONE, 9)], TAKEN, 0), (2, [publish()], 0, 1)], [1, 0], "", id="a compared publish",
    ),
    pytest.param(
        [(2, [deliver(ONE, 9)], TAKEN, 0), (2, [], codec.FENCE, 1), (2, [publish()], PLAIN, 0)], [1, 0], "",
        id="a fence that did not know of it",
    ),
    pytest.param(
        [(2, [deliver(ONE, 9)], TAKEN, 0), (2, [], codec.FENCE, 1), (3, [ack(ONE)], TAKEN, 0)], [], "",
        id="an ack behind a fence",
    ),
    pytest.param(
        [(2, [deliver(ONE, 9)], TAKEN, 0), (9, [deliver(ONE, 20)], COMPARED, 0), (9, [ack(ONE)], TAKEN, 1)],
        [2], "", id="an ack that did not know of the redelivery",
    ),
    pytest.param(
        [(2, [deliver(ONE, 9)], TAKEN, 0), (9, [deliver(ONE, 20)], COMPARED, 0), (9, [ack(ONE)], TAKEN, 0)],
        [], "", id="an ack that did",
    ),
    pytest.param([(2, [deliver(ONE, 9), ack(ONE)], TAKEN, 0)], [1], "", id="each by what was before"),
    pytest.param([(2, [deliver(ONE, 9)], TAKEN, 0), (9, [nack(ONE)], TAKEN, 0)], [1], "", id="a late nack"),
    pytest.param(
        [(2, [deliver(ONE, 9)], TAKEN, 0), (8, [nack(ONE, 9)], TAKEN, 0), (8, [deliver(ONE, 30)], TAKEN, 0)],
        [1], "", id="before it is due",
    ),
    pytest.param(
        [(2, [deliver(ONE, 9)], TAKEN, 0), (8, [nack(ONE, 9)], TAKEN, 0), (9, [deliver(ONE, 30)], TAKEN, 0)],
        [2], "", id="once it is due",
    ),
    pytest.param(
        [(2, [deliver(ONE, 9)], TAKEN, 0), (8, [extend(ONE, 30)], TAKEN, 0), (29, [back(ONE)], TAKEN, 0)],
        [0], "", id="extended, and released",
    ),
    pytest.param([(2, [publish("g")], 0, 0), (3, [deliver(TWO, 9)], TAKEN, 0)], [0, 0], "", id="of a group"),
    pytest.param(
        [(2, [publish(expires=5)], 0, 0), (5, [deliver(TWO, 9)], TAKEN, 0)], [0, 0], "", id="it has expired"
    ),
    pytest.param(
        [(2, [MOST], codec.FENCE | codec.TAKES, 0), (2, [deliver(ONE, 9)], TAKEN, 0),
         (3, [nack(ONE)], TAKEN, 0), (4, [deliver(ONE, 9)], TAKEN, 0)],
        [1], "", id="all attempts are made",
    ),
    pytest.param([(2, [publish("g")], PLAIN, 0)], [0, 0], "P7", id="what must be compared"),
    pytest.param([(2, [deliver(ONE, 9)], PLAIN, 0)], [1], "P7", id="it does not say that it takes"),
    pytest.param([(2, [deliver(ONE, 9)], 0, 0)], [1], "P7", id="nor does a compared one"),
    pytest.param([(2, [MOST], codec.TAKES, 0)], [0], "P7", id="what must be a fence"),
]  # fmt: skip


@pytest.mark.parametrize("steps, attempts, complaint", ATTEMPTS_AFTER)
def test_the_audit_judges_what_is_not_compared(steps: list[Any], attempts: list[int], complaint: str) -> None:
    found = audit(flagged((1, [publish()], BEGIN, 0), *steps), STORE)
    assert said(found) == complaint
    assert [message.attempts for message in found.there.values()] == attempts


def test_the_audit_finds_what_is_damaged() -> None:
    whole = stream((1, [publish()]), (2, [publish()]), (3, [publish()]))
    assert said(audit(whole, STORE)) == ""
    assert said(audit([whole[0], whole[2]], STORE)) == "P7 P7"  # one is missing, and the next was behind it
    flipped = bytes([*whole[1][1][:-1], whole[1][1][-1] ^ 1])
    assert said(audit([whole[0], (2, flipped), whole[2]], STORE)) == "P7"
    assert said(audit([(1, whole[0][1]), (2, whole[0][1])], STORE)) == "P7"


def said(found: Audit) -> str:
    return " ".join(each.partition(":")[0] for each in found.wrong)
