"""Store time and the wall clock: what a clock that is set, a restart or another clock does, and does not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import pytest
from click.testing import CliRunner
from fakes import FakeClock, QuickDisk, open_on

import mq
from mq.cli import cli
from mq.engine.clock import APART_MS_MAX, Clock
from mq.storage import record, shared
from mq.storage.memory_disk import MemoryDisk
from mq.storage.real_disk import RealDisk

Y1970, Y2026, Y2106 = 20.0, 1_790_000_000.0, 4_300_000_000.0
HOUR, MINUTE = 3600.0, 60.0


class Machine(QuickDisk):
    """A computer whose clocks the test holds in its hand.  In place of the module `time`, too."""

    def __init__(self, wall: float) -> None:
        super().__init__()
        self.wall, self.uptime, self.boot, self.space = wall, 100.0, 7, 4026531834

    def close_rest(self) -> None:
        """What is left is another broker's: here several share one disk."""

    def clocks(self) -> tuple[int, int]:
        return self.boot, self.space

    def time_ns(self) -> int:
        return round(self.wall * 1e9)

    def monotonic(self) -> float:
        return self.uptime

    def monotonic_ns(self) -> int:
        return round(self.uptime * 1e9)

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.uptime += seconds

    def reboot(self, wall: float) -> None:
        self.wall, self.uptime, self.boot = wall, 100.0, self.boot + 1


@contextmanager
def machine(wall: float) -> Iterator[Machine]:
    here = Machine(wall)
    with mock.patch("mq.engine.clock.time", here):
        yield here


def opened(here: Machine, path: Path, **options: object) -> mq.Broker:
    return open_on(here, path, background=False, **options)  # type: ignore[arg-type]


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def near(told: datetime | None, seconds: float, off: float = 0.002) -> bool:
    """To the milliseconds that are cut off; or to those seconds by which clocks may differ."""
    return told is not None and abs(told - at(seconds)) < timedelta(seconds=off)


def killed(broker: mq.Broker) -> None:
    """Leave everything as it is, without a word."""
    broker._store.let_go()


def leave_behind(here: Machine, path: Path, *, close: bool) -> None:
    """One held for ten minutes, one dedup id for an hour."""
    broker = opened(here, path)
    jobs = broker.queue("jobs", visibility_timeout=10 * MINUTE, dedup_window=HOUR)
    jobs.publish("held", dedup_id="once")
    assert jobs.receive(timeout=0)
    if close:
        broker.close()
    else:
        killed(broker)


def state_of(broker: mq.Broker) -> tuple[bool, bool]:
    """Whether the message is still held, and the dedup id remembered."""
    jobs = broker.queue("jobs")
    (id,) = [each.id for state in ("in_flight", "delayed", "ready") for each in jobs.peek(state=state)]
    return bool(jobs.peek(state="in_flight")), jobs.publish("again", dedup_id="once") == id


# ── a clock that is set between two openings ───────────────────────────────────────


@pytest.mark.parametrize("close", [True, False], ids=["closed", "killed"])
@pytest.mark.parametrize("reboot", [True, False], ids=["another boot", "the same boot"])
@pytest.mark.parametrize("before, after", [(Y1970, Y2026), (Y2106, Y2026), (Y2026, Y2106), (Y2026, Y1970)])
def test_a_wall_clock_that_is_set_ends_no_timeout_and_no_window(tmp_path, before, after, reboot, close):
    with machine(before) as here:
        leave_behind(here, tmp_path / "s", close=close)
        if reboot:
            here.reboot(after)
        else:
            here.pass_by(MINUTE)
            here.wall = after
        with opened(here, tmp_path / "s") as broker:
            assert state_of(broker) == (True, True)
            assert broker._store.clock.downtime_ms == (0 if reboot else 60_000)
            here.pass_by(9 * MINUTE + 1 + MINUTE * reboot)
            assert state_of(broker) == (False, True)


@pytest.mark.parametrize("before, after", [(Y1970, Y2026), (Y2106, Y2026), (Y2026, Y1970)])
def test_created_at_goes_by_the_wall_clock_of_then(tmp_path, before, after):
    """Also behind a checkpoint, when the message has moved, and in the process that joins."""
    with machine(before) as here:
        with opened(here, tmp_path / "s", segment_bytes=1024) as broker:
            broker.queue("q").publish("old")
        here.reboot(after)
        with opened(here, tmp_path / "s", segment_bytes=1024) as broker:
            broker.queue("q").publish("new")
            assert [each.created_at for each in broker.queue("q").peek()] == [at(before), at(after)]
            with opened(here, tmp_path / "s", segment_bytes=1024) as other:
                assert [each.created_at for each in other.queue("q").peek()] == [at(before), at(after)]
            for _ in range(4):
                broker.queue("x").publish(b"." * 800)
                broker.queue("x").receive(timeout=0).ack()
            broker._store.maintenance.compact()
            broker._store.maintenance.checkpoints.write()
            assert [each.created_at for each in broker.queue("q").peek()] == [at(before), at(after)]
        here.reboot(after + HOUR)
        with opened(here, tmp_path / "s", segment_bytes=1024) as broker:
            message = broker.queue("q").receive(timeout=0)
            assert (message.body, message.created_at) == ("old", at(before))
            assert near(message.due_at, after + HOUR + 30, off=6)


