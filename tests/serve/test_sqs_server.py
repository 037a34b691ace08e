"""The server: killed, drained, locked with keys; clients that hang up, and many that wait."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from served import Served, serve, sqs_client

import mq

WAITING = 1000
PATIENCE_SECONDS = 120


def receive(client: Any, url: str, **options: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.receive_message(QueueUrl=url, **options).get("Messages", [])
    return found


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mq", *words], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )


def test_what_was_answered_survives_sigkill_and_comes_back(tmp_path: Path) -> None:
    """P1, over HTTP: in sync="always", as it is by default.  What was in flight is so afterwards, too."""
    with serve(tmp_path / "store") as served:
        sqs = sqs_client(served.url)
        url = sqs.create_queue(QueueName="orders")["QueueUrl"]
        entries = [{"Id": str(n), "MessageBody": str(n)} for n in range(10)]
        assert len(sqs.send_message_batch(QueueUrl=url, Entries=entries)["Successful"]) == 10
        [held] = receive(sqs, url, VisibilityTimeout=3600)
        served.end(signal.SIGKILL)
    with serve(tmp_path / "store") as served:
        sqs = sqs_client(served.url)
        url = sqs.get_queue_url(QueueName="orders")["QueueUrl"]
        rest = receive(sqs, url, MaxNumberOfMessages=10)
        assert sorted([held["Body"], *(each["Body"] for each in rest)]) == sorted(map(str, range(10)))
        sqs.delete_message(QueueUrl=url, ReceiptHandle=held["ReceiptHandle"])
    with mq.open(tmp_path / "store", read_only=True) as broker:
        assert broker.queue("orders").stats().acked == 1


def test_sigterm_answers_long_polls_and_leaves_what_is_in_flight(tmp_path: Path) -> None:
    with serve(tmp_path / "store", "--sync", "0.5") as served:
        sqs = sqs_client(served.url)
        url = sqs.create_queue(QueueName="q")["QueueUrl"]
        sqs.send_message(QueueUrl=url, MessageBody="held")
        assert receive(sqs, url)
        with connected(served) as poll, mq.open(tmp_path / "store") as broker:
            poll.sendall(poll_of(url))
            wait_until(lambda: is_read(poll))
            assert served.end() == 0
            assert poll.makefile("rb").read().endswith(b"\r\n\r\n{}")
            assert broker.queue("q").stats().in_flight == 1


def connected(served: Served) -> socket.socket:
    address = urlsplit(served.url)
    return socket.create_connection((address.hostname or "", address.port or 0), PATIENCE_SECONDS)


def is_read(connection: socket.socket) -> bool:
    """Whether the server has read all that was sent to it."""
    if any(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4))):
        return False  # it is on its way: the server's system has not said that it has it
    here, there = (f":{each[1]:04X}" for each in (connection.getsockname(), connection.getpeername()))
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(
        line[1].endswith(there) and line[2].endswith(here) and line[4].endswith(":00000000") for line in lines
    )


def wait_until(look: Any) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not look():
        assert time.monotonic() < until
        os.sched_yield()


def poll_of(url: str) -> bytes:
    """A long poll, as bytes."""
    body = json.dumps({"QueueUrl": url, "WaitTimeSeconds": 20}).encode()
    head = "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Amz-Target: AmazonSQS.ReceiveMessage\r\nContent-Length: "
    return f"{head}{len(body)}\r\n\r\n".encode() + body


def test_a_client_that_hangs_up_takes_nothing(served: Served, sqs: Any, url: str, store: mq.Broker) -> None:
    """A long poll whose client has gone is given up: the message is another one's, at once."""
    request = poll_of(url)
    for _ in range(5):
        with connected(served) as connection:
            connection.sendall(request)
            wait_until(lambda: is_read(connection))
    sqs.send_message(QueueUrl=url, MessageBody="hello")
    [message] = receive(sqs, url, WaitTimeSeconds=10, AttributeNames=["ApproximateReceiveCount"])
    assert message["Body"] == "hello"


