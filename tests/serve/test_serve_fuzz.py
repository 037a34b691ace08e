"""Every parser of the server is given what no client should send: it answers, or says no in one line."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("starlette", reason="mq[serve] is not installed")
pytest.importorskip("jinja2", reason="mq[serve] is not installed")

from sites import Client, Running, running

from mq import values
from mq.delivery import records
from mq.engine.bodies import encode_body
from mq.serve.guard import LOCAL_NAMES, hostname, refusal
from mq.serve.limits import Limits
from mq.serve.passwords import verify
from mq.serve.ui import shown
from mq.serve.ui.changes import CHANGES
from mq.serve.ui.gate import Problem, _fields
from mq.serve.ui.pages import _own
from mq.serve.ui.table import View

KINDS = st.sampled_from([records.BYTES, records.TEXT, records.MSGPACK, 3])


@given(KINDS, st.binary(max_size=2000))
def test_any_body_is_shown(flags: int, raw: bytes) -> None:
    preview, body = shown.preview(flags, raw), shown.body_of(flags, raw)
    assert len(preview) <= 12 * shown.PREVIEW_CHARS and preview.isprintable()
    assert body.size == len(raw)
    assert all(each.isprintable() or each in "\n\t" for each in body.text)


PLAIN = st.none() | st.floats() | st.text(max_size=20) | st.binary(max_size=20)
STRUCTURES = st.recursive(
    PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)


@settings(max_examples=50)
@given(STRUCTURES)
def test_any_structure_is_shown(body: Any) -> None:
    flags, raw = encode_body(body)
    assert shown.preview(flags, raw).isprintable()
    assert shown.body_of(flags, raw).kind == values.body_type(flags)


@given(st.dictionaries(st.sampled_from(["text", "kind", "sort", "turned", "page"]), st.text(max_size=20)))
def test_any_query_is_a_view_that_its_address_says_again(query: dict[str, str]) -> None:
    view = View.of(query)
    assert view.page >= 1 and view.sort and view.kind
    assert view.query().startswith("?")


@given(st.binary(max_size=200))
def test_any_form_is_fields_or_a_problem(body: bytes) -> None:
    try:
        assert all(len(pair) == 2 for pair in _fields(body))
    except Problem as problem:
        assert problem.status == 400


@given(st.text(max_size=100), st.text(max_size=100))
def test_any_hash_is_refused(password: str, stored: str) -> None:
    assert not verify(password, stored)


@given(st.text(max_size=60))
def test_any_text_is_a_duration_or_none(text: str) -> None:
    found = values.read_duration(text)
    assert found is None or found >= 0


@given(st.text(max_size=60))
def test_a_login_never_leads_away(to: str) -> None:
    found = _own(to)
    assert found.startswith("/ui/") and not set(found) & set("\\\r\n")


HOSTS = st.text(max_size=30) | st.sampled_from(
    ["localhost", "127.0.0.1:80", "[::1]", "evil.example", "localhost.evil"]
)


@given(HOSTS, st.none() | HOSTS, st.sampled_from(["GET", "POST", "PUT"]))
def test_only_names_of_this_computer_pass(host: str, origin: str | None, method: str) -> None:
    headers = [(b"host", host.encode("latin-1", "replace"))]
    if origin is not None:
        headers.append((b"origin", f"http://{origin}".encode("latin-1", "replace")))
    if not refusal({"type": "http", "method": method, "headers": headers}, LOCAL_NAMES):
        assert hostname(headers[0][1].decode("latin-1")) in LOCAL_NAMES
        assert method == "GET" or origin is None or origin.lower() == host.lower()


# ── a server, whole ────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    # Patient: what is sent here ends with the client's end, and a client of a busy machine is slow, too.
    store, limits = tmp_path_factory.mktemp("fuzz") / "store", Limits(head_seconds=600.0)
    with running(store, limits=limits, sync="never") as found:
        found.broker.queue("mail").publish("x")
        yield found


@pytest.fixture(scope="module")
def client(server: Running) -> Client:
    found = server.client()
    found.token = found.get("/ui/queue?name=mail").csrf
    return found


def require_calm(status: int, body: bytes) -> None:
    assert status != 500 and b"Traceback" not in body


LINES = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n",
        b"POST /ui/change HTTP/1.1\r\n",
        b"POST /0/mail HTTP/1.1\r\n",
        b"X-Amz-Target: AmazonSQS.SendMessage\r\n",
        b"Content-Type: application/x-www-form-urlencoded\r\n",
        b"Host: 127.0.0.1\r\n",
        b"\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"1\r\na\r\n",
        b"0\r\n\r\n",
        b"abc",
        b"\0",
        b"Connection: close\r\n",
    ]
)


@settings(max_examples=40)
@given(st.lists(LINES | st.binary(max_size=20), max_size=12))
def test_any_bytes_leave_the_server_well(server: Running, parts: list[bytes]) -> None:
    with server.connect() as raw:
        try:
            raw.sendall(b"".join(parts))
            raw.shutdown(socket.SHUT_WR)
            while part := raw.recv(1 << 16):
                assert b"Traceback" not in part and b" 500 " not in part[:20]
        except OSError as error:  # the server has closed, or reset, the connection
            assert error.errno in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN), error
    assert server.client().get("/healthz").status == 200


PATHS = st.sampled_from(["/ui/", "/ui/queue", "/ui/message", "/ui/body", "/ui/topics", "/ui/login"])
NAMES = st.sampled_from(["name", "queue", "id", "state", "text", "page", "sort", "kind", "more", "of", "to"])
VALUES = st.text(max_size=20) | st.sampled_from(["mail", "ready", "in_flight", "0", "1", "-1", "9" * 30])


@settings(max_examples=60)
@given(PATHS, st.lists(st.tuples(NAMES, VALUES), max_size=4))
def test_any_address_is_a_page(client: Client, path: str, query: list[tuple[str, str]]) -> None:
    answer = client.get(f"{path}?{urlencode(query, errors='replace')}")
    require_calm(answer.status, answer.body)


FIELDS = st.sampled_from(
    ["do", "queue", "id", "when", "body", "kind", "priority", "group", "headers", "state", "confirmed"]
)
GIVEN = VALUES | st.sampled_from([*CHANGES, "json", "base64", "a=b", "5m", "{", "nope"])


@settings(max_examples=60)
@given(st.lists(st.tuples(FIELDS, GIVEN), max_size=8))
def test_any_form_is_answered(client: Client, fields: list[tuple[str, str]]) -> None:
    answer = client.post("/ui/change", [("csrf", client.token), *fields])
    require_calm(answer.status, answer.body)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{\n  "id": 1,\n  "id": 2\n}', id="a name twice"),
        pytest.param("[\n  12345678901234567890.10,\n  1e400,\n  1.00\n]", id="numbers that no float is"),
    ],
)
def test_a_body_is_laid_out_and_otherwise_as_it_is(text: str) -> None:
    assert shown.body_of(records.TEXT, text.encode()).text == text
    on_a_line = "".join(text.split()).encode()
    assert shown.body_of(records.TEXT, on_a_line).text == text
