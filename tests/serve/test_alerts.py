"""Alerts begin and end once, are logged, and told to a webhook; rules are read as people write them."""

from __future__ import annotations

import asyncio
import http.server
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mq
from mq.serve import alerts
from mq.serve.alerts import Rule, Watch, check_webhook, measure, post


@pytest.mark.parametrize(
    "text, rule",
    [
        ("orders depth>1000", ("orders", "depth", 1000.0)),
        ("orders depth > 1000", ("orders", "depth", 1000.0)),
        ("* age>5min", ("*", "age", 300.0)),
        ("age>90", ("*", "age", 90.0)),
        ("a queue with spaces ready>0", ("a queue with spaces", "ready", 0.0)),
        ("depth>1 dead>2", ("depth>1", "dead", 2.0)),
    ],
)
def test_a_rule_is_read(text: str, rule: tuple[str, str, float]) -> None:
    found = Rule.read(text)
    assert found and found[:3] == rule


@pytest.mark.parametrize(
    "text",
    ["", "orders", "orders depth", "orders depth>", "x depth>-1", "x age>soon", "x size>1", "x depth>1m"],
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    assert Rule.read(text) is None


@given(st.text(max_size=60))
def test_any_text_is_a_rule_or_none(text: str) -> None:
    found = Rule.read(text)
    assert found is None or found.limit >= 0
    assert check_webhook(text) in (True, False)


def rules(*texts: str) -> tuple[Rule, ...]:
    found = tuple(filter(None, map(Rule.read, texts)))
    assert len(found) == len(texts)
    return found


@pytest.fixture
def broker() -> Iterator[mq.Broker]:
    with mq.open(":memory:") as broker:
        yield broker


def test_each_measure_is_what_it_says(broker: mq.Broker) -> None:
    queue = broker.queue("orders", max_attempts=1)
    queue.publish_many(["x"] * 5)
    queue.publish("y", delay=60)
    taken = queue.receive_many(2, timeout=0)
    taken[0].nack()
    found = measure(
        broker, rules("orders depth>0", "orders ready>0", "orders age>0ms", "orders dead>0", "none depth>0")
    )
    depth, ready, age, dead, none = found.values()
    assert (depth, ready, dead, none) == ({"orders": 5.0}, {"orders": 3.0}, {"orders": 1.0}, {})
    assert set(age) <= {"orders"}


def test_patterns_are_of_all_queues_that_fit(broker: mq.Broker) -> None:
    for name in ("a.dead", "b.dead", "c", "[x]"):
        broker.queue(name).publish("x")
    found = measure(broker, rules("*.dead ready>0", "? depth>0", "[ab].dead depth>0", "* depth>1"))
    assert [set(each) for each in found.values()] == [
        {"a.dead", "b.dead"},
        {"c"},
        {"a.dead", "b.dead"},
        set(),
    ]


async def looked(watch: Watch, times: int = 1) -> None:
    for _ in range(times):
        await watch.look()


def test_an_alert_begins_and_ends_once(broker: mq.Broker, caplog: pytest.LogCaptureFixture) -> None:
    watch = Watch(rules("orders depth>1"), None, broker)
    queue = broker.queue("orders")
    queue.publish("x")
    asyncio.run(looked(watch))
    assert not watch.firing() and not watch.events()
    with caplog.at_level(logging.WARNING, "mq.serve.alerts"):
        queue.publish("y")
        asyncio.run(looked(watch, 3))
        assert [event.began for event in watch.events()] == [True]
        ((state),) = watch.firing()
        ((name, _, value),) = state.queues
        assert (name, value) == ("orders", "2")
        queue.publish("z")
        asyncio.run(looked(watch))
        assert watch.firing()[0].queues[0][2] == "3"
        queue.purge()
        asyncio.run(looked(watch, 3))
    assert [event.began for event in watch.events()] == [False, True]
    assert not watch.firing()
    logged = [record.getMessage() for record in caplog.records]
    assert logged == ["orders depth>1: orders: 2", "orders depth>1: orders: over"]


def test_what_is_firing_is_bounded(broker: mq.Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "FIRING_MAX", 50)
    monkeypatch.setattr(alerts, "POSTS_MAX", 20)
    watch = Watch(rules("* depth>0"), "http://127.0.0.1:1/", broker)
    for number in range(5):
        watch._compare(watch._rules[0], {f"{number}-{each}": 1.0 for each in range(60)}, 0.0)
    assert len(watch._firing[watch._rules[0]]) == 50
    assert watch._posts.qsize() == 20


def test_a_store_that_does_not_answer_is_logged_once(
    broker: mq.Broker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*given: Any) -> Any:
        raise mq.StoreLocked("/data", 4711)

    watch = Watch(rules("* depth>0"), None, broker)
    monkeypatch.setattr(alerts, "measure", locked)
    asyncio.run(looked(watch, 3))
    assert len(caplog.records) == 1 and "4711" in watch.trouble
    monkeypatch.undo()
    asyncio.run(looked(watch))
    assert not watch.trouble


# ── the webhook ────────────────────────────────────────────────────────────────────


@contextmanager
def webhook(*statuses: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An address, and what was posted there; *statuses* of the first answers, 200 after that."""
    got: list[dict[str, Any]] = []
    answers = list(statuses)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(answers.pop(0) if answers else 200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *given: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook", got
        finally:
            server.shutdown()
            thread.join()


def test_the_webhook_is_told_and_asked_again(broker: mq.Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    async def instantly(seconds: float) -> None: ...

    monkeypatch.setattr(alerts, "POST_SECONDS", 120.0)
    with webhook(500) as (url, got):
        watch = Watch(rules("orders depth>0"), url, broker)
        broker.queue("orders").publish("x")

        async def tell() -> None:
            await watch.look()
            broker.queue("orders").purge()
            await watch.look()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(alerts.asyncio, "sleep", instantly)
                posting = asyncio.create_task(watch.post())
                while len(got) < 3:
                    await asyncio.to_thread(threading.Event().wait, 0.005)
                posting.cancel()

        asyncio.run(tell())
    assert [each["state"] for each in got] == ["firing", "firing", "resolved"]
    assert got[0]["queue"] == "orders" and got[0]["value"] == "1" and got[0]["rule"] == "orders depth>0"
    assert "orders" in got[0]["text"] and got[0]["store"] == ":memory:"


def test_a_webhook_that_is_not_there_is_one_line() -> None:
    assert "refused" in post("http://127.0.0.1:1/", {}).lower()
    with webhook(404) as (url, _):
        assert "404" in post(url, {})


@pytest.mark.parametrize(
    "url, is_one",
    [
        ("https://example.org/x", True), ("http://[::1]:9/", True), ("file:///etc/passwd", False),
        ("ftp://x/", False), ("x", False), ("http://", False), ("http://x:y/", False), ("http://[", False),
    ],
)  # fmt: skip
def test_what_is_a_webhook(url: str, is_one: bool) -> None:
    assert check_webhook(url) == is_one
