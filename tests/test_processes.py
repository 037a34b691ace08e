"""Many processes, one store (P12): two and four of them, come to be in every way there is.

Nothing here looks at how long something took.  Where a process must be woken by another,
nothing else would wake it within anybody's patience.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from companions import KINDS, NEVER, Companion, Hands, How, until

import mq
from mq.engine import checkpoints
from mq.engine.listener import SLOTS
from mq.storage import locks
from mq.storage.shared import ASLEEP, END, HEAD, waits_word

SEGMENT_BYTES = 16 << 10
BEHIND_BYTES = 2 << 20  # so much that others go on for some time while it is followed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(params=KINDS)
def how(request: pytest.FixtureRequest) -> How:
    return request.param


@pytest.fixture
def other(how: How, path: Path) -> Iterator[Companion]:
    with Companion(how, path) as other:
        yield other


def counts(queue: mq.Queue[Any]) -> tuple[int, ...]:
    stats = queue.stats()
    return *stats[:4], *stats[6:9]


# ── one store ──────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says who has a lock")
def test_everybody_is_told_who_has_the_store_open(path, other):
    with mq.open(path) as broker:
        everybody = sorted([os.getpid(), other.pid])
        assert broker.stats().processes == everybody
        other.do("close")
        assert broker.stats().processes == [os.getpid()]
        with mq.open(path, read_only=True) as reader:
            assert reader.stats().processes == [os.getpid()]
    with mq.open(path, read_only=True) as reader:
        assert reader.stats().processes == []


def test_what_one_publishes_the_other_receives_and_settles(path, other):
    with mq.open(path) as broker:
        mail = broker.queue("mail")
        ids = [mail.publish("one"), *mail.publish_many(["two", "three"])]
        taken = [other.do("receive", "mail") for _ in range(3)]
        assert [(id, body) for id, body, *_ in taken] == list(zip(ids, ["one", "two", "three"], strict=True))
        assert mail.receive(timeout=0) is None
        for id in ids:
            other.do("settle", "ack", id)
        assert counts(mail) == other.do("counts", "mail") == (0, 0, 0, 0, 3, 3, 0)
        back = other.do("publish", "mail", b"\0four")
        with mail.receive() as message:
            assert (message.id, message.body) == (*back, b"\0four")
        assert other.do("counts", "mail")[:3] == (0, 0, 0)


def test_attempts_deadlines_and_receipts_agree(path, other):
    with mq.open(path) as broker:
        mail = broker.queue("mail", visibility_timeout=600)
        id = mail.publish("one")
        mine = mail.receive()
        assert other.do("get", "mail", id) == ("one", 1, "in_flight", mine.due_at)
        mine.extend(900)
        assert other.do("get", "mail", id) == ("one", 1, "in_flight", mine.due_at)

        mine.nack(delay=0)
        assert other.do("receive", "mail") == (id, "one", 2, mail.get(id).due_at, receipt_of(mail, id))
        with pytest.raises(mq.StaleReceipt):
            mine.ack()
        other.do("settle", "release", id)
        with pytest.raises(mq.StaleReceipt):
            other.do("settle", "ack", id)

        again = mail.receive()
        assert again.attempts == 2  # the released one does not count
        other.do("ack_receipt", "mail", again.receipt)
        with pytest.raises(mq.StaleReceipt):
            again.ack()
        assert counts(mail) == other.do("counts", "mail") == (0, 0, 0, 0, 1, 1, 1)


def receipt_of(queue: mq.Queue[Any], id: int) -> str:
    """As it can be told from outside of the process that has the delivery."""
    flight = queue._channel.state.flights[id]
    return f"{queue._channel.state.number}-{id}-{flight.receipt}-{queue._store.tag}"


def test_a_definition_is_everybodys_at_once(path, other):
    with mq.open(path) as broker:
        mail = broker.queue("mail")
        assert other.do("options", "mail") == mail.options()
        other.do("declare", "mail", visibility_timeout=7.5)
        assert mail.options()["visibility_timeout"] == 7.5
        broker.queue("mail", visibility_timeout=600)
        assert other.do("options", "mail")["visibility_timeout"] == 600
        mail.publish("one")
        assert other.do("receive", "mail")
        assert mail.receive(timeout=0) is None
        other.do("publish", "parcels", "a queue that is new")
        assert broker.queues() == ["mail", "parcels"]
        assert broker.queue("parcels").receive().body == "a queue that is new"


def test_queues_made_by_several_at_once_are_told_apart(path):
    """Each has a number of its own, whoever made it."""
    with ExitStack() as stack:
        others = [stack.enter_context(Companion(how, path)) for how in (*KINDS, "fork")]
        for index, other in enumerate(others):
            other.begin("call", make_queues, index)
        for other in others:
            other.result()
        with mq.open(path) as broker:
            for name in broker.queues():
                assert [message.body for message in broker.queue(name).peek()] == [name] * 4
            assert len(broker.queues()) == 20


def make_queues(hands: Hands, seed: int) -> None:
    names = [f"queue {number}" for number in range(20)]
    random.Random(seed).shuffle(names)
    for name in names:
        hands.publish(name, name)


# ── traffic ────────────────────────────────────────────────────────────────────────

SHARE = 150  # messages that each process publishes


def publish_without_a_pause(hands: Hands, batches_max: int, stop: str) -> int:
    """Until it is told to stop; how many batches it came to."""
    queue, batch = hands.broker.queue("busy"), [b"." * 40] * 2000
    for count in range(batches_max):
        if os.path.exists(stop):
            return count
        queue.publish_many(batch)
    return batches_max


@pytest.mark.parametrize("doing", ["receive", "open"])
def test_a_process_beside_others_that_publish_all_the_time_is_served(path, tmp_path, doing):
    """It came back when they stopped: it was behind whenever it had followed."""
    batches_max, stop = 1000, str(tmp_path / "stop")
    with mq.open(path, sync="never") as broker, ExitStack() as stack:
        others = [stack.enter_context(Companion("spawn", path, sync="never")) for _ in range(2)]
        for other in others:
            other.begin("call", publish_without_a_pause, batches_max, stop)
        for turn in range(1, 4):
            until(lambda end=turn * BEHIND_BYTES: broker._store.turn.mark[END] > end)
            if doing == "receive":
                assert broker.queue("none").receive(timeout=0) is None
            else:
                mq.open(path, sync="never").close()
        Path(stop).touch()
        assert max(other.result() for other in others) < batches_max


@pytest.mark.parametrize("sync", ["always", "never"])
def test_four_processes_lose_double_and_alter_nothing(path, sync):
    """Each publishes and receives; some messages are nacked or released on the way."""
    with ExitStack() as stack:
        others = [stack.enter_context(Companion(how, path, sync=sync, segment_bytes=SEGMENT_BYTES))
                  for how in (*KINDS, "fork")]  # fmt: skip
        for index, other in enumerate(others):
            other.begin("call", trade, index)
        stories = [other.result() for other in others]
        acked = Counter(number for story in stories for number in story["acked"])
        assert max(acked.values()) == 1
        assert [story["wrong"] for story in stories] == [[]] * len(stories)
        with mq.open(path) as broker:
            while message := broker.queue("mail").receive(timeout=0):
                acked[int(message.raw[:8])] += 1
                message.ack()
            assert broker.queue("mail").stats()[:4] == (0, 0, 0, 0)
        assert acked == Counter(range(len(others) * SHARE))


def body(number: int) -> bytes:
    return b"%08d" % number + random.Random(number).randbytes(number * 7919 % 700)


def trade(hands: Hands, index: int) -> dict[str, list[Any]]:
    """Publish one's share, and settle about as many; what was acked, and what was not as it should be."""
    mail = hands.broker.queue("mail", visibility_timeout=NEVER)
    chance = random.Random(index)
    numbers = list(range(index * SHARE, (index + 1) * SHARE))
    story: dict[str, list[Any]] = {"acked": [], "wrong": []}
    attempts: Counter[int] = Counter()
    while numbers:
        count = chance.choice([1, 1, 3])
        mail.publish_many([body(number) for number in numbers[:count]])
        del numbers[:count]
        for message in mail.receive_many(chance.choice([1, 2, 4]), timeout=0):
            number = int(message.raw[:8])
            if message.raw != body(number) or message.attempts <= attempts[number]:
                story["wrong"].append((number, message.attempts, message.raw))
            fate = chance.random()
            if fate < 0.1:
                attempts[number] = message.attempts
                message.nack(delay=0)
            elif fate < 0.2:
                message.release()
            else:
                message.ack()
                story["acked"].append(number)
    return story


