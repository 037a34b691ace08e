"""Topics and the log: a body's space returns when the last queue is done, and no history loses a holder."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from fakes import FakeClock, QuickDisk, open_on
from hypothesis import given, settings
from hypothesis import strategies as st

import mq
from mq.delivery.shares import Shares
from mq.delivery.state import State

BODY = b"x" * 900
NAMES = ["a", "b", "c"]
pytestmark = pytest.mark.file_store


def opened(path: Path, clock: FakeClock) -> mq.Broker:
    return open_on(QuickDisk(), str(path), sync="never", clock=clock, segment_bytes=4096, background=False)


def register_is_exact(state: State, size_of) -> None:
    held: dict[int, set[int]] = {}
    for number in {*state.queues, *(image.number for image in state.unloaded)}:
        for id in state.queue(number).everything():
            held.setdefault(id, set()).add(number)
    shared, extra = state.board.shared, 0
    for id, numbers in held.items():
        assert set(shared.holders(id)) == (numbers if len(numbers) > 1 else set())
        assert len({state.queue(number).position(id) for number in numbers}) == 1
        extra += size_of(state.queue(min(numbers)), id) * (len(numbers) - 1)
    assert len(shared) == sum(len(numbers) > 1 for numbers in held.values())
    assert shared.extra_bytes == extra


def seen(broker: mq.Broker) -> dict:
    """All that a program can see of the messages."""
    found = {}
    for name in broker.queues():
        queue = broker.queue(name)
        found[name] = (
            {
                (
                    each.id,
                    each.raw,
                    each.topic,
                    each.state,
                    each.attempts,
                    each.priority,
                    each.group,
                    each.origin,
                    len(each.failures),
                )
                for state in ("ready", "delayed", "in_flight")
                for each in queue.peek(1000, state=state)
            },
            queue.subscriptions(),
            queue.stats()._replace(oldest_age=0),
        )
    return found


def clean_all(broker: mq.Broker) -> None:
    broker._store.maintenance.compact()


def test_the_space_of_a_body_returns_when_the_last_queue_is_done(tmp_path: Path, clock: FakeClock) -> None:
    with opened(tmp_path / "s", clock) as broker:
        a, b = broker.queue("a"), broker.queue("b")
        for queue in (a, b):
            queue.subscribe("#")
        ids = [broker.topic("t").publish(BODY) for _ in range(50)]
        whole = broker.stats().disk_bytes
        assert whole < 1.5 * 50 * len(BODY)  # each body once
        a.ack_many(a.receive_many(50, 0))
        broker._store.maintenance.run()
        assert [each.id for each in b.peek(100)] == ids
        assert broker.stats().disk_bytes > 50 * len(BODY)
        b.ack_many(b.receive_many(50, 0))
        broker._store.maintenance.run()
        assert broker.stats().disk_bytes < 10 * 4096
        assert broker.subscriptions() == [("#", "a"), ("#", "b")]


def test_the_cleaner_moves_a_shared_message_once_for_all(tmp_path: Path, clock: FakeClock) -> None:
    with opened(tmp_path / "s", clock) as broker:
        queues = [broker.queue(name) for name in NAMES]
        for queue in queues:
            queue.subscribe("#")
        ids = [broker.topic("t").publish(BODY, headers={"a": "b"}, ttl=900) for _ in range(5)]
        queues[0].receive(timeout=0)
        queues[1].receive(timeout=0).nack(delay=100, reason="why")
        queues[2].receive(timeout=0).ack()
        before = seen(broker)
        for _ in range(3):
            clean_all(broker)
            assert seen(broker) == before
        state = broker._store.replica.state
        assert all(state.named("a").position(id) > id for id in ids)
        register_is_exact(state, broker._store.committer.size_of)
        assert broker.stats().disk_bytes < 5 * len(BODY) + 6 * 4096
        broker._store.maintenance.checkpoints.write()
    for again in range(2):
        with opened(tmp_path / "s", clock) as broker:
            assert seen(broker) == before
            register_is_exact(broker._store.replica.state, broker._store.committer.size_of)
        if not again:
            for file in (tmp_path / "s" / "checkpoint").iterdir():
                file.unlink()


OPERATIONS = [
    "fan out", "fan out with options", "publish", "ack", "nack", "reject", "release", "purge", "cancel",
    "reschedule", "delete", "replay", "replay to", "later", "clean", "checkpoint", "reopen", "subscribe",
    "unsubscribe", "declare",
]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30), st.lists(st.sampled_from(OPERATIONS), min_size=5, max_size=60))
def test_the_register_stays_exact(tmp_path_factory: pytest.TempPathFactory, seed: int, plan: list) -> None:
    """Whatever is done, and however often the state is read again, from a checkpoint or the log."""
    path, clock, choose = tmp_path_factory.mktemp("s"), FakeClock(), random.Random(seed)
    broker = opened(path, clock)
    try:
        for name in NAMES:
            broker.queue(name, dead_letter="dead", max_attempts=2, backoff=mq.Backoff(initial=0))
            broker.queue(name).subscribe("#")
        for step in ["fan out", "fan out", *plan]:
            broker = done(broker, step, path, clock, choose)
            register_is_exact(broker._store.replica.state, broker._store.committer.size_of)
        before = seen(broker)
        broker.close()
        for file in (path / "checkpoint").iterdir():
            file.unlink()
        broker = opened(path, clock)
        assert seen(broker) == before
        register_is_exact(broker._store.replica.state, broker._store.committer.size_of)
        for name in broker.queues():
            broker.queue(name).delete()
        assert broker._store.replica.state.live_bytes() <= 512 + 64  # a dedup id
        assert broker._store.replica.state.board.shared.extra_bytes == 0
    finally:
        broker.close()


def done(broker: mq.Broker, step: str, path: Path, clock: FakeClock, choose: random.Random) -> mq.Broker:
    queue = broker.queue(choose.choice([*NAMES, "dead"]))
    waiting = [each.id for each in (*queue.peek(20), *queue.peek(20, state="delayed"))]
    if step == "fan out":
        broker.topic("t").publish(b"x" * choose.randrange(1000))
    elif step == "fan out with options":
        options = [{"priority": 3}, {"delay": 5}, {"ttl": 8}, {"group": "g"}, {"dedup_id": "k"},
                   {"headers": {"a": "b"}}]  # fmt: skip
        broker.topic("t").publish("y", **choose.choice(options))
    elif step == "publish":
        queue.publish("z")
    elif step in ("ack", "nack", "reject", "release"):
        for message in queue.receive_many(choose.randrange(1, 4), 0):
            if choose.random() < 0.8:
                with suppress(mq.StaleReceipt):  # it arrived settled
                    getattr(message, step)()
    elif step == "purge":
        queue.purge()
    elif step in ("cancel", "reschedule") and waiting:
        getattr(queue, step)(choose.choice(waiting))
    elif step == "delete":
        queue.delete()
    elif step == "replay":
        with suppress(mq.UsageError, mq.QueueFull):  # where it died is gone, or full
            broker.queue("dead").replay()
    elif step == "replay to":
        broker.queue("a").publish("there")
        with suppress(mq.QueueFull):
            broker.queue("dead").replay(to="a")
    elif step == "later":
        clock.advance(choose.choice([1, 6, 31]))
        broker.queue("other").publish("do what is due")
    elif step == "clean":
        clean_all(broker)
    elif step == "checkpoint":
        broker._store.maintenance.checkpoints.write()
    elif step == "reopen":
        broker.close()
        return opened(path, clock)
    elif step == "subscribe":
        queue.subscribe(choose.choice(["#", "t", "*"]))
    elif step == "unsubscribe":
        queue.unsubscribe("#")
    elif step == "declare":
        options = [
            {"max_length": 3, "overflow": "drop_oldest"}, {"max_length": None}, {"ttl": 10}, {"ttl": None},
            {"delivery": "at_most_once"}, {"delivery": "at_least_once"}, {"expired": "dead_letter"},
        ]  # fmt: skip
        if queue.name != "dead":
            queue = broker.queue(queue.name, **choose.choice(options))
    return broker


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.sets(st.integers(1, 5), min_size=1)), max_size=120))
def test_shares_are_what_a_dict_would_be(monkeypatch_chunks: None, puts: list) -> None:
    """Chunks are so small that they are split, emptied and made anew."""
    shares, plain = Shares(), {}
    for id, holders in puts:
        size = id + 7
        if id % 7 == 0:  # a queue is purged, but for some of its messages
            left = max(holders)
            shares.leave(left, range(0, id, 2))
            for each, (weight, several) in list(plain.items()):
                if left in several and not (each % 2 == 0 and each < id):
                    plain[each] = weight, tuple(number for number in several if number != left)
                    if len(several) == 2:
                        del plain[each]
        if id % 5 == 0:  # a queue gets a part of what a topic retains
            several = range(id, id + max(holders))
            shares.add_holder(list(several), [each + 7 for each in several], 6, min(holders))
            for each in several:
                _, known = plain.get(each, (0, ()))
                plain[each] = each + 7, tuple(sorted({*known, 6, min(holders)}))
            continue
        shares.put(id, size, holders)
        plain.pop(id, None)
        if len(holders) > 1:
            plain[id] = size, tuple(sorted(holders))
        elif id % 2:
            shares.let_go(id + 1, 1)
            if id + 1 in plain and 1 in plain[id + 1][1]:
                left = tuple(each for each in plain[id + 1][1] if each != 1)
                plain[id + 1] = plain[id + 1][0], left
                if len(left) < 2:
                    del plain[id + 1]
        assert len(shares) == len(plain)
        assert {each: shares.holders(each) for each in range(62)} == {
            each: plain[each][1] if each in plain else () for each in range(62)
        }
        assert shares.extra_bytes == sum(size * (len(several) - 1) for size, several in plain.values())
        assert shares._untidy <= len(shares._chunks)
    while shares._untidy:
        shares.put(1000, 1, {1})
    assert sum(chunk.live for chunk in shares._chunks) == len(plain)
    again = Shares()
    again.restore(*shares.freeze().columns())
    assert again.extra_bytes == shares.extra_bytes
    assert {each: again.holders(each) for each in plain} == {each: plain[each][1] for each in plain}


@pytest.fixture(scope="module")
def monkeypatch_chunks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mq.delivery.shares.CHUNK_IDS", 3)
        yield
