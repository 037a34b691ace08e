"""Streams of events, and the samples behind them: what changes is sent; no page, no question."""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import mq

pytest.importorskip("starlette", reason="mq[serve] is not installed")
pytest.importorskip("jinja2", reason="mq[serve] is not installed")

from sites import PATIENCE, Running, running, wait_until

from mq.serve.ui import live, samples
from mq.serve.ui.desk import QUESTIONS_MAX, Busy, Desk
from mq.serve.ui.samples import Sampler
from mq.serve.ui.spark import drawing, sparkline


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Samples come as often as a test wants to see them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "EVERY_SECONDS", 0.02)
        patch.setattr(samples, "REST", 0)
        patch.setattr(samples, "LINGER_SECONDS", 0.0)
        yield


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "store", sync="never") as found:
        yield found


@contextmanager
def stream(server: Running, query: str, **headers: str) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.request("GET", f"/ui/live?{query}", headers=headers)
    response = connection.getresponse()
    try:
        yield response
    finally:
        response.close()
        connection.close()


def events(response: http.client.HTTPResponse) -> Iterator[str]:
    """The data of each event."""
    lines: list[str] = []
    while line := response.readline().decode():
        if line == "\n" and lines:
            yield "\n".join(lines)
            lines = []
        elif line.startswith("data: "):
            lines.append(line[6:].rstrip("\n"))


def test_what_changes_is_sent_and_the_rest_is_not(server: Running) -> None:
    server.broker.queue("mail").publish("x")
    with stream(server, "of=queues") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        found = events(response)
        first = next(found)
        assert '<span class="n">1</span>' in first and 'id="rows"' in first
        server.broker.queue("mail").publish_many(["y"] * 1233)
        assert any("1,234" in each for each in found)


def test_a_stream_is_of_its_page(server: Running) -> None:
    server.broker.queue("a").publish("x")
    server.broker.queue("b").publish("x")
    with stream(server, "of=queues&text=b") as response:
        found = next(events(response))
        assert "/ui/queue?name=b" in found and "/ui/queue?name=a" not in found
    for of in ("queue&name=a", "topics", "schedules", "store", "alerts"):
        with stream(server, f"of={of}") as response:
            assert "data-live" in next(events(response))


