"""A store in files goes to NATS, at the prompt, with all that is known of its messages."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import mq
from mq.cli import cli


def run(*args: str) -> str:
    result = CliRunner().invoke(cli, args, prog_name="mq")
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_a_store_is_copied_and_a_queue_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with mq.open("data") as broker:
        mail = broker.queue("mail", max_attempts=3)
        mail.publish_many(["one", b"\xff", {"three": 3}])
        mail.publish("later", delay=3600, dedup_id="d", priority=9, headers={"a": "b"})
        delivery = mail.receive(timeout=0)
        assert delivery
        delivery.nack(delay=0, reason="why")
        broker.topic("shop.eu", retain_count=5).publish("sold")
    assert run("copy", "--to-store", url) == "5 messages of 2 queues copied\n"
    assert "5 were there from before" in run("copy", "--to-store", url)
    with mq.open("data", read_only=True) as one, mq.open(url) as two:
        here, there = one.queue("mail"), two.queue("mail")
        assert there.options() == here.options()
        for state in ("ready", "delayed"):
            for before, after in zip(here.peek(state=state), there.peek(state=state), strict=True):
                assert (after.body, after.attempts, after.priority) == (
                    before.body,
                    before.attempts,
                    before.priority,
                )
                assert [each.reason for each in after.failures] == [each.reason for each in before.failures]
                assert after.created_at == before.created_at
        assert there.publish("later", dedup_id="d") == there.peek(state="delayed")[0].id
        assert [each.body for each in two.topic("shop.eu").history()] == ["sold"]
    assert run("move", "mail", "letters", "--to-store", url).startswith("4 messages of mail moved to letters")
    with mq.open("data", read_only=True) as one, mq.open(url) as two:
        assert one.queues() == ["mail"] and one.queue("mail").stats()[:3] == (0, 0, 0)
        assert two.queue("letters").stats()[:3] == (3, 0, 1)
