"""What is lost on the way, cut at the edge of a trim, left to a child, or told by a clock that is wrong."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nkeys
import pytest
from servers import Cluster

import mq
from mq.nats import arrivals
from mq.nats.arrivals import Arrivals
from mq.nats.log import StreamLog

Opens = Callable[..., mq.Broker]
HOUR_NS = 3600 * 10**9


def log_of(broker: mq.Broker) -> StreamLog:
    log: Any = broker._store.replica.log
    return log  # type: ignore[no-any-return]


def test_the_last_message_that_is_lost_on_the_way_comes_again(
    opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No message behind it shows the gap: a heartbeat does, which tells how many were delivered."""
    monkeypatch.setattr(arrivals, "HEARTBEAT_SECONDS", 0.1)
    one, two = opens(), opens()
    one.queue("q").publish("first")
    assert two.queue("q").stats().ready == 1
    hear, lost = Arrivals._hear, []

    def lose(self: Arrivals, reply: str, *rest: Any) -> None:
        if self is log_of(two).arrivals and reply and not lost:
            lost.append(reply)
        else:
            hear(self, reply, *rest)

    monkeypatch.setattr(Arrivals, "_hear", lose)
    one.queue("q").publish("second")
    assert two.queue("q").stats().ready == 2
    assert lost


def test_what_lives_right_behind_a_trim_stays(opens: Opens) -> None:
    """P1: the oldest part is purged, and not one message more."""
    one = opens()
    bodies = [f"{number}" for number in range(12)]
    for body in bodies:
        one.queue("q").publish(body)
    stream: Any = one._store.replica.stream  # type: ignore[attr-defined]
    before = stream.range()
    one._store.maintenance.cleaning.trim()
    assert stream.range().first == before.first + (before.last - before.first) // 4
    for broker in (one, opens()):
        log_of(broker).pages.kept_bytes = 0
        assert sorted(broker.queue("q").peek(99), key=lambda each: each.id)[0].body == "0"
        assert [each.body for each in broker.queue("q").peek(99)] == bodies


def tcp_sockets() -> set[str]:
    """Of this process, by their inodes."""
    rows = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    known = {f"socket:[{row.split()[9]}]" for row in rows}
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # that by which the directory was read
            continue
    return found & known


def test_a_child_has_no_socket_of_its_parents(opens: Opens) -> None:
    others = tcp_sockets()
    broker = opens()
    broker.queue("q").publish("x")
    parents = tcp_sockets() - others
    assert len(parents) == 3  # nats-py's, that of the appends, that of the arrivals
    pid = os.fork()
    if not pid:
        code = 1
        try:
            left = tcp_sockets() & parents
            broker.queue("q").publish("y")
            code = 2 if left else 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    broker.queue("q").publish("z")
    assert [each.body for each in broker.queue("q").peek()] == ["x", "y", "z"]
    assert tcp_sockets() - others == parents


# ── clocks ─────────────────────────────────────────────────────────────────────────

CHILD = """
import json, sys, time

real, ahead = time.time_ns, int(sys.argv[2])
time.time_ns = lambda: real() + ahead
time.time = lambda: (real() + ahead) / 1e9

import mq

with mq.open(sys.argv[1]) as broker:
    queue = broker.queue("q")
    found = queue.receive(timeout=0)
    queue.publish("later", delay=600)
    broker.queue("mine", visibility_timeout=600).publish("x")
    mine = broker.queue("mine").receive(timeout=0)
    print(json.dumps([found and found.body, mine.body]), flush=True)
    sys.stdin.readline()
    mine.ack()
"""


@pytest.mark.parametrize("ahead", [HOUR_NS, -HOUR_NS], ids=["ahead", "behind"])
def test_two_processes_whose_clocks_are_an_hour_apart(opens: Opens, url: str, ahead: int) -> None:
    """P12: neither takes what the other one holds, and what is delayed is so for both."""
    broker = opens()
    queue = broker.queue("q", visibility_timeout=600)
    queue.publish("held")
    held = queue.receive(timeout=0)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, url, str(ahead)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout
    assert json.loads(child.stdout.readline()) == [None, "x"]
    assert queue.receive(timeout=0) is None
    assert broker.queue("mine").receive(timeout=0) is None
    assert held
    held.ack()
    child.communicate("go\n", timeout=60)
    assert child.returncode == 0
    assert queue.stats()[:3] == (0, 0, 1)
    assert broker.queue("mine").stats().acked == 1