def test_a_batch_is_seen_whole_or_not_at_all(path):
    """P4, by somebody who looks all the time."""
    with Companion("spawn", path, segment_bytes=SEGMENT_BYTES) as other, mq.open(path) as broker:
        mail = broker.queue("mail")
        other.begin("call", publish_batches)
        seen = 0
        while seen < 60 * 7:
            seen = mail.stats().ready
            assert seen % 7 == 0
        other.result()
        assert [int(each.raw) for each in mail.peek(1000)] == list(range(60 * 7))


def publish_batches(hands: Hands) -> None:
    for first in range(0, 60 * 7, 7):
        hands.publish_many("mail", *(b"%d" % number for number in range(first, first + 7)))


# ── waking ─────────────────────────────────────────────────────────────────────────


def without_heartbeat(other: Companion) -> None:
    """From here on only a bell wakes it."""
    other.do("change", "mq.engine.listener", "HEARTBEAT_SECONDS", NEVER)


def asleep(broker: mq.Broker) -> int:
    return broker._store.turn.mark[ASLEEP].bit_count()


WAYS_TO_WAKE = {
    "publish": lambda queue, held: queue.publish("new"),
    "publish_many": lambda queue, held: queue.publish_many(["new", "newer"]),
    "nack": lambda queue, held: held.nack(delay=0),
    "release": lambda queue, held: held.release(),
    "a nearer deadline": lambda queue, held: held.extend(0.01),
    "a nack with a delay": lambda queue, held: held.nack(delay=0.01),
}


