"""mq never logs under a lock: a handler of the user's may use mq itself, or block."""

from __future__ import annotations

import ast
import errno
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import open_on
from test_damaged_bodies import damage

import mq
from mq.engine.forking import open_stores
from mq.engine.store import Store
from mq.storage import locks
from mq.storage.real_disk import RealDisk

ROOT = Path(__file__).parents[1] / "mq"
SEGMENT_BYTES = 4096
LOG_THEMSELVES = {  # where no lock is held
    "notes.py", "background.py", "outcome.py", "run.py", "worker.py", "logs.py",
    "alerts.py", "endpoint.py", "gate.py", "moving.py", "serve.py", "server.py",
}  # fmt: skip


class Using(logging.Handler):
    """Uses the store that it is told of, as a program may that queues its log."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.said, self._inside = path, [], False
        self.while_cleaning = False
        self.broker: mq.Broker | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self._inside:  # what it does itself is logged too
            return
        self._inside = True
        try:
            for _, child in open_stores.items():
                assert not child._turn.mutex._is_owned()
            if self.broker:  # what is damaged cannot be joined
                self.broker.queue("log").publish(record.getMessage())
                return
            with mq.open(self.path) as broker:  # StoreLocked at once, if LOCK is held
                broker.queue("log").publish(record.getMessage())
                if self.while_cleaning:
                    with broker._store.alone_cleaning() as ours:
                        assert ours
        finally:
            self.said.append(record.getMessage())
            self._inside = False


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def using(path: Path) -> Iterator[Using]:
    handler, log = Using(path), logging.getLogger("mq")
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)
    log.setLevel(level)


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.5)


def test_that_a_store_was_created_is_said_when_it_is_open(path, using) -> None:
    with mq.open(path) as broker:
        (said,) = using.said
        assert said == f"created the store {path}"
        assert [message.body for message in broker.queue("log").peek()] == [said]


def test_what_a_salvage_lost_is_said_when_it_is_open(path, using) -> None:
    with mq.open(path, segment_bytes=SEGMENT_BYTES) as broker:
        ids = broker.queue("mail").publish_many([bytes(1000)] * 20)
    damage(path, ids[0])
    using.said.clear()
    for checkpoint in (path / "checkpoint").iterdir():
        checkpoint.unlink()
    with mq.open(path, recover="salvage") as broker:
        assert using.said
        assert len(using.said) == broker.queue("log").stats().ready - 1


def test_a_handler_that_raises_at_an_opening_leaves_nothing_open(path) -> None:
    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ZeroDivisionError

    log, handler = logging.getLogger("mq"), Raising()
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        with pytest.raises(ZeroDivisionError):
            mq.open(path)
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    mq.open(path, exclusive=True).close()


class Troubled(RealDisk):
    """No segment can be removed, no checkpoint written, or no file opened."""

    def __init__(self, trouble: str) -> None:
        super().__init__()
        self.trouble, self.on = trouble, False

    def open(self, path: str, *, write: bool = False, create: bool = False) -> int:
        if self.on and self.trouble == "descriptors" and path.endswith("CLEANER"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        if self.on and self.trouble == "checkpoint" and "checkpoint" in path and create:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return super().open(path, write=write, create=create)

    def unlink(self, path: str) -> None:
        if self.on and self.trouble == "unlink":
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        super().unlink(path)


@pytest.mark.parametrize(
    "trouble, text",
    [
        ("unlink", "space is not given back"),
        ("checkpoint", "no checkpoint"),
        ("descriptors", "no space is given back just now"),
    ],
)
def test_what_stands_in_the_way_of_maintenance_is_said_behind_it(path, using, trouble, text) -> None:
    disk = Troubled(trouble)
    with open_on(disk, path, segment_bytes=SEGMENT_BYTES, sync="never", background=False) as broker:
        queue = broker.queue("mail")
        disk.on, using.while_cleaning = True, trouble != "descriptors"
        for _ in range(40):
            queue.publish(bytes(300))
            queue.receive(timeout=0).ack()
        broker._store.maintenance.run(0)
        disk.on = False
        assert [text in said for said in using.said if "created" not in said] == [True]


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
def test_a_message_that_cannot_be_delivered_is_said_behind_the_operation(path, using, delivery) -> None:
    with mq.open(path) as broker:
        queue: mq.Queue[Any] = broker.queue("mail", delivery=delivery)
        ids = queue.publish_many([b"one", b"two"])
        damage(path, ids[0])
        using.broker = broker
        using.said.clear()
        assert [message.body for message in queue.receive_many(2)] == [b"two"]
        (said,) = using.said
        assert f"message {ids[0]} cannot be delivered" in said


def test_nothing_else_in_mq_logs() -> None:
    """What is noticed under a lock goes to the store's notes."""
    loggers = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import) and any(each.name == "logging" for each in node.names):
                loggers.add(path.name)
            if isinstance(node, ast.ImportFrom) and any(each.name == "logger" for each in node.names):
                loggers.add(path.name)
    assert loggers == LOG_THEMSELVES


OPERATIONS = (ROOT.parent / "docs/operations.md").read_text()


def logged() -> set[tuple[str, str]]:
    """Each logger that the source names, with the levels at which it is used."""
    found = set()
    for path in ROOT.rglob("*.py"):
        text = path.read_text()
        own = re.search(r'^logger: Final = logging.getLogger\("(.*)"\)', text, re.M)
        name = own[1] if own else "mq.worker" if path.parent.name == "workers" else "mq"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                method, of = node.func.attr, ast.unparse(node.func.value)
                if direct := re.fullmatch(r"logging.getLogger\('(.*)'\)", of):
                    found.add((direct[1], LEVELS[method]))
                elif of == "logger" and method != "log":
                    found.add((name, LEVELS[method]))
                elif method in ("put_down", "put_down_rarely"):
                    found |= {("mq", level) for level in LEVELS.values() if level in ast.unparse(node)}
    return found


LEVELS = {"info": "INFO", "warning": "WARNING", "error": "ERROR", "exception": "ERROR"}


def test_the_loggers_and_levels_are_those_of_the_documentation() -> None:
    assert set(re.findall(r"^\| `(mq[.\w]*)` \| (\w+) \|", OPERATIONS, re.M)) == logged()


def test_a_store_that_is_silent_keeps_no_notes(path) -> None:
    with mq.open(path) as broker:
        store: Store = broker._store
        broker.queue("mail").publish(b"x")
        assert not store.notes.kept
