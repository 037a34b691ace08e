"""A segment that cannot be removed stays, and so do all behind it: a gap would pass for damage."""

from __future__ import annotations

import errno
import os

import pytest

import mq
from mq.api.broker import Broker
from mq.engine.store import Store
from mq.storage.cleaner import SPARE_SEGMENTS
from mq.storage.real_disk import RealDisk


class Stubborn(RealDisk):
    """The first *refusals* attempts to remove a segment fail."""

    def __init__(self, error: int) -> None:
        super().__init__()
        self.error, self.refusals = error, 0

    def unlink(self, path: str) -> None:
        if path.endswith(".seg") and self.refusals:
            self.refusals -= 1
            raise OSError(self.error, os.strerror(self.error), path)
        os.unlink(path)


@pytest.mark.parametrize("error", [errno.EIO, errno.EPERM, errno.ENOSPC])
def test_a_segment_that_cannot_be_removed_is_never_left_behind_a_gap(error, tmp_path, caplog):
    """P9."""
    disk = Stubborn(error)
    path = str(tmp_path / "data")
    store = Store(
        path, sync="always", read_only=False, segment_bytes=4096, clock=None, disk=disk, background=False
    )
    queue = Broker(store).queue("mail")
    kept = queue.publish(b"kept")
    disk.refusals = 1
    for _ in range(3):
        for _ in range(40):
            queue.publish(bytes(300))
            for message in queue.receive_many(2, timeout=0):
                message.ack() if message.id != kept else message.release()
        store.maintenance.run()
    assert disk.refusals == 0
    assert "space is not given back" in caplog.text
    store.close()
    with mq.open(path) as broker:
        assert [message.id for message in broker.queue("mail").peek()] == [kept]
        assert len(os.listdir(tmp_path / "data" / "log")) < 40  # and space is given back again


def test_a_crash_loop_leaves_few_segments(tmp_path):
    """P11: each opening behind a crash begins a new one, and reserves a megabyte in it."""
    path = tmp_path / "data"
    log = path / "log"
    for number in range(30):
        store = Store(
            str(path), sync="never", read_only=False, segment_bytes=64 << 20, clock=None, disk=RealDisk(),
            background=False,
        )  # fmt: skip
        Broker(store).queue("mail").publish(number)
        store.maintenance.run()
        store.let_go()  # without a word in the log, as when it is killed
        store.turn.gone = store.closed = True
    assert len(list(log.iterdir())) <= SPARE_SEGMENTS + 1
    with mq.open(path) as broker:
        assert [message.body for message in broker.queue("mail").peek(100)] == list(range(30))
