"""What a program keeps with a queue: `meta` and `update_meta`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from companions import KINDS, Companion, Hands
from engines import Engine
from fakes import FakeClock

import mq
from mq.delivery import records
from mq.delivery.meta import META_BYTES_MAX
from mq.delivery.state import declaration_of

conformance = pytest.mark.conformance


@pytest.fixture
def queue(broker: mq.Broker) -> mq.Queue[object]:
    return broker.queue("q")


@conformance
def test_texts_are_changed_one_by_one(queue: mq.Queue[object], broker: mq.Broker) -> None:
    assert queue.meta() == {}
    assert queue.update_meta({"a": "1", "b": "2", "": ""})
    assert queue.update_meta({"b": None, "c": "größer", "never there": None})
    assert queue.meta() == broker.queue("q").meta() == {"a": "1", "c": "größer", "": ""}


@conformance
def test_what_is_not_as_expected_stays(queue: mq.Queue[object]) -> None:
    queue.update_meta({"a": "1", "b": "2"})
    for expect in ({"a": "2"}, {"a": None}, {"c": "3"}, {"a": "1", "b": None}):
        assert queue.update_meta({"a": "x", "d": "4"}, expect=expect) is False
        assert queue.meta() == {"a": "1", "b": "2"}
    assert queue.update_meta({"a": None}, expect={"a": "1", "c": None})
    assert queue.update_meta({"b": "2"}, expect={"a": None, "b": "2"})  # it is so already
    assert queue.update_meta({}, expect={})
    assert queue.meta() == {"b": "2"}


@conformance
def test_the_queue_is_made_and_takes_its_meta_along(queue: mq.Queue[object], broker: mq.Broker) -> None:
    assert queue.update_meta({"a": "1"}, expect={"a": "no"}) is False
    assert queue.update_meta({"a": None})
    assert broker.queues() == []
    queue.update_meta({"a": "1"})
    assert broker.queues() == ["q"]
    queue.delete()
    assert queue.meta() == {}
    queue.publish("x")
    assert queue.meta() == {}


@conformance
def test_it_is_read_only_and_does_not_change_by_itself(queue: mq.Queue[object]) -> None:
    queue.update_meta({"a": "1"})
    seen: Any = queue.meta()
    with pytest.raises(TypeError):
        seen["a"] = "2"
    queue.update_meta({"a": "2"})
    assert seen == {"a": "1"}


@conformance
def test_whatever_else_is_declared_it_stays(engine: Engine, broker: mq.Broker) -> None:
    queue = broker.queue("q", max_attempts=3)
    queue.update_meta({"a": "1"})
    broker.queue("q", ttl=9.0)
    queue.pause()
    assert queue.meta() == {"a": "1"}
    assert (queue.options()["max_attempts"], queue.options()["ttl"], queue.stats().paused) == (3, 9.0, True)
    assert engine.reopen(broker).queue("q").meta() == {"a": "1"}


@conformance
@pytest.mark.parametrize("how", ["checkpoint", "cleaned", "killed"])
def test_it_is_durable(engine: Engine, how: str) -> None:
    broker = engine.open("other", background=False, segment_bytes=1024, clock=FakeClock())
    queue, other = broker.queue("q"), broker.queue("other")
    queue.update_meta({"a": "1" * 1500})
    for _ in range(8):
        other.publish(b"x" * 500)
        message = other.receive(timeout=0)
        assert message
        message.ack()
    if how == "checkpoint" and broker.path != ":memory:":
        broker._store.maintenance.checkpoints.write()
    if how == "cleaned":
        before = broker._store.replica.log.head
        broker._store.maintenance.compact()
        assert broker._store.replica.log.head > before
    if how == "killed":
        engine.abandon(broker)
    assert engine.reopen(broker).queue("q").meta() == {"a": "1" * 1500}


@conformance
def test_a_queue_has_64_kib_at_most_and_is_named(queue: mq.Queue[object]) -> None:
    queue.update_meta({"a": "ö" * (META_BYTES_MAX // 2 - 1), "b": ""})
    before = queue.meta()
    for changes in ({"c": ""}, {"b": "x"}, {"d": "x" * META_BYTES_MAX}):
        with pytest.raises(mq.UsageError, match=r"'(q|d)'.* bytes; 65,536 is the most"):
            queue.update_meta(changes)
    assert queue.meta() == before
    assert queue.update_meta({"a": None, "c": "x" * (META_BYTES_MAX - 2)})


BAD: dict[str, Any] = {
    "a number": 5, "a list": [("a", "b")], "a name": {5: "x"}, "a text": {"a": 5}, "bytes": {"a": b"x"},
    "no Unicode": {"a": "\ud800"}, "a name that is no Unicode": {"\ud800": None},
}  # fmt: skip


@conformance
@pytest.mark.parametrize("given", BAD.values(), ids=BAD)
def test_what_makes_no_sense_is_refused(queue: mq.Queue[object], broker: mq.Broker, given: Any) -> None:
    with pytest.raises(mq.UsageError):
        queue.update_meta(given)
    with pytest.raises(mq.UsageError):
        queue.update_meta({"a": "1"}, expect=given)
    assert broker.queues() == []


@conformance
def test_a_queue_that_is_to_go_has_none(broker: mq.Broker, clock: FakeClock) -> None:
    """Also if no process has noticed yet that it is idle."""
    queue = broker.queue("q", delete_when_idle=10)
    queue.update_meta({"a": "1"})
    clock.advance(11)
    assert queue.meta() == {}
    assert queue.update_meta({"b": "2"}, expect={"a": None})
    assert queue.meta() == {"b": "2"}
    assert queue.options()["delete_when_idle"] is None


@conformance
def test_what_it_takes_counts_as_live(broker: mq.Broker) -> None:
    """P11: else the cleaner would copy it again and again."""
    queue = broker.queue("q")
    queue.update_meta({"a": "1"})
    state = broker._store.replica.state
    before = state.live_bytes()
    queue.update_meta({str(number): "x" * 10 for number in range(1000)})
    size = len(records.encode_declaration(declaration_of(state.named("q"))))
    assert size <= state.live_bytes() - before <= 2 * size
    queue.update_meta(dict.fromkeys(map(str, range(1000))))
    assert state.live_bytes() == before
    queue.delete()
    assert state.live_bytes() == 0


@conformance
def test_it_changes_no_generation(queue: mq.Queue[object], broker: mq.Broker) -> None:
    queue.update_meta({"a": "1"})
    before = broker.generation
    queue.update_meta({"a": "2"})
    assert broker.generation == before


def count_up(broker: mq.Broker, times: int) -> None:
    queue = broker.queue("q")
    for _ in range(times):
        while True:
            seen = queue.meta().get("count")
            if queue.update_meta({"count": str(int(seen or 0) + 1)}, expect={"count": seen}):
                break


def _count_up(hands: Hands, times: int) -> None:
    count_up(hands.broker, times)


@pytest.mark.file_store
@pytest.mark.parametrize("how", KINDS)
def test_processes_and_threads_that_compare_and_set_lose_nothing(tmp_path: Path, how: Any) -> None:
    with (
        mq.open(tmp_path / "s", sync="never") as broker,
        Companion(how, tmp_path / "s", sync="never") as other,
    ):
        other.begin("call", _count_up, 100)
        threads = [threading.Thread(target=count_up, args=(broker, 50)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        other.result()
        assert broker.queue("q").meta() == {"count": "200"}
