"""What is lost on the way, cut at the edge of a trim, left to a child, or told by a clock that is wrong."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import nkeys
import pytest
from logs import log_of
from nats.aio.client import Client, ServerVersion
from servers import Cluster
from servers.node import PATIENCE, until

import mq
from mq.engine.moving import Mover
from mq.nats import arrivals, following
from mq.nats import connection as connections
from mq.nats.address import parse
from mq.nats.arrivals import Arrivals
from mq.nats.connection import Connection
from mq.nats.opening import StreamReplica
from mq.nats.wire import Wire, place_of

Opens = Callable[..., mq.Broker]
HOUR_NS = 3600 * 10**9


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


def test_a_consumer_that_cannot_be_had_for_whatever_reason_is_asked_for_again(
    opens: Opens, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = opens(), opens()
    one.queue("q").publish("first")
    assert two.queue("q").stats().ready == 1
    subscribe, late, failed = Arrivals._subscribe, log_of(two).arrivals, []

    async def fail_once(self: Arrivals) -> None:
        if self is late and not failed:
            failed.append(self)
            raise KeyError("by design")
        await subscribe(self)

    monkeypatch.setattr(Arrivals, "_subscribe", fail_once)
    wire = late._wire
    assert wire
    wire.socket.shutdown(socket.SHUT_RDWR)
    until(lambda: bool(failed), "no other consumer is asked for")
    one.queue("q").publish("second")
    assert two.queue("q").stats().ready == 2
    until(lambda: "which is tried again: KeyError('by design')" in caplog.text, "nothing is said")


def test_what_lives_right_behind_a_trim_stays(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    """P1: the oldest part is purged, up to the next fence, and not one message more."""
    monkeypatch.setattr(following, "FENCE_MESSAGES", 0)  # each publish is one
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


def test_an_opening_that_a_trim_overtakes_reads_the_state_anew(
    opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the checkpoint that it has read and the first message behind that, the stream is trimmed."""
    one = opens()
    for body in "abc":
        one.queue("q").publish(body)
    begin, trims = Arrivals.begin, [one._store.maintenance.cleaning.trim_all]

    def begin_behind_a_trim(arrivals: Arrivals, seq: int) -> None:
        if trims:
            trims.pop()()
        begin(arrivals, seq)

    monkeypatch.setattr(Arrivals, "begin", begin_behind_a_trim)
    late = opens()
    assert not trims
    assert [each.body for each in late.queue("q").peek(9)] == [*"abc"]


