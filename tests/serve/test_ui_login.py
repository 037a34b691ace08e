"""Who comes in: users by their password, and no page of another site."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("starlette", reason="mq[serve] is not installed")
pytest.importorskip("jinja2", reason="mq[serve] is not installed")

from sites import Answer, Client, Running, running

from mq.serve import passwords
from mq.serve.credentials import change
from mq.serve.guard import hostname, names_of
from mq.serve.passwords import hash_password, verify
from mq.serve.ui import sessions
from mq.serve.ui.sessions import SESSION_SECONDS, Throttle

PASSWORD = "correct horse"


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Passwords that cost little."""
    before, passwords.COST = passwords.COST, 2  # type: ignore[misc]
    yield
    passwords.COST = before  # type: ignore[misc]


def add_user(path: Path, name: str, password: str) -> None:
    hashed = hash_password(password)
    change(str(path), lambda content: content.users.update({name: hashed}))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    add_user(path, "ada", PASSWORD)
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("login") / "store", credentials=str(keys), sync="never") as found:
        found.broker.queue("mail").publish("secret body")
        yield found


@pytest.fixture
def client(server: Running) -> Client:
    server.gate.sessions.throttle = Throttle()
    return server.client()


def log_in(client: Client, user: str = "ada", password: str = PASSWORD, to: str = "/ui/store") -> Answer:
    token = client.get("/ui/login").csrf
    return client.post("/ui/login", {"csrf": token, "user": user, "password": password, "to": to})


