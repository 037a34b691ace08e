"""How the golden store of format 1, revision 2, was made.  Once it was released: history, as make_v1.py is.

v2/upgraded   v1/recovered, opened again by this mq on a board whose clock says 1970: segments of
              revision 2 behind those of revision 1, each with a CLOCK; what is new in this revision;
              the clock is set, and the first segments are given back; a checkpoint; killed

v2/topics     what is published to topics: each kind of record from 31 to 35, in a log and in a checkpoint

v2/schedules  schedules: kinds 36 to 38, in a log and in a checkpoint

What is in it is written down in tests/storage/test_golden_v2.py.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import mq
from mq.delivery import records
from mq.delivery.options import Declaration
from mq.engine import scheduler
from mq.engine.store import Store
from mq.storage import shared
from mq.storage.real_disk import RealDisk

HERE = Path(__file__).parent
SET_TO = 1_790_000_000.0


class Board(RealDisk):
    """A computer without a battery: its clocks are what the life below says.  Also the module `time`."""

    wall, uptime = 100.0, 50.0

    def clocks(self) -> tuple[int, int]:
        return 0x0102030405060708, 4026531834

    def time_ns(self) -> int:
        return round(self.wall * 1e9)

    def monotonic(self) -> float:
        return self.uptime

    def monotonic_ns(self) -> int:
        return round(self.uptime * 1e9)

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.uptime += seconds


def make_upgraded(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(HERE / "v1" / "recovered", path)
    board = Board()
    with mock.patch("mq.engine.clock.time", board):
        store = Store(
            str(path), sync="always", read_only=False, segment_bytes=1024, clock=None, disk=board,
            background=False,
        )  # fmt: skip
        live(mq.Broker(store), board)
        for word in (shared.HOLDER, shared.SYNCER):  # process ids change with each run
            store.turn.mark[word] = 0
        store.let_go()
    (path / "reserve").unlink()  # a megabyte of nothing


def make_topics(path: Path) -> None:
    make(path, fan_out)


def make_schedules(path: Path) -> None:
    make(path, tick)


def make(path: Path, live: Callable[[mq.Broker, Store, Board], None]) -> None:
    shutil.rmtree(path, ignore_errors=True)
    board = Board()
    board.wall = SET_TO
    with mock.patch("mq.engine.clock.time", board):
        store = Store(
            str(path), sync="always", read_only=False, segment_bytes=1024, clock=None, disk=board,
            background=False,
        )  # fmt: skip
        live(mq.Broker(store), store, board)
        for word in (shared.HOLDER, shared.SYNCER):
            store.turn.mark[word] = 0
        store.let_go()
    (path / "reserve").unlink()


def tick(broker: mq.Broker, store: Store, board: Board) -> None:
    broker.queue("mail").subscribe("ticks")
    broker.schedule("beat", "health", b"\x00raw", every=0.5, missed="all", ttl=30, headers={"k": "v"})
    broker.schedule(
        "report", broker.topic("ticks"), {"n": 1}, cron="0 9 * * MON", tz="Europe/Berlin", priority=3
    )
    broker.schedule("gone", "health", "text", every=3600, missed="skip", delay=5, group="g")
    for _ in range(3):
        board.pass_by(0.5)
        scheduler.tick(store)
    broker.queue("passing").publish("passing " * 90)  # and so the first segments are given back
    broker.queue("passing").receive(timeout=0).ack()
    while store.replica.log.head < 1024:
        store.maintenance.cleaning.clean()
    store.maintenance.checkpoints.write()
    broker.unschedule("gone")
    board.pass_by(1.25)
    scheduler.tick(store)


def fan_out(broker: mq.Broker, store: Store, board: Board) -> None:
    mail, bills = (
        broker.queue("mail", max_attempts=1),
        broker.queue("bills", ttl=900, dead_letter="mail.dead"),
    )
    mail.subscribe("orders.*")
    mail.subscribe("#")
    bills.subscribe("orders.#", match={"kind": "invoice"})
    orders = broker.topic("orders.eu")
    orders.publish("to mail")
    orders.publish({"n": 1}, headers={"kind": "invoice"}, dedup_id="o-1", priority=3)
    broker.topic("orders").publish(b"both", headers={"kind": "invoice"})
    mail.unsubscribe("#")
    broker.topic("nobody").publish("is there")
    mail.subscribe("#")
    broker.queue("passing").publish("passing " * 20)  # and so the first segments are given back
    broker.queue("passing").receive(timeout=0).ack()
    while store.replica.log.head < 1024:
        store.maintenance.cleaning.clean()
    store.maintenance.checkpoints.write()
    mail.unsubscribe("#")
    mail.receive(timeout=0).nack(reason="dies first")
    bills.receive(timeout=0).reject("dies second")
    keep(store, Declaration(name="kept", topic=True))
    kept = broker.topic("kept").publish("kept")
    broker.queue("late").publish("before")
    state = store.replica.state
    size = store.committer.size_of(state.topic("kept"), kept)
    again = records.backfill(state.named("late").number, state.topic("kept").number, [kept], [size])
    store.turn.take(lambda: commit(store, again))


def keep(store: Store, declaration: Declaration) -> None:
    number = store.replica.state.free_number()
    store.turn.take(lambda: commit(store, records.declare(number, declaration)))


def commit(store: Store, draft: records.Draft) -> None:
    plan = store.committer.plan()
    plan.add(*draft)
    store.committer.commit(plan)


def live(broker: mq.Broker, board: Board) -> None:
    broker.queue("replies", delete_when_abandoned=600)
    broker.queue("replies").publish("for nobody")
    letters = broker.queue("letters", backoff=mq.Backoff(initial=900, factor=1, maximum=900, jitter=0))
    resting = letters.receive(timeout=0)
    letters.publish("in 1970")
    resting.nack(reason="rests")
    board.pass_by(10)
    board.wall = SET_TO  # somebody sets it
    board.pass_by(2)
    letters.publish("in 2026")
    for number in range(6):
        board.pass_by(1)
        broker.queue("passing").publish(f"passing {number} " * 20)
        broker.queue("passing").receive(timeout=0).ack()
    while broker._store.replica.log.head < 3072:
        broker._store.maintenance.cleaning.clean()
    broker._store.maintenance.checkpoints.write()
    letters.publish("behind the checkpoint")


if __name__ == "__main__":
    make_upgraded(HERE / "v2" / "upgraded")
    make_topics(HERE / "v2" / "topics")
    make_schedules(HERE / "v2" / "schedules")
    for file in sorted((HERE / "v2").rglob("*")):
        if file.is_file():
            print(f"{file.stat().st_size:8} {file.relative_to(HERE)}", file=sys.stderr)
