"""A full disk, a store that failed, a process that holds its lock: SQS's own errors, which SDKs try again."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("starlette", reason="mq[serve] is not installed")
pytest.importorskip("jinja2", reason="mq[serve] is not installed")

from served import Served, serve, sqs_client
from sites import running, wait_until
from test_sqs_wire import ask, query

from mq.serve.ui import watched
from mq.storage import locks
from mq.storage.real_disk import RealDisk

FILE_BYTES = 4 << 20
LARGE = "x" * 500_000
HOLDS = """
import os, signal, sys, mq
broker = mq.open(sys.argv[1])
broker.queue("of-another-process").publish("x")

def stop():
    print("held", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)

broker._store.turn.take_with_lock(stop)
sys.stdin.read()
"""


def refusals(url: str, queue: str) -> list[str]:
    """What a send is answered with in both protocols: each can be tried again."""
    body = json.dumps({"QueueUrl": f"{url}/000000000000/{queue}", "MessageBody": LARGE}).encode()
    status, headers, said = ask(url, body, {"X-Amz-Target": "AmazonSQS.SendMessage"})
    assert (status, headers["x-amzn-query-error"]) == (503, "ServiceUnavailable;Receiver"), said
    assert json.loads(said)["__type"].endswith("#ServiceUnavailable")
    root: ElementTree.Element = query(url, f"/0/{queue}", Action="SendMessage", MessageBody=LARGE)
    assert root.findtext("./Error/Type") == "Receiver"
    assert root.findtext("./Error/Code") == "ServiceUnavailable"
    return [json.loads(said)["message"], root.findtext("./Error/Message") or ""]


def health(url: str) -> str:
    found: str = json.loads(ask(url, method="GET", path="/healthz")[2])["status"]
    return found


def banner(url: str) -> str:
    """What the dashboard says is wrong with the store."""
    page = ask(url, method="GET", path="/ui/")[2].decode()
    return " ".join(re.findall(r'class="banner[^>]*>(.*?)</p>', page))


def limit_files(served: Served, size: int) -> None:
    """How long a file of the server may be: as on a full disk, it cannot grow."""
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_full_disk_is_said_and_drained_and_sends_go_on_by_themselves(tmp_path: Path) -> None:
    with serve(tmp_path / "store", "--sync", "0.5") as served:
        sqs = sqs_client(served.url)
        url = sqs.create_queue(QueueName="q")["QueueUrl"]
        limit_files(served, FILE_BYTES)
        sent = 0
        with pytest.raises(sqs.exceptions.ClientError) as error:
            while sent < FILE_BYTES:
                sqs.send_message(QueueUrl=url, MessageBody=LARGE)
                sent += len(LARGE)
        assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
        assert sent
        assert all("disk of the store is full" in each for each in refusals(served.url, "q"))
        assert health(served.url) == "disk full"
        assert "The disk is full." in banner(served.url)
        [message] = sqs.receive_message(QueueUrl=url)["Messages"]
        sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        limit_files(served, resource.RLIM_INFINITY)
        wait_until(lambda: can_send(sqs, url))
        assert health(served.url) == "ok"
        assert served.end() == 0


def can_send(sqs: Any, url: str) -> bool:
    try:
        sqs.send_message(QueueUrl=url, MessageBody=LARGE)
    except sqs.exceptions.ClientError as error:
        assert error.response["Error"]["Code"] == "ServiceUnavailable"
        return False
    return True


def test_a_store_that_failed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the message is there is not known; a client may try again, and another server would take it."""
    sync = RealDisk.sync

    def fail(disk: RealDisk, fd: int) -> None:
        if not os.readlink(f"/proc/self/fd/{fd}").startswith(str(tmp_path)):
            return sync(disk, fd)  # of another store of this process
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with running(tmp_path / "store") as server:
        url = f"http://127.0.0.1:{server.port}"
        server.broker.queue("q").publish("x")
        monkeypatch.setattr(RealDisk, "sync", fail)
        for said in refusals(url, "q"):
            assert "store cannot be used" in said and str(tmp_path) not in said
        status, _, _ = ask(url, b'{"QueueUrl": "q"}', {"X-Amz-Target": "AmazonSQS.ReceiveMessage"})
        assert status == 503
        assert health(url) == "failed"
        assert "The store has failed." in banner(url)
        monkeypatch.undo()
        assert health(url) == "failed"


@contextmanager
def held(store: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is stopped while it has the lock of the store."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout and process.stdout.readline() == "held\n"
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            yield process
        finally:
            process.kill()


def test_a_process_that_holds_the_lock_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path / "store", sync="never") as server:
        url = f"http://127.0.0.1:{server.port}"
        server.broker.queue("q").publish("x")
        with held(tmp_path / "store") as process:
            monkeypatch.setattr(locks, "LOCK_SECONDS", 0.3)
            for said in refusals(url, "q"):
                assert f"process {process.pid} has held its lock" in said
            with monkeypatch.context() as patch:
                patch.setattr(watched, "HEALTH_SECONDS", 0.05)
                assert health(url) in ("busy", "unavailable")
            assert "The store does not answer." in banner(url) or "held its lock" in banner(url)
            process.send_signal(signal.SIGCONT)
            sqs = sqs_client(url)
            wait_until(lambda: can_send(sqs, f"{url}/0/q"))
            wait_until(lambda: health(url) == "ok")
