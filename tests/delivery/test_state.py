"""The fold: the same records give the same queues, wherever they come from."""

from __future__ import annotations

import msgspec
import pytest
from stretches import alone

from mq.delivery import fold, records
from mq.delivery.now import Now
from mq.delivery.options import Declaration
from mq.delivery.state import QUEUES_MAX, State, declaration_of
from mq.errors import Unsupported

NOW = Now(1000, 1000)


def record(lsn: int, kind: int, payload: bytes, queue: int = 1) -> tuple:
    """As the scanner hands it on: inside a bigger buffer."""
    return lsn, kind, 0, queue, 0, b"<<<" + payload + b">>>", 3, 3 + len(payload)


def declare(lsn: int, name: str, queue: int = 1, **known: float) -> tuple:
    return record(lsn, records.DECLARE, records.encode_declaration(Declaration(name=name, **known)), queue)


MAIL = declare(1, "mail")
ONE = record(10, records.PUBLISH, b"one")
TWO = record(20, records.PUBLISH, b"four")
TAKE = record(30, records.DELIVER, records.DELIVER_PAYLOAD.pack(10, 5000))
ACK = record(40, records.ACK, records.ACK_PAYLOAD.pack(10, 3))
NACK = record(40, records.NACK, records.NACK_PAYLOAD.pack(10, 3000) + b"why")
RELEASE = record(40, records.RELEASE, records.RELEASE_PAYLOAD.pack(10))
EXTEND = record(40, records.EXTEND, records.EXTEND_PAYLOAD.pack(10, 500))
PURGE = record(40, records.PURGE, records.PURGE_PAYLOAD.pack(1000) + records.SIZED_PAYLOAD.pack(10, 3))


def folded(*records: tuple) -> State:
    state = State()
    fold.apply(state, alone(records))
    return state


@pytest.mark.parametrize(
    ("records", "counts", "size"),
    [
        pytest.param([MAIL], (0, 0, 0), 0, id="declare"),
        pytest.param([MAIL, ONE, TWO], (2, 0, 0), 7, id="publish"),
        pytest.param([MAIL, ONE, TWO, TAKE], (1, 1, 0), 7, id="deliver"),
        pytest.param([MAIL, ONE, TWO, TAKE, ACK], (1, 0, 0), 4, id="ack"),
        pytest.param([MAIL, ONE, TWO, TAKE, NACK], (1, 0, 1), 7, id="nack"),
        pytest.param([MAIL, ONE, TWO, TAKE, RELEASE], (2, 0, 0), 7, id="release"),
        pytest.param([MAIL, ONE, TWO, TAKE, EXTEND], (1, 0, 1), 7, id="extend, to the past: it backs off"),
        pytest.param([MAIL, ONE, TWO, TAKE, PURGE], (0, 1, 0), 3, id="purge"),
    ],
)
def test_each_kind_of_record(records, counts, size):
    queue = folded(*records).named("mail")
    assert queue.counts(NOW) == counts
    assert queue.bytes == size


def test_a_receipt_is_the_position_of_the_delivery():
    assert folded(MAIL, ONE, TAKE).named("mail").flights[10].receipt == 30


def test_a_declaration_supersedes_the_one_before():
    state = folded(MAIL, declare(5, "mail", visibility_timeout=9.0))
    assert state.named("mail").options.visibility_timeout == 9.0
    assert len(state.queues) == 1


@pytest.mark.parametrize(
    "before", [[MAIL, ONE, TWO, TAKE, NACK], [MAIL, ONE, TAKE, ACK]], ids=["nack", "ack"]
)
def test_what_a_declaration_carries_is_what_the_records_before_it_gave(before):
    """So the records may go, and the totals stay."""
    queue = folded(*before).named("mail")
    again = folded(record(90, records.DECLARE, records.encode_declaration(declaration_of(queue))))
    assert declaration_of(again.named("mail")) == declaration_of(queue)
    published = [each for each in before if each[1] == records.PUBLISH]
    assert again.named("mail").totals.published == len(published)


def test_messages_may_come_before_their_declaration():
    """Compaction moves it behind them."""
    state = folded(ONE, TAKE, declare(90, "mail", visibility_timeout=4.0))
    assert state.named("mail").flights[10].receipt == 30
    assert state.named("mail").options.visibility_timeout == 4.0


