"""/metrics and /healthz: what they say while all is well, and while it is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mq

pytest.importorskip("starlette", reason="mq[serve] is not installed")
pytest.importorskip("jinja2", reason="mq[serve] is not installed")
pytest.importorskip("prometheus_client", reason="mq[serve] is not installed")

from prometheus_client.parser import text_string_to_metric_families
from sites import Client, Running, running

from mq.engine.health import Health, health
from mq.serve.ui import watched


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("watched") / "store", sync="never") as found:
        yield found


@pytest.fixture
def client(server: Running) -> Client:
    return server.client()


def test_metrics_are_those_of_the_library(
    server: Running, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "KEPT_SECONDS", 0.0)
    server.broker.queue("mail").publish_many(["x"] * 3)
    answer = client.get("/metrics")
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = {
        (name, labels.get("queue"), labels.get("state")): value
        for family in text_string_to_metric_families(answer.text)
        for name, labels, value, *_ in family.samples
    }
    assert samples["mq_queue_messages", "mail", "ready"] == 3
    assert samples["mq_up", None, None] == 1


def status(client: Client) -> tuple[int, str]:
    answer = client.get("/healthz")
    said: str = json.loads(answer.text)["status"]
    assert list(json.loads(answer.text)) == ["status"]  # and nothing of paths or names
    return answer.status, said


@pytest.mark.parametrize(
    "found, said",
    [
        (Health(False, False, ""), (200, "ok")),
        (Health(False, True, ""), (200, "disk full")),
        (Health(True, False, ""), (503, "failed")),
        (mq.StoreLocked("/data", 4711), (503, "unavailable")),
        (mq.Closed("closed"), (503, "unavailable")),
    ],
)
def test_health(client: Client, monkeypatch: pytest.MonkeyPatch, found: Any, said: tuple[int, str]) -> None:
    def ask(store: object) -> Health:
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, Health)
        return found

    monkeypatch.setattr(watched, "health", ask)
    assert status(client) == said


def test_a_store_that_hangs_is_busy(client: Client, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "HEALTH_SECONDS", 0.01)
    with server.broker._store.turn.mutex:
        assert status(client) == (503, "busy")
        monkeypatch.setattr(watched, "SCRAPE_SECONDS", 0.01)
        monkeypatch.setattr(watched, "KEPT_SECONDS", -1.0)
        assert client.get("/metrics").status == 503
    monkeypatch.undo()
    assert status(client) == (200, "ok")


def test_the_health_of_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mq.open(tmp_path / "store") as broker:
        store = broker._store
        log, cleaning = store.replica.log, store.maintenance.cleaning
        assert health(store) == (False, False, "")
        monkeypatch.setattr(log.reserve, "full", True)
        monkeypatch.setattr(cleaning, "trouble", mq.DiskFull("/data", "no room"))
        assert health(store) == (False, True, "/data: no room")
        monkeypatch.undo()
        monkeypatch.setattr(log.failure, "error", mq.StoreFailed("/data", "fsync failed"))
        assert health(store) == (True, False, "")
        monkeypatch.undo()
