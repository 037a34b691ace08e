"""What concerns very many messages is done in slices, so that no neighbour waits for all of it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from threading import Thread, current_thread
from time import sleep
from typing import Any

import pytest
from companions import until
from fakes import FakeClock, QuickDisk, open_on

import mq
from mq.api.receipts import claims_of
from mq.delivery import batches, dead, discarded, purge, state
from mq.delivery.queue import QueueState
from mq.delivery.ready import OPEN_MAX
from mq.delivery.unloaded import Unloaded
from mq.engine import hot, maintenance
from mq.engine.replica import FOLLOW_BYTES
from mq.engine.turn import VOID

IN_A_SLICE = 3
COUNT = 10


@pytest.fixture
def broker(tmp_path: Path, clock: FakeClock) -> Any:
    """Whose time for a slice is over after three messages."""
    with open_on(QuickDisk(), tmp_path / "s", clock=clock, background=False) as opened:
        opened._store.clock.timer = late_after_some
        yield opened


def late_after_some(_: float) -> Callable[[], bool]:
    looked: list[None] = []
    return lambda: looked.append(None) or len(looked) >= IN_A_SLICE


@pytest.fixture
def commits(broker: mq.Broker, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many records each commit appends."""
    found: list[int] = []
    commit = broker._store.committer.commit
    monkeypatch.setattr(
        broker._store.committer, "commit", lambda plan: found.append(len(plan.drafts)) or commit(plan)
    )
    return found


def taken(queue: mq.Queue[Any], count: int = COUNT) -> list[mq.Delivery[Any]]:
    queue.publish_many([f"{n}" for n in range(count)])
    return queue.receive_many(count)


@pytest.mark.parametrize("settle", ["ack_many", "nack_many", "release_many", "reject_many", "extend_many"])
def test_many_are_settled_in_slices(broker, commits, settle):
    queue = broker.queue("a", max_attempts=1)
    messages = taken(queue)
    stale = messages.pop(5)
    stale.ack()
    commits.clear()
    twice = [] if settle == "extend_many" else [messages[0]]
    with pytest.raises(mq.StaleReceipt) as error:
        getattr(queue, settle)([*messages[:5], stale, *messages[5:], *twice])
    assert error.value.ids == (stale.id, *(each.id for each in twice))
    assert len(commits) == 4
    assert all(count <= IN_A_SLICE + 1 for count in commits)  # one more: the dead letters are declared
    dead = 9 if settle in ("nack_many", "reject_many") else 0
    assert (queue.stats().in_flight, broker.queue("a.dead").stats().ready) == (
        9 if settle == "extend_many" else 0,
        dead,
    )


@pytest.mark.parametrize("operation", ["nack_many", "ack_many", "replay", "purge"])
def test_a_thread_that_waits_has_its_turn_between_two_slices(broker, monkeypatch, operation):
    """The one that lets go of the mutex is awake, and would have it again first."""
    store = broker._store
    monkeypatch.setattr(hot, "ACKS_MAX", IN_A_SLICE)
    monkeypatch.setattr(purge, "KEPT_MAX", 2)
    queue = broker.queue("a", max_attempts=1)
    messages = taken(queue)
    if operation == "replay":
        queue.nack_many(messages)
    elif operation == "purge":
        queue.publish_many(["waits"] * COUNT)
    other = Thread(target=lambda: broker.queue("b").publish("b"))

    enter = store.turn.enter

    def enter_first():
        enter()
        if other.ident is None:
            other.start()
            while other.ident not in store.busy:
                sleep(0)

    followed: list[bool] = []

    def pause(_):
        other.join(60)
        followed.append(not other.is_alive())

    monkeypatch.setattr(store.turn, "enter", enter_first)
    monkeypatch.setattr(store.disk, "pause", pause)
    if operation.endswith("many"):
        getattr(queue, operation)(messages)
    elif operation == "replay":
        assert broker.queue("a.dead").replay() == COUNT
    else:
        assert queue.purge() == COUNT
    assert followed[0]
    assert len(followed) == 1  # no other thread was there after that


