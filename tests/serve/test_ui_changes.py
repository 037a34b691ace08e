"""What the forms of the dashboard do: only with a token, only after asking, and never read-only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mq

pytest.importorskip("starlette", reason="mq[serve] is not installed")
pytest.importorskip("jinja2", reason="mq[serve] is not installed")

from sites import Answer, Client, Running, path_of, running

from mq.serve.ui.changes import CHANGES
from mq.serve.ui.gate import FORM_BYTES_MAX


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("changes") / "store", sync="never") as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Running) -> Client:
    server.broker.queue("token").publish("x")
    found = server.client()
    found.token = found.get("/ui/queue?name=token").csrf
    return found


@pytest.fixture
def queue(server: Running, request: pytest.FixtureRequest) -> mq.Queue[Any]:
    """Three messages; of a name that no other test has."""
    made: mq.Queue[Any] = server.broker.queue(request.node.name, max_attempts=1)
    made.publish_many(["one", "two", "three"])
    return made


def ids_of(queue: mq.Queue[Any]) -> list[int]:
    return [each.id for each in queue.peek(100)]


def done(client: Client, answer: Answer) -> str:
    """The page behind a change that was done, which says so."""
    assert answer.status == 303, answer.text
    return client.get(path_of(answer.headers["location"])).text


def test_pause_and_resume(client: Client, queue: mq.Queue[Any]) -> None:
    assert "Paused: nothing is delivered" in done(client, client.change("pause", queue.name))
    assert queue.stats().paused
    assert "Resumed." in done(client, client.change("resume", queue.name, confirmed=False))
    assert not queue.stats().paused


def test_purge_leaves_what_is_in_flight_unless_it_is_asked_for(client: Client, queue: mq.Queue[Any]) -> None:
    assert queue.receive(timeout=0)
    assert "2 messages purged." in done(client, client.change("purge", queue.name))
    assert queue.stats().in_flight == 1
    assert "1 message purged." in done(client, client.change("purge", queue.name, in_flight="1"))
    assert queue.stats().in_flight == 0


def test_chosen_messages_are_cancelled_and_the_others_stay(client: Client, queue: mq.Queue[Any]) -> None:
    first, second, third = ids_of(queue)
    assert "2 messages cancelled." in done(
        client, client.change("cancel", queue.name, id=[first, third, first])
    )
    assert ids_of(queue) == [second]
    assert "0 messages cancelled. 1 stayed as it is" in done(
        client, client.change("cancel", queue.name, id=[first])
    )


def test_chosen_messages_are_rescheduled(client: Client, queue: mq.Queue[Any]) -> None:
    first, second, third = ids_of(queue)
    answer = client.change("reschedule", queue.name, id=[first], when="2h")
    assert "1 message rescheduled." in done(client, answer)
    answer = client.change("reschedule", queue.name, id=[second], when="2999-01-31T06:30Z")
    assert "1 message rescheduled." in done(client, answer)
    assert ids_of(queue) == [third]
    assert queue.peek(state="delayed")[1].due_at.year == 2999  # type: ignore[union-attr]
    for wrong in ("soon", "-5", "2030-01-31T06:30", "1e9", "9" * 40):
        assert client.change("reschedule", queue.name, id=[third], when=wrong).status == 400
    assert ids_of(queue) == [third]
    done(client, client.change("reschedule", queue.name, id=[first, second]))  # now
    assert ids_of(queue) == [first, second, third]


def test_dead_letters_are_replayed_one_some_and_all(
    client: Client, queue: mq.Queue[Any], server: Running
) -> None:
    for message in queue.receive_many(3, timeout=0):
        message.nack(reason="no")
    dead = server.broker.queue(queue.name + ".dead")
    first, second, third = ids_of(dead)
    assert "1 dead letter replayed." in done(client, client.change("replay", dead.name, id=[second]))
    assert ids_of(dead) == [first, third]
    assert ids_of(queue) == [second]
    assert "2 dead letters replayed." in done(client, client.change("replay_all", dead.name))
    assert ids_of(queue) == [first, second, third]


@pytest.mark.parametrize(
    "kind, text, body",
    [
        ("text", "two\r\nlines", "two\nlines"),
        ("json", '{"a": [1, null, "ü"]}', {"a": [1, None, "ü"]}),
        ("base64", "AAH/", b"\x00\x01\xff"),
    ],
)
def test_a_test_message_is_published_as_it_is_given(
    client: Client, queue: mq.Queue[Any], kind: str, text: str, body: object
) -> None:
    answer = client.change(
        "publish", queue.name, confirmed=False, kind=kind, body=text, priority="9", group="g",
        headers="a=1\r\nb = x=y ",
    )  # fmt: skip
    assert "Published as message" in done(client, answer)
    (found, *_) = queue.peek(1)
    assert (found.body, found.priority, found.group) == (body, 9, "g")
    assert found.headers == {"a": "1", "b": "x=y"}


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "json", "body": "{"},
        {"kind": "base64", "body": "%"},
        {"body": "x", "priority": "300"},
        {"body": "x", "priority": "-1"},
        {"body": "x", "headers": "no equals sign"},
        {"body": "x", "when": "soon"},
        {"body": "x", "group": "\0" * 300},
    ],
)
def test_a_test_message_that_is_none_is_refused(
    client: Client, queue: mq.Queue[Any], fields: dict[str, str]
) -> None:
    answer = client.change("publish", queue.name, confirmed=False, **fields)
    assert answer.status == 400 and "Traceback" not in answer.text
    assert len(ids_of(queue)) == 3


def test_a_queue_is_not_made_by_a_form(client: Client, queue: mq.Queue[Any], server: Running) -> None:
    client.token = client.token or client.get(f"/ui/queue?name={queue.name}").csrf
    assert client.change("publish", "brand-new", confirmed=False, body="x").status == 404
    assert "brand-new" not in server.broker.queues()


@pytest.mark.parametrize("change", sorted(CHANGES.keys() - {"unschedule"}))
def test_no_change_makes_a_queue_that_was_deleted(
    client: Client, queue: mq.Queue[Any], server: Running, change: str
) -> None:
    client.token = client.token or client.get(f"/ui/queue?name={queue.name}").csrf
    message = str(ids_of(queue)[0])
    queue.delete()
    answer = client.change(change, queue.name, confirmed=True, id=message, when="5s", body="x")
    assert answer.status in (303, 404), answer.text
    assert queue.name not in server.broker.queues()


def test_a_schedule_is_taken_back(client: Client, queue: mq.Queue[Any], server: Running) -> None:
    server.broker.schedule("tick", queue, "x", every=3600)
    client.token = client.get("/ui/schedules").csrf
    assert "Taken back." in done(client, client.change("unschedule", "tick"))
    assert server.broker.schedules() == []


@pytest.mark.parametrize("do", [name for name, each in CHANGES.items() if each.question])
def test_what_takes_something_away_asks_first(
    client: Client, queue: mq.Queue[Any], server: Running, do: str
) -> None:
    before = ids_of(queue)
    server.broker.schedule("asked", queue, "x", every=3600)
    name = "asked" if do == "unschedule" else queue.name
    page = client.change(do, name, confirmed=False, id=before[:2])
    assert page.status == 200 and "<form" in page.text and 'name="confirmed"' in page.text
    assert page.text.count('name="id"') == 2
    assert ids_of(queue) == before and not queue.stats().paused
    assert [each.name for each in server.broker.schedules()] == ["asked"]


@pytest.mark.parametrize(
    "fields, status",
    [
        ({"do": "purge", "csrf": ""}, 403),
        ({"do": "purge", "csrf": "0" * 64}, 403),
        ({"do": "purge", "csrf": "ü"}, 403),
        ({"do": "drop everything"}, 400),
        ({"do": ""}, 400),
        ({"do": "cancel"}, 400),
        ({"do": "cancel", "id": ["x"]}, 400),
        ({"do": "cancel", "id": ["-1"]}, 400),
        ({"do": "cancel", "id": list(range(600))}, 400),
        ({"do": "cancel", "id": list(range(2000))}, 400),
    ],
)
def test_a_form_that_cannot_be_right_changes_nothing(
    client: Client, queue: mq.Queue[Any], fields: dict[str, Any], status: int
) -> None:
    before = ids_of(queue)
    assert client.change(queue=queue.name, **fields).status == status
    assert ids_of(queue) == before


def test_the_token_of_another_visitor_is_none(server: Running, client: Client, queue: mq.Queue[Any]) -> None:
    other = server.client()
    other.token = client.get(f"/ui/queue?name={queue.name}").csrf
    assert other.change("purge", queue.name).status == 403
    assert len(ids_of(queue)) == 3


@pytest.mark.parametrize(
    "body, status",
    [(b"\xff\xfe", 400), (b"%ff", 400), (b"x" * (FORM_BYTES_MAX + 1), 413), (b"", 403), (b"a=1;" * 500, 403)],
)
def test_a_body_that_is_no_form_is_refused(client: Client, body: bytes, status: int) -> None:
    answer = client.request("POST", "/ui/change", body)
    assert answer.status == status and "Traceback" not in answer.text


def test_a_change_by_a_link_is_none(client: Client, queue: mq.Queue[Any]) -> None:
    client.get(f"/ui/change?do=purge&confirmed=1&queue={queue.name}&csrf={client.token}")
    assert len(ids_of(queue)) == 3


def test_read_only_nothing_is_changed(tmp_path: Path) -> None:
    with mq.open(tmp_path / "store") as broker:
        (id,) = broker.queue("mail").publish_many(["x"])
        broker.schedule("tick", "mail", "x", every=3600)
        with running(tmp_path / "store", read_only=True) as server:
            client = server.client()
            visitor = client.get("/ui/")
            cookie = client.cookies[f"mq_{server.site.settings.port}"]
            assert visitor.status == 200
            client.token = server.gate.sessions.visitor(
                _Asking({f"mq_{server.site.settings.port}": cookie})
            ).csrf  # type: ignore[arg-type]
            for do in CHANGES:
                answer = client.change(do, "tick" if do == "unschedule" else "mail", id=[id], body="y")
                assert answer.status == 403 and "--read-only" in answer.text
        assert [each.body for each in broker.queue("mail").peek()] == ["x"]
        assert not broker.queue("mail").stats().paused
        assert len(broker.schedules()) == 1


class _Asking:
    """A request that has these cookies."""

    def __init__(self, cookies: dict[str, str]) -> None:
        self.cookies = cookies