def test_a_process_that_waits_for_another_queue_is_left_asleep(path):
    names = [name for name in map(str, range(200)) if waits_word(name) != waits_word("mail")]
    with Companion("program", path) as other, mq.open(path) as broker:
        without_heartbeat(other)
        other.begin("receive", "mail", None)
        until(lambda: asleep(broker))
        rung = []
        broker._store.listener.ring = rung.append
        for name in names:
            broker.queue(name).publish("not for it")
            broker.queue(name).publish("nor this", priority=1)
            broker.queue(name).receive().ack()
        assert not rung
        del broker._store.listener.ring
        broker.queue("mail").publish("for it")
        assert other.result()[1] == "for it"


def test_a_process_is_woken_by_what_falls_due_elsewhere(path):
    """It waits for dead letters: it does the work that makes one, at its time."""
    with Companion("program", path) as other, mq.open(path) as broker:
        without_heartbeat(other)
        other.begin("receive", "mail.dead", None)
        until(lambda: asleep(broker))
        broker.queue("mail", expired="dead_letter").publish("expires", ttl=0.05)
        assert other.result()[1] == "expires"


@pytest.mark.parametrize("way", WAYS_TO_WAKE)
def test_a_receiver_is_woken_by_what_another_process_does(path, way):
    with Companion("program", path) as other, mq.open(path) as broker:
        without_heartbeat(other)
        mail = broker.queue("mail", visibility_timeout=NEVER)
        mail.publish("old")
        held = mail.receive()
        other.begin("receive", "mail", None)
        until(lambda: asleep(broker))
        WAYS_TO_WAKE[way](mail, held)
        assert other.result()[1] == ("new" if "publish" in way else "old")