def test_an_opening_that_trims_overtake_again_and_again_gives_up(
    opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens()
    monkeypatch.setattr(StreamReplica, "_read_once", Mock(side_effect=FileNotFoundError))
    with pytest.raises(mq.StorageError, match="trimmed 10 times"):
        opens()


def test_what_another_process_moves_and_purges_beside_a_trim_is_not_called_lost(
    opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P1: it is about to be written again, and its old record is gone."""
    one, two = opens(), opens()
    for body in "abc":
        one.queue("q").publish(body)
    ids = [each.id for each in two.queue("q").peek(9)]
    pages = log_of(two).pages
    monkeypatch.setattr(pages, "kept_bytes", 0)
    draft, trims = Mover.draft, [one._store.maintenance.cleaning.trim_all]

    def draft_behind_a_trim(mover: Mover, token: Any, *given: Any) -> Any:
        if trims and token[1] in ids:
            trims.pop()()
        return draft(mover, token, *given)

    monkeypatch.setattr(Mover, "draft", draft_behind_a_trim)
    two._store.maintenance.cleaning.trim_all()
    assert not trims
    for broker in (one, two, opens()):
        assert [each.body for each in broker.queue("q").peek(9)] == [*"abc"]


def test_what_is_lost_is_called_so_by_a_trim(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    """P8."""
    one = opens()
    for body in "abc":
        one.queue("q").publish(body)
    pages = log_of(one).pages

    async def nothing(seq: int) -> None:
        """No server has it."""

    monkeypatch.setattr(pages, "kept_bytes", 0)
    monkeypatch.setattr(pages, "fetch", nothing)
    with pytest.raises(mq.CorruptStore, match="not there"):
        one._store.maintenance.cleaning.trim_all()


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


@pytest.mark.usefixtures("patient")
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


def test_the_error_of_a_request_whose_thread_was_interrupted_is_not_printed(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LOOK_SECONDS", 0.0)
    connection, told = Connection(parse(url)), list[object]()
    asking, over = threading.Event(), threading.Event()
    connection.open()
    connection._loop.set_exception_handler(lambda _, context: told.append(context))

    async def fail() -> None:
        await asyncio.to_thread(asking.wait)
        connection._loop.call_soon(over.set)
        raise mq.StorageError("x", "no answer")

    class Interrupted:
        def is_alive(self) -> bool:
            asking.set()
            over.wait()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(connection, "_thread", Interrupted())
        connection.run(fail())
    gc.collect()
    connection.close()
    assert told == []


@pytest.mark.filterwarnings("ignore:.*never closed:ResourceWarning")
def test_a_broker_that_the_collector_finds_in_the_thread_that_hears_the_server(url: str) -> None:
    """It would wait for itself, with the connection open."""
    broker: Any = mq.open(url)
    connection, circle, collected = broker._store.replica.log._connection, list[Any](), threading.Event()
    circle += [broker, circle]
    del broker

    def collect() -> None:
        circle.clear()
        gc.collect()
        collected.set()

    connection._loop.call_soon_threadsafe(collect)
    assert collected.wait(PATIENCE), "it waits for itself"
    until(connection._loop.is_closed, "the connection stays")


def test_what_a_finaliser_asks_in_the_thread_that_hears_the_server_is_refused(url: str) -> None:
    connection, raised = Connection(parse(url)), list[BaseException]()
    connection.open()

    def ask() -> None:
        try:
            connection.api("INFO")
        except mq.UsageError as error:
            raised.append(error)

    connection._loop.call_soon_threadsafe(ask)
    until(lambda: raised, "it waits for itself")
    assert connection.api("INFO")
    connection.close()


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
def nkey(tmp_path: Path) -> tuple[str, str]:
    """The configuration of a server that knows a user by an nkey, and what names the file with its seed."""
    user = key(nkeys.PREFIX_BYTE_USER)
    seed = tmp_path / "user.nk"
    seed.write_bytes(bytes(user.seed))
    config = f"accounts {{ a {{ jetstream: enabled, users: [ {{ nkey: {text_of(user)} }} ] }} }}\n"
    return config, f"nkey={seed}"


@pytest.fixture
def creds(tmp_path: Path) -> tuple[str, str]:
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
    return f"{config}resolver_preload: {{ {known} }}\n", f"creds={file}"


@pytest.fixture
def tls(tmp_path: Path) -> tuple[str, str]:
    """A server that has a certificate, and asks each client for one."""
    trustme = pytest.importorskip("trustme")
    ca, files = trustme.CA(), {}
    for who in ("127.0.0.1", "client"):
        made = ca.issue_cert(who)
        for name, blob in (("cert", made.cert_chain_pems[0]), ("key", made.private_key_pem)):
            blob.write_to_path(path := str(tmp_path / f"{who}.{name}"))
            files[who, name] = path
    ca.cert_pem.write_to_path(known := str(tmp_path / "ca"))
    config = (
        f'tls {{ cert_file: "{files["127.0.0.1", "cert"]}", key_file: "{files["127.0.0.1", "key"]}",'
        f' ca_file: "{known}", verify: true }}\n'
    )
    return config, f"ca={known}&cert={files['client', 'cert']}&key={files['client', 'key']}"


@pytest.fixture
def both(nkey: tuple[str, str], tls: tuple[str, str]) -> tuple[str, str]:
    return nkey[0] + tls[0], f"{nkey[1]}&{tls[1]}"


def wires(broker: mq.Broker) -> list[Any]:
    """The connections that nats-py has no part in."""
    log: Any = log_of(broker)
    return [log.arrivals._wire, log._sending.direct._wire]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("how", ["nkey", "creds", "tls", "both"])
def test_a_server_lets_in_the_one_that_has_the_file(
    tmp_path: Path, request: pytest.FixtureRequest, how: str
) -> None:
    config, query = request.getfixturevalue(how)
    with Cluster(tmp_path / "servers", 1, accounts=config, sync="2m") as cluster:
        url = f"{cluster.url('s')}?{query}"
        with mq.open(url) as one, mq.open(url) as two:
            one.queue("q").publish("x")
            found = two.queue("q").receive(timeout=0)
            assert found
            found.ack()
            one.queue("q").publish("y" * 600_000)  # many records of TLS, each way
            assert len(next(iter(two.queue("q").peek())).body) == 600_000
            assert one.queue("q").stats().acked == 1
            for each in wires(one) + wires(two):
                assert isinstance(each.socket, ssl.SSLSocket) is (how in ("tls", "both"))
        with pytest.raises(mq.StorageError, match=r"refuses this client|is not believed"):
            mq.open(cluster.url("s"))


@pytest.mark.usefixtures("patient")
def test_a_server_that_has_the_certificate_of_another_one_gets_no_wire(
    tmp_path: Path, tls: tuple[str, str]
) -> None:
    with Cluster(tmp_path / "servers", 1, accounts=tls[0], sync="2m") as cluster:
        connection = Connection(parse(f"{cluster.url('s')}?{tls[1]}"))
        connection.open()
        place = place_of(connection)
        assert place
        Wire(connection.address, place).close()
        with pytest.raises(ssl.SSLCertVerificationError):
            Wire(connection.address, place._replace(name="elsewhere"))
        connection.close()


def test_a_server_that_leaves_it_to_clients_is_spoken_to_by_tls(tmp_path: Path, tls: tuple[str, str]) -> None:
    config, query = tls
    with Cluster(tmp_path / "servers", 1, accounts=config + "allow_non_tls: true\n", sync="2m") as cluster:
        mq.open(cluster.url("s")).close()
        with mq.open(f"{cluster.url('s')}?{query}") as broker:
            broker.queue("q").publish("x")
            nc = log_of(broker).arrivals._connection.nc
            assert nc._transport._io_writer.get_extra_info("ssl_object")


def test_no_password_is_sent_in_the_clear_to_a_server_that_does_not_speak_tls() -> None:
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.sendall(b'INFO {"version":"2.12.1","headers":true,"max_payload":1048576}\r\n')
                while some := client.recv(4096):
                    heard.append(some)

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        with pytest.raises(mq.StorageError, match="does not speak TLS, which the address asks for"):
            mq.open(f"tls://mq:geheim@127.0.0.1:{port}/s")
        thread.join(PATIENCE)
    assert not thread.is_alive()
    assert heard == []


def test_a_key_that_has_changed_since_means_no_wire(tmp_path: Path, nkey: tuple[str, str]) -> None:
    """What was opened goes on over the library's connection."""
    with (
        Cluster(tmp_path / "servers", 1, accounts=nkey[0], sync="2m") as cluster,
        mq.open(f"{cluster.url('s')}?{nkey[1]}") as broker,
    ):
        (tmp_path / "user.nk").write_text("no seed")
        log_of(broker)._sending.direct.close()
        broker.queue("q").publish("x")
        assert wires(broker)[1] is None


def test_a_server_that_dies_behind_the_connection_is_not_called_too_old(
    opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the library is connected to another one, it says that the version is 0.0.0."""
    versions = ["0.0.0-unknown", "0.0.0-unknown", "2.12.1"]
    monkeypatch.setattr(
        Client, "connected_server_version", property(lambda self: ServerVersion(versions.pop(0)))
    )
    opens().queue("q").publish("x")
    assert not versions


def test_a_server_that_is_too_old_is_named(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "connected_server_version", property(lambda self: ServerVersion("2.12.0")))
    with pytest.raises(mq.Unsupported, match=r"the server is NATS 2\.12\.0, and mq needs 2\.12\.1"):
        opens()
