"""What clients may make a server hold: heads, bodies, requests, connections, time; each has its bound."""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import Mock

import pytest

pytest.importorskip("starlette", reason="mq[serve] is not installed")
pytest.importorskip("jinja2", reason="mq[serve] is not installed")

from sites import Running, running, wait_until

from mq.serve.connection import protocol
from mq.serve.limits import HEAD_BYTES_MAX, PIPELINED_MAX, READ_BYTES_MIN, Limits

HOST = b"Host: 127.0.0.1\r\n"
GET = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST /ui/change HTTP/1.1\r\n" + HOST
CONNECTIONS_MAX = 20

Hurry = Callable[[str], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Patient: a client of a busy machine is slow, too, and is not to be taken for one that never comes."""
    limits = Limits(
        CONNECTIONS_MAX, 100_000, 150_000, head_seconds=600.0, body_seconds=600.0, write_seconds=600.0
    )  # fmt: skip
    with running(tmp_path_factory.mktemp("limits") / "store", limits=limits, sync="never") as found:
        yield found


@pytest.fixture
def hurry(server: Running, monkeypatch: pytest.MonkeyPatch) -> Hurry:
    """In its block the server is patient no longer with what is named: head, body or write."""

    @contextmanager
    def begin(what: str) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(server.limits, f"{what}_seconds", 0.3)
            yield

    return begin


def rest(raw: socket.socket) -> bytes:
    """All that comes until the server closes."""
    found = b""
    try:
        while part := raw.recv(1 << 16):
            found += part
    except ConnectionResetError:
        pass
    return found


def talk(server: Running, sent: bytes, *, ends: bool = False) -> bytes:
    """What is answered until the server closes; *ends*: the client says that it sends nothing more."""
    with server.connect() as raw:
        try:
            raw.sendall(sent)
            if ends:
                raw.shutdown(socket.SHUT_WR)
        except OSError as error:  # the server has closed, or reset, the connection
            assert error.errno in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN), error
        return rest(raw)


def require_well(server: Running) -> None:
    assert server.client().get("/healthz").status == 200


@pytest.mark.parametrize("beginning", [b"", b"G", b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "])
def test_a_head_that_does_not_come_closes_the_connection(
    server: Running, hurry: Hurry, beginning: bytes
) -> None:  # fmt: skip
    with hurry("head"):
        assert talk(server, beginning) == b""
    require_well(server)


def test_a_head_that_drips_closes_the_connection(server: Running, hurry: Hurry) -> None:
    """Each byte comes in time; the whole head does not."""
    with hurry("head"), server.connect() as raw:
        raw.settimeout(0.02)
        ended = False
        for _ in range(500):
            try:
                raw.sendall(b"G" if not ended else b"")
                ended = raw.recv(1) == b""
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                ended = True
            if ended:
                break
        assert ended
    require_well(server)


def test_the_next_head_on_a_connection_has_its_own_time(server: Running, hurry: Hurry) -> None:
    with server.connect() as raw:
        raw.sendall(GET)
        found = b""
        while b'"ok"}' not in found:
            found += raw.recv(1000)
        with hurry("head"):
            raw.sendall(b"GET /heal")
            assert rest(raw) == b""


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * (HEAD_BYTES_MAX + 1000) + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: " + b"a" * (HEAD_BYTES_MAX + 1000) + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: y\r\n" * HEAD_BYTES_MAX + b"\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"a" * (HEAD_BYTES_MAX + 70_000),
        b"G" * (HEAD_BYTES_MAX + 70_000),
    ],
    ids=["path", "value", "many", "name without an end", "method"],
)
def test_a_long_head_is_refused(server: Running, head: bytes) -> None:
    answer = talk(server, head)
    assert answer.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 ")) or answer == b""
    require_well(server)


@pytest.mark.parametrize(
    "junk",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"HELO there\r\n\r\n", b"GET\r\n\r\n",
        b"\r\n" * 100 + b"\0", b"GET / HTTP/9.9\r\n\r\n", b"GET http://[ HTTP/1.1\r\n\r\n",
        b"GET /%zz%00 HTTP/1.1\r\n" + HOST + b"\r\n",
        POST + b"Content-Length: -1\r\n\r\n", POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", POST + b"Transfer-Encoding: gzip\r\n\r\n",
        POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"CONNECT example.org:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    ],
)  # fmt: skip
def test_what_is_no_request_leaves_nothing_but_one_line(server: Running, junk: bytes) -> None:
    answer = talk(server, junk, ends=True)
    assert b"Traceback" not in answer and b'File "' not in answer
    assert b" 500 " not in answer.partition(b"\r\n")[0]
    require_well(server)


@pytest.mark.parametrize(
    "request_",
    [
        POST + b"Content-Length: 100001\r\n\r\n",
        POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
        POST
        + b"Transfer-Encoding: chunked\r\n\r\n"
        + (b"10000\r\n" + b"a" * 0x10000 + b"\r\n") * 3
        + b"0\r\n\r\n",
    ],
    ids=["its length says so", "its length is beyond all", "in chunks"],
)
def test_a_long_body_is_refused(server: Running, request_: bytes) -> None:
    answer = talk(server, request_)
    assert answer.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 400 ")) or answer == b"", answer
    require_well(server)


@pytest.mark.parametrize(
    "request_",
    [POST + b"Content-Length: 10\r\n\r\nab", POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"],
    ids=["with its length", "in chunks"],
)
def test_a_body_that_does_not_come_is_refused(server: Running, hurry: Hurry, request_: bytes) -> None:
    with hurry("body"):
        assert talk(server, request_).startswith(b"HTTP/1.1 408 ")
    require_well(server)


def test_all_bodies_together_are_bounded(server: Running, hurry: Hurry) -> None:
    """The one that is too much is refused, the others go on; one whose rest is late is refused for that."""
    begun = POST + b"Content-Length: 99000\r\n\r\n" + b"a" * 50_000
    with server.connect() as one:
        one.sendall(begun)
        wait_until(lambda: server.limits.memory_bytes == 50_000)
        with server.connect() as other:
            other.sendall(POST + b"Content-Length: 99000\r\n\r\n" + b"a" * 98_000)
            wait_until(lambda: server.limits.memory_bytes == 148_000)
            assert talk(server, begun).startswith(b"HTTP/1.1 503 ")
            other.sendall(b"a" * 1000)
            assert other.recv(13) == b"HTTP/1.1 403 ", "its form has no token"
    with hurry("body"):
        assert talk(server, begun).startswith(b"HTTP/1.1 408 ")
    wait_until(lambda: server.limits.memory_bytes == 0)
    require_well(server)


def test_a_trailer_is_read_and_forgotten_and_has_its_bound(server: Running) -> None:
    body = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\na\r\n0\r\n"
    assert talk(server, body + b"Host: evil\r\n\r\n").startswith(b"HTTP/1.1 403 ")  # there is no token in `a`
    answer = talk(server, body + b"X: y\r\n" * HEAD_BYTES_MAX + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 4") or answer == b""
    require_well(server)


def test_pipelined_requests_are_answered_in_their_order(server: Running) -> None:
    paths = [b"/healthz", b"/robots.txt", b"/ui/nowhere", b"/healthz"]
    requests = b"".join(b"GET %s HTTP/1.1\r\n%s\r\n" % (path, HOST) for path in paths)
    answer = talk(server, requests[:-2] + b"Connection: close\r\n\r\n")
    bodies = [b'{"status":"ok"}', b"User-agent: *", b"There is no such page.", b'{"status":"ok"}']
    assert re.findall(b"|".join(map(re.escape, bodies[:3])), answer) == bodies
    assert answer.count(b"HTTP/1.1 200") == 3 and answer.count(b"HTTP/1.1 404") == 1


def test_pipelined_sends_are_stored_in_their_order_and_their_bodies_are_counted_once(server: Running) -> None:
    queue = server.broker.queue("pipelined")
    queue.publish("0")

    def send(body: bytes, *head: bytes) -> bytes:
        said = b'{"QueueUrl": "/0/pipelined", "MessageBody": "%s"}' % body
        target = b"POST / HTTP/1.1\r\n" + HOST + b"X-Amz-Target: AmazonSQS.SendMessage\r\n" + b"".join(head)
        return target + b"Content-Length: %d\r\n\r\n%s" % (len(said), said)

    last = send(b"9", b"Connection: close\r\n")
    answer = talk(server, b"".join(send(b"%d" % number) for number in range(1, 9)) + last)
    assert answer.count(b"HTTP/1.1 200 OK") == answer.count(b"MD5OfMessageBody") == 9
    assert [each.body for each in queue.peek(20)] == [str(number) for number in range(10)]
    wait_until(lambda: not server.connections)
    assert server.limits.memory_bytes == 0


def test_too_many_pipelined_requests_close_the_connection(server: Running) -> None:
    stream = b"GET /ui/live?of=queues HTTP/1.1\r\n" + HOST + b"\r\n"
    answer = talk(server, stream + GET * (PIPELINED_MAX + 2))
    assert answer.count(b"HTTP/1.1 ") <= 1
    require_well(server)


def test_junk_behind_a_stream_is_not_answered_inside_of_it(server: Running) -> None:
    with server.connect() as raw:
        raw.sendall(b"GET /ui/live?of=queues HTTP/1.1\r\n" + HOST + b"\r\n")
        begun = raw.recv(10)
        raw.sendall(b"\0\0\0\r\n\r\n")
        assert (begun + rest(raw)).count(b"HTTP/1.1") <= 1
    require_well(server)


def test_connections_are_bounded(server: Running) -> None:
    wait_until(lambda: not server.connections)  # those of the test before
    held = [server.connect() for _ in range(CONNECTIONS_MAX)]
    try:
        for raw in held:
            raw.sendall(b"G")
        wait_until(lambda: len(server.connections) == CONNECTIONS_MAX)
        assert talk(server, GET, ends=True) == b""
    finally:
        for raw in held:
            raw.close()


def test_a_client_that_does_not_read_is_closed(server: Running, hurry: Hurry) -> None:
    server.broker.queue("big").publish(b"x" * 8_000_000)
    (id,) = [each.id for each in server.broker.queue("big").peek(1)]
    wait_until(lambda: not server.connections)  # those of the test before
    with hurry("write"), server.connect() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.sendall(b"GET /ui/body?queue=big&id=%d HTTP/1.1\r\n%s\r\n" % (id, HOST))
        assert raw.recv(10)
        wait_until(lambda: not server.connections)
    require_well(server)


def test_a_long_response_takes_as_long_as_it_is_read() -> None:
    """A slow network is no client that does not read."""
    made: Any = object.__new__(protocol(Limits()))
    made.loop, made.transport, made.flow = loop, transport, _ = Mock(), Mock(), Mock()
    left = transport.get_write_buffer_size

    def time_is_over(read: int) -> None:
        left.return_value -= read
        _, do, *given = loop.call_later.call_args.args
        do(*given)

    left.return_value = 3 * READ_BYTES_MIN
    made.pause_writing()
    for _ in range(2):
        time_is_over(READ_BYTES_MIN)
        assert not transport.abort.called
    time_is_over(READ_BYTES_MIN - 1)
    assert transport.abort.called