def test_a_receiver_of_a_queue_that_is_not_there_yet_is_woken(path, other):
    with mq.open(path) as broker:
        without_heartbeat(other)
        other.begin("receive", "mail", None)
        until(lambda: asleep(broker))
        broker.queue("mail").publish("one")
        assert other.result()[1] == "one"


def test_everybody_who_sleeps_is_woken(path):
    with ExitStack() as stack:
        others = [stack.enter_context(Companion(how, path)) for how in (*KINDS, "fork")]
        broker = stack.enter_context(mq.open(path))
        for other in others:
            without_heartbeat(other)
            other.begin("receive", "mail", None)
        until(lambda: asleep(broker) == len(others))
        broker.queue("mail").publish_many(range(len(others)))
        assert sorted(other.result()[1] for other in others) == list(range(len(others)))


def test_whoever_is_woken_and_dies_takes_nothing_along(path):
    """A message that two wait for comes to the other one; and the dead one's bell is used again."""
    with Companion("spawn", path) as first, Companion("program", path) as second, mq.open(path) as broker:
        for other in (first, second):
            without_heartbeat(other)
            other.begin("receive", "mail", None)
            until(lambda: asleep(broker) >= 1)
        until(lambda: asleep(broker) == 2)
        os.kill(first.pid, signal.SIGSTOP)
        broker.queue("mail").publish("one")
        assert second.result()[1] == "one"
        first.kill()
        with Companion("spawn", path) as third:
            without_heartbeat(third)
            third.begin("receive", "mail", None)
            until(lambda: asleep(broker))
            broker.queue("mail").publish("two")
            assert third.result()[1] == "two"
    assert len(os.listdir(path / "wake")) == 2 <= SLOTS


def test_a_message_of_a_dead_process_comes_to_who_waits_for_it(path):
    with Companion("spawn", path) as mortal, Companion("program", path) as patient:
        without_heartbeat(patient)
        [id] = mortal.do("publish", "mail", "one")
        mortal.do("receive", "mail", visibility_timeout=NEVER)
        with mq.open(path) as broker:
            patient.begin("receive", "mail", None)
            until(lambda: asleep(broker))
            mortal.do("settle", "extend", id, 0.2)
            mortal.kill()
            assert patient.result()[:3] == (id, "one", 2)


def test_a_receiver_gives_up_and_is_none_the_wiser(path, other):
    assert other.do("receive", "mail", 0.05) is None
    with mq.open(path) as broker:
        broker.queue("mail").publish("one")
    assert other.do("receive", "mail", 0.05)[1] == "one"


def test_more_processes_than_there_are_bells(path, monkeypatch):
    """The others look often."""
    with ExitStack() as stack:
        others = [stack.enter_context(Companion("fork" if "fork" in KINDS else "spawn", path))
                  for _ in range(3)]  # fmt: skip
        broker = stack.enter_context(mq.open(path))
        for other in others:
            without_heartbeat(other)
            other.do("change", "mq.engine.listener", "SLOTS", 1)
            other.begin("receive", "mail", None)
        until(lambda: asleep(broker))
        for body in "abc":
            broker.queue("mail").publish(body)
        assert sorted(other.result()[1] for other in others) == ["a", "b", "c"]


# ── the lock ───────────────────────────────────────────────────────────────────────


def test_whoever_stands_still_with_the_lock_is_named_and_goes_on_later(path, monkeypatch):
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.05)
    with Companion("spawn", path) as other, mq.open(path) as broker:
        mail = broker.queue("mail")
        mail.publish("before")
        other.begin("call", stop_in_the_middle)
        other.until_stopped()
        for attempt in (mail.publish, lambda _: mail.receive(timeout=0), lambda _: mq.open(path)):
            with pytest.raises(mq.StoreLocked, match=f"process {other.pid}") as refused:
                attempt("refused")
            assert refused.value.pid == other.pid
        monkeypatch.setattr(locks, "LOCK_SECONDS", NEVER)
        other.go_on()
        mail.publish("after")
        other.result()
        assert sorted(message.body for message in mail.peek()) == ["after", "before", "stopped"]
        assert other.do("counts", "mail") == counts(mail)


