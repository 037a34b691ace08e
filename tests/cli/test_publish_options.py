"""mq publish: options, messages of `mq receive --json`, NULs; and topics, which take the same."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from commands import Run

import mq
from mq.cli import output

BODIES: list[Any] = [
    "text", "", "line\nfeed and \0", b"\xff\x00", b"ascii", {"a": [1, 2.5, None, "x"]}, [],
    {"when": datetime(2030, 1, 31, 6, 30, tzinfo=UTC), "raw": b"\x00\xff", "n": float("nan")},
    {1: "a", (2, 3): "b"}, 42, None, True, 2**63,
]  # fmt: skip


def messages(store: Path, queue: str, state: Any = "ready") -> list[mq.Message[Any]]:
    with mq.open(store, read_only=True) as broker:
        return broker.queue(queue).peek(99, state=state)


def all_of(message: mq.Message[Any]) -> tuple[object, ...]:
    """What a message is published with."""
    kind = output.body_type(message._flags)
    return kind, message.raw, message.priority, message.group, dict(message.headers)


def test_every_option_of_a_publish(run: Run, store: Path) -> None:
    args = ["--priority", "9", "--group", "g", "--ttl", "1h", "-H", "a=b", "-H", "c=d=e", "--dedup-id", "x"]
    first = run("publish", "q", "one", *args).stdout
    assert run("publish", "q", "one", *args).stdout == first, "its dedup id was seen"
    (found,) = messages(store, "q")
    assert (found.body, found.priority, found.group) == ("one", 9, "g")
    assert found.headers == {"a": "b", "c": "d=e"}
    assert found.expires_at is not None
    assert 3590 < (found.expires_at - found.created_at).total_seconds() <= 3601


def test_when_a_message_is_ready(run: Run, store: Path) -> None:
    run("publish", "q", "later", "--delay", "2h")
    run("publish", "q", "--at", "2040-01-01T00:00+01:00", input=b"far\n")
    later, far = messages(store, "q", "delayed")
    assert (later.body, far.body) == ("later", "far")
    assert far.due_at == datetime(2039, 12, 31, 23, tzinfo=UTC)


def test_a_full_queue_refuses_in_one_line(run: Run, store: Path) -> None:
    run("queue", "create", "q", "--max-length", "1")
    assert run("publish", "q", "one").exit_code == 0
    result = run("publish", "q", "two")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert run("publish", "q", "two", "--timeout", "0.01").exit_code == 1


def test_what_receive_prints_publish_stores_as_it_was(run: Run, store: Path) -> None:
    """Kind and bytes of each body, headers, priority, group, time to live."""
    with mq.open(store) as broker:
        queue = broker.queue("from")
        for number, body in enumerate(BODIES):
            queue.publish(body, priority=number, headers={"n": str(number), "\n": "é"})
        queue.publish("grouped", group="g", ttl=3600)
    before = messages(store, "from")
    began = time.monotonic()
    printed = run("receive", "from", "--json").stdout_bytes
    assert len(printed.splitlines()) == len(BODIES) + 1
    result = run("-s", "other", "publish", "to", "--json", input=printed)
    took = time.monotonic() - began  # it lives so long from the publish on as it had left when printed
    assert result.exit_code == 0 and len(result.stdout.splitlines()) == len(before)
    after = messages(Path("other"), "to")
    assert list(map(all_of, after)) == list(map(all_of, before))
    later = (after[-1].expires_at - before[-1].expires_at).total_seconds()  # type: ignore[operator]
    assert -1 < later < 1 + took
    assert repr(after[5].body) == repr(before[5].body)


def test_what_is_given_comes_before_what_a_message_says(run: Run, store: Path) -> None:
    run("publish", "q", "one", "--priority", "3", "--group", "g")
    printed = run("receive", "q", "--json").stdout_bytes
    run("publish", "q", "--json", "--priority", "7", input=printed)
    (found,) = messages(store, "q")
    assert (found.body, found.priority, found.group) == ("one", 7, "g")


def test_what_peek_and_tail_print_is_read_as_well(run: Run, store: Path) -> None:
    run("publish", "q", "one", '{"two": 2}', "--priority", "3")
    tail = run("tail", "q", "--since", "0", "--until-end", "--json")
    for printed in (run("peek", "q", "--json"), tail):
        run("publish", "again", "--json", input=printed.stdout_bytes)
    assert [(each.body, each.priority) for each in messages(store, "again")] == 2 * [
        ("one", 3), ({"two": 2}, 3),
    ]  # fmt: skip


def test_with_as_the_lines_are_bodies(run: Run, store: Path) -> None:
    line = b'{"body_type": "text", "body": "x"}\n'
    found = json.loads(run("publish", "q", "--as", "json", "--json", input=line).stdout)
    assert found["queue"] == "q"
    assert messages(store, "q")[0].body == {"body_type": "text", "body": "x"}


@pytest.mark.parametrize(
    "line",
    [
        "{bad", "[]", "{}", '{"body_type": "text"}', '{"body_type": "poem", "body": "x"}',
        '{"body_type": "text", "body": 5}', '{"body_type": "bytes", "body_base64": "?"}',
        '{"body_type": "structure", "body_base64": "wQ=="}', '{"body_type": "text", "body_base64": "/w=="}',
        '{"body_type": "text", "body": "x", "headers": {"a": 1}}',
        '{"body_type": "structure", "body": 1e999}',
        '{"body_type": "text", "body": "x", "expires_at": "soon"}', '{"body_type": "structure"}',
    ],
)  # fmt: skip
def test_a_line_that_is_no_message_stops_it_and_is_named(run: Run, store: Path, line: str) -> None:
    good = '{"body_type": "text", "body": "good"}'
    result = run("publish", "q", "--json", input="\n".join([good, line, good]).encode())
    assert result.exit_code == 1 and "line 2: not a message as `mq receive --json` prints it" in result.stderr
    assert [each.body for each in messages(store, "q")] == ["good"]


def test_bodies_with_line_feeds_go_through_a_pipe_with_nuls(run: Run, store: Path) -> None:
    run("publish", "q", "--as", "text", input=b"ignored\n")
    run("receive", "q")
    given = ["one\ntwo", "", "three\n"]
    with mq.open(store) as broker:
        broker.queue("q").publish_many(given)
    printed = run("receive", "q", "-0").stdout_bytes
    assert printed == b"one\ntwo\0\0three\n\0"
    run("publish", "again", "--null", "--as", "text", input=printed)
    assert [each.body for each in messages(store, "again")] == given
    assert run("receive", "q", "-0", "--json").exit_code == 2


# ── topics ─────────────────────────────────────────────────────────────────────────


def test_a_topic_is_published_to_and_read_back(run: Run, store: Path) -> None:
    run("subscribe", "eu", "orders.eu.#", "--match", "paid=yes")
    run("topic", "set", "orders.eu", "--retain-count", "2", "--retain-for", "1d")
    run("topic", "publish", "orders.eu", "one", "two", "-H", "paid=yes", "-p", "4")
    run("topic", "publish", "orders.eu", "-H", "paid=no", input=b"three\n")
    found = messages(store, "eu")
    assert [(each.body, each.topic, each.priority) for each in found] == [
        ("one", "orders.eu", 4), ("two", "orders.eu", 4),
    ]  # fmt: skip
    lines = run("topic", "history", "orders.eu").stdout.splitlines()
    assert [line.split()[-1] for line in lines] == ["two", "three"]
    two, three = map(json.loads, run("topic", "history", "orders.eu", "--json").stdout.splitlines())
    assert (two["id"], two["headers"], three["body"]) == (found[1].id, {"paid": "yes"}, "three")
    assert [json.loads(line)["body"] for line in run(
        "topic", "history", "orders.eu", "--since", str(two["id"]), "--json"
    ).stdout.splitlines()] == ["three"]  # fmt: skip
    assert run("topic", "history", "orders.eu", "--since", "1h", "-n", "1").stdout == lines[0] + "\n"
    (topic,) = map(json.loads, run("topics", "--json").stdout.splitlines())
    assert (topic["topic"], topic["queues"], topic["retains"]["retained"]) == ("orders.eu", ["eu"], 2)
    _, row = run("topics").stdout.splitlines()
    assert row.split()[:3] == ["orders.eu", "1", "2"]


def test_what_receive_prints_may_go_to_a_topic(run: Run, store: Path) -> None:
    run("subscribe", "to", "all")
    run("publish", "q", "one", "-p", "3")
    run("topic", "publish", "all", "--json", input=run("receive", "q", "--json").stdout_bytes)
    assert [(each.body, each.priority) for each in messages(store, "to")] == [("one", 3)]


def test_a_message_that_nobody_gets_is_told_of(run: Run, store: Path) -> None:
    result = run("topic", "publish", "orders.eu", "x")
    assert result.exit_code == 0 and "what is published is gone" in result.stderr
    assert run("topic", "history", "orders.eu").exit_code == 3
    assert run("topics").stderr.startswith("mq: data: no topics are known by name")
    assert json.loads(run("stats", "--json").stdout)["unrouted"] == 1


def test_what_is_retained_is_not_dropped_without_being_told_so(run: Run, store: Path) -> None:
    run("topic", "set", "t", "--retain-count", "5", "--retain-for", "1h")
    run("topic", "publish", "t", *"abc")
    for options in (["--retain-count", "1"], ["--retain-count", "none", "--retain-for", "none"]):
        result = run("topic", "set", "t", *options)
        assert result.exit_code == 2 and "--yes" in result.stderr
    assert run("topic", "set", "t", "--retain-count", "none").stdout == "t retains 3 messages\n"
    assert run("topic", "set", "t", "--retain-count", "2", "--yes").stdout == "t retains 2 messages\n"
    result = run("topic", "set", "t", "--retain-count", "none", "--retain-for", "none", "--yes", "--json")
    assert json.loads(result.stdout) == {"topic": "t", "retains": None}


def test_subscriptions_are_listed_and_taken_back(run: Run, store: Path) -> None:
    run("subscribe", "audit", "#", "-m", "source=shop", "-m", "a=b")
    run("subscribe", "eu", "orders.eu.*")
    first, second = map(json.loads, run("subscriptions", "--json").stdout.splitlines())
    assert first == {"pattern": "#", "queue": "audit", "match": {"source": "shop", "a": "b"}}
    assert (second["pattern"], second["queue"]) == ("orders.eu.*", "eu")
    assert [line.split() for line in run("subscriptions", "orders.us").stdout.splitlines()] == [
        ["pattern", "queue", "match"], ["#", "audit", "source=shop,", "a=b"],
    ]  # fmt: skip
    missing = run("unsubscribe", "eu", "orders.*")
    assert (missing.exit_code, missing.stderr) == (
        1, "mq: eu has no pattern 'orders.*'; there are: orders.eu.*\n",
    )  # fmt: skip
    assert run("unsubscribe", "eu", "orders.eu.*").stdout == "eu does not get orders.eu.* any more\n"
    assert len(run("subscriptions", "--json").stdout.splitlines()) == 1


def test_a_subscription_may_begin_in_the_past(run: Run, store: Path) -> None:
    run("topic", "set", "t", "--retain-count", "9")
    run("topic", "publish", "t", "one", "two")
    run("subscribe", "late", "t", "--since", "1h")
    assert [each.body for each in messages(store, "late")] == ["one", "two"]


def test_base64_stands_beside_what_json_cannot_say_exactly(run: Run, store: Path) -> None:
    with mq.open(store) as broker:
        broker.queue("q").publish_many([{"raw": b"\xff"}, {1: 2}, {"plain": 1}])
    raw, keys, plain = map(json.loads, run("peek", "q", "--json").stdout.splitlines())
    assert raw["body"] == {"raw": "/w=="} and keys["body"] == {"1": 2}
    assert "body_base64" in raw and "body_base64" in keys and "body_base64" not in plain
    assert msgspec.msgpack.decode(msgspec.convert(raw["body_base64"], bytes)) == {"raw": b"\xff"}
