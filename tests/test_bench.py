"""The bench measures what it says, and says it when a message is lost, doubled or altered."""

from __future__ import annotations

import multiprocessing
import os
import zlib
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench import link
from benchmarks.bench.bodies import Ledger, Wrong, make
from benchmarks.bench.child import play
from benchmarks.bench.peer import Durability, Peer
from benchmarks.bench.peers import PEERS
from benchmarks.bench.peers.in_memory import InMemory, Message
from benchmarks.bench.workload import Budget, Case, Workload
from benchmarks.bench.workloads import WORKLOADS

MESSAGES, SECONDS = 20, 30.0
BODY_BYTES = 100
HERE = [peer for peer in PEERS.values() if not peer.missing()]
IN_ONE_PROCESS = [
    name for name in WORKLOADS if name.startswith(("publish", "receive", "threads", "cleaning"))
]

server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(["mq", "benchmarks.bench.workloads"])


class QuickHelper(link.Helper):
    """Forked from a process that has imported everything, in place of a new Python."""

    def __init__(self, role: str, **arguments: Any) -> None:
        ours, theirs = server.Pipe()
        self._forked = server.Process(target=serve, args=(theirs, role, arguments), daemon=True)
        self._forked.start()
        theirs.close()
        self._hear, self._say = ends(ours)

    def wait(self) -> int | None:
        self._forked.join()
        return self._forked.exitcode

    def end(self) -> None:
        self._say.close()
        self._hear.close()
        self._forked.kill()
        self._forked.join()
        self._forked.close()


def ends(connection: Connection) -> tuple[Any, Any]:
    with connection:
        return open(os.dup(connection.fileno())), open(os.dup(connection.fileno()), "w")


def serve(connection: Connection, role: str, arguments: dict[str, Any]) -> None:
    hear, say = ends(connection)
    play(link.Link(hear, say), role, arguments)
    say.close()
    hear.close()


@pytest.fixture(autouse=True)
def helpers_start_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "Helper", QuickHelper)


def cases() -> list[object]:
    return [
        pytest.param(peer, workload, durability, id=f"{peer.name}-{workload.name}-{durability}")
        for peer in HERE
        for workload in WORKLOADS.values()
        for durability in workload.durabilities
        if workload.suits(peer) and durability in peer.durabilities
    ]


def case_of(workload: Workload, peer: Peer, durability: Durability) -> Case:
    return Case(workload.name, peer.name, BODY_BYTES, durability, False, Budget(MESSAGES, SECONDS))


@pytest.mark.parametrize("peer, workload, durability", cases())
def test_every_workload_with_every_peer(
    peer: Peer, workload: Workload, durability: Durability, tmp_path: Path
) -> None:
    sample = workload.run(peer, case_of(workload, peer, durability), tmp_path)
    assert sample.values[workload.metrics[0].name] > 0


# ── messages that go astray ────────────────────────────────────────────────────────


class Losing(InMemory):
    """It forgets the fifteenth message: one that is measured."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._numbers = count(1)

    def publish(self, body: bytes, /) -> str:
        return super().publish(body) if next(self._numbers) != 15 else ""

    def publish_many(self, bodies: list[bytes], /) -> list[str]:
        return super().publish_many([body for body in bodies if next(self._numbers) != 15])


class Doubling(InMemory):
    def publish(self, body: bytes, /) -> str:
        super().publish(body)
        return super().publish(body)

    def publish_many(self, bodies: list[bytes], /) -> list[str]:
        return super().publish_many([*bodies, bodies[0]])


class Altering(InMemory):
    def body(self, message: Message, /) -> bytes:
        return message[1][:-1] + b"?"

    def remaining(self) -> list[bytes]:
        return [body[:-1] + b"?" for body in super().remaining()]


@pytest.mark.parametrize("name", IN_ONE_PROCESS)
@pytest.mark.parametrize("store", [Losing, Doubling])
def test_a_workload_sees_that_a_message_is_lost_or_doubled(
    store: Callable[..., Any], name: str, tmp_path: Path
) -> None:
    peer = replace(PEERS["in-memory"], open=store)
    with pytest.raises(Wrong):
        WORKLOADS[name].run(peer, case_of(WORKLOADS[name], peer, "buffered"), tmp_path)


def test_a_workload_sees_that_a_message_is_altered(tmp_path: Path) -> None:
    peer = replace(PEERS["in-memory"], open=Altering)
    with pytest.raises(Wrong, match="altered"):
        WORKLOADS["receive"].run(peer, case_of(WORKLOADS["receive"], peer, "buffered"), tmp_path)


@pytest.mark.parametrize(
    "found, said",
    [
        pytest.param(make([0, 1, 2], 16), "", id="each once"),
        pytest.param(make([0, 2], 16), "1 lost", id="lost"),
        pytest.param(make([0, 1, 2, 2], 16), "1 doubled", id="doubled"),
        pytest.param(
            [*make([0, 2], 16), make([1], 16)[0][:8] + b"other   "], "1 lost, 1 altered", id="altered"
        ),
        pytest.param(make([0, 1, 2, 9], 16), "1 altered or invented", id="invented"),
        pytest.param(make([0, 1, 2, 3], 16), "1 there that were not published", id="not published"),
    ],
)
def test_the_ledger(found: list[bytes], said: str) -> None:
    ledger = Ledger(16)
    ledger.published(range(3))
    ledger.published(range(4, 5))
    ledger.found([*found, *make([4], 16)])
    if not said:
        return ledger.check()
    with pytest.raises(Wrong, match=said):
        ledger.check()


def test_bodies_are_the_same_bytes_for_all_and_do_not_compress() -> None:
    assert make([7], 100) == make([7], 100) != make([8], 100)
    assert len(make([7], 1024)[0]) == 1024
    many = b"".join(make(range(1000), 100))
    assert len(zlib.compress(many)) > 0.95 * len(many)