def stop_in_the_middle(hands: Hands) -> None:
    """Publish; between the lock and the write, stand still."""

    def stop_and_write(fd: int, data: bytes, offset: int) -> int:
        hands.on_write(os.pwrite)
        os.kill(os.getpid(), signal.SIGSTOP)
        return os.pwrite(fd, data, offset)

    hands.on_write(stop_and_write)
    hands.publish("mail", "stopped")


# ── exclusive ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("exclusive", [True, False])
def test_who_has_a_store_for_itself_shares_it_with_nobody(path, how, exclusive):
    with Companion(how, path, exclusive=True) as other:
        other.do("publish", "mail", "one")
        with pytest.raises(mq.StoreLocked) as refused:
            mq.open(path, exclusive=exclusive)
        assert refused.value.pid == other.pid
        other.do("publish", "mail", "two")
        with mq.open(path, read_only=True) as reader:
            assert [message.body for message in reader.queue("mail").peek()] == ["one", "two"]
        other.do("close")
        with mq.open(path, exclusive=exclusive) as broker:
            assert broker.queue("mail").stats().ready == 2


def test_a_shared_store_is_nobodys_own(path, other):
    with pytest.raises(mq.StoreLocked):
        mq.open(path, exclusive=True)
    other.do("publish", "mail", "one")
    other.kill()
    with mq.open(path, exclusive=True) as broker:
        assert broker.queue("mail").receive().body == "one"


# ── coming, going, and being away ──────────────────────────────────────────────────


def test_many_open_the_same_new_store_at_once(path):
    with ExitStack() as stack:
        others = [stack.enter_context(Companion(how)) for how in (*KINDS, "fork")]
        for round in range(5):
            new = path / str(round)
            for index, other in enumerate(others):
                other.begin("call", open_publish_close, new, index)
            for other in others:
                other.result()
            with mq.open(new) as broker:
                assert sorted(each.body for each in broker.queue("mail").peek()) == [0, 1, 2, 3]


def open_publish_close(hands: Hands, path: Path, body: int) -> None:
    with mq.open(path) as broker:
        broker.queue("mail").publish(body)


def test_the_last_one_to_close_says_so(path):
    with Companion("spawn", path) as other:
        with mq.open(path) as broker:
            broker.queue("mail").publish("one")
        assert verdict(path, other) == "open"
        other.do("close")
        assert verdict(path) == "clean"


