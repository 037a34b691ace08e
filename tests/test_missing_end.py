"""The last segment goes, which no sync had confirmed: that is said, and no id is given out twice."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from fakes import QuickDisk, open_on

import mq
from mq.cli import cli
from mq.storage import shared

BODY = b"." * 1000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


def left(path: Path) -> list[int]:
    """The ids in a store of several segments, whose process was killed."""
    broker = open_on(QuickDisk(), path, sync="never", segment_bytes=1 << 14, background=False)
    ids = [broker.queue("q").publish(BODY) for _ in range(40)]
    broker._store.let_go()
    return ids


def segments(path: Path) -> list[Path]:
    return sorted((path / "log").iterdir())


def cut(file: Path) -> None:
    os.truncate(file, 3000)


def verify(path: Path) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["verify", "-s", str(path)])
    return done.exit_code, done.output


@pytest.mark.parametrize("harm", [os.unlink, cut])
def test_between_two_lives(path, caplog, harm):
    ids = left(path)
    last = segments(path)[-1]
    assert verify(path)[0] == 0
    harm(last)
    code, said = verify(path)
    assert code == 4
    assert last.name in said
    assert "deleted or cut short" in said
    with caplog.at_level(logging.WARNING, "mq"), mq.open(path, sync="never") as broker:
        assert "deleted or cut short" in caplog.text
        queue = broker.queue("q")
        there = [each.id for each in queue.peek(100)]
        assert there == ids[: len(there)]
        assert len(there) < len(ids)
        assert queue.publish(BODY) > ids[-1]
    assert verify(path)[0] == 0
    caplog.clear()
    with caplog.at_level(logging.WARNING, "mq"), mq.open(path) as broker:
        assert len(broker.queue("q").peek(100)) == len(there) + 1
    assert caplog.text == ""


def test_a_power_cut_takes_what_was_not_synced_and_is_not_told(path, caplog):
    """The page is of another boot then, and its end means nothing."""
    left(path)
    os.unlink(segments(path)[-1])
    with (path / "mark").open("r+b") as file:
        file.seek(8 * shared.BOOT)
        file.write(b"another.")
    assert verify(path)[0] == 0
    with caplog.at_level(logging.WARNING, "mq"), mq.open(path):
        pass
    assert caplog.text == ""


def test_beside_a_live_process(path):
    with pytest.raises(mq.StoreFailed), mq.open(path, sync="never", segment_bytes=1 << 14) as broker:
        for _ in range(40):
            broker.queue("q").publish(BODY)
        os.unlink(segments(path)[-1])
        code, said = verify(path)
        assert code == 4
        assert "deleted or cut short" in said
        with pytest.raises(mq.StorageError, match=r"deleted or cut short.*close the store in all processes"):
            mq.open(path)
        broker.close()