PATHS = [
    "/ui/", "/ui/queue?name=mail", "/ui/message?queue=mail&id=1", "/ui/body?queue=mail&id=1", "/ui/topics",
    "/ui/schedules", "/ui/store", "/ui/alerts", "/ui/live?of=queues",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_shown_before_a_login(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status == 303 and answer.headers["location"].startswith("/ui/login?to=")
    assert b"mail" not in answer.body
    assert client.get(path, Accept="text/event-stream").status == 401


def test_nothing_is_changed_before_a_login(client: Client, server: Running) -> None:
    token = client.get("/ui/login").csrf
    answer = client.post("/ui/change", {"csrf": token, "do": "purge", "queue": "mail", "confirmed": "1"})
    assert answer.status == 401
    assert server.broker.queue("mail").stats().ready == 1


def test_a_login_leads_to_the_page_that_was_wanted(client: Client) -> None:
    answer = log_in(client)
    assert (answer.status, answer.headers["location"]) == (303, "/ui/store")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie and "path=/" in cookie
    assert client.get("/ui/store").status == 200


@pytest.mark.parametrize(
    "to",
    ["https://evil.example/", "//evil.example/", "/ui/\\evil", "/ui/\r\nx: y", "", "/other", "javascript:x"],
)
def test_a_login_leads_nowhere_else(client: Client, to: str) -> None:
    answer = log_in(client, to=to)
    assert (answer.status, answer.headers["location"]) == (303, "/ui/")


@pytest.mark.parametrize(
    "user, password",
    [("ada", "wrong"), ("ada", ""), ("eve", PASSWORD), ("", ""), ("ada", "x" * 5000), ("ADA", PASSWORD)],
)
def test_a_wrong_login_is_refused(client: Client, user: str, password: str) -> None:
    answer = log_in(client, user, password)
    assert answer.status == 403 and "do not fit" in answer.text
    assert client.get("/ui/").status == 303


def test_each_login_has_a_cookie_of_its_own(client: Client, server: Running) -> None:
    """One that was planted before, by whatever means, opens nothing."""
    client.get("/ui/login")
    planted = dict(client.cookies)
    log_in(client)
    assert client.cookies != planted
    other = server.client()
    other.cookies = planted
    assert other.get("/ui/").status == 303


def test_a_login_without_its_token_is_refused(client: Client) -> None:
    assert client.post("/ui/login", {"user": "ada", "password": PASSWORD}).status == 403


@pytest.fixture
def time_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """For sessions, and for those that have to wait."""
    monkeypatch.setattr(sessions, "time", SimpleNamespace(monotonic=lambda: 1000.0))


@pytest.mark.usefixtures("time_stands")
def test_logins_that_fail_have_to_wait(client: Client) -> None:
    for _ in range(Throttle.FREE):
        assert log_in(client, password="wrong").status == 403
    answer = log_in(client)
    assert answer.status == 429 and "wait" in answer.text


@pytest.mark.usefixtures("time_stands")
@pytest.mark.parametrize("face", ["login", "metrics"])
def test_passwords_that_are_tried_at_the_same_time_have_to_wait(
    client: Client, server: Running, face: str
) -> None:
    """Else the first five are as many as a guesser has connections."""
    token, cookies = client.get("/ui/login").csrf, dict(client.cookies)

    def try_one(number: int) -> int:
        other = server.client()
        other.cookies = dict(cookies)
        if face == "login":
            said = {"csrf": token, "user": "ada", "password": f"guess {number}"}
            return other.post("/ui/login", said).status
        guess = base64.b64encode(f"ada:guess {number}".encode()).decode()
        return other.get("/metrics", Authorization=f"Basic {guess}").status

    refused = 403 if face == "login" else 401
    with ThreadPoolExecutor(16) as threads:
        found = sorted(threads.map(try_one, range(32)))
    assert found == [refused] * Throttle.FREE + [429] * (32 - Throttle.FREE)
    assert log_in(client).status == 429, "the two have one count"


@pytest.mark.usefixtures("time_stands")
def test_how_long_a_failed_login_waits() -> None:
    throttle = Throttle()
    for number in range(Throttle.ADDRESSES_MAX + 50):
        throttle.failed(str(number))
    assert len(throttle._failures) == Throttle.ADDRESSES_MAX
    for _ in range(100):
        throttle.failed("a")
    assert throttle.wait("a") == Throttle.SECONDS_MAX
    throttle.succeeded("a")
    assert throttle.wait("a") == 0.0


def test_a_user_that_logs_out_is_out(client: Client) -> None:
    log_in(client)
    before = dict(client.cookies)
    token = client.get("/ui/").csrf
    assert client.post("/ui/logout", {"csrf": token}).status == 303
    client.cookies = before
    assert client.get("/ui/").status == 303


def test_a_new_password_ends_the_sessions_of_the_old_one(client: Client, keys: Path, server: Running) -> None:
    add_user(keys, "bob", "bob's first")
    server.site.credentials._looked = -1e9  # type: ignore[union-attr]
    assert log_in(client, "bob", "bob's first").status == 303
    assert client.get("/ui/").status == 200
    add_user(keys, "bob", "bob's second")
    server.site.credentials._looked = -1e9  # type: ignore[union-attr]
    assert client.get("/ui/").status == 303


def test_a_session_that_is_not_used_ends(client: Client, server: Running) -> None:
    log_in(client)
    assert client.get("/ui/").status == 200
    users = server.gate.sessions._users
    newest = next(reversed(users))
    assert users[newest].until > time.monotonic() + SESSION_SECONDS - 60  # it was used just now
    users[newest] = users[newest]._replace(until=time.monotonic())
    assert client.get("/ui/").status == 303


def test_sessions_are_bounded(client: Client, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mq.serve.ui.sessions.SESSIONS_MAX", 3)
    clients = [server.client() for _ in range(5)]
    for each in clients:
        log_in(each)
    assert [each.get("/ui/").status for each in clients] == [303, 303, 200, 200, 200]


def test_metrics_take_a_password_and_health_takes_none(client: Client) -> None:
    assert client.get("/healthz").status == 200
    answer = client.get("/metrics")
    assert answer.status == 401 and answer.headers["www-authenticate"].startswith("Basic")
    for given in (f"ada:{PASSWORD}", f"ada:{PASSWORD}"):  # the second is known
        answer = client.get("/metrics", Authorization="Basic " + base64.b64encode(given.encode()).decode())
        assert answer.status == 200 and "mq_queue_messages" in answer.text
    for given in ("ada:wrong", "ada", "eve:" + PASSWORD):
        said = "Basic " + base64.b64encode(given.encode()).decode()
        assert client.get("/metrics", Authorization=said).status == 401
    for said in ("Basic", "Basic %%%", "Bearer x", "Basic " + "A" * 9000):
        assert client.get("/metrics", Authorization=said).status == 401


def test_credentials_without_users_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    change(str(path), lambda content: None)
    with running(tmp_path / "store", credentials=str(path)) as server:
        assert "mq serve users add" in server.client().get("/ui/login").text


# ── passwords ──────────────────────────────────────────────────────────────────────


def test_a_password_fits_its_hash_and_no_other() -> None:
    stored = hash_password("héllo\ud800")
    assert verify("héllo\ud800", stored) and not verify("hello", stored)
    assert hash_password("a") != hash_password("a")


@pytest.mark.parametrize(
    "stored",
    [
        "", "scrypt", "scrypt$$$", "scrypt$2$x$y", "scrypt$1$AAAA$AAAA", f"scrypt${1 << 30}$AAAA$AAAA",
        "scrypt$3$AAAA$AAAA", "md5$2$AAAA$AAAA", "scrypt$-2$AAAA$AAAA", "scrypt$٢$AAAA$AAAA",
    ],
)  # fmt: skip
def test_what_is_no_hash_fits_nothing(stored: str) -> None:
    assert not verify("", stored) and not verify("a", stored)


# ── pages of other sites ───────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    store = tmp_path_factory.mktemp("local") / "store"
    with running(store, sync="never", allow_hosts=("mq.test",)) as found:
        found.broker.queue("mail").publish("x")
        yield found


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "[::1]:9324", "LOCALHOST:1", "mq.test", "localhost."]
)
def test_this_computer_is_asked_by_its_names(local: Running, host: str) -> None:
    assert local.client().get("/ui/", Host=host).status == 200


@pytest.mark.parametrize("path", ["/ui/", "/healthz", "/metrics", "/ui/static/ui.css", "/", "/queue/x"])
@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil", "[::1", "", "a" * 400, "localhost:x"]
)
def test_another_name_is_refused(local: Running, host: str, path: str) -> None:
    assert local.client().get(path, Host=host).status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", ["/ui/change", "/ui/login", "/", "/queue/x"])
def test_a_page_of_another_site_changes_nothing(local: Running, headers: dict[str, str], path: str) -> None:
    client = local.client()
    client.token = client.get("/ui/queue?name=mail").csrf
    fields = {"csrf": client.token, "do": "purge", "queue": "mail", "confirmed": "1"}
    assert client.post(path, fields, **headers).status == 403
    assert local.broker.queue("mail").stats().ready == 1


def test_the_own_page_may_change_something(local: Running) -> None:
    client = local.client()
    client.token = client.get("/ui/queue?name=mail").csrf
    client.headers = {"Origin": f"http://127.0.0.1:{local.port}", "Sec-Fetch-Site": "same-origin"}
    assert client.change("resume", "mail", confirmed=False).status == 303


def test_two_hosts_are_refused(local: Running) -> None:
    with local.connect() as raw:
        raw.sendall(
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
        )
        assert b" 403 " in raw.recv(1000).splitlines()[0] + b" "


@pytest.mark.parametrize(
    "said, name",
    [
        ("Localhost:80", "localhost"), ("[::1]", "::1"), ("[::1]:9", "::1"), ("a.b:", "a.b"), ("a:b", ""),
        ("[x]", ""), ("[::1]x", ""), ("a:٣", ""),
    ],
)  # fmt: skip
def test_the_name_in_a_host(said: str, name: str) -> None:
    assert hostname(said) == name


def test_which_names_are_allowed() -> None:
    assert names_of("0.0.0.0", [], has_credentials=True) is None
    assert names_of("0.0.0.0", ["mq.test"], has_credentials=True) == {"mq.test"}
    assert names_of("127.0.0.2", ["mq.test"], has_credentials=False) == {
        "localhost", "127.0.0.1", "::1", "127.0.0.2", "mq.test",
    }  # fmt: skip
