"""Disks that are full, and files that may not grow: refused before anything is torn."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from mq.cli import cli

from ..full import Way, draw, fill
from . import small_disks
from .machine import Image
from .processes import Nursery

ROOM_BYTES = 12 << 20
WAYS = (
    Way((50_000,), 64 << 20),
    Way((1000,), 64 << 20, pause=100, ending="kill"),
    Way((1000, 0, 300_000), 1 << 16, batch=7, pause=10, ending="restart", shuffled=True),
    Way((100, 5000), 1 << 10, sync="always", batch=100, crowded=True),
    *(draw(seed, small_disks.LARGEST_BYTES) for seed in (12,)),
)
SCRIPT = "crash.real.scripts:"


@pytest.fixture(params=["ext4", "xfs"])
def small(request, need) -> Iterator[Image]:
    """A file system with only so much room left."""
    need("mount", f"mkfs.{request.param}")
    with Image(request.param, f"small-{request.param}") as image:
        leave(image, ROOM_BYTES, "others")
        yield image


def leave(image: Image, room: int, name: str) -> Path:
    """Fill the file system up with a file, but for so much room."""
    ballast = Path(image.path, name)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, image.free_bytes() - room)
    return ballast


def test_a_full_disk_can_be_drained_and_then_written_again(small: Image, nursery: Nursery):
    """P11, without a re-open; twice over."""
    nursery.run(SCRIPT + "fill_and_drain", f"{small.path}/data")


def test_when_somebody_makes_room_publishing_goes_on(small: Image, nursery: Nursery):
    """P1.  (To say that it was closed, there may be no room in the end.)"""
    ballast = leave(small, ROOM_BYTES // 2, "more")
    count = nursery.run(SCRIPT + "fill_and_be_helped", f"{small.path}/data", str(ballast))
    assert nursery.run(SCRIPT + "drain", f"{small.path}/data", count) in ("clean", "open")


@pytest.mark.parametrize("power", [False, True], ids=["killed", "power cut"])
def test_a_crash_while_the_disk_is_full(power, small: Image, nursery: Nursery):
    """P1, P9: it opens without more room, and can be drained."""
    count = nursery.run(SCRIPT + "fill_and_die", f"{small.path}/data")
    assert count > 200
    if power:
        small.cut(2)
        small.unmount()
        small.mount()
    assert nursery.run(SCRIPT + "drain", f"{small.path}/data", count) in ("open", "torn")


@pytest.mark.parametrize("kind", small_disks.KINDS)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_from_any_fill_it_is_drained_and_filled_again(kind: str, way: Way, need):
    """P11."""
    need("mount", "mkfs.ext4")
    assert small_disks.go(way, kind, 4 << 20) == ""


def test_cleaning_leaves_what_settling_needs(need):
    """On a disk that holds 54,000 messages, beside a cleaner that comes by when 2,500 are left."""
    need("mount")
    way = Way((1000,), 64 << 20, batch=500, pause=51_750)
    assert small_disks.go(way, "tmpfs", 60 << 20) == ""


def log_bytes(directory: str) -> int:
    return sum(each.stat().st_size for each in Path(directory, "data", "log").iterdir())


@pytest.mark.parametrize("acked", [1, 2, 5], ids=["few acked", "half acked", "all acked"])
def test_compact_on_a_full_disk(acked: int, need):
    """It gives back what it can, or says in one line what is missing."""
    need("mount", "mkfs.ext4")
    way = Way((5000,), 64 << 20, batch=100)
    for kind in small_disks.KINDS:
        with small_disks.small_disk(kind, f"compact-{kind}", 4 << 20) as directory:
            place = small_disks.Small(directory, "data")
            broker = place.open(way)
            count = len(fill(way, broker, random.Random(0)))
            queue = broker.queue("mail")
            for _ in range(max(1, count * (acked - 1) // 4)):
                if message := queue.receive(timeout=0):
                    message.ack()
            place.kill(broker)
            done = CliRunner().invoke(cli, ["compact", "--store", f"{directory}/data"])
            assert "Traceback" not in done.output
            if acked == 5:
                assert done.exit_code == 0, done.output
                assert log_bytes(directory) <= 2 << 20
            elif done.exit_code:
                assert "free as much, or receive and ack" in done.output
                assert done.output.count("\n") == 1
            broker = place.open(way)
            left = broker.queue("mail").stats().ready
            while message := broker.queue("mail").receive(timeout=0):
                message.ack()
                left -= 1
            assert left == 0
            broker.close()


def test_files_that_may_not_grow(nursery: Nursery, tmp_path):
    """EFBIG, from RLIMIT_FSIZE: as a full disk."""
    count = nursery.run(SCRIPT + "outgrow_the_limit", str(tmp_path / "data"), 3 << 20)
    assert nursery.run(SCRIPT + "drain", str(tmp_path / "data"), count) == "clean"
