"""A store on one server: made, shared, refused, damaged, trimmed, forked, closed."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import nats
import pytest
from logs import log_of
from servers import Cluster
from servers.node import until

import mq
from mq.nats import trimming
from mq.nats.arrivals import Arrivals
from mq.nats.direct import Direct
from mq.nats.message import encode, place_of
from mq.nats.sending import Sending

Opens = Callable[..., mq.Broker]


def take(queue: mq.Queue[Any]) -> mq.Delivery[Any]:
    message = queue.receive(timeout=0)
    assert message
    return message


def ask(broker: mq.Broker, do: Callable[[Any], Awaitable[Any]]) -> Any:
    """What *do* says with a JetStream context of another client."""

    async def run() -> Any:
        client = await nats.connect(broker._store.address.servers)  # type: ignore[attr-defined]
        try:
            return await do(client.jetstream())
        finally:
            await client.close()

    return asyncio.run(run())


# ── opening ────────────────────────────────────────────────────────────────────────


def test_two_brokers_share_a_store(opens: Opens) -> None:
    one, two = opens(), opens()
    assert one.store_id == two.store_id
    ids = [broker.queue("q").publish(body) for body in "ab" for broker in (one, two)]
    assert ids == sorted(set(ids))
    assert [message.body for message in two.queue("q").receive_many(9)] == ["a", "a", "b", "b"]
    assert one.queue("q").receive(timeout=0) is None
    assert one.queue("q").stats().in_flight == 4


def test_a_receipt_is_settled_by_any_process(opens: Opens) -> None:
    one, two = opens(), opens()
    one.queue("q").publish_many(["a", "b"])
    first, second = one.queue("q").receive_many(2)
    two.queue("q").ack_many([first.receipt])
    with pytest.raises(mq.StaleReceipt):
        first.ack()
    second.ack()
    assert two.queue("q").stats()[:3] == (0, 0, 0)


def test_a_receiver_that_waits_is_woken_by_another_process(opens: Opens) -> None:
    one, two = opens(), opens()
    two.queue("q").publish("first")
    take(one.queue("q")).ack()
    found: list[object] = []
    waits = threading.Thread(target=lambda: found.append(one.queue("q").receive(timeout=30)))
    waits.start()
    while not one._store.waiters.asleep:
        time.sleep(0)
    two.queue("q").publish("second")
    waits.join(30)
    assert [message.body for message in found] == ["second"]  # type: ignore[attr-defined]


def test_before_nothing_is_said_the_leader_is_asked(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others appended comes only when it is waited for."""
    one, two = opens(), opens()
    one.queue("q").publish("first")
    message = take(two.queue("q"))
    hear, wait, late = Arrivals._hear, Arrivals.wait, log_of(two).arrivals
    held: list[Any] = []

    def hold(self: Arrivals, *what: Any) -> None:
        held.append(what) if self is late else hear(self, *what)

    async def let_go() -> None:
        while held:
            hear(late, *held.pop(0))

    def release(self: Arrivals, *args: Any) -> None:
        while self is late and self.last < args[0]:
            log_of(two)._connection.run(let_go())
        wait(self, *args)

    monkeypatch.setattr(Arrivals, "_hear", hold)
    monkeypatch.setattr(Arrivals, "wait", release)
    one.queue("q").publish("second")
    assert take(two.queue("q")).body == "second"
    one.queue("q").ack_many([message.receipt])
    one.queue("q").publish("third")
    assert two.queue("q").stats().published == 3


@pytest.mark.parametrize(
    "options", [{"exclusive": True}, {"recover": "salvage"}, {"mode": 0o600}, {"segment_bytes": 1 << 20},
                {"sync": "never"}, {"sync": 1.0}],
)  # fmt: skip
def test_what_only_files_have_is_refused_by_name(url: str, options: dict[str, Any]) -> None:
    with pytest.raises(mq.Unsupported, match=next(iter(options))):
        mq.open(url, **options)


def test_a_stream_of_another_program_is_refused(opens: Opens, url: str) -> None:
    other = url.rpartition("/")[0] + "/other" + url[-20:]
    name = "mq_other" + url[-20:]
    ask(opens(), lambda js: js.add_stream(name=name, subjects=[f"x.{name}"]))
    with pytest.raises(mq.Unsupported, match="was not made by mq"):
        mq.open(other)


