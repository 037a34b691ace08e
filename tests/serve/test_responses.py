"""A response that is sent in one step is, as HTTP/1.1, what ASGI makes of two."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("starlette", reason="mq[serve] is not installed")
pytest.importorskip("jinja2", reason="mq[serve] is not installed")

from sites import Running, running, wait_until

from mq.serve.sqs import fault

HOST = b"Host: 127.0.0.1\r\n"
CLOSE = b"Connection: close\r\n"
HEADERS = {"date", "content-type", "content-length", "x-amzn-requestid"}
POLLS = 12
LONG = 1_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("responses") / "store", sync="never") as found:
        yield found


def post(action: bytes, *lines: bytes, version: bytes = b"1.1", **members: Any) -> bytes:
    body = json.dumps(members).encode()
    head = b"POST / HTTP/%b\r\n%bX-Amz-Target: AmazonSQS.%b\r\n" % (version, HOST, action)
    return head + b"".join(lines) + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def rest(raw: socket.socket) -> bytes:
    """All that comes until the server closes."""
    found = b""
    while part := raw.recv(1 << 20):
        found += part
    return found


def talk(server: Running, *requests: bytes) -> bytes:
    with server.connect() as raw:
        raw.sendall(b"".join(requests))
        return rest(raw)


def parted(answers: bytes, *methods: str) -> list[tuple[int, dict[str, str], bytes]]:
    """The responses to requests with these methods; they are all that there is."""
    found = []
    for method in methods:
        head, _, answers = answers.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        assert status.startswith("HTTP/1.1 ")
        headers = dict(line.split(": ", 1) for line in lines)
        assert len(headers) == len(lines)
        length = 0 if method == "HEAD" else int(headers["content-length"])
        found.append((int(status.split()[1]), headers, answers[:length]))
        answers = answers[length:]
    assert not answers
    return found


def test_a_connection_is_kept_until_the_client_asks_to_close_it(server: Running) -> None:
    answers = talk(server, post(b"ListQueues"), post(b"ListQueues", CLOSE))
    (first, kept, _), (second, closed, body) = parted(answers, "POST", "POST")
    assert (first, second) == (200, 200) and body.startswith(b"{")
    assert set(kept) == HEADERS and set(closed) == {*HEADERS, "connection"}
    assert closed["connection"] == "close" and kept["x-amzn-requestid"] != closed["x-amzn-requestid"]


def test_http_1_0_ends_with_the_response(server: Running) -> None:
    [(status, headers, _)] = parted(talk(server, post(b"ListQueues", version=b"1.0")), "POST")
    assert status == 200 and headers["connection"] == "close"


def test_a_response_to_head_has_no_body(server: Running) -> None:
    answers = talk(server, b"HEAD / HTTP/1.1\r\n%b\r\n" % HOST, post(b"ListQueues", CLOSE))
    (refused, headers, _), (status, *_) = parted(answers, "HEAD", "POST")
    assert (refused, status) == (405, 200) and int(headers["content-length"]) > 0


def test_a_client_that_waits_for_100_sends_its_body_then(server: Running) -> None:
    request = post(b"ListQueues", CLOSE, b"Expect: 100-continue\r\n", QueueNamePrefix="none")
    head, end, body = request.partition(b"\r\n\r\n")
    with server.connect() as raw:
        raw.sendall(head + end)
        proceed = raw.recv(1000)
        raw.sendall(body)
        assert proceed == b"HTTP/1.1 100 Continue\r\n\r\n"
        [(status, _, found)] = parted(rest(raw), "POST")
    assert (status, found) == (200, b"{}")


def test_a_client_that_does_not_wait_for_100_is_told_it_before_the_response(server: Running) -> None:
    answers = talk(server, post(b"Nothing", CLOSE, b"Expect: 100-continue\r\n"))
    proceed, _, answer = answers.partition(b"\r\n\r\n")
    assert proceed == b"HTTP/1.1 100 Continue"
    [(status, *_)] = parted(answer, "POST")
    assert status == 400


def test_responses_of_both_kinds_follow_in_the_order_of_the_requests(server: Running) -> None:
    page = b"GET /healthz HTTP/1.1\r\n%b\r\n" % HOST
    answers = talk(
        server, page, post(b"ListQueues"), page, post(b"Nothing"), page, post(b"ListQueues", CLOSE)
    )
    found = parted(answers, *["GET", "POST"] * 3)
    assert [status for status, *_ in found] == [200, 200, 200, 400, 200, 200]
    assert [b"ok" in body for *_, body in found] == [True, False] * 3


def test_a_client_that_reads_slowly_is_not_sent_more_than_it_takes(server: Running) -> None:
    server.broker.queue("long").publish_many(["x" * LONG] * POLLS)
    poll = post(b"ReceiveMessage", QueueUrl="/0/long")
    with server.connect() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        raw.sendall(poll * POLLS + post(b"ListQueues", CLOSE))
        # A copy, made at once: the server's thread adds connections to the set, and takes some out.
        wait_until(lambda: any(each.flow.write_paused for each in list(server.connections)))
        for _ in range(3):  # one that begins meanwhile waits
            assert server.client().get("/healthz").status == 200
        (connection,) = [each for each in list(server.connections) if each.flow.write_paused]
        assert connection.transport.get_write_buffer_size() < 2 * LONG
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        found = parted(rest(raw), *["POST"] * (POLLS + 1))
    assert [len(body) > LONG for *_, body in found] == [True] * POLLS + [False]


def test_a_fault_has_its_older_code_and_no_header_of_the_clients(server: Running) -> None:
    evil = "a\r\nx-evil: 1"
    requests = [
        post(b"SendMessage", QueueUrl=evil, MessageBody=evil),
        post(b"CreateQueue", QueueName=evil),
        post(b"\xff\xfe evil", QueueName=evil),
        post(b"ListQueues", b"X-Amzn-Trace-Id: \xff\r\n", CLOSE, NextToken=evil),
    ]
    for status, headers, _ in parted(talk(server, *requests), *["POST"] * 4):
        assert status == 400 and set(headers) - {"connection"} == {*HEADERS, "x-amzn-query-error"}
        assert headers["x-amzn-query-error"].endswith(";Sender")


def test_no_code_of_a_fault_can_end_a_header() -> None:
    kinds = [each for each in vars(fault).values() if isinstance(each, fault.Kind)]
    assert len(kinds) > 20 and all(re.fullmatch(r"[A-Za-z.]+", kind.code) for kind in kinds)