def test_a_declaration_that_nobody_knows_is_refused_by_name():
    unknown = msgspec.msgpack.encode({"name": "mail", "colour": "blue"})
    with pytest.raises(Unsupported, match=r"colour.* upgrade"):
        folded(record(1, records.DECLARE, unknown))


def test_queues_do_not_touch_each_other():
    other = declare(2, "other", queue=2)
    theirs = record(15, records.PUBLISH, b"theirs", queue=2)
    state = folded(MAIL, other, ONE, theirs, TAKE, ACK, PURGE)
    assert state.named("mail").total() == 0
    assert state.named("other").heads(NOW, 9) == [15]


@pytest.mark.parametrize("before", [[], [MAIL]], ids=["unknown queue", "known queue"])
def test_a_record_of_an_unknown_kind_is_refused_by_name(before):
    with pytest.raises(Unsupported, match=r"kind 77 .* upgrade"):
        folded(*before, record(50, 77, b""))


def test_numbers_run_out_after_65_535_queues():
    state = State()
    state.queues = dict.fromkeys(range(1, QUEUES_MAX))
    assert state.free_number() == QUEUES_MAX
    state.queues[QUEUES_MAX] = None
    assert state.free_number() is None


BATCH = [record(lsn, records.PUBLISH, b"body") for lsn in range(10, 90, 10)]


@pytest.mark.parametrize(
    "before",
    [
        pytest.param([MAIL, *BATCH], id="waiting"),
        pytest.param([*BATCH, MAIL], id="waiting, not declared yet"),
        pytest.param(
            [MAIL, *BATCH, record(90, records.DELIVER, records.DELIVER_PAYLOAD.pack(20, 500))], id="flown"
        ),
        pytest.param(
            [MAIL, *BATCH, record(90, records.RESCHEDULE, records.RESCHEDULE_PAYLOAD.pack(20, 7))], id="due"
        ),
        pytest.param([MAIL, *BATCH, record(90, records.DROP, records.SIZED_PAYLOAD.pack(10, 4))], id="gone"),
        pytest.param([MAIL], id="none"),
    ],
)
@pytest.mark.parametrize("ids", [[10, 20, 30], [30, 10, 20, 40], [20, 30], [10, 20, 30, 40, 50, 60, 70, 80]])
def test_a_record_about_several_is_as_many_about_one(before, ids):
    many, single = folded(*before), folded(*before)
    fold.apply(many, alone([record(100, records.DELIVER, records.encode_deliveries(ids, 5000))]))
    fold.apply(
        single,
        alone(
            record(100 + n, records.DELIVER, records.encode_deliveries([id], 5000))
            for n, id in enumerate(ids)
        ),
    )
    assert told(many) == told(single)
    sizes = [(id, 4) for id in [*ids, 77]]
    fold.apply(
        many, alone([record(200, records.ACK, b"".join(records.ACK_PAYLOAD.pack(*each) for each in sizes))])
    )
    fold.apply(single, alone(record(200, records.ACK, records.ACK_PAYLOAD.pack(*each)) for each in sizes))
    assert told(many) == told(single)


def told(state: State) -> tuple:
    queue = state.queues[1]
    facts = [(id, *queue.facts(id), queue.position(id)) for id in range(10, 90, 10) if id in queue]
    heads = queue.heads(Now(9000, 9000), 9)
    return facts, queue.counts(NOW), queue.bytes, queue.totals.acked, heads, state.total()


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        (records.PUBLISH, 0x30), (records.PUBLISH, 0x80), (records.PUBLISH, 0x02), (records.DELIVER, 0x20),
        (records.DELIVER, 0x08), (records.ACK, 0x10), (records.ACK, 0x04), (records.RELEASE, 0x80),
    ],
)  # fmt: skip
def test_flags_that_say_what_is_not_known_are_refused_by_name(kind, flags):
    """A newer mq may have written them: to guess is to misread."""
    lsn, _, _, *rest = record(50, kind, records.DELIVER_PAYLOAD.pack(10, 20))
    with pytest.raises(Unsupported, match=f"{flags:#x} of a record of kind {records.KIND_NAMES[kind]}"):
        folded(MAIL, ONE, (lsn, kind, flags, *rest))


def test_timeouts_are_counted_also_where_the_deliveries_before_were_lost():
    payload = records.encode_deliveries([10, 20], 5000)
    lsn, kind, _, *rest = record(50, records.DELIVER, payload)
    assert folded(MAIL, ONE, TWO, (lsn, kind, records.TIMED_OUT, *rest)).queues[1].totals.failed == 2
