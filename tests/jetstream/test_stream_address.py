"""What names a store on NATS, and what does not."""

from __future__ import annotations

import pytest

import mq
from mq.nats.address import parse


def test_what_an_address_says() -> None:
    found = parse("tls://ada:p%40ss@one,two:4333,[::1]/orders?ca=/ca.pem&replicas=3&max_bytes=2000000")
    assert found.servers == ["tls://one:4222", "tls://two:4333", "tls://[::1]:4222"]
    assert (found.name, found.user, found.password, found.token) == ("orders", "ada", "p@ss", None)
    assert (found.secure, found.files, found.replicas, found.max_bytes) == (
        True, {"ca": "/ca.pem"}, 3, 2_000_000
    )  # fmt: skip
    assert parse("nats://secret@h/s").token == "secret"


@pytest.mark.parametrize(
    "url",
    [
        "nats://h", "nats://h/", "nats:///s", "nats://h/a.b", "nats://h/a/b", "nats://h:0/s", "nats://h:x/s",
        "nats://h,/s", "nats://h/s?creds=", "nats://h/s?replicas=2", "nats://h/s?nothing=1",
        "nats://h/s?key=k", "nats://h/s?max_bytes=1",
    ],
)  # fmt: skip
def test_what_is_none_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(mq.UsageError) as caught:
        parse(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["nats://ada:geheim@h/a.b", "nats://geheim@h/s?x=1"])
def test_no_error_tells_a_secret(url: str) -> None:
    with pytest.raises(mq.UsageError) as caught:
        parse(url)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("what", ["creds", "nkey", "ca", "cert"])
def test_a_file_that_is_not_there_is_named(what: str) -> None:
    with pytest.raises(mq.StorageError, match=f"{what}="):
        parse(f"nats://h/s?{what}=/nowhere/{what}").options()