def test_a_clock_that_is_set_while_the_store_is_open_is_noticed_within_a_second(tmp_path):
    with machine(Y1970) as here, opened(here, tmp_path / "s") as broker:
        q = broker.queue("q", visibility_timeout=10 * MINUTE)
        q.publish("held")
        q.receive(timeout=0)
        here.wall = Y2026
        here.pass_by(1.001)
        new = q.publish("new")
        assert near(q.get(new).created_at, Y2026 + 1.001)
        assert len(q.peek(state="in_flight")) == 1
        assert near(q.peek(state="in_flight")[0].due_at, Y2026 + 10 * MINUTE, off=6)
        assert len(broker._store.replica.log.segments) == 2
        for _ in range(20):
            here.pass_by(1.001)
            q.publish("more")
        assert len(broker._store.replica.log.segments) == 2


def test_a_backoff_ends_by_store_time_and_is_shown_by_the_wall_clock(tmp_path):
    with machine(Y2106) as here:
        opened(here, tmp_path / "s").close()
        here.reboot(Y2026)
        with opened(here, tmp_path / "s") as broker:
            q = broker.queue("q", backoff=mq.Backoff(100, 1, 100, 0))
            q.publish("fails")
            q.publish("waits")
            q.receive(timeout=0).nack()
            q.receive(timeout=0).nack(delay=50)
            ends = {each.body: each.due_at for each in q.peek(state="delayed")}
            assert near(ends["fails"], Y2026 + 100, off=6)
            assert near(ends["waits"], Y2026 + 50)


def test_every_time_that_is_shown_is_by_the_wall_clock(tmp_path):
    """Of failures, of a backoff, of a deadline; by the library and the commands."""
    with machine(Y2106) as here:
        opened(here, tmp_path / "s").close()
        here.reboot(Y2026)
        with opened(here, tmp_path / "s") as broker:
            q = broker.queue("q", max_attempts=3, visibility_timeout=10, backoff=mq.Backoff(1, 1, 1, 0))
            q.publish("x", dedup_id="x")
            q.receive(timeout=0).nack()
            here.pass_by(2)
            q.receive(timeout=0)
            here.pass_by(12)
            q.receive(timeout=0)
            [flying] = q.peek(state="in_flight")
            assert near(flying.due_at, Y2026 + 24, off=6)
            assert [round(each.at.timestamp() - Y2026, -1) for each in flying.failures] == [0, 10]
            here.pass_by(11)
            q.publish("comes by")
            [dead] = broker.queue("q.dead").peek()
            assert [round(each.at.timestamp() - Y2026, -1) for each in dead.failures] == [0, 10, 20]
            for command in (["peek", "q.dead"], ["dump"]):
                shown = CliRunner().invoke(cli, ["-s", str(tmp_path / "s"), *command, "--json"]).stdout
                lines = [
                    line for line in shown.splitlines() if '"fence"' not in line and '"closed"' not in line
                ]
                assert "2026-" in shown
                years = set(re.findall(r'"(\d{4})-\d\d-\d\dT', "".join(lines)))
                assert years == {"2026"}, lines


def test_the_age_of_the_oldest_is_by_the_wall_clock(tmp_path):
    with machine(Y2106) as here:
        with opened(here, tmp_path / "s") as broker:
            broker.queue("x").publish("x")
        here.reboot(Y2026)
        with opened(here, tmp_path / "s") as broker:
            broker.queue("q").publish("q")
            here.pass_by(50)
            assert broker.queue("q").stats().oldest_age == 50.0


# ── how long the store was closed ──────────────────────────────────────────────────


