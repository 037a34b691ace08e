"""Maintenance comes to an end: when there is nothing to be gained, and when the store is being closed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes import QuickDisk, open_on

import mq
from mq.api.broker import Broker
from mq.engine import cleaning, maintenance
from mq.storage.real_disk import RealDisk

SEGMENT_BYTES = 4096
QUEUES = 300  # whose declarations fill several segments
ENOUGH = 100  # segments that are given back, and no end of it


class CountingUnlinks(RealDisk):
    def __init__(self) -> None:
        super().__init__()
        self.unlinked = 0

    def unlink(self, path: str) -> None:
        self.unlinked += 1
        assert self.unlinked < ENOUGH, "it moves the same declarations again and again"
        super().unlink(path)


def opened(disk: RealDisk, path: Path) -> Broker:
    return open_on(disk, path, sync="never", segment_bytes=SEGMENT_BYTES, background=False)


def test_a_store_of_many_empty_queues_is_not_cleaned_for_ever(tmp_path: Path) -> None:
    """A declaration lives, as a message does: there is nothing to be gained from moving it."""
    disk = CountingUnlinks()
    broker = opened(disk, tmp_path)
    for number in range(QUEUES):
        broker.queue(f"empty-{number}", visibility_timeout=20.0)
    assert broker.stats().segments > 4
    for _ in range(2):
        broker._store.maintenance.run()
    assert disk.unlinked == 0
    broker.close()
    with opened(disk, tmp_path) as again:
        assert len(again.queues()) == QUEUES


def test_queues_that_are_declared_again_and_again_leave_garbage_and_it_is_given_back(tmp_path: Path) -> None:
    disk = CountingUnlinks()
    broker = opened(disk, tmp_path)
    for turn in range(4):
        for number in range(QUEUES // 10):
            broker.queue(f"empty-{number}", visibility_timeout=20.0 + turn)
    before = broker.stats().segments
    for _ in range(2):
        broker._store.maintenance.compact()
    assert disk.unlinked >= before - 1
    assert broker.queue("empty-7").options()["visibility_timeout"] == 23.0
    broker.close()


@pytest.mark.parametrize("slices", range(1, 40, 3))
def test_a_close_whose_time_is_up_in_the_middle_of_cleaning_loses_nothing(
    tmp_path: Path, monkeypatch, slices
) -> None:
    """Some messages stand there twice then, once before and once behind: they are delivered once."""
    monkeypatch.setattr("mq.storage.cleaner.SLICE_RECORDS", 2)
    broker = opened(RealDisk(), tmp_path)
    queue = broker.queue("mail")
    stays = [b"%d" % number for number in range(30)]
    for body in stays:
        queue.publish(body)
        queue.publish_many([bytes(300)] * 2)
    for message in queue.receive_many(len(stays) * 3):
        if message.raw in stays:
            message.release()
        else:
            message.ack()
    now = iter(range(1000))  # seconds pass as often as somebody looks at the clock
    monkeypatch.setattr(maintenance, "CLOSING_SECONDS", slices)
    for module in (maintenance, cleaning):
        monkeypatch.setattr(
            module, "time", SimpleNamespace(monotonic=lambda: next(now), sleep=lambda _: None)
        )
    broker.close()
    with mq.open(tmp_path) as again:
        assert [message.raw for message in again.queue("mail").receive_many(1000)] == stays


def test_a_message_that_moves_while_it_is_looked_up_is_read_where_it_is(tmp_path):
    """Its segment was far before the first one by then: the offset in that was negative."""
    with open_on(QuickDisk(), tmp_path / "data", segment_bytes=4096, background=False) as broker:
        queue = broker.queue("a")
        id = queue.publish(b"stays")
        for _ in range(30):
            queue.publish(b"." * 900, priority=9)
        held = queue._channel.state
        before = held.position(id)
        for _ in range(30):
            queue.receive(timeout=0).ack()
        broker._store.maintenance.compact()
        assert broker._store.replica.log.segments[0].base > before + 4096
        _, _, body = broker._store.replica.read(held, id, before)
        assert body == b"stays"
