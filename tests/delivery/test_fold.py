"""The tables: each kind of record is made, decoded, described and applied."""

from __future__ import annotations

import pytest

from mq.delivery import fold, records
from mq.delivery.attributes import Attributes, Changes, Failed, trailer
from mq.delivery.decode import decode
from mq.delivery.options import Declaration
from mq.delivery.schedules import Schedule

FACTS = 3, records.IN_FLIGHT, 40, 900
ATTRIBUTES = Attributes(priority=2, due=5, expires=6, group="g", headers={"a": "b"}, dedup_id="k")
PUBLISHED = Attributes(priority=2, topic="orders.paid")
HOLDERS = [
    records.Holder(1, *FACTS, Changes(7, "mail", (Failed(1, 2, "x"),))),
    records.Holder(5, 0, records.WAITING, 0, 0, None),
    records.Holder(9, 0, records.KEPT, 0, 0, None),
]
TIMES = records.Times(lambda ms: f"wall {ms}", lambda ms: f"store {ms}")

DAILY = Schedule("daily", "mail", 700, cron="0 3 * * *", priority=2)

DRAFTS = {
    records.DECLARE: (
        records.declare(1, Declaration(name="mail", ttl=5.0)),
        (Declaration(name="mail", ttl=5.0),),
        {"name": "mail", "options": {"ttl": 5.0}},
    ),
    records.PUBLISH: (
        records.publish(1, records.TEXT, b"body", ATTRIBUTES),
        (4 + len(trailer(ATTRIBUTES)), ATTRIBUTES),
        {
            "priority": 2, "due": "wall 5", "expires": "wall 6", "group": "g", "headers": {"a": "b"},
            "dedup_id": "k",
        },
    ),
    records.DELIVER: (
        (records.DELIVER, 0, 1, records.encode_deliveries([10, 20], 900)),
        ([10, 20], 900),
        {"messages": [10, 20], "deadline": "store 900"},
    ),
    records.ACK: (
        (records.ACK, 0, 1, records.encode_acks([10, 20], [4, 5])[0]),
        ((10, 20), (4, 5)),
        {"messages": [10, 20]},
    ),
    records.NACK: (
        records.nack(1, 10, 700, 600, "why", backoff=True),
        (10, 700, 600, "why", True),
        {"message": 10, "due": "store 700", "reason": "why"},
    ),
    records.RELEASE: (records.release(1, 10), (10,), {"message": 10}),
    records.EXTEND: (records.extend(1, 10, 900), (10, 900), {"message": 10, "deadline": "store 900"}),
    records.PURGE: (
        records.purge(1, 900, [(10, 4)]), (900, [(10, 4)]), {"cutoff": "store 900", "kept": [10]}
    ),
    records.RELOCATE: (
        records.relocate(1, 10, 8, FACTS, records.TEXT, b"body", Changes(7, "mail", (Failed(1, 2, "x"),))),
        (10, 8, 4, *FACTS, Attributes(), Changes(7, "mail", (Failed(1, 2, "x"),))),
        {
            "message": 10, "created_at": "wall 8", "attempts": 3, "place": "in_flight", "receipt": 40,
            "deadline": "store 900",
        },
    ),
    records.MOVE: (
        records.move(1, records.DIED, records.Move(10, 4, 2, 600, 0, "mail", "why")),
        (records.Move(10, 4, 2, 600, 0, "mail", "why"),),
        {"message": 10, "to": 2, "dead": True, "reason": "why"},
    ),
    records.DROP: (
        records.drop(1, records.OVERFLOWED, [(10, 4), (20, 5)]),
        ([(10, 4), (20, 5)],),
        {"messages": [10, 20], "why": "too many"},
    ),
    records.RESCHEDULE: (records.reschedule(1, 10, 700), (10, 700), {"message": 10, "due": "wall 700"}),
    records.DELETE: (records.delete(1), (), {}),
    records.DEDUP: (
        records.dedup(1, 10, 900, "k"), (10, 900, "k"), {"message": 10, "dedup_id": "k", "until": "store 900"}
    ),
    records.RENEW: (records.renew(1, 900), (900,), {"until": "store 900"}),
    records.FANOUT: (
        records.fan_out((1, 5), ((7, 0), (0, 8)), 9, records.TEXT, b"body" + trailer(PUBLISHED)),
        ((1, 5), ((7, 0), (0, 8)), 9, 4 + len(trailer(PUBLISHED)), PUBLISHED),
        {
            "queues": [1, 5], "retained": 9, "topic": "orders.paid", "priority": 2,
            "times": [{"due": "wall 7", "expires": "never"}, {"due": "now", "expires": "wall 8"}],
        },
    ),
    records.RELOCATE_FANOUT: (
        records.relocate_fan_out(10, 8, HOLDERS, records.TEXT | records.ATTRIBUTED,
                                 b"body" + trailer(PUBLISHED)),
        (10, 8, 4 + len(trailer(PUBLISHED)), HOLDERS, PUBLISHED),
        {
            "message": 10, "created_at": "wall 8", "topic": "orders.paid", "priority": 2,
            "held": [
                {"queue": 1, "attempts": 3, "place": "in_flight", "receipt": 40, "deadline": "store 900"},
                {"queue": 5, "attempts": 0, "place": "waiting"},
                {"queue": 9, "attempts": 0, "place": "retained"},
            ],
        },
    ),
    records.SUBSCRIBE: (
        records.subscribe(1, records.Subscribed("orders.*", {"a": "b"}, 10)),
        (records.Subscribed("orders.*", {"a": "b"}, 10),),
        {"pattern": "orders.*", "match": {"a": "b"}, "bound_at": 10},
    ),
    records.UNSUBSCRIBE: (records.unsubscribe(1, "orders.*"), ("orders.*",), {"pattern": "orders.*"}),
    records.BACKFILL: (
        records.backfill(1, 9, [10, 12], [4, 5], Attributes(priority=2)),
        (9, (10, 12), (4, 5), Attributes(priority=2)),
        {"topic": 9, "messages": [10, 12], "priority": 2},
    ),
    records.SCHEDULE: (
        records.schedule(DAILY, records.TEXT, b"body"),
        (DAILY, len(records.schedule(DAILY, records.TEXT, b"body")[3])),
        {"schedule": "daily", "queue": "mail", "next": "wall 700", "cron": "0 3 * * *", "priority": 2},
    ),
    records.TICK: (
        records.tick("daily", 700, 600, 2), ("daily", 700, 600, 2),
        {"schedule": "daily", "next": "wall 700", "last": "wall 600", "late": 2},
    ),
    records.UNSCHEDULE: (records.unschedule("daily"), ("daily",), {"schedule": "daily"}),
}  # fmt: skip


def listed(event: tuple) -> tuple:
    """Its iterators as lists."""
    return tuple(list(each) if hasattr(each, "__next__") else each for each in event)


@pytest.mark.parametrize("kind", records.KINDS, ids=records.KIND_NAMES.get)
def test_each_kind_is_made_decoded_and_described(kind):
    (made, flags, number, payload), event, facts = DRAFTS[kind]
    assert (made, number) == (kind, 0 if kind in records.OF_THE_STORE else 1)
    around = b"\x01" * 8 + payload + b"\x01" * 8  # as the scanner hands it on: in the midst of others
    assert listed(decode(kind, flags, around, 8, 8 + len(payload))) == event
    again = decode(kind, flags, payload, 0, len(payload))
    assert records.KINDS[kind].describe(flags, again, TIMES) == facts


def test_each_kind_is_applied():
    assert fold.APPLY.keys() == records.KINDS.keys()