def test_what_was_settled_before_a_failure_is_settled(broker, commits, monkeypatch):
    queue = broker.queue("a")
    messages = taken(queue)
    commit = broker._store.committer.commit

    def full(plan):
        if len(commits) == 2:
            raise mq.DiskFull("s", "no room")
        return commit(plan)

    monkeypatch.setattr(broker._store.committer, "commit", full)
    commits.clear()
    with pytest.raises(mq.DiskFull):
        queue.nack_many(messages)
    assert queue.stats().in_flight == 4
    with messages[0]:
        pass  # it is known to be settled: nothing is to be acked at the end of the block
    with messages[-1]:
        pass
    assert queue.stats().in_flight == 3


def test_dead_letters_are_replayed_in_slices(broker, commits):
    queue = broker.queue("a", max_attempts=1)
    queue.nack_many(taken(queue))
    grave = broker.queue("a.dead")
    kept = grave.receive()
    commits.clear()
    assert grave.replay() == COUNT - 1
    assert len(commits) == 4  # the one in flight was looked at in one of them
    assert [each.body for each in queue.peek(COUNT)] == [f"{n}" for n in range(1, COUNT)]
    assert [each.attempts for each in queue.peek(COUNT)] == [0] * (COUNT - 1)
    assert grave.stats()[:3] == (0, 1, 0)
    kept.release()
    assert grave.replay([kept.id, kept.id]) == 1


def test_a_replay_that_finds_no_room_says_how_far_it_came(broker):
    queue = broker.queue("a", max_attempts=1)
    queue.nack_many(taken(queue))
    broker.queue("a", max_length=7)
    with pytest.raises(mq.QueueFull, match=r"no room for 3 messages more \(6 were moved before\)"):
        broker.queue("a.dead").replay()
    assert (queue.stats().ready, broker.queue("a.dead").stats().ready) == (6, 4)
    with pytest.raises(mq.QueueFull, match="nothing was moved"):
        broker.queue("a.dead").replay()
    assert (queue.stats().ready, broker.queue("a.dead").stats().ready) == (6, 4)


def test_what_dies_meanwhile_is_not_replayed(broker, monkeypatch, tmp_path, clock):
    """Else a replay to a queue that fails at once would never end."""
    queue = broker.queue("a", max_attempts=1)
    queue.nack_many(taken(queue))
    more = dead.Replay.more.fget
    with open_on(QuickDisk(), tmp_path / "s", clock=clock, background=False) as other:

        def fail_again(self):
            for message in other.queue("a").receive_many(COUNT, timeout=0):
                message.nack()
            return more(self)

        monkeypatch.setattr(dead.Replay, "more", property(fail_again))
        assert broker.queue("a.dead").replay() == COUNT
    assert broker.queue("a.dead").stats().ready == COUNT


def test_a_purge_beside_much_that_is_in_flight_goes_in_slices(broker, commits, monkeypatch, tmp_path, clock):
    monkeypatch.setattr(purge, "KEPT_MAX", 2)
    queue = broker.queue("a")
    flying = taken(queue, 3)
    queue.publish_many(["waits"] * 4)
    queue.publish("delayed", delay=60)
    queue.publish("grouped", group="g", priority=7)
    more = purge.Purge.more.fget
    with open_on(QuickDisk(), tmp_path / "s", clock=clock, background=False) as other:

        def publish(self):
            if not broker._store.turn.mutex._is_owned():  # between two slices
                other.queue("a").publish("since")
            return more(self)

        monkeypatch.setattr(purge.Purge, "more", property(publish))
        commits.clear()
        assert queue.purge() == 6
    assert len(commits) == 2
    assert {each.body for each in queue.peek(COUNT)} == {"since"}
    assert queue.stats()[:4] == (3, 3, 0, 3 * len("since") + sum(map(len, (each.body for each in flying))))
    queue.ack_many(flying)
    assert queue.stats().bytes == 3 * len("since")


def test_a_slice_is_no_longer_than_others_follow_with_the_lock_held(tmp_path, clock):
    """However fast the computer is: a process that waits would let go of the lock, and wait again."""
    with open_on(QuickDisk(), tmp_path / "s", clock=clock, background=False) as broker:
        queue, appended = broker.queue("a", max_attempts=1), []
        messages = taken(queue, 600)
        append_group = broker._store.replica.log.append_group

        def append(now_ms, drafts):
            before = broker._store.replica.log.end
            positions = append_group(now_ms, drafts)
            appended.append(broker._store.replica.log.end - before)
            return positions

        broker._store.replica.log.append_group = append
        queue.nack_many(messages)
        assert broker.queue("a.dead").replay() == 600
        assert sum(appended) > 3 * FOLLOW_BYTES and max(appended) < 1.02 * FOLLOW_BYTES


