"""Another name for a queue: all that it holds stays, and whatever names it follows."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engines import PATIENCE, Engine
from fakes import FakeClock, QuickDisk, open_on

import mq
from mq.engine import looking
from mq.storage.shared import waits_word

pytestmark = pytest.mark.conformance

OPTIONS: dict[str, Any] = {"segment_bytes": 4096, "background": False, "sync": "never"}


@pytest.fixture
def broker(engine: Engine, clock: FakeClock) -> mq.Broker:
    return engine.open(clock=clock, **OPTIONS)


@pytest.fixture
def queue(broker: mq.Broker) -> mq.Queue[Any]:
    return broker.queue("old", max_attempts=2, visibility_timeout=60)


def bodies(queue: mq.Queue[Any], state: Any = "ready") -> list[object]:
    return [message.body for message in queue.peek(100, state=state)]


def drained(queue: mq.Queue[Any]) -> list[Any]:
    found = []
    while delivery := queue.receive(timeout=0):
        found.append(delivery.body)
        delivery.ack()
    return found


def opened_anew(engine: Engine, broker: mq.Broker, clock: FakeClock, how: str) -> mq.Broker:
    if how == "reopened":
        return engine.reopen(broker)
    if how == "cleaned":
        for _ in range(2):  # whatever stood anywhere is written again
            other = broker.queue("other")
            other.publish_many([bytes(1000)] * 12)
            other.ack_many(other.receive_many(12, timeout=0))
            while broker._store.maintenance.run(0):
                pass
    if how != "as it is":
        engine.abandon(broker)
        broker = engine.open(clock=clock, **OPTIONS)
    return broker


AFTERWARDS = pytest.mark.parametrize("how", ["as it is", "reopened", "killed", "cleaned"])


# ── what goes along ────────────────────────────────────────────────────────────────


@AFTERWARDS
def test_the_queue_stays_what_it_was(
    engine: Engine, broker: mq.Broker, queue: mq.Queue[Any], clock: FakeClock, how: str
) -> None:
    queue.update_meta({"a": "b"})
    queue.subscribe("t.*", match={"k": "v"})
    first = queue.publish("in flight", dedup_id="d")
    held = queue.receive(timeout=0)
    queue.publish_many(["one", "two"])
    queue.publish("high", priority=9)
    queue.publish("later", delay=50)
    before, generation = queue.stats(), broker.generation
    queue.rename("new")
    assert broker.generation != generation
    assert (queue.name, held.queue) == ("new", "new")
    broker = opened_anew(engine, broker, clock, how)
    queue = broker.queue("new")
    assert [name for name in broker.queues() if name != "other"] == ["new"]
    assert queue.stats() == before
    assert queue.options()["max_attempts"] == 2
    assert queue.meta() == {"a": "b"}
    assert broker.subscriptions() == [("t.*", "new")]
    assert queue.publish("again", dedup_id="d") == first
    broker.topic("t.x").publish("of a topic", headers={"k": "v"})
    assert bodies(queue) == ["high", "one", "two", "of a topic"]
    assert bodies(queue, "delayed") == ["later"]
    assert bodies(queue, "in_flight") == ["in flight"]


@pytest.mark.parametrize("by", ["delivery", "receipt", "text"])
def test_what_is_in_flight_can_be_settled(broker: mq.Broker, queue: mq.Queue[Any], by: str) -> None:
    queue.publish("x")
    delivery = queue.receive(timeout=0)
    receipt: Any = {"delivery": delivery, "receipt": delivery.receipt, "text": str(delivery.receipt)}[by]
    queue.rename("new")
    queue.ack_many([receipt])
    stats = broker.queue("new").stats()
    assert (stats.in_flight, stats.acked) == (0, 1)


def test_what_is_kept_is_extended(broker: mq.Broker, queue: mq.Queue[Any], clock: FakeClock) -> None:
    queue.publish("x")
    delivery = queue.receive(timeout=0)
    queue.rename("new")
    delivery.extend(500)
    clock.advance(400)
    delivery.ack()


@AFTERWARDS
def test_dead_letters_follow(
    engine: Engine, broker: mq.Broker, queue: mq.Queue[Any], clock: FakeClock, how: str
) -> None:
    """Those that are there, those that come, and the way back."""
    broker.queue("elsewhere", dead_letter="old.dead", max_attempts=1)
    for body in ("a", "b"):
        queue.publish(body)
        queue.receive(timeout=0).reject("no")
    broker.queue("old.dead").receive(timeout=0)
    queue.rename("new")
    broker = opened_anew(engine, broker, clock, how)
    dead, queue = broker.queue("new.dead"), broker.queue("new")
    assert {"new", "new.dead", "elsewhere"} <= {*broker.queues()} <= {"new", "new.dead", "elsewhere", "other"}
    assert [each.origin for each in dead.peek(9)] + [
        each.origin for each in dead.peek(9, state="in_flight")
    ] == ["new", "new"]
    broker.queue("elsewhere").publish("c")
    broker.queue("elsewhere").receive(timeout=0).nack()
    assert [each.origin for each in dead.peek(9)] == ["new", "elsewhere"]
    assert dead.replay() == 2
    assert bodies(queue) == ["b"]
    assert bodies(broker.queue("elsewhere")) == ["c"]
    queue.receive(timeout=0).reject()
    assert dead.peek(9)[0].origin == "new"


def test_dead_letters_elsewhere_stay_elsewhere(broker: mq.Broker) -> None:
    queue = broker.queue("old", dead_letter="morgue")
    broker.queue("old.dead").publish("of its own")
    queue.publish("x")
    queue.receive(timeout=0).reject()
    queue.rename("new")
    assert broker.queues() == ["morgue", "new", "old.dead"]
    assert [each.origin for each in broker.queue("morgue").peek()] == ["new"]


@AFTERWARDS
def test_a_queue_of_dead_letters_that_gets_another_name_stays_that(
    engine: Engine, broker: mq.Broker, queue: mq.Queue[Any], clock: FakeClock, how: str
) -> None:
    named = broker.queue("named", dead_letter="old.dead")
    for each in (queue, named):
        each.publish(each.name)
        each.receive(timeout=0).reject()
    broker.queue("old.dead").rename("morgue")
    broker = opened_anew(engine, broker, clock, how)
    for name in ("old", "named"):
        assert broker.queue(name).options()["dead_letter"] == "morgue"
        broker.queue(name).publish(f"{name} again")
        broker.queue(name).receive(timeout=0).reject()
    assert bodies(broker.queue("morgue")) == ["old", "named", "old again", "named again"]


@AFTERWARDS
def test_a_new_queue_of_the_old_name_is_another_one(
    engine: Engine, broker: mq.Broker, queue: mq.Queue[Any], clock: FakeClock, how: str
) -> None:
    queue.publish("first")
    queue.receive(timeout=0).reject()
    queue.rename("new")
    again = broker.queue("old", max_attempts=1)
    again.publish("second")
    again.receive(timeout=0).nack()
    broker = opened_anew(engine, broker, clock, how)
    assert [each.origin for each in broker.queue("new.dead").peek()] == ["new"]
    assert [each.origin for each in broker.queue("old.dead").peek()] == ["old"]
    broker.queue("old").rename("third")
    assert [each.origin for each in broker.queue("new.dead").peek()] == ["new"]
    assert [each.origin for each in broker.queue("third.dead").peek()] == ["third"]


@AFTERWARDS
def test_schedules_follow(
    engine: Engine, broker: mq.Broker, queue: mq.Queue[Any], clock: FakeClock, how: str
) -> None:
    broker.schedule("tick", queue, "tick", every=100)
    broker.schedule("topic", broker.topic("old"), "of a topic", every=100)
    queue.rename("a-much-longer-name-than-before")
    broker = opened_anew(engine, broker, clock, how)
    assert {each.name: each.queue for each in broker.schedules()} == {
        "tick": "a-much-longer-name-than-before", "topic": "old"
    }  # fmt: skip
    clock.advance(101)
    assert drained(broker.queue("a-much-longer-name-than-before")) == ["tick"]


def test_there_and_back(broker: mq.Broker, queue: mq.Queue[Any]) -> None:
    queue.publish("x")
    queue.receive(timeout=0).reject()
    for name in ("new", "newer", "old", "new"):
        queue.rename(name)
        assert broker.queues() == [name, f"{name}.dead"]
        assert [each.origin for each in broker.queue(f"{name}.dead").peek()] == [name]


@pytest.mark.file_store
def test_queues_that_sleep_since_a_checkpoint_follow(tmp_path: Path, clock: FakeClock) -> None:
    """Also over another checkpoint that is made while they sleep."""

    def opened() -> mq.Broker:
        return open_on(QuickDisk(), tmp_path / "s", clock=clock, **OPTIONS)

    broker = opened()
    queue = broker.queue("old", dead_letter="morgue")
    queue.publish("x")
    queue.receive(timeout=0).reject()
    broker.queue("old", dead_letter="another")
    broker.queue("elsewhere", dead_letter="old")
    for number in range(2):
        broker._store.maintenance.checkpoints.write()
        broker.close()
        broker = opened()
        sleeping = {image.name: image.renames for image in broker._store.replica.state.unloaded}
        assert sleeping["elsewhere"] == sleeping["morgue"] == (("old", "new"),) * number
        if not number:
            broker.queue("old").rename("new")
            assert "elsewhere" in {image.name for image in broker._store.replica.state.unloaded}
    broker.queue("old").publish("y")
    assert broker.queue("elsewhere").options()["dead_letter"] == "new"
    assert [each.origin for each in broker.queue("morgue").peek()] == ["new"]
    broker.close()
    broker = opened()
    assert broker.queue("elsewhere").options()["dead_letter"] == "new"
    broker.queue("old").rename("another")
    assert broker.queue("elsewhere").options()["dead_letter"] == "new"
    assert [each.origin for each in broker.queue("morgue").peek()] == ["new"]
    broker.close()


# ── what is refused ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("taken", "cannot be called 'taken'"), ("old", "already"), ("", "1 to 255 bytes"),
        ("a\0b", "control"), ("\1aside", "control"), ("x" * 256, "1 to 255 bytes"), ("x" * 252, "too long"),
        (5, "name"), ("free", "cannot be called 'free.dead'"),
    ],
)  # fmt: skip
def test_a_name_that_cannot_be_is_refused(
    broker: mq.Broker, queue: mq.Queue[Any], name: Any, why: str
) -> None:
    broker.queue("taken").publish("x")
    broker.queue("free.dead").publish("x")
    queue.publish("x")
    queue.receive(timeout=0).reject()
    before, generation = broker.queues(), broker.generation
    with pytest.raises(mq.UsageError, match=why):
        queue.rename(name)
    assert (broker.queues(), broker.generation) == (before, generation)
    assert queue.name == "old"


def test_a_queue_that_is_not_there_cannot_be_renamed(broker: mq.Broker) -> None:
    with pytest.raises(mq.UsageError, match="there is no queue 'none'"):
        broker.queue("none").rename("new")
    assert broker.queues() == []


@pytest.mark.parametrize("name", ["end", "middle.dead"])
def test_dead_letters_in_a_circle_are_refused(broker: mq.Broker, name: str) -> None:
    broker.queue("old", dead_letter="middle")
    broker.queue("middle", **({"dead_letter": "end"} if name == "end" else {"max_attempts": 1}))
    with pytest.raises(mq.UsageError, match="circle"):
        broker.queue("old").rename(name)
    assert broker.queues() == ["middle", "old"]


# ── handles, and those that wait ───────────────────────────────────────────────────


def test_all_handles_go_along(broker: mq.Broker, queue: mq.Queue[Any]) -> None:
    """Also those that had the new name before there was such a queue."""
    same, new = broker.queue("old"), broker.queue("new")
    queue.rename("new")
    for number, each in enumerate((queue, same, new, broker.queue("new"))):
        each.publish(number)
        each.publish(number, priority=1)
        assert each.name == "new"
    assert broker.queues() == ["new"]
    assert new.stats().ready == same.stats().ready == 8
    same.rename("third")
    assert [each.name for each in (queue, same, new)] == ["third"] * 3
    new.publish("x")
    assert broker.queues() == ["third"]


def test_what_a_transaction_publishes_to_a_handle_goes_along(broker: mq.Broker, queue: mq.Queue[Any]) -> None:
    """Else it makes a queue of the old name, from which no program receives."""
    with broker.transaction() as tx:
        tx.publish("old", "by name")
        tx.publish(queue, "by handle")
        tx.publish(broker.topic("t"), "to a topic")
        tx.publish(queue, "and again", priority=1)
        queue.publish("before")
        queue.rename("new")
        queue.subscribe("t")
    assert broker.queues() == ["new", "old"]
    assert bodies(queue) == ["and again", "before", "by handle", "to a topic"]
    assert bodies(broker.queue("old")) == ["by name"]


def test_a_handle_of_a_new_queue_of_the_old_name_stays_there(broker: mq.Broker, queue: mq.Queue[Any]) -> None:
    other = broker.queue("other")
    for each in (queue, other):
        each.publish("x")
    queue.rename("new")
    again = broker.queue("old")
    again.publish("y")
    other.rename("another")
    assert [each.name for each in (queue, again, other)] == ["new", "old", "another"]


@pytest.mark.parametrize("waits", ["old", "new"])
@pytest.mark.parametrize("publishes", ["old", "new"])
def test_a_receiver_that_waits_hears_of_it(
    broker: mq.Broker, queue: mq.Queue[Any], waits: str, publishes: str
) -> None:
    """Whichever name its handle had, and that of the publisher."""
    handles = {"old": broker.queue("old"), "new": broker.queue("new")}
    found: list[Any] = []

    def receive() -> None:
        found.append(handles[waits].receive(timeout=PATIENCE))

    def asleep() -> bool:
        return bool(broker._store.waiters.asleep)

    def wait_for(condition: Callable[[], bool]) -> None:
        give_up = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < give_up
            time.sleep(0.001)

    thread = threading.Thread(target=receive)
    thread.start()
    wait_for(asleep)
    queue.rename("new")
    wait_for(lambda: asleep() and not any(broker._store.waiters.channel("new").coming))
    handles[publishes].publish("x")
    thread.join(PATIENCE)
    assert [each.body for each in found] == ["x"]


def test_a_watch_hears_of_it(broker: mq.Broker, queue: mq.Queue[Any]) -> None:
    rung: list[int] = []
    watch, new = broker.watch(lambda: rung.append(1)), broker.queue("new")
    watch.arm([queue])
    queue.rename("new")
    broker._store.notifier.call_all()
    assert rung == [1]  # it looks, and arms again
    watch.arm([queue, broker.queue("other")])
    new.publish("x")
    broker._store.notifier.call_all()
    assert rung == [1, 1]
    watch.close()


def test_a_receiver_of_several_finds_it_under_its_new_name(broker: mq.Broker, queue: mq.Queue[Any]) -> None:
    several = [broker.queue(f"q{number}") for number in range(9)] + [queue]
    watch = broker.watch(lambda: None)
    watch.arm(several)
    queue.rename("new")
    queue.publish("x")
    assert watch.arm(several) == 0
    found = broker.receive(several, timeout=0)
    assert (found.body, found.queue) == ("x", "new")


@pytest.mark.needs("sharing")
def test_another_process_follows(
    engine: Engine, broker: mq.Broker, queue: mq.Queue[Any], clock: FakeClock
) -> None:
    with engine.open(clock=clock, **OPTIONS) as other:
        theirs = other.queue("old")
        theirs.publish("before")
        delivery = theirs.receive(timeout=0)
        queue.rename("new")
        assert theirs.stats().in_flight == 1
        theirs.publish("plain")
        theirs.publish("with a plan", priority=1)
        theirs.publish_many(["a", "b"], group="g")
        delivery.ack()
        assert theirs.name == "new"
        assert other.queues() == ["new"]
        assert drained(queue) == ["with a plan", "plain", "a", "b"]
        theirs.rename("third")
        queue.publish("with a plan", priority=1)
        assert (queue.name, broker.queues()) == ("third", ["third"])


@pytest.mark.needs("sharing")
def test_another_process_follows_with_what_it_decides_later(
    engine: Engine, broker: mq.Broker, queue: mq.Queue[Any], clock: FakeClock
) -> None:
    """It has not heard of the name when it begins."""
    with engine.open(clock=clock, **OPTIONS) as other:
        theirs = other.queue("old")
        theirs.publish("before")
        queue.rename("new")
        other.schedule("s", theirs, "tick", every=60)
        assert [each.queue for each in other.schedules()] == ["new"]
        queue.rename("third")
        with other.transaction() as tx:
            tx.publish(theirs, "in a transaction")
        assert other.queues() == ["third"]
        assert bodies(queue) == ["before", "in a transaction"]


def shares(path: Path, clock: FakeClock) -> mq.Broker:
    return open_on(QuickDisk(), path, clock=clock, **OPTIONS)


def move_head_far(broker: mq.Broker, checkpoint_bytes: int) -> None:
    """A process that does not follow meanwhile has to read a checkpoint, or the log from its head."""
    log = broker._store.replica.log
    end, other = log.end + 3 * log.segment_bytes, broker.queue("other")
    while log.head < end:
        other.publish(bytes(1000))
        other.receive(timeout=0).ack()
        broker._store.maintenance.run(checkpoint_bytes)


CHECKPOINTS = pytest.mark.parametrize("checkpoint_bytes", [0, 1 << 30], ids=["often", "when needed"])


@pytest.mark.file_store
@CHECKPOINTS
@pytest.mark.parametrize("again", [False, True], ids=["", "a new one of the old name"])
def test_a_process_that_was_far_behind_follows(
    tmp_path: Path, clock: FakeClock, checkpoint_bytes: int, *, again: bool
) -> None:
    with shares(tmp_path / "s", clock) as broker, shares(tmp_path / "s", clock) as behind:
        broker.queue("old").publish("x")
        handle = behind.queue("old")
        assert handle.stats().ready == 1
        epoch = behind._store.replica.epoch
        broker.queue("old").rename("new")
        if again:
            broker.queue("old").publish("another")
        move_head_far(broker, checkpoint_bytes)
        handle.publish("y")
        assert behind._store.replica.epoch > epoch
        assert handle.name == "new"
        assert bodies(broker.queue("new")) == ["x", "y"]
        assert bodies(broker.queue("old")) == ["another"] * again
        broker.queue("new").rename("newer")
        handle.publish("z")
        assert (handle.name, broker.queue("newer").stats().ready) == ("newer", 3)


@pytest.mark.file_store
@CHECKPOINTS
def test_a_process_that_was_far_behind_means_the_new_queue_of_a_deleted_one(
    tmp_path: Path, clock: FakeClock, checkpoint_bytes: int
) -> None:
    with shares(tmp_path / "s", clock) as broker, shares(tmp_path / "s", clock) as behind:
        queue = broker.queue("old")
        queue.publish("x")
        handle = behind.queue("old")
        assert handle.stats().ready == 1
        broker.queue("first").publish("x")
        broker.queue("first").rename("renamed")
        number = looking.number(broker._store, queue._channel)
        queue.delete()
        queue.publish("new")
        assert looking.number(broker._store, queue._channel) == number
        move_head_far(broker, checkpoint_bytes)
        epoch = behind._store.replica.epoch
        handle.publish("y")
        assert behind._store.replica.epoch > epoch
        assert (handle.name, bodies(queue)) == ("old", ["new", "y"])


@pytest.mark.file_store
def test_a_rename_before_a_process_began_is_not_followed(tmp_path: Path, clock: FakeClock) -> None:
    """Whether it knew of it or not."""
    with shares(tmp_path / "s", clock) as broker:
        broker.queue("old").publish("x")
        broker.queue("old").rename("new")
        move_head_far(broker, 1 << 30)
        shutil.rmtree(tmp_path / "s" / "checkpoint")
        with shares(tmp_path / "s", clock) as later:
            handle = later.queue("old")
            handle.publish("another")
            epoch = later._store.replica.epoch
            move_head_far(broker, 0)
            handle.publish("y")
            assert later._store.replica.epoch > epoch
            assert (handle.name, bodies(handle)) == ("old", ["another", "y"])


@pytest.mark.file_store
def test_a_process_that_waits_under_the_old_name_is_woken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mq.open(tmp_path / "s", sync="never") as broker, mq.open(tmp_path / "s", sync="never") as other:
        queue, found, rung = broker.queue("old", max_attempts=1), list[object](), set[int]()
        ring, word = broker._store.listener.ring, waits_word("old")

        def heard(word: int) -> None:
            rung.add(word)
            ring(word)

        monkeypatch.setattr(broker._store.listener, "ring", heard)
        thread = threading.Thread(target=lambda: found.append(other.queue("old").receive(timeout=PATIENCE)))
        thread.start()
        give_up = time.monotonic() + PATIENCE
        while not broker._store.turn.mark[word]:
            assert time.monotonic() < give_up
            time.sleep(0.001)
        queue.rename("new")
        assert word in rung
        queue.publish("x")
        thread.join(PATIENCE)
        assert [each.body for each in found] == ["x"]


@pytest.mark.needs("conflicts")
@pytest.mark.parametrize(
    "first",
    [
        lambda queue: queue.rename("new"), lambda queue: queue.rename("theirs"),
        lambda queue: queue.publish("x"), lambda queue: queue.delete(),
    ],
    ids=["the same", "another", "publish", "delete"],
)  # fmt: skip
def test_another_writer_may_be_first(
    engine: Engine, broker: mq.Broker, queue: mq.Queue[Any], first: Callable[[mq.Queue[Any]], object],
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    engine.meanwhile(broker, lambda other: first(other.queue("old")))
    case = request.node.callspec.id
    if "the same" in case or "delete" in case:
        with pytest.raises(mq.UsageError, match="there is no queue" if "delete" in case else "already"):
            queue.rename("new")
    else:
        queue.rename("new")
    assert broker.queues() == ([] if "delete" in case else ["new"])


@pytest.mark.file_store
def test_a_read_only_broker_follows_and_renames_nothing(tmp_path: Path) -> None:
    with mq.open(tmp_path / "s", sync="never") as broker:
        broker.queue("old").publish("x")
        with mq.open(tmp_path / "s", read_only=True) as reader:
            handle = reader.queue("old")
            assert handle.stats().ready == 1
            broker.queue("old").rename("new")
            assert handle.stats().ready == 1
            assert (handle.name, reader.queues()) == ("new", ["new"])
            with pytest.raises(mq.Unsupported):
                handle.rename("newer")
