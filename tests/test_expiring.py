"""Publishes to a queue with a time to live: the same records and messages as those that a plan makes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import mq
from mq.engine import expiring


def published() -> tuple[list[object], mq.Stats]:
    now = [1_900_000_000.0]
    with mq.open(":memory:", clock=lambda: now[0]) as broker:
        queue = broker.queue("q", ttl=60)
        ids = [queue.publish("one"), *queue.publish_many([b"two", {"three": 3}]), queue.publish(b"")]
        stored = [broker._store.replica.log.read(id) for id in ids]
        found: list[object] = [(each.kind, each.flags, each.payload) for each in stored]
        now[0] += 59
        taken = queue.receive(0)
        assert taken is not None and taken.body == "one"
        now[0] += 2
        assert queue.receive(0) is None
        taken.ack()
        return [*ids, *found], queue.stats()


def test_they_are_stored_and_expire_as_a_plan_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = published()
    assert quick[1].expired == 3 and quick[1].acked == 1
    monkeypatch.setattr(expiring, "is_meant", lambda channel: False)
    assert published() == quick


@pytest.mark.parametrize("options", [{"delay": 5.0}, {"max_length": 1}, {"ttl": None}])
def test_a_queue_that_is_more_or_less_than_that_takes_a_plan(options: dict[str, object]) -> None:
    with mq.open(":memory:") as broker:
        queue = broker.queue("q", **{"ttl": 60.0, **options})  # type: ignore[arg-type]
        assert not expiring.is_meant(queue._channel)
        assert expiring.publish_many(broker._store, queue._channel, [0], [b"x"]) is None
        queue.publish(b"x")
        assert sum(queue.stats()[:3]) == 1


def test_a_receiver_that_waits_gets_it(tmp_path: Path) -> None:
    with mq.open(tmp_path / "s") as broker, ThreadPoolExecutor(1) as threads:
        queue = broker.queue("q", ttl=60)
        waits = threads.submit(queue.receive, 30)
        queue.publish("x")
        found = waits.result(30)
        assert found is not None and found.body == "x"