def test_a_thousand_clients_wait_without_a_thread_each(
    served: Served, sqs: Any, made: Callable[..., str]
) -> None:  # fmt: skip
    """Each gets its message, and the server has few threads.

    A client whose poll is over asks again: on a busy machine it takes more than the 20 seconds of a poll
    until all have come and all was sent.
    """
    url = made(VisibilityTimeout="3600")
    request = poll_of(url)
    address = urlsplit(served.url)

    async def one() -> bytes:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        found = b"{}"
        while found == b"{}":
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            found = await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head)[0]))
        writer.close()
        return found

    async def all_of_them() -> list[bytes]:
        polls = [asyncio.create_task(one()) for _ in range(WAITING)]
        for _ in range(WAITING // 10):
            entries = [{"Id": str(n), "MessageBody": str(n)} for n in range(10)]
            await asyncio.to_thread(sqs.send_message_batch, QueueUrl=url, Entries=entries)
        return await asyncio.gather(*polls)

    found = asyncio.run(all_of_them())
    assert [each for each in found if not each.startswith(b'{"Messages":')] == []
    assert threads_of(served.process.pid) < 60


def threads_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def test_two_servers_of_one_store_hand_messages_over(served: Served, sqs: Any, url: str) -> None:
    """A poll at one is woken by a send at the other."""
    with serve(served.store, "--sync", "0.5") as other, ThreadPoolExecutor(1) as threads:
        there = sqs_client(other.url)
        poll = threads.submit(receive, there, url, WaitTimeSeconds=20)
        sqs.send_message(QueueUrl=url, MessageBody="over there")
        [message] = poll.result(PATIENCE_SECONDS)
        sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        assert other.end() == 0


# ── who may come in ────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, dict[str, str]]]:
    """A server with keys, for any address; and one of its keys."""
    place = tmp_path_factory.mktemp("locked")
    done = command("serve", "keys", "add", "--credentials", str(place / "keys.json"), "--json")
    key = json.loads(done.stdout)
    options = ("--host", "0.0.0.0", "--credentials", str(place / "keys.json"), "--sync", "0.5")
    with serve(place / "store", *options) as served:
        served.url = served.url.replace("0.0.0.0", "127.0.0.1")
        yield served, {
            "aws_access_key_id": key["access_key_id"], "aws_secret_access_key": key["secret_access_key"]
        }  # fmt: skip


def test_with_keys_a_signature_is_verified(locked: tuple[Served, dict[str, str]]) -> None:
    """boto3's own, in the header."""
    served, key = locked
    sqs = sqs_client(served.url, **key)
    url = sqs.create_queue(QueueName="a-b_c")["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="é")
    assert receive(sqs, url)[0]["Body"] == "é"
    for wrong in ({"aws_secret_access_key": "x"}, {"aws_access_key_id": "x"}):
        with pytest.raises(sqs.exceptions.ClientError) as error:
            sqs_client(served.url, **{**key, **wrong}).list_queues()
        assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_a_presigned_url_is_verified(locked: tuple[Served, dict[str, str]]) -> None:
    """For as long as it says, and for what it says."""
    from botocore.auth import SigV4QueryAuth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials
    from test_sqs_wire import ask

    served, key = locked
    sqs = sqs_client(served.url, **key)
    url = sqs.create_queue(QueueName="presigned")["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="to whom it may concern")

    def presigned(seconds: int, **query: str) -> str:
        request = AWSRequest("GET", url, params={"Action": "ReceiveMessage", **query})
        SigV4QueryAuth(Credentials(*key.values()), "sqs", "eu-west-1", seconds).add_auth(request)
        address = urlsplit(request.url)
        return f"{address.path}?{address.query}"

    path = presigned(60, MaxNumberOfMessages="1", **{"AttributeName.1": "All"})
    for wrong in (
        path.replace("ReceiveMessage", "PurgeQueue"), path.replace("sqs", "sts"), presigned(-1),
        path.replace("Messages=1", "Messages=2"), path.partition("&X-Amz-Signature")[0],
    ):  # fmt: skip
        assert ask(served.url, method="GET", path=wrong)[0] == 403, wrong
    status, _, body = ask(served.url, method="GET", path=path)
    assert status == 200 and b"<Body>to whom it may concern</Body>" in body


def test_without_a_signature_nothing_is_done(locked: tuple[Served, dict[str, str]]) -> None:
    from test_sqs_wire import ask

    served, _ = locked
    for headers in ({"X-Amz-Target": "AmazonSQS.CreateQueue"}, {}):
        status, _, _ = ask(served.url, b'{"QueueName": "mine"}', headers)
        assert status == 403
    with mq.open(served.store, read_only=True) as broker:
        assert "mine" not in broker.queues()


def test_a_signed_request_cannot_be_changed(locked: tuple[Served, dict[str, str]]) -> None:
    """Another body, another target, another day."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials
    from test_sqs_wire import ask

    served, key = locked
    body = b'{"QueueName": "signed"}'
    headers = {"X-Amz-Target": "AmazonSQS.GetQueueUrl", "Host": urlsplit(served.url).netloc}
    request = AWSRequest("POST", served.url + "/", data=body, headers=headers)
    SigV4Auth(Credentials(*key.values()), "sqs", "eu-west-1").add_auth(request)
    signed = dict(request.headers.items())
    assert ask(served.url, body, signed)[0] == 400  # there is no such queue, and the client may ask
    old = signed["X-Amz-Date"]
    for changed_body, changed in (
        (b'{"QueueName": "another"}', {}),
        (body, {"X-Amz-Target": "AmazonSQS.CreateQueue"}),
        (body, {"X-Amz-Date": f"{int(old[:4]) - 1}{old[4:]}"}),
        (body, {"Authorization": signed["Authorization"].replace("x-amz-target", "x-amz-date")}),
    ):
        assert ask(served.url, changed_body, {**signed, **changed})[0] == 403


def test_other_addresses_need_keys(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        done = command("--store", str(tmp_path / "s"), "serve", "--host", host, "--port", "0")
        assert (done.returncode, done.stdout) == (2, "")
        assert "mq serve keys add" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    assert command("serve", "keys", "add", "--credentials", str(file)).returncode == 0
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o640)
    for words in (
        ("serve", "--credentials", str(file)),
        ("serve", "keys", "add", "--credentials", str(file)),
    ):
        done = command("--store", str(tmp_path / "s"), *words)
        assert done.returncode == 2
        assert f"chmod 600 {file}" in done.stderr


def test_a_key_that_is_added_counts_at_once(locked: tuple[Served, dict[str, str]], tmp_path: Path) -> None:
    served, _ = locked
    file = served.store.parent / "keys.json"
    key = json.loads(command("serve", "keys", "add", "--credentials", str(file), "--json").stdout)
    sqs = sqs_client(
        served.url, aws_access_key_id=key["access_key_id"], aws_secret_access_key=key["secret_access_key"]
    )  # fmt: skip
    wait_until(lambda: is_let_in(sqs))


def is_let_in(sqs: Any) -> bool:
    try:
        sqs.list_queues()
    except sqs.exceptions.ClientError:
        return False
    return True


def test_a_port_that_is_taken_is_one_line(served: Served, tmp_path: Path) -> None:
    port = str(urlsplit(served.url).port)
    done = command("--store", str(tmp_path / "s"), "serve", "--port", port)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert f"port {port}" in done.stderr


def test_read_only_shows_and_changes_nothing(served: Served, sqs: Any, url: str) -> None:
    sqs.send_message(QueueUrl=url, MessageBody="stays")
    with serve(served.store, "--read-only") as other:
        there = sqs_client(other.url)
        has = there.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        assert has["ApproximateNumberOfMessages"] == "1"
        for change in (
            lambda: there.send_message(QueueUrl=url, MessageBody="x"),
            lambda: receive(there, url),
            lambda: there.delete_queue(QueueUrl=url),
            lambda: there.create_queue(QueueName="new"),
        ):
            with pytest.raises(there.exceptions.ClientError) as error:
                change()
            assert error.value.response["Error"]["Code"] == "AccessDenied"
