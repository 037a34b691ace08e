"""The pages of the dashboard: what they show, that it is escaped, that no body is too large for them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import mq

pytest.importorskip("starlette", reason="mq[serve] is not installed")
pytest.importorskip("jinja2", reason="mq[serve] is not installed")

from sites import Answer, Client, Running, elements, running
from test_damaged_bodies import damage

from mq.api.broker import StoreStats
from mq.engine.health import Health
from mq.engine.looking import NOTHING
from mq.serve.ui import samples, shown
from mq.serve.ui.samples import Rates, Sample
from mq.serve.ui.table import ROWS, View, page_of

EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
SUM = "{{ 70707 * 70707 }}"  # whose result is no number that a page may show by chance
EVIL_NAME = f"<img src=x onerror=alert(1)>\"'&amp; {SUM}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("pages") / "store", sync="never") as found:
        fill(found.broker)
        yield found


def fill(broker: mq.Broker) -> None:
    """All that a user can name, with a name that a browser would obey."""
    queue: mq.Queue[Any] = broker.queue(EVIL_NAME, max_attempts=3)
    queue.publish(EVIL, headers={EVIL: EVIL}, group=EVIL, priority=7)
    queue.publish({EVIL: [EVIL, 1, None]})
    queue.publish(EVIL.encode())
    queue.publish(b"\x00\xff<script>")
    queue.update_meta({EVIL: EVIL})
    taken = broker.queue(EVIL_NAME).receive(timeout=0)
    assert taken
    taken.reject(EVIL)
    broker.topic("news.all", retain_count=5).publish("x")
    queue.subscribe("news.#")
    broker.schedule(EVIL_NAME, queue, "tick", every=3600)
    broker.queue("paused").publish("x")
    broker.queue("paused").pause()
    broker.queue("later").publish("x", delay=3600)


@pytest.fixture
def client(server: Running) -> Client:
    return server.client()


def address(name: str) -> str:
    return f"/ui/queue?name={quote(name, safe='')}"


def require_calm(page: Answer) -> None:
    """Nothing in the page is a script, a handler, or a style, but what the dashboard itself brings."""
    assert page.status == 200, page.text
    for tag, attributes in elements(page.text):
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
        if tag == "script":
            assert str(attributes["src"]).startswith("/ui/static/ui.js?")
        assert tag != "img"
        assert not str(attributes.get("href", "")).startswith("javascript:")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/ui/", "/ui/topics", "/ui/schedules", "/ui/store", "/ui/alerts"])
def test_a_page_is_shown_and_escaped(client: Client, path: str) -> None:
    page = client.get(path)
    require_calm(page)
    assert "{{" not in page.text or SUM in page.text
    assert str(70707 * 70707) not in page.text


@pytest.mark.parametrize("state", ["ready", "in_flight", "delayed"])
@pytest.mark.parametrize("name", [EVIL_NAME, EVIL_NAME + ".dead", "paused", "later"])
def test_a_queue_is_shown_and_escaped(client: Client, name: str, state: str) -> None:
    page = client.get(f"{address(name)}&state={state}")
    require_calm(page)


def test_each_message_has_a_page_and_a_file(server: Running, client: Client) -> None:
    bodies = {each.id: each for each in server.broker.queue(EVIL_NAME).peek(10)}
    assert len(bodies) >= 3
    for id, message in bodies.items():
        require_calm(client.get(f"/ui/message?queue={quote(EVIL_NAME, safe='')}&id={id}"))
        saved = client.get(f"/ui/body?queue={quote(EVIL_NAME, safe='')}&id={id}")
        assert saved.body == message.raw
        assert saved.headers["content-disposition"].startswith("attachment")
        assert saved.headers["content-type"] == "application/octet-stream"


def test_a_dead_letter_is_shown_with_its_failure(server: Running, client: Client) -> None:
    page = client.get(address(EVIL_NAME + ".dead"))
    assert "&lt;script&gt;alert(" in page.text
    assert "Replay all" in page.text
    (letter,) = server.broker.queue(EVIL_NAME + ".dead").peek()
    page = client.get(f"/ui/message?queue={quote(EVIL_NAME + '.dead', safe='')}&id={letter.id}")
    require_calm(page)
    assert "Died in" in page.text and "Failures" in page.text


@pytest.mark.parametrize(
    "path, status",
    [
        ("/ui/queue?name=nope", 404),
        ("/ui/queue", 404),
        ("/ui/queue?name=paused&state=gone", 400),
        ("/ui/message?queue=paused&id=1", 404),
        ("/ui/message?queue=paused&id=-1", 400),
        ("/ui/message?queue=paused&id=٣", 400),
        ("/ui/message?queue=&id=1", 400),
        ("/ui/body?queue=paused&id=99999999999999999999999", 400),
        ("/ui/nowhere", 404),
        ("/ui/static/../gate.py", 404),
        ("/ui/static/nope.css", 404),
        ("/ui/live?of=nope", 404),
        ("/ui/live", 404),
    ],
)
def test_what_is_not_there_is_one_line(client: Client, path: str, status: int) -> None:
    page = client.get(quote(path, safe="/?&=%"))
    assert page.status == status
    assert "Traceback" not in page.text


def test_a_page_that_fails_says_so_and_its_traceback_stays(
    server: Running, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(seconds: float = 0) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(server.gate.sampler, "fresh", fail)
    page = client.get("/ui/")
    assert page.status == 500
    assert "secret" not in page.text and "Traceback" not in page.text
    assert "secret" in caplog.text


def test_a_large_body_is_not_read_for_a_list(server: Running, client: Client) -> None:
    large = "x" * (shown.READ_BYTES_MAX + 1)
    id = server.broker.queue("large").publish(large)
    page = client.get(address("large"))
    assert "not read for this list" in page.text and "xxx" not in page.text
    page = client.get(f"/ui/message?queue=large&id={id}")
    assert len(page.body) < 2 * shown.TEXT_CHARS_MAX
    assert f"{len(large) - shown.TEXT_CHARS_MAX:,} characters more" in page.text


def test_a_damaged_message_does_not_hide_the_others(tmp_path: Path) -> None:
    with running(tmp_path / "store") as server:
        ids = server.broker.queue("a").publish_many(["one", "two", "three"])
        damage(tmp_path / "store", ids[1])
        page = server.client().get(address("a"))
        assert "one" in page.text and "damaged: " in page.text and "three" in page.text
        assert "Traceback" not in server.client().get(f"/ui/message?queue=a&id={ids[1]}").text


def test_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    with running(tmp_path / "store") as server:
        assert "There are no queues yet" in server.client().get("/ui/").text


def test_nothing_to_change_is_shown_read_only(tmp_path: Path) -> None:
    with mq.open(tmp_path / "store") as broker:
        broker.queue("mail").publish("x")
        broker.schedule("s", "mail", "x", every=60)
    with running(tmp_path / "store", read_only=True) as server:
        client = server.client()
        for path in ("/ui/queue?name=mail", "/ui/schedules", "/ui/"):
            page = client.get(path)
            require_calm(page)
            assert "read-only" in page.text
            assert not any(
                tag == "form" and each.get("method") == "post" for tag, each in elements(page.text)
            )


# ── the list of queues ─────────────────────────────────────────────────────────────


def sample_of(count: int) -> Sample:
    names = [f"queue-{number:05}" for number in range(count)]
    queues = {
        name: NOTHING._replace(ready=number % 7, oldest_age=float(number))
        for number, name in enumerate(names)
    }
    queues["queue-00003"] = queues["queue-00003"]._replace(paused=True)
    queues["queue-00003.dead"] = NOTHING._replace(ready=5)
    targets = {name: f"{name}.dead" for name in queues}
    rates = {"queue-00009": Rates(3.0, 2.0, 1.0)}
    return Sample(
        1, 0.0, 0.0, StoreStats(queues, 0, 0, 1, [], 0), Health(False, False, ""), targets, rates, {}, 0.0
    )


TEN_THOUSAND = sample_of(10_000)


def test_ten_thousand_queues_have_pages() -> None:
    page = page_of(TEN_THOUSAND, View())
    assert (len(page.rows), page.first, page.found, page.pages) == (ROWS, 1, 10_001, 201)
    firsts = [page_of(TEN_THOUSAND, View(page=number)).rows[0].name for number in (2, 200, 201)]
    assert firsts == ["queue-00049", "queue-09949", "queue-09999"]
    assert page_of(TEN_THOUSAND, View(page=999_999)).view.page == 201


@pytest.mark.parametrize(
    "query, names",
    [
        ({"text": "QUEUE-0001"}, ["queue-00010", "queue-00011", "queue-00012"]),
        ({"kind": "paused"}, ["queue-00003"]),
        ({"kind": "busy"}, ["queue-00009"]),
        ({"kind": "dead"}, ["queue-00003", "queue-00003.dead"]),
        ({"sort": "oldest"}, ["queue-09999", "queue-09998"]),
        ({"sort": "oldest", "turned": "1"}, ["queue-00000", "queue-00003.dead", "queue-00001"]),
        ({"sort": "in"}, ["queue-00009"]),
        ({"sort": "dead"}, ["queue-00003", "queue-00003.dead"]),
        ({"turned": "1"}, ["queue-09999"]),
        ({"kind": "nonsense", "sort": "nonsense", "page": "nonsense"}, ["queue-00000"]),
        ({"page": "-1"}, ["queue-00000"]),
        ({"page": "٣"}, ["queue-00000"]),
    ],
)
def test_the_list_is_what_its_address_asks(query: dict[str, str], names: list[str]) -> None:
    assert [row.name for row in page_of(TEN_THOUSAND, View.of(query)).rows[: len(names)]] == names


def test_an_address_says_what_it_was_made_of() -> None:
    from urllib.parse import parse_qsl

    view = View("a&b=c", "dead", "ready", True, 3)
    assert View.of(dict(parse_qsl(view.query(page=3)[1:]))) == view
    assert view.sorted_by("ready") == View("a&b=c", "dead", "ready", False).query()


def test_the_first_page_of_many_queues_waits_for_those_that_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "MANY", ROWS)
    with running(tmp_path / "store", sync="never") as server:
        for number in range(ROWS + 10):
            server.broker.queue(f"q{number:02}", max_attempts=1, dead_letter="z").publish("x")
        server.broker.queue("z").publish("dead")
        sampler, client = server.gate.sampler, server.client()
        first = client.get("/ui/").text
        assert sampler.latest is None
        assert f"1–{ROWS} of {ROWS + 11} queues" in first and "page=2" in first
        assert re.findall(r'id="count-(\w+)">([^<]*)<', first)[:2] == [("all", "61"), ("waiting", "…")]
        assert 'title="in z">1<' in first
        last = client.get("/ui/?page=2").text
        assert sampler.latest is not None and f"{ROWS + 1}–{ROWS + 11} of {ROWS + 11} queues" in last
        again = client.get("/ui/").text
        assert re.findall(r'id="count-(\w+)">([^<]*)<', again)[:2] == [("all", "61"), ("waiting", "61")]


def test_the_first_page_of_a_few_queues_shows_all_of_them(tmp_path: Path) -> None:
    with running(tmp_path / "store", sync="never") as server:
        server.broker.queue("q").publish("x")
        assert "…" not in server.client().get("/ui/").text and server.gate.sampler.latest is not None