@pytest.mark.parametrize("close", [True, False], ids=["closed", "killed"])
@pytest.mark.parametrize("reboot", [True, False], ids=["another boot", "the same boot"])
def test_an_hour_of_downtime_is_an_hour(tmp_path, reboot, close):
    with machine(Y2026) as here:
        leave_behind(here, tmp_path / "s", close=close)
        here.pass_by(HOUR - 1)
        if reboot:
            here.reboot(here.wall)
        with opened(here, tmp_path / "s") as broker:
            assert state_of(broker) == (False, True)
            assert broker._store.clock.downtime_ms == 3_599_000
        here.pass_by(1)
        with opened(here, tmp_path / "s") as broker:
            assert not state_of(broker)[1]


def test_time_in_which_a_process_was_idle_is_not_downtime(tmp_path):
    with machine(Y2026) as here:
        with opened(here, tmp_path / "s") as broker:
            broker.queue("q").publish("q")
            here.pass_by(HOUR)
        here.pass_by(60)
        with opened(here, tmp_path / "s") as broker:
            assert broker._store.clock.downtime_ms == 60_000
            with opened(here, tmp_path / "s") as other:
                assert other._store.clock.downtime_ms == 0


def test_a_machine_that_slept_for_a_night_tells_the_wall_clock(tmp_path):
    """The monotonic clock stands still meanwhile: nothing times out, and `created_at` is right."""
    with machine(Y2026) as here, opened(here, tmp_path / "s") as broker:
        broker.queue("q").publish("evening")
        broker.queue("q").receive(timeout=0)
        here.wall += 8 * HOUR
        here.pass_by(2)
        morning = broker.queue("q").publish("morning")
        assert near(broker.queue("q").get(morning).created_at, Y2026 + 8 * HOUR + 2)
        assert len(broker.queue("q").peek(state="in_flight")) == 1


def test_store_time_never_goes_back(tmp_path):
    """Whatever the page says: it has no checksum."""
    with machine(Y2026) as here:
        leave_behind(here, tmp_path / "s", close=True)
        for offset in (0, 1 << 62, (1 << 64) - 1, 1 << 63):
            with (tmp_path / "s" / "mark").open("r+b") as mark:
                mark.seek(8 * shared.OFFSET)
                mark.write(offset.to_bytes(8, "little"))
            with opened(here, tmp_path / "s") as broker:
                assert broker._store.clock.store_ms() == Y2026 * 1000
                assert state_of(broker) == (True, True)


def test_a_reader_goes_by_the_time_of_those_who_write(tmp_path):
    with machine(Y1970) as here:
        leave_behind(here, tmp_path / "s", close=True)
        here.reboot(Y2026)
        with opened(here, tmp_path / "s") as broker:
            broker.queue("q").publish("q")
            with opened_to_read(here, tmp_path / "s") as reader:
                assert reader._store.clock.store_ms() == broker._store.clock.store_ms() < 1000 * HOUR
                assert len(reader.queue("jobs").peek(state="in_flight")) == 1
        with opened_to_read(here, tmp_path / "s") as reader:
            assert len(reader.queue("jobs").peek(state="in_flight")) == 1


def opened_to_read(here: Machine, path: Path) -> mq.Broker:
    store = mq.engine.store.Store(
        str(path), sync="never", read_only=True, segment_bytes=1024, clock=None, disk=here, background=False
    )
    return mq.Broker(store)


# ── whose clock ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "word, says",
    [
        pytest.param("boot", "boot id differs", id="another computer"),
        pytest.param("space", r"time:\[4026531835\].*time:\[4026531834\]|another time namespace", id="space"),
    ],
)
def test_a_process_with_another_monotonic_clock_is_refused_by_name(tmp_path, word, says):
    with machine(Y2026) as here, opened(here, tmp_path / "s") as broker:
        broker.queue("q").publish("q")
        page = bytes((tmp_path / "s" / "mark").read_bytes())
        setattr(here, word, getattr(here, word) + 1)
        with pytest.raises(mq.Unsupported, match=says):
            opened(here, tmp_path / "s")
        assert (tmp_path / "s" / "mark").read_bytes() == page
        setattr(here, word, getattr(here, word) - 1)
        with opened(here, tmp_path / "s") as other:
            assert other.queue("q").receive(timeout=0).body == "q"


@pytest.mark.parametrize("word", ["boot", "space"])
@pytest.mark.parametrize("absent", ["here", "there"])
def test_what_the_system_does_not_say_is_not_compared(tmp_path, word, absent):
    with machine(Y2026) as here:
        setattr(here, word, 0 if absent == "there" else 5)
        with opened(here, tmp_path / "s"):
            setattr(here, word, 0 if absent == "here" else 5)
            opened(here, tmp_path / "s").close()