def test_what_is_in_flight_is_not_gone_through_at_once(broker, commits, monkeypatch):
    monkeypatch.setattr(purge, "KEPT_MAX", 2)
    queue = broker.queue("a")
    taken(queue, 4)

    def in_flight(*_):
        raise AssertionError("all of them")

    monkeypatch.setattr(QueueState, "ids_in_flight", in_flight)
    assert queue.purge() == 0
    assert queue.stats().in_flight == 4
    commits.clear()
    assert queue.purge(in_flight=True) == 4
    assert len(commits) == 2


def test_many_messages_are_acked_unfenced_in_slices(broker, commits):
    queue = broker.queue("a")
    messages = taken(queue)
    queue.release_many(messages[::2])
    commits.clear()
    queue.ack_many(messages, fenced=False)
    assert len(commits) == 4
    assert queue.stats()[:3] == (0, 0, 0)


def test_what_is_made_of_each_message_is_not_gone_through_by_garbage_collections(broker):
    """They would come in the midst of a slice, and take as long as several."""
    queue = broker.queue("a")
    (message,) = taken(queue, 1)
    claims = claims_of([message, message.receipt], broker._store)
    state = broker._store.replica.state.named("a")
    for each in (message, *claims, state.flights[message.id]):
        assert not gc.is_tracked(each)
    gc.collect()
    assert not any(map(gc.is_tracked, claims._parts))


def test_what_goes_back_with_several_goes_back_once(broker, commits):
    """One record a message, however many of a batch are nacked at once."""
    queue = broker.queue("a")
    queue.publish_many([f"{n}" for n in range(COUNT)], group="g")
    messages = queue.receive_many(COUNT, per_group=None)
    broker._store.clock.timer = lambda _: lambda: False
    commits.clear()
    queue.nack_many(messages[:4])
    assert commits == [COUNT]
    assert queue.stats()[:3] == (6, 0, 4)


# ── very many that have come due ───────────────────────────────────────────────────


def all_timed_out(broker: mq.Broker, clock: FakeClock, count: int, settled: slice) -> mq.Queue[Any]:
    """But for those that were settled, of which the index knows as little."""
    queue = broker.queue("a", backoff=mq.Backoff(initial=0))
    queue.ack_many(taken(queue, count)[settled])
    clock.advance(31)
    return queue


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH_IDS", 2)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("settled", [slice(0, 0), slice(0, 60), slice(10, 70), slice(0, 80, 2)], ids=str)
def test_a_receive_takes_all_that_are_ready_of_very_many_that_timed_out(broker, clock, settled):
    """What its documentation says, however many have to be looked at, also in several turns."""
    queue = all_timed_out(broker, clock, 80, settled)
    expected = [f"{n}" for n in range(80)]
    del expected[settled]
    assert queue.stats().ready == len(expected)
    assert [each.body for each in queue.receive_many(100, timeout=0)] == expected
    assert queue.receive_many(100, timeout=0) == []


@pytest.mark.usefixtures("small_batches")
def test_other_threads_have_their_turn_while_a_receive_looks_at_very_many(broker, clock, monkeypatch):
    queue, gave_way = all_timed_out(broker, clock, 80, slice(0, 60)), []
    monkeypatch.setattr(hot, "give_way", gave_way.append)
    assert len(queue.receive_many(100, timeout=0)) == 20
    assert len(gave_way) >= 80 // 2 // OPEN_MAX - 1


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize(("state", "count"), [("ready", 20), ("in_flight", 0), ("delayed", 0)])
def test_a_peek_finds_all_of_very_many_that_timed_out(broker, clock, state, count):
    queue = all_timed_out(broker, clock, 80, slice(0, 60))
    assert len(queue.peek(100, state=state)) == count
    assert [each.body for each in queue.peek(3)] == ["60", "61", "62"]


@pytest.mark.usefixtures("small_batches")
def test_a_queue_whose_deliveries_have_all_timed_out_is_not_empty(broker, clock):
    queue = all_timed_out(broker, clock, 80, slice(0, 60))
    assert not queue.join(timeout=0)
    queue.ack_many(queue.receive_many(100, timeout=0))
    assert queue.join(timeout=0)


# ── what is freed ──────────────────────────────────────────────────────────────────