def test_dates_follow_the_servers_clock(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time_ns
    monkeypatch.setattr("mq.engine.clock.time.time_ns", lambda: real() + HOUR_NS)
    clock = opens()._store.clock
    assert abs(clock.wall_ms() - real() // 10**6) < 60_000


# ── who it is ──────────────────────────────────────────────────────────────────────


def key(prefix: int) -> nkeys.KeyPair:
    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), prefix))


def text_of(pair: nkeys.KeyPair) -> str:
    return bytes(pair.public_key).decode()


def signed(pair: nkeys.KeyPair, subject: str, name: str, claims: dict[str, Any]) -> str:
    """A token as `nsc` makes it, by which *pair* says what *subject* is."""
    body = {"jti": name, "iat": 1_700_000_000, "iss": text_of(pair), "name": name, "sub": subject}
    parts = [
        base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=")
        for each in ({"typ": "JWT", "alg": "ed25519-nkey"}, {**body, "nats": {"version": 2, **claims}})
    ]
    signature = base64.urlsafe_b64encode(pair.sign(b".".join(parts))).rstrip(b"=")
    return b".".join([*parts, signature]).decode()


@pytest.fixture
def nkey(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The configuration of a server that knows a user by an nkey, and the file with its seed."""
    user = key(nkeys.PREFIX_BYTE_USER)
    seed = tmp_path / "user.nk"
    seed.write_bytes(bytes(user.seed))
    yield f"accounts {{ a {{ jetstream: enabled, users: [ {{ nkey: {text_of(user)} }} ] }} }}\n", seed


@pytest.fixture
def creds(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The same by a file of credentials, as accounts with tokens have it."""
    operator, user = key(nkeys.PREFIX_BYTE_OPERATOR), key(nkeys.PREFIX_BYTE_USER)
    account, system = key(nkeys.PREFIX_BYTE_ACCOUNT), key(nkeys.PREFIX_BYTE_ACCOUNT)
    limits = dict.fromkeys(("subs", "data", "payload", "conn", "leaf", "imports", "exports"), -1)
    room = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
    known = ", ".join(
        f"{text_of(each)}: {signed(operator, text_of(each), name, {'type': 'account', 'limits': most})}"
        for each, name, most in ((account, "a", limits | room), (system, "s", limits))
    )
    of_user = signed(
        account, text_of(user), "u", {"type": "user", "subs": -1, "data": -1, "payload": -1}
    )  # fmt: skip
    file = tmp_path / "user.creds"
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{bytes(user.seed).decode()}\n------END USER NKEY SEED------\n"
    )
    of_operator = signed(operator, text_of(operator), "o", {"type": "operator"})
    config = f"operator: {of_operator}\nsystem_account: {text_of(system)}\nresolver: MEMORY\n"
    yield f"{config}resolver_preload: {{ {known} }}\n", file


@pytest.mark.parametrize("how", ["nkey", "creds"])
def test_a_server_lets_in_the_one_that_has_the_file(
    tmp_path: Path, request: pytest.FixtureRequest, how: str
) -> None:
    config, file = request.getfixturevalue(how)
    with Cluster(tmp_path / "servers", 1, accounts=config, sync="2m") as cluster:
        url = f"{cluster.url('s')}?{how}={file}"
        with mq.open(url) as one, mq.open(url) as two:
            one.queue("q").publish("x")
            found = two.queue("q").receive(timeout=0)
            assert found
            found.ack()
            assert one.queue("q").stats().acked == 1
        with pytest.raises(mq.StorageError, match="refuses this client"):
            mq.open(cluster.url("s"))