def verdict(path: Path, living: Companion | None = None) -> str:
    with mq.open(path, read_only=True) as reader:
        return reader._store.replica.verdict.value


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are written all the time here."""
    monkeypatch.setattr(checkpoints, "CHECKPOINT_SHARE", 0)


def rotate_clean_and_checkpoint(broker: mq.Broker) -> None:
    """Until nothing of the log is there that was there before."""
    store = broker._store
    end = store.replica.log.end
    scratch = broker.queue("scratch")
    while store.turn.mark[HEAD] < end:
        for _ in range(50):
            scratch.publish(bytes(300))
            scratch.receive().ack()
        store.maintenance.run(1)


@pytest.mark.parametrize("doing", ["publish", "receive", "ack", "nack", "get", "counts"])
def test_an_idle_process_goes_on_where_the_others_are(path, busy, doing):
    """What it knew is gone from the disk: it attaches anew."""
    with Companion("spawn", path, segment_bytes=SEGMENT_BYTES, sync="never") as idle:
        first, second = idle.do("publish", "mail", "one", "two")
        taken = idle.do("receive", "mail", visibility_timeout=NEVER)
        with mq.open(path, segment_bytes=SEGMENT_BYTES, sync="never") as broker:
            rotate_clean_and_checkpoint(broker)
            if doing == "publish":
                [third] = idle.do("publish", "mail", "three")
                assert third > broker._store.turn.mark[HEAD]
            elif doing == "receive":
                assert idle.do("receive", "mail")[:3] == (second, "two", 1)
            elif doing in ("ack", "nack"):
                idle.do("settle", doing, taken[0])
            elif doing == "get":
                assert idle.do("get", "mail", first)[1:] == (1, "in_flight", taken[3])
            assert idle.do("counts", "mail") == counts(broker.queue("mail"))
            assert idle.do("counts", "scratch") == counts(broker.queue("scratch"))


def test_a_blocked_receiver_sleeps_through_all_that(path, busy):
    with Companion("spawn", path, segment_bytes=SEGMENT_BYTES) as sleeper:
        without_heartbeat(sleeper)
        with mq.open(path, segment_bytes=SEGMENT_BYTES, sync="never") as broker:
            sleeper.begin("receive", "mail", None)
            until(lambda: asleep(broker))
            rotate_clean_and_checkpoint(broker)
            until(lambda: asleep(broker))
            broker.queue("mail").publish("one")
            assert sleeper.result()[1] == "one"


# ── tools beside live processes ────────────────────────────────────────────────────


@pytest.fixture
def writers(path: Path, tmp_path: Path) -> Iterator[list[Companion]]:
    """Two that publish, receive, rotate and clean, until the file "enough" is there."""
    enough = tmp_path / "enough"
    with Companion("spawn", path, segment_bytes=SEGMENT_BYTES, sync="never") as first:
        first.do("publish", "mail", "one")
        with Companion("program", path, segment_bytes=SEGMENT_BYTES, sync="never") as second:
            writers = [first, second]
            for index, writer in enumerate(writers):
                writer.begin("call", write_until, str(enough), index)
            until(lambda: all(Path(f"{enough}.{index}").exists() for index in range(2)))
            yield writers
            enough.touch()
            for writer in writers:
                writer.result()


def write_until(hands: Hands, enough: str, seed: int) -> None:
    chance, jobs = random.Random(seed), hands.broker.queue("jobs")
    done = 0
    while not os.path.exists(enough):
        done += 1
        jobs.publish_many([chance.randbytes(200) for _ in range(4)])
        for message in jobs.receive_many(4, timeout=0):
            message.ack()
        if done % 100 == 0:
            hands.broker._store.maintenance.run(1)
            Path(f"{enough}.{seed}").touch()


COMMANDS = {
    "publish mail two": 0,
    "peek mail": 0,
    "queues": 0,
    "stats mail": 0,
    "inspect": 0,
    "dump": 0,
    "verify": 0,
    "compact --dry-run": 0,
    "compact": 0,
    "repair": 1,
    "receive mail": 0,
}


def test_every_command_works_beside_live_writers(path, writers):
    for arguments, code in COMMANDS.items():
        done = subprocess.run(
            [sys.executable, "-m", "mq", "--store", path, *arguments.split()],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, (arguments, done.stderr)
        if code:
            assert "in use" in done.stderr


def test_readers_come_and_go_beside_live_writers(path, writers):
    for _ in range(30):
        with mq.open(path, read_only=True) as reader:
            assert [message.body for message in reader.queue("mail").peek()] == ["one"]
            before = reader.queue("jobs").stats().published
            assert reader.queue("jobs").stats().published >= before


def test_writers_come_and_go_beside_live_writers(path, writers):
    for number in range(20):
        with mq.open(path, segment_bytes=SEGMENT_BYTES, sync="never") as broker:
            broker.queue("visits").publish(number)
    with mq.open(path) as broker:
        assert [message.body for message in broker.queue("visits").peek(100)] == list(range(20))