def fill(broker: mq.Broker) -> mq.Queue[Any]:
    queue = broker.queue("a")
    with broker.transaction() as tx:
        for _ in range(3 * discarded.SLICE):
            tx.publish(queue, "", delay=60)
    return queue


@pytest.mark.parametrize("operation", ["purge", "delete"])
def test_what_a_queue_held_is_freed_beside_the_lock(tmp_path, clock, monkeypatch, operation):
    """In slices, by the thread that cleans: also in a process that only hears of it."""
    monkeypatch.setattr(maintenance, "LET_RUN_SECONDS", 0)
    frees: list[tuple[str, bool]] = []
    free = discarded.Discarded.free

    def note(self, pause):
        store = next(
            each._store for each in (broker, other) if each._store.replica.state.board.discarded is self
        )
        frees.append((current_thread().name, store.turn.mutex._is_owned()))
        free(self, pause)

    monkeypatch.setattr(discarded.Discarded, "free", note)
    with (
        open_on(QuickDisk(), tmp_path / "s", clock=clock) as broker,
        open_on(QuickDisk(), tmp_path / "s", clock=clock) as other,
    ):
        queue = fill(broker)
        assert other.queue("a").stats().delayed == 3 * discarded.SLICE
        getattr(queue, operation)()
        assert not other.queue("a").peek(1, state="delayed")
        boards = [each._store.replica.state.board for each in (broker, other)]
        until(lambda: not any(board.discarded for board in boards))
    assert frees.count(("mq-maintenance", False)) == len(frees) >= 2


def test_without_a_thread_it_is_freed_at_once(broker):
    queue = fill(broker)
    assert queue.purge() == 3 * discarded.SLICE
    assert not broker._store.replica.state.board.discarded
    assert queue.stats()[:3] == (0, 0, 0)


def test_a_state_that_is_read_anew_has_it_freed_too(tmp_path, clock):
    with open_on(QuickDisk(), tmp_path / "s", clock=clock) as broker:
        queue = fill(broker)
        broker._store.replica.applied = VOID  # as an interruption leaves it
        assert queue.stats().delayed == 3 * discarded.SLICE
        assert broker._store.replica.state.board.discarded.keeps


# ── what is loaded ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("change", ["release", "move", "purge"])
def test_other_processes_go_on_while_one_that_follows_loads_a_large_queue(
    tmp_path, clock, monkeypatch, change
):
    """It holds the store's lock to follow, and loading takes hundreds of milliseconds."""
    monkeypatch.setattr(state, "LARGE", COUNT)
    with open_on(QuickDisk(), tmp_path / "s", clock=clock, background=False) as broker:
        queue = broker.queue("a", max_attempts=1)
        messages = taken(queue)
        queue.nack_many(messages)
        messages = taken(queue)
        broker._store.maintenance.checkpoints.write()
        made, loaded = Unloaded.made, []
        with open_on(QuickDisk(), tmp_path / "s", clock=clock, background=False) as other:

            def make(self, number):
                if self is other._store.replica.state.unloaded and self.total(number):
                    loaded.append(self.name(number))
                    broker.queue("b").publish("meanwhile")
                return made(self, number)

            monkeypatch.setattr(Unloaded, "made", make)
            if change == "release":
                queue.release_many(messages)
            elif change == "move":
                messages[0].nack()
            else:
                queue.purge(in_flight=True)
            other.queue("c").publish("c")
            assert set(loaded) == ({"a", "a.dead"} if change == "move" else {"a"})
            assert other.queue("b").stats().ready == len(loaded)
            assert other.queue("a").stats() == queue.stats()
            assert other.queue("a.dead").stats() == broker.queue("a.dead").stats()
        assert broker.queue("c").receive(timeout=0).body == "c"


def test_nothing_is_freed_that_a_checkpoint_has_while_it_is_written(broker, monkeypatch):
    """There is no thread that frees, and another one has the checkpoint in hand."""
    monkeypatch.setattr(discarded, "SLICE", 1)
    queue = broker.queue("a")
    taken(queue)
    store = broker._store
    with store.maintenance.working:
        purging = Thread(target=queue.purge, kwargs={"in_flight": True})
        purging.start()
        purging.join()
        assert store.replica.state.board.discarded
    broker.queue("b").publish("x")
    broker.queue("b").delete()
    assert not store.replica.state.board.discarded