def test_a_stream_with_other_settings_is_refused_by_name(opens: Opens) -> None:
    broker = opens()
    name = broker._store.replica.stream.name  # type: ignore[attr-defined]

    async def change(js: Any) -> None:
        config = (await js.stream_info(name)).config
        await js.update_stream(config.evolve(max_age=3600.0))

    ask(broker, change)
    with pytest.raises(mq.Unsupported, match="max_age"):
        opens()


def test_no_server_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mq.nats.connection.PATIENCE_SECONDS", 0.2)
    before = set(threading.enumerate())
    with pytest.raises(mq.StorageError, match="no connection to NATS"):
        mq.open("nats://127.0.0.1:1/s")
    assert not [each for each in set(threading.enumerate()) - before if each.name == "mq-nats"]


def test_a_client_that_is_refused_is_told_at_once_and_no_secret_is(url: str) -> None:
    with mq.open(url.replace("://", "://mq:mq@")) as broker:
        assert broker.path == url
    with pytest.raises(mq.StorageError, match="refuses this client") as caught:
        mq.open(url.replace("://", "://mq:geheim@"))
    assert "geheim" not in str(caught.value)


def test_read_only_changes_nothing_and_follows(opens: Opens, url: str) -> None:
    with pytest.raises(mq.StorageError, match="no stream"):
        mq.open(url, read_only=True)
    broker, reader = opens(), opens(read_only=True)
    broker.queue("q").publish("x")
    assert [message.body for message in reader.queue("q").peek()] == ["x"]
    with pytest.raises(mq.Unsupported):
        reader.queue("q").publish("y")


def descriptors() -> set[tuple[str, str]]:
    """Of this process: the numbers, and what they are of."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that by which the directory was read
            found.add((fd, os.readlink(f"/proc/self/fd/{fd}")))
    return found


def test_close_leaves_nothing_behind(url: str) -> None:
    """What other tests have left may end meanwhile."""
    before = set(threading.enumerate()), descriptors()
    with mq.open(url) as broker:
        broker.queue("q").publish("x")
        assert broker.queue("other").receive(timeout=0.01) is None
    assert descriptors() <= before[1]
    # A thread is told of until its last line, which nobody waits for.
    until(lambda: set(threading.enumerate()) <= before[0], "a thread stays")
    with pytest.raises(mq.Closed):
        broker.queue("q").publish("y")


def test_work_that_a_close_cuts_off_ends_with_closed(url: str) -> None:
    broker = mq.open(url)
    connection, ended = log_of(broker)._connection, []

    def work() -> None:
        with pytest.raises(mq.Closed):
            connection.run(asyncio.sleep(600))
        ended.append(True)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for each in threads:
        each.start()
    broker.close()
    for each in threads:
        each.join(30)
    assert len(ended) == 3
    work()  # and so does what comes later


def test_a_child_of_a_fork_connects_anew_and_the_parent_goes_on(opens: Opens) -> None:
    broker = opens()
    queue = broker.queue("q")
    queue.publish("parent")
    pid = os.fork()
    if not pid:
        code = 1
        try:
            queue.publish("child")
            code = 0 if take(queue).body == "parent" else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    queue.publish("again")
    assert [take(queue).body for _ in range(2)] == ["child", "again"]


# ── appending ──────────────────────────────────────────────────────────────────────


def test_what_has_no_answer_is_sent_again_and_stored_once(
    opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, attempt, silent = opens().queue("q"), Sending._try, [True, True]

    async def lost(self: Sending, *args: Any) -> dict[str, Any]:
        answer = await attempt(self, *args)
        if silent and silent.pop():
            raise nats.errors.TimeoutError
        return answer

    queue.publish("begin")
    monkeypatch.setattr(Direct, "ask", lambda *args: None)
    monkeypatch.setattr(Sending, "_try", lost)
    queue.publish("one")
    queue.publish_many([b"x" * 500_000] * 3)  # a batch
    assert queue.stats().ready == 5 and not silent


def test_another_writers_message_is_not_taken_for_ones_own(
    opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt gets no answer, and is not stored; another process stores the same meanwhile."""
    clock = lambda: 1_700_000_000.0  # noqa: E731
    one, two = opens(clock=clock), opens(clock=clock)
    one.queue("q").publish("begin")
    assert two.queue("q").stats().ready == 1
    attempt, first = Sending._try, [True]

    async def lost(self: Sending, *args: Any) -> dict[str, Any]:
        if first and first.pop():
            await asyncio.to_thread(two.queue("q").publish, "same")
            raise nats.errors.TimeoutError
        return await attempt(self, *args)

    monkeypatch.setattr(Direct, "ask", lambda *args: None)
    monkeypatch.setattr(Sending, "_try", lost)
    one.queue("q").publish("same")
    assert two.queue("q").stats().ready == 3


