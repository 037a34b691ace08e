"""`broker.generation`: one number says whether anything that is declared has changed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from companions import KINDS, Companion, Hands
from engines import ENGINES, Engine
from fakes import FakeClock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mq

NAMES = ["a", "b", "c"]
DEFINES: dict[str, Callable[[mq.Broker, str], object]] = {
    "publish": lambda broker, name: broker.queue(name).publish("x"),  # makes the queue
    "declare": lambda broker, name: broker.queue(name, max_attempts=2),
    "declare something else": lambda broker, name: broker.queue(name, ttl=50.0, max_attempts=1),
    "pause": lambda broker, name: broker.queue(name).pause(),
    "resume": lambda broker, name: broker.queue(name).resume(),
    "delete": lambda broker, name: broker.queue(name).delete(),
}
DOES_NOT: dict[str, Callable[[mq.Broker, str], object]] = {
    "publish_many": lambda broker, name: broker.queue(name).publish_many([b"x" * 100] * 3),
    "receive and ack": lambda broker, name: [m.ack() for m in broker.queue(name).receive_many(2, timeout=0)],
    "receive and reject": lambda broker, name: [
        m.reject("no") for m in broker.queue(name).receive_many(1, timeout=0)
    ],
    "purge": lambda broker, name: broker.queue(name).purge(),
    "update_meta": lambda broker, name: broker.queue(name).update_meta({"k": str(broker.generation)}),
    "compact": lambda broker, name: broker._store.maintenance.compact(),
    "checkpoint": lambda broker, name: write_checkpoint(broker),
}
steps = st.lists(
    st.tuples(st.sampled_from([*DEFINES, *DOES_NOT, "reopen", "lose the page"]), st.sampled_from(NAMES)),
    max_size=25,
)


def write_checkpoint(broker: mq.Broker) -> None:
    if broker.path != ":memory:":
        broker._store.maintenance.checkpoints.write()


def definitions(broker: mq.Broker) -> dict[str, Any]:
    """All that is declared."""
    queues = {name: broker.queue(name) for name in broker.queues()}
    return {name: (queue.options(), queue.stats().paused) for name, queue in queues.items()}


def opened_again(engine: Engine, broker: mq.Broker, *, without_page: bool) -> mq.Broker:
    broker.close()
    page = Path(broker.path) / "mark"
    if without_page and page.exists():
        page.unlink()
    return engine.reopen(broker)


@pytest.mark.parametrize("kind", ENGINES)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(steps=steps)
def test_it_changes_with_what_is_declared_and_a_number_never_means_two_things(
    kind: str, steps: list[tuple[str, str]]
) -> None:
    with tempfile.TemporaryDirectory() as directory, ENGINES[kind](Path(directory)) as engine:
        broker = engine.open(clock=FakeClock(), background=False, segment_bytes=1024)
        known: dict[int, dict[str, Any]] = {}
        for step, name in [*steps, ("lose the page", "")]:
            number, declared = broker.generation, definitions(broker)
            assert known.setdefault(number, declared) == declared
            if act := DEFINES.get(step) or DOES_NOT.get(step):
                act(broker, name)
                assert (broker.generation != number) == (definitions(broker) != declared)
            else:
                broker = opened_again(engine, broker, without_page=step == "lose the page")
                assert definitions(broker) == declared
                assert known.setdefault(broker.generation, declared) == declared


@pytest.mark.conformance
def test_dead_letters_that_make_their_queue_change_it(broker: mq.Broker) -> None:
    queue = broker.queue("q")
    queue.publish("x")
    before = broker.generation
    message = queue.receive(timeout=0)
    assert message
    assert broker.generation == before
    message.reject("no")
    assert broker.generation != before


@pytest.mark.conformance
def test_a_closed_broker_has_none(broker: mq.Broker) -> None:
    broker.queue("q", ttl=5.0)
    broker.close()
    with pytest.raises(mq.Closed):
        _ = broker.generation


@pytest.mark.needs("page")
@pytest.mark.conformance
def test_reading_it_takes_no_turn(broker: mq.Broker) -> None:
    broker.queue("q", ttl=5.0)

    def refuse() -> None:
        raise AssertionError

    broker._store.turn.enter_to_look = refuse
    assert broker.generation > 0


@pytest.mark.conformance
@pytest.mark.needs("conflicts")
def test_a_declaration_of_another_writer_that_is_first_changes_it(engine: Engine, broker: mq.Broker) -> None:
    broker.queue("q").publish("x")
    before = broker.generation
    engine.meanwhile(broker, lambda rival: rival.queue("new", ttl=5.0))
    broker.queue("q").publish("y")
    assert broker.generation != before


@pytest.mark.file_store
@pytest.mark.parametrize("how", KINDS)
def test_two_processes_have_one(tmp_path: Path, how: Any) -> None:
    with mq.open(tmp_path / "s", sync="never") as broker, Companion(how, tmp_path / "s") as other:
        for name in NAMES:
            before = broker.generation
            other.do("declare", name, max_attempts=3)
            there = broker.generation
            assert there != before
            broker.queue(name, max_attempts=4)
            assert broker.generation != there
            other.do("publish", name, "x")
            assert broker.generation == other.do("call", _generation) != there


def _generation(hands: Hands) -> int:
    return hands.broker.generation


@pytest.mark.file_store
def test_a_process_that_died_before_it_was_on_the_page_is_made_up_for(tmp_path: Path) -> None:
    with mq.open(tmp_path / "s", sync="never") as broker, Companion("spawn", tmp_path / "s") as other:
        broker.queue("a").publish("x")
        before = broker.generation
        other.begin("call", _dies_in_a_declaration)
        with pytest.raises(EOFError):
            other.result()
        assert broker.queues() == ["a", "b"]
        assert broker.generation != before


@pytest.mark.file_store
def test_what_was_followed_while_another_process_had_the_lock_is_shown_too(tmp_path: Path) -> None:
    with mq.open(tmp_path / "s", sync="never") as broker, Companion("spawn", tmp_path / "s") as other:
        broker.queue("a").publish("x")
        before = broker.generation
        other.begin("call", _dies_in_a_declaration)
        with pytest.raises(EOFError):
            other.result()
        with broker._store.turn.mutex:
            broker._store.replica.keep_up()
        assert broker.queues() == ["a", "b"]
        assert broker.generation != before


def _dies_in_a_declaration(hands: Hands) -> None:
    hands.broker.queues()  # be where the log is
    hands.broker._store.replica.show_generation = lambda: os._exit(1)  # type: ignore[method-assign]
    hands.broker.queue("b", ttl=5.0)


@pytest.mark.file_store
def test_a_read_only_broker_sees_it_change(tmp_path: Path) -> None:
    with mq.open(tmp_path / "s", sync="never") as broker:
        broker.queue("a", ttl=5.0)
        with mq.open(tmp_path / "s", read_only=True) as reader:
            before = reader.generation
            assert before == broker.generation
            broker.queue("a").publish("x")
            assert reader.generation == before
            broker.queue("b", ttl=5.0)
            assert reader.generation == broker.generation != before


@pytest.mark.file_store
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_the_child_of_a_fork_has_it_at_once(tmp_path: Path) -> None:
    with mq.open(tmp_path / "s", sync="never") as broker:
        broker.queue("a", ttl=5.0)
        read, write = os.pipe()
        if not (pid := os.fork()):
            try:
                os.read(read, 1)
                code = int(broker.generation == broker._store.replica.state.generation)
            finally:
                os._exit(code)
        before = broker.generation
        broker.queue("b", ttl=5.0)
        os.write(write, b"x")
        assert os.waitpid(pid, 0)[1] >> 8 == 1
        assert broker.generation != before
        os.close(read)
        os.close(write)


@pytest.mark.file_store
def test_it_is_in_a_checkpoint(tmp_path: Path) -> None:
    """The record that it names is not read again."""
    with mq.open(tmp_path / "s", sync="never") as broker:
        broker.queue("a", ttl=5.0)
        broker.queue("b", ttl=5.0).delete()
        before = broker.generation
        broker._store.maintenance.checkpoints.write()
    with mq.open(tmp_path / "s") as broker:
        assert broker.generation == before
