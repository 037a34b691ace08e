"""TLS: a client that trusts the certificate is served, and one that does not speak TLS gets nothing."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from served import Served, serve, sqs_client

trustme = pytest.importorskip("trustme", reason="trustme is not installed")


@dataclass
class Secure:
    """A server that speaks TLS; *ca*: the file of what vouches for its certificate."""

    served: Served
    ca: str
    log: Path

    @property
    def port(self) -> int:
        return urlsplit(self.served.url).port or 0

    def get(self, path: str) -> tuple[int, Mapping[str, str]]:
        """The status and the headers."""
        context = ssl.create_default_context(cafile=self.ca)
        with closing(HTTPSConnection("127.0.0.1", self.port, timeout=60, context=context)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            return response.status, response.headers


def certificate(place: Path, *names: str) -> tuple[str, str, str]:
    """The files of a certificate for *names*, of its key, and of what vouches for it."""
    ca, files = trustme.CA(), [str(place / name) for name in ("cert.pem", "key.pem", "ca.pem")]
    issued = ca.issue_cert(*names)
    issued.private_key_pem.write_to_path(files[1])
    for blob in issued.cert_chain_pems:
        blob.write_to_path(files[0], append=True)
    ca.cert_pem.write_to_path(files[2])
    return files[0], files[1], files[2]


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    place = tmp_path_factory.mktemp("secure")
    cert, key, ca = certificate(place, "127.0.0.1")
    options = ("--tls-cert", cert, "--tls-key", key, "--sync", "0.5")
    with serve(place / "store", *options, log=place / "log") as served:
        yield Secure(served, ca, place / "log")
        assert served.end() == 0
        assert "Traceback" not in (place / "log").read_text()


def test_boto3_speaks_tls(secure: Secure) -> None:
    """And the URLs that it is given do, too."""
    assert secure.served.url.startswith("https://127.0.0.1:")
    sqs = sqs_client(secure.served.url, verify=secure.ca)
    url = sqs.create_queue(QueueName="sealed")["QueueUrl"]
    assert url.startswith(secure.served.url)
    sqs.send_message(QueueUrl=url, MessageBody="x" * 100_000)
    [message] = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=20)["Messages"]
    assert message["Body"] == "x" * 100_000
    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])


def test_a_client_that_does_not_trust_the_certificate_refuses_it(secure: Secure, tmp_path: Path) -> None:
    exceptions: Any = pytest.importorskip("botocore.exceptions", reason="boto3 is not installed")
    _, _, another = certificate(tmp_path, "127.0.0.1")
    with pytest.raises(exceptions.SSLError):
        sqs_client(secure.served.url, verify=another).list_queues()
    assert secure.get("/healthz")[0] == 200


def test_the_cookie_of_the_dashboard_is_for_tls_alone(secure: Secure) -> None:
    status, headers = secure.get("/ui/")
    assert status == 200
    attributes = headers["Set-Cookie"].lower().split("; ")
    assert {"secure", "httponly", "samesite=lax"} <= set(attributes)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"GET /ui/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", id="HTTP"),
        pytest.param(b"\x16\x03\x01\xff\xff" + b"\x00" * 600, id="a handshake that is none"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_a_client_that_does_not_speak_tls_is_told_nothing(secure: Secure, said: bytes) -> None:
    """The connection ends; the log has no traceback of it, and other clients are served."""
    with socket.create_connection(("127.0.0.1", secure.port), 60) as connection:
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").read()
    assert not answer or answer[0] == 0x15  # an alert of TLS
    assert secure.get("/healthz")[0] == 200
    assert "Traceback" not in secure.log.read_text()


def test_a_certificate_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    cert, key, ca = certificate(tmp_path, "127.0.0.1")
    (tmp_path / "garbage.pem").write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
    for wrong in ((ca, key), (str(tmp_path / "garbage.pem"), key), (cert, cert)):
        words = ("--store", str(tmp_path / "s"), "serve", "--port", "0", "--tls-cert", wrong[0])
        done = subprocess.run(
            [sys.executable, "-m", "mq", *words, "--tls-key", wrong[1]],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "--tls-cert and --tls-key cannot be used" in done.stderr