def test_nothing_is_asked_while_no_page_is_open(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    server.broker.queue("mail").publish("x")
    sampler = server.gate.sampler
    with stream(server, "of=queues") as response:
        next(events(response))
        wait_until(lambda: bool(sampler.latest and sampler.latest.number > 3))
    wait_until(lambda: sampler._task is not None and sampler._task.done())
    assert not sampler._histories and server.gate.streams == 0

    def fail(*given: object) -> None:
        raise AssertionError("the store was asked")

    monkeypatch.setattr(server.gate.desk, "ask", fail)
    wait_until(lambda: sampler._viewers == 0)


def test_a_page_that_is_opened_again_is_shown_again(server: Running) -> None:
    for _ in range(3):
        with stream(server, "of=queues") as response:
            assert "data-live" in next(events(response))
        wait_until(lambda: server.gate.sampler._task is not None and server.gate.sampler._task.done())


def test_streams_are_bounded(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "STREAMS_MAX", 1)
    with stream(server, "of=queues") as response:
        next(events(response))
        with stream(server, "of=queues") as second:
            assert second.status == 503
    wait_until(lambda: server.gate.streams == 0)
    with stream(server, "of=queues") as response:
        assert response.status == 200


def test_a_stream_ends_when_the_server_stops(tmp_path: Path) -> None:
    with running(tmp_path / "store") as server, stream(server, "of=queues") as response:
        found = events(response)
        next(found)
        server.loop.call_soon_threadsafe(server.site.stopping.set)
        for _ in found:
            pass


def test_a_stream_ends_with_the_session(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    with stream(server, "of=queues") as response:
        next(events(response))
        monkeypatch.setattr(server.gate.sessions, "may_enter", lambda visitor: False)
        assert b"event: over" in response.read()


def test_trouble_with_the_store_is_shown(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    server.broker.queue("mail").publish("x")

    def locked(broker: mq.Broker) -> Any:
        raise mq.StoreLocked("/data", 4711, seconds=30)

    with stream(server, "of=queues") as response:
        found = events(response)
        next(found)
        monkeypatch.setattr(server.gate.sampler, "_read", locked)
        text = next(each for each in found if "does not answer" in each)
        assert "process 4711 has held its lock for 30 seconds" in text and "mail" in text
        page = server.client().get("/ui/")
        assert page.status == 200 and "process 4711" in page.text  # the last numbers, and why they are old


def test_without_any_sample_the_trouble_is_the_page(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(broker: mq.Broker) -> Any:
        raise mq.StoreLocked("/data", 4711, seconds=30)

    monkeypatch.setattr(server.gate.sampler, "_read", locked)
    page = server.client().get("/ui/")
    assert page.status == 503 and "process 4711" in page.text


@pytest.mark.parametrize(
    "state, text",
    [
        ({"failed": True}, "The store has failed"),
        ({"disk_full": True}, "The disk is full"),
        ({"cleaning": "no <b>room</b>"}, "no &lt;b&gt;room"),
    ],
)
def test_what_is_wrong_with_the_store_is_shown(
    server: Running, monkeypatch: pytest.MonkeyPatch, state: dict[str, Any], text: str
) -> None:
    found = samples.Health(False, False, "")._replace(**state)
    monkeypatch.setattr(samples, "health", lambda store: found)
    for path in ("/ui/", "/ui/store"):
        page = server.client().get(path)
        assert page.status == 200 and text in page.text


# ── samples ────────────────────────────────────────────────────────────────────────


def test_rates_are_between_two_samples(tmp_path: Path) -> None:
    async def look(sampler: Sampler, queue: mq.Queue[Any]) -> None:
        first = await sampler.fresh(0)
        assert first and not first.rates
        queue.publish_many(["x"] * 30)
        queue.ack_many(queue.receive_many(10))
        second = await sampler.fresh(0)
        assert second
        seconds = second.read_at - first.read_at
        assert second.rate("mail").came == pytest.approx(30 / seconds)
        assert second.rate("mail").went == pytest.approx(10 / seconds)
        assert second.rate("other") == samples.QUIET
        third = await sampler.fresh(0)
        assert third and third.rates == {} and len(third.histories["mail"]) == 2
        assert (await sampler.fresh(60)) is third
        for _ in range(samples.KEPT):
            last = await sampler.fresh(0)
        assert last and last.histories == {}

    with mq.open(":memory:") as broker:
        desk = Desk(broker)
        asyncio.run(look(Sampler(desk), broker.queue("mail", max_attempts=1)))
        desk.close()


def test_where_dead_letters_go_is_asked_again_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "TARGETS_SECONDS", -1.0)

    async def look(sampler: Sampler, broker: mq.Broker) -> None:
        broker.queue("a", dead_letter="x")
        first = await sampler.fresh(0)
        assert first and first.dead("a") == ("x", 0)
        broker.queue("a", dead_letter="y")
        broker.queue("y").publish("z")
        second = await sampler.fresh(0)
        assert second and second.dead("a") == ("y", 1)

    with mq.open(":memory:") as broker:
        desk = Desk(broker)
        asyncio.run(look(Sampler(desk), broker))
        desk.close()


def test_the_wall_clock_says_nothing_of_how_old_a_sample_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was an hour ahead, and is set right: numbers do not stand still for that hour."""

    async def look(sampler: Sampler, queue: mq.Queue[Any]) -> None:
        right = time.time
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: right() + 3600)
            assert await sampler.fresh(0)
        queue.publish("x")
        latest = await sampler.fresh(0)
        assert latest and latest.stats.queues["mail"].ready == 1

    with mq.open(":memory:") as broker:
        desk = Desk(broker)
        asyncio.run(look(Sampler(desk), broker.queue("mail")))
        desk.close()


# ── the desk ───────────────────────────────────────────────────────────────────────


def test_a_question_that_hangs_keeps_no_page_waiting() -> None:
    go_on = threading.Event()

    async def ask(desk: Desk) -> None:
        with pytest.raises(Busy, match="has not answered"):
            await desk.ask(lambda broker: go_on.wait(PATIENCE), 0.01)
        waiting = [
            asyncio.create_task(desk.ask(lambda broker: go_on.wait(PATIENCE), PATIENCE))
            for _ in range(QUESTIONS_MAX - 1)
        ]
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="too many"):
            await desk.ask(lambda broker: None)
        go_on.set()
        assert all(await asyncio.gather(*waiting))
        assert await desk.ask(lambda broker: broker.path) == ":memory:"

    with mq.open(":memory:") as broker:
        desk = Desk(broker)
        asyncio.run(ask(desk))
        desk.close()


def test_an_answer_that_comes_late_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of very many queues takes longer than a page waits: the page after that one shows it."""
    go_on, reads = threading.Event(), []

    async def look(sampler: Sampler) -> None:
        read = sampler._read

        def slowly(broker: mq.Broker) -> samples.Sample:
            reads.append(1)
            assert go_on.wait(PATIENCE)
            return read(broker)

        monkeypatch.setattr(sampler, "_read", slowly)
        monkeypatch.setattr(sampler._desk, "answer", partial(sampler._desk.answer, seconds=0.01))
        for _ in range(3):
            assert await sampler.fresh(0) is None
            assert "has not answered" in sampler.trouble
        go_on.set()
        while await sampler.fresh(60) is None:
            pass
        assert len(reads) == 1 and not sampler.trouble

    with mq.open(":memory:") as broker:
        desk = Desk(broker)
        asyncio.run(look(Sampler(desk)))
        desk.close()


def test_pages_that_wait_together_for_a_store_that_does_not_answer_give_up_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[object] = []

    async def in_vain(future: asyncio.Future[samples.Sample]) -> samples.Sample:
        waits.append(future)
        await asyncio.sleep(0)
        raise Busy("it does not answer")

    async def look(sampler: Sampler) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(sampler._desk, "answer", in_vain)
            for pages in (1, 2):  # the second time, there is trouble already
                assert await asyncio.gather(*(sampler.fresh() for _ in range(5))) == [None] * 5
                assert len(waits) == pages and sampler.trouble
        assert await sampler.fresh() and not sampler.trouble

    with mq.open(":memory:") as broker:
        desk = Desk(broker)
        asyncio.run(look(Sampler(desk)))
        desk.close()


def test_an_answer_that_comes_just_as_it_is_given_up_is_not_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads: list[int] = []

    async def too_late(future: asyncio.Future[samples.Sample]) -> samples.Sample:
        await asyncio.wait({future})
        raise Busy("just now")

    async def look(sampler: Sampler) -> None:
        read = sampler._read
        monkeypatch.setattr(sampler, "_read", lambda broker: reads.append(1) or read(broker))
        with monkeypatch.context() as patch:
            patch.setattr(sampler._desk, "answer", too_late)
            assert await sampler.fresh(0) is None and sampler.trouble == "just now"
        assert await sampler.fresh(0) is not None and not sampler.trouble
        assert len(reads) == 1
        assert await sampler.fresh(0) is not None and len(reads) == 2

    with mq.open(":memory:") as broker:
        desk = Desk(broker)
        asyncio.run(look(Sampler(desk)))
        desk.close()


def test_the_time_between_looks_is_long_if_they_take_long_but_for_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    naps: list[float] = []
    sleep = asyncio.sleep

    async def nap(seconds: float) -> None:
        naps.append(seconds)
        await sleep(0)

    async def look(sampler: Sampler) -> None:
        read = sampler._read
        monkeypatch.setattr(sampler, "_read", lambda broker: read(broker)._replace(seconds=100.0))
        with sampler.watching():
            assert sampler._task
            while len(naps) < 2:
                await sleep(0)
            sampler._task.cancel()

    monkeypatch.setattr(samples, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(samples, "REST", 10)
    monkeypatch.setattr(asyncio, "sleep", nap)
    with mq.open(":memory:") as broker:
        desk = Desk(broker)
        asyncio.run(asyncio.wait_for(look(Sampler(desk)), PATIENCE))
        desk.close()
    assert naps[:2] == [0.0, 1000.0]


def test_pages_answer_while_the_store_hangs(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop, and so all other faces, never wait for the dashboard's questions."""
    go_on = threading.Event()
    client = server.client()
    client.get("/ui/")
    monkeypatch.setattr(server.gate.sampler, "_read", lambda broker: go_on.wait(PATIENCE))
    hanging = threading.Thread(target=client.get, args=["/ui/"])
    hanging.start()
    assert server.client().get("/ui/static/ui.css").status == 200
    assert server.client().get("/healthz").status == 200
    go_on.set()
    hanging.join(PATIENCE)


# ── pictures ───────────────────────────────────────────────────────────────────────


def test_a_sparkline_is_a_picture_of_any_history() -> None:
    for past in ([], [samples.QUIET], [samples.Rates(1e9, 0.001, 0)] * samples.KEPT):
        assert str(sparkline(past)).startswith("<svg")


def test_the_log_is_drawn(tmp_path: Path) -> None:
    from mq.engine.occupancy import shape

    with mq.open(tmp_path / "store", segment_bytes=4096, sync="never") as broker:
        for _ in range(400):
            broker.queue("a").publish(b"x" * 100)
        assert str(drawing(shape(broker._store, 10))).count("<g>") == 10