@pytest.mark.parametrize("custom_first", [True, False])
def test_a_custom_clock_and_none_do_not_share_a_store(tmp_path, custom_first):
    clocks = [FakeClock(), None] if custom_first else [None, FakeClock()]
    with mq.open(tmp_path / "s", clock=clocks[0]):
        with pytest.raises(mq.Unsupported, match="clock="):
            mq.open(tmp_path / "s", clock=clocks[1])
        mq.open(tmp_path / "s", read_only=True, clock=clocks[1]).close()
    mq.open(tmp_path / "s", clock=clocks[1]).close()


@pytest.mark.parametrize("apart", [-HOUR, HOUR, -2 * MINUTE, 2 * MINUTE])
def test_custom_clocks_far_apart_do_not_share_a_store(tmp_path, apart):
    one, other = FakeClock(), FakeClock(1_700_000_000.0 + apart)
    assert abs(apart) * 1000 > APART_MS_MAX
    with mq.open(tmp_path / "s", clock=one) as broker:
        jobs = broker.queue("jobs", visibility_timeout=600)
        jobs.publish("held")
        held = jobs.receive(timeout=0)
        with pytest.raises(mq.Unsupported, match="seconds apart"):
            mq.open(tmp_path / "s", clock=other)
        held.ack()


def test_one_custom_clock_may_be_advanced_between_two_openings(tmp_path):
    clock = FakeClock()
    with mq.open(tmp_path / "s", clock=clock):
        clock.advance(5 * HOUR)
        mq.open(tmp_path / "s", clock=clock).close()


def test_a_custom_clock_that_is_set_back_holds_timeouts_and_hides_what_expires(tmp_path):
    clock = FakeClock()
    with mq.open(tmp_path / "s", clock=clock) as broker:
        held, mail = broker.queue("held", visibility_timeout=10), broker.queue("mail")
        held.publish("x")
        assert held.receive(timeout=0)
        clock.advance(-100)
        mail.publish("short", ttl=5)
        clock.advance(50)
        assert held.receive(timeout=0) is None
        assert (mail.receive(timeout=0), mail.stats()[:3]) == (None, (0, 0, 0))
        clock.advance(62)
        assert held.receive(timeout=0)
        assert mail.stats().expired == 1


def test_of_two_custom_clocks_the_later_one_ends_timeouts(tmp_path):
    slow, fast = FakeClock(), FakeClock()
    fast.advance(30)
    with mq.open(tmp_path / "s", clock=slow) as one, mq.open(tmp_path / "s", clock=fast) as other:
        one.queue("q", visibility_timeout=20).publish("x")
        assert one.queue("q").receive(timeout=0)
        assert one.queue("q").receive(timeout=0) is None
        other.queue("other").publish("y")
        slow.advance(2)
        assert one.queue("q").receive(timeout=0)


def test_custom_clocks_that_drift_apart_later_raise_no_struct_error(tmp_path):
    """Each goes on; store time is that of the one ahead, for both."""
    one, other = FakeClock(), FakeClock()
    with mq.open(tmp_path / "s", clock=one) as a, mq.open(tmp_path / "s", clock=other) as b:
        other.advance(50 * 86_400)  # a new segment, which begins later than `one` is
        b.queue("q").publish("b")
        a.queue("q").publish("a")
        a.queue("q").publish_many(["a", "a"])
        assert [each.body for each in b.queue("q").peek()] == ["b", "a", "a", "a"]


def test_a_time_before_that_of_the_segment_is_written_as_that(tmp_path):
    """Where a system does not tell its clocks apart, the log still takes what it is given."""
    with machine(Y2026) as here, opened(here, tmp_path / "s") as broker:
        q = broker.queue("q")
        q.publish("first")
        here.uptime -= 50
        for _ in range(2):
            q.publish("then")
            q.publish_many(["then", "then"])
        assert len(q.receive_many(10, timeout=0)) == 7


def test_this_system_says_which_clock_it_has():
    boot, space = RealDisk().clocks()
    assert boot == int(Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", ""), 16) % 2**64
    assert space == Path("/proc/self/ns/time").stat().st_ino
    assert MemoryDisk().clocks() == (0, 0)


def test_the_log_says_what_the_wall_clock_was(tmp_path):
    """FORMAT.md, CLOCK."""
    with machine(Y2106) as here:
        opened(here, tmp_path / "s").close()
        here.reboot(Y2026)
        with opened(here, tmp_path / "s") as broker:
            broker.queue("q").publish("q")
        (_, last) = sorted((tmp_path / "s" / "log").iterdir())
        data = last.read_bytes()[72 + 56 :]
        assert data[20] == record.CLOCK
        assert int.from_bytes(data[24:32], "little") == Y2026 * 1000
        assert isinstance(Clock(None, here).wall_ms(), int)