def test_without_any_answer_the_outcome_is_open_and_the_store_goes_on(
    opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, attempt = opens().queue("q"), Sending._try
    queue.publish("begin")

    async def never(self: Sending, *args: Any) -> dict[str, Any]:
        await attempt(self, *args)
        raise nats.errors.TimeoutError

    with monkeypatch.context() as patch:
        patch.setattr(Direct, "ask", lambda *args: None)
        patch.setattr(Sending, "_try", never)
        patch.setattr("mq.nats.sending.PATIENCE_SECONDS", 0.0)
        with pytest.raises(mq.StoreFailed, match="unknown"):
            queue.publish("perhaps")
    queue.publish("end")
    assert [take(queue).body for _ in range(3)] == ["begin", "perhaps", "end"]


def test_a_body_longer_than_a_message_comes_back_whole(opens: Opens) -> None:
    one, two = opens(), opens()
    bodies = [os.urandom(5_000_000), b"", os.urandom(699_940)]
    one.queue("q").publish_many(bodies)
    log_of(two).pages.kept_bytes = 0
    assert [message.body for message in two.queue("q").receive_many(3)] == bodies
    with opens() as third:
        assert [message.body for message in third.queue("q").peek(state="in_flight")] == bodies


def test_ids_are_made_of_sequence_and_place(opens: Opens) -> None:
    ids = opens().queue("q").publish_many(["a", "b"])
    (first, at), (second, behind) = map(place_of, ids)
    assert first == second and at < behind


def test_a_full_stream_takes_no_publish_and_still_lets_go(cluster: Cluster, url: str) -> None:
    with mq.open(url + "?max_bytes=1048576") as broker:
        queue = broker.queue("q")
        for size in (100_000, 2000, 10):  # to the last byte
            with pytest.raises(mq.DiskFull):
                for _ in range(200):
                    queue.publish(b"x" * size)
        while message := queue.receive(timeout=0):
            message.ack()
        queue.publish(b"x" * 100_000)  # what was behind all that lives was purged


# ── damage ─────────────────────────────────────────────────────────────────────────


def append(broker: mq.Broker, data: bytes) -> None:
    subject = broker._store.replica.stream.subject  # type: ignore[attr-defined]
    ask(broker, lambda js: js.publish(subject, data))


@pytest.mark.parametrize("what", ["flipped", "another's place", "no message"])
def test_what_is_not_what_was_written_raises_corrupt_store_with_its_sequence(opens: Opens, what: str) -> None:
    broker = opens()
    broker.queue("q").publish("x")
    log = log_of(broker)
    last = log.seq  # what failed is read anew, from the start, by whichever thread comes first
    mark = log.order.compared if what == "flipped" else (last - 1, 17)
    (data,) = encode([(16, 0, 1, b"y")]).messages(log._stream.seed, mark, 1, 5)
    if what == "flipped":
        data = data[:-1] + b"z"
    append(broker, b"no" if what == "no message" else data)
    for use in (lambda: broker.queue("q").stats(), opens):
        with pytest.raises(mq.CorruptStore) as caught:
            use()
        assert caught.value.offset == last + 1


def test_a_message_that_is_gone_raises_corrupt_store(opens: Opens) -> None:
    one = opens()
    for body in "abc":
        one.queue("q").publish(body)
    seq = log_of(one).seq - 1
    ask(one, lambda js: js.delete_msg(log_of(one)._stream.name, seq))
    with pytest.raises(mq.CorruptStore) as caught:
        opens()
    assert caught.value.offset == seq


# ── trimming and checkpoints ───────────────────────────────────────────────────────


def picture(broker: mq.Broker) -> Any:
    def of(queue: mq.Queue[Any]) -> Any:
        states: tuple[mq.State, ...] = ("ready", "in_flight", "delayed")
        shown = [
            [
                (m.id, m.body, m.attempts, m.priority, m.group, dict(m.headers))
                for m in queue.peek(999, state=at)
            ]
            for at in states
        ]
        return queue.stats()._replace(oldest_age=0), queue.options(), shown

    return {name: of(broker.queue(name)) for name in broker.queues()}


def test_a_trim_changes_nothing_that_is_seen_by_any_process(opens: Opens) -> None:
    one, other = opens(), opens()
    queue = one.queue("q", max_attempts=3, backoff=mq.Backoff(initial=60))
    queue.publish_many([b"x" * 500] * 300)
    first = queue.publish("grouped", group="g", priority=7, headers={"a": "b"}, dedup_id="d")
    queue.publish("later", delay=3600)
    queue.ack_many(queue.receive_many(200))
    take(queue).nack(reason="why")
    held = take(queue)
    before, size = picture(one), one.stats().disk_bytes
    one._store.maintenance.compact()
    assert one.stats().disk_bytes < size
    assert picture(one) == picture(other) == picture(opens()) == before
    opens().queue("q").ack_many([held.receipt])
    assert queue.publish("again", dedup_id="d") == first


def test_a_process_that_a_trim_left_behind_reads_all_anew(
    opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = opens(), opens()
    one.queue("q").publish_many(["a", "b", "c"])
    with other._store.turn.mutex:  # it follows nothing meanwhile
        take(one.queue("q")).ack()
        one._store.maintenance.compact()
        waiting = log_of(other).arrivals.waiting
        until(lambda: bool(waiting), "nothing comes")
        waiting.popleft()
    assert picture(other) == picture(one)


def test_garbage_is_trimmed_while_the_store_is_used(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trimming, "FLOOR_BYTES", 1 << 20)
    broker = opens()
    queue = broker.queue("q")
    queue.publish("stays")
    for _ in range(40):
        queue.publish(b"x" * 200_000, priority=1)
        take(queue).ack()
    broker._store.maintenance.run()
    assert broker.stats().disk_bytes < 4 << 20
    assert take(queue).body == "stays"


def test_opening_reads_a_checkpoint_and_what_follows(opens: Opens) -> None:
    one = opens()
    one.queue("q").publish_many(["a", "b", "c"])
    take(one.queue("q")).ack()
    one._store.maintenance.checkpoints.write()
    one.queue("q").publish("d")
    two = opens()
    assert two._store.replica.checkpoint_at > 0
    assert picture(two) == picture(one)


@pytest.mark.parametrize("how", ["damaged", "of another version"])
def test_a_checkpoint_that_is_no_good_costs_only_time(
    opens: Opens, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    from mq.nats import checkpoints

    one = opens()
    one.queue("q").publish_many(["a", "b", "c"])
    pack = checkpoints.pack

    def bad(kept: Any, seed: int) -> bytes:
        if how == "damaged":
            return pack(kept, seed)[:-1] + b"?"
        kept.version += 1
        return pack(kept, seed)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "pack", bad)
        one._store.maintenance.checkpoints.write()
    assert picture(opens()) == picture(one)


def test_a_stream_that_ends_before_its_checkpoint_is_damage(
    opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mq.nats import checkpoints, stream

    one = opens()
    one.queue("q").publish("a")
    pack = checkpoints.pack

    def ahead(kept: Any, seed: int) -> bytes:
        seq, crc = kept.order.last
        kept.order = kept.order._replace(last=(seq + 5, crc))
        return pack(kept, seed)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "pack", ahead)
        one._store.maintenance.checkpoints.write()
    monkeypatch.setattr(stream, "PATIENCE_SECONDS", 0.5)  # for that which is missing
    with pytest.raises(mq.CorruptStore, match="lost"):
        opens()


# ── time ───────────────────────────────────────────────────────────────────────────


def test_with_clocks_an_hour_apart_no_message_is_held_by_two(
    opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P12.  Neither visibility timeouts nor delays follow the clock of a machine."""
    ahead = [0]
    real = time.time_ns
    monkeypatch.setattr("mq.engine.clock.time.time_ns", lambda: real() + ahead[0])
    one = opens()
    ahead[0] = 3600 * 10**9
    other = opens()
    queue = one.queue("q", visibility_timeout=30)
    queue.publish("x")
    other.queue("q").publish("later", delay=60)
    held = take(queue)
    assert other.queue("q").receive(timeout=0) is None
    assert queue.receive(timeout=0) is None
    (later,) = queue.peek(state="delayed")
    assert later.due_at is not None and abs(later.due_at.timestamp() - real() / 1e9 - 60) < 30
    assert abs(later.created_at.timestamp() - real() / 1e9) < 30
    held.ack()
    assert abs(other._store.clock.store_ms() - one._store.clock.store_ms()) < 5000
