"""The command line on a store on NATS: what makes sense works, and the rest is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import mq
from mq.cli.root import cli


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, args)


def test_messages_go_in_and_come_out(url: str) -> None:
    assert run("-s", url, "publish", "mail", "hello").exit_code == 0
    for command in (["peek", "mail"], ["queues"], ["stats"], ["topics"], ["schedules"], ["receive", "mail"]):
        done = run("-s", url, *command)
        assert done.exit_code == 0, done.output
    assert "hello" in done.output
    assert run("-s", url, "receive", "mail").exit_code == 3
    assert run("-s", url, "queue", "purge", "mail", "--yes").exit_code == 0


@pytest.mark.parametrize(
    "command",
    [["verify"], ["repair"], ["inspect"], ["compact"], ["dump"], ["doctor"], ["tail"], ["backup", "x"]],
)
def test_what_is_about_files_is_refused_by_name(url: str, command: list[str]) -> None:
    with mq.open(url):
        pass
    done = run("-s", url, *command)
    assert done.exit_code == 1 and "files" in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_a_store_that_is_not_there_is_not_made_by_looking(url: str) -> None:
    done = run("-s", url, "stats")
    assert done.exit_code == 1 and "no stream" in done.output


def test_no_command_shows_the_password_of_an_address(url: str, tmp_path: Path) -> None:
    here, there = str(tmp_path / "here"), url.replace("nats://", "nats://mq:mq@")
    with mq.open(here) as broker:
        broker.queue("mail").publish("x")
    assert run("-s", here, "move", "mail", "--to-store", there, "--json").exit_code == 0
    assert run("-s", there, "move", "mail", "--to-store", url).exit_code == 2  # the same store
    for command in (["queues", "zzz"], ["topics"], ["subscriptions"], ["subscriptions", "a"], ["schedules"],
                    ["dead"], ["peek", "nope"], ["stats", "nope"], ["stats"], ["verify"]):  # fmt: skip
        assert "mq:mq" not in run("-s", there, *command).output
    for command in (["move", "mail", "--to-store", there], ["copy", "--to-store", there]):
        assert "mq:mq" not in run("-s", here, *command).output


def test_a_store_is_copied_to_nats_and_back(url: str, tmp_path: Path) -> None:
    here, back = str(tmp_path / "here"), str(tmp_path / "back")
    with mq.open(here) as broker:
        queue = broker.queue("mail", max_attempts=7)
        queue.publish_many(["a", "b"])
        queue.publish("later", delay=3600, priority=3, headers={"x": "y"})
        message = queue.receive()
        assert message
        message.nack(delay=0, reason="why")
    for source, target in ((here, url), (url, back), (here, url)):
        done = run("-s", source, "copy", "--to-store", target)
        assert done.exit_code == 0, done.output
    seen = []
    for store in (here, url, back):
        with mq.open(store, read_only=True) as broker:
            queue = broker.queue("mail")
            shown = [*queue.peek(9), *queue.peek(9, state="delayed")]
            seen.append((
                queue.options(), queue.stats().ready,
                [(m.body, m.attempts, m.priority, dict(m.headers), m.created_at) for m in shown],
            ))  # fmt: skip
    assert seen[0] == seen[1] == seen[2]
