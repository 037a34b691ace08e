"""Servers in threads of the test's own process, which a test can look into; a client that keeps cookies."""

from __future__ import annotations

import asyncio
import http.client
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import uvicorn

import mq
from mq.serve import sqs, ui
from mq.serve.app import App
from mq.serve.connection import protocol
from mq.serve.credentials import Credentials
from mq.serve.face import Site
from mq.serve.limits import Limits
from mq.serve.settings import Settings
from mq.serve.ui import watched
from mq.serve.ui.gate import Gate

PATIENCE = 60.0


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def csrf(self) -> str:
        """The token that the forms of a page carry."""
        found = re.search(r'name="csrf" value="([0-9a-f]+)"', self.text)
        assert found, self.text
        return found[1]


@dataclass
class Client:
    """A browser without a script."""

    port: int
    cookies: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    token: str | None = None  # of its forms, once it has seen one

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        said = {**self.headers, **(headers or {})}
        if self.cookies:
            said["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        connection.request(method, path, body, said)
        response = connection.getresponse()
        found = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        connection.close()
        if cookie := found.headers.get("set-cookie"):
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        return found

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers=headers)

    def post(self, path: str, fields: Any, **headers: str) -> Answer:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.request("POST", path, urlencode(fields, doseq=True).encode(), kind | headers)

    def change(self, do: str, queue: str, *, confirmed: bool = True, **fields: Any) -> Answer:
        """What a form of a page sends."""
        self.token = self.token or self.get("/ui/queue?" + urlencode({"name": queue})).csrf
        return self.post(
            "/ui/change",
            {
                "csrf": self.token,
                "do": do,
                "queue": queue,
                **({"confirmed": "1"} if confirmed else {}),
                **fields,
            },
        )


@dataclass
class Running:
    """A server."""

    port: int
    site: Site
    loop: asyncio.AbstractEventLoop
    gate: Gate
    connections: set[Any]  # that are open
    limits: Limits

    @property
    def broker(self) -> mq.Broker:
        return self.site.plain_broker()

    def client(self) -> Client:
        return Client(self.port)

    def connect(self) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        made.settimeout(PATIENCE)
        return made


@contextmanager
def running(store: Path, *, limits: Limits | None = None, **given: Any) -> Iterator[Running]:
    """A server of all faces, on a port that the system chooses.

    Its health is waited for as long as anything is: to a busy machine the store is not a busy one.
    """
    limits = limits or Limits()
    settings = Settings(str(store), port=0, **given)
    credentials = Credentials.load(settings.credentials) if settings.credentials else None
    ready, ended = threading.Event(), threading.Event()
    made: list[Running] = []

    async def serve() -> None:
        async with mq.aopen(settings.store, sync=settings.sync, read_only=settings.read_only) as broker:
            site = Site(broker, settings, credentials, time.time())
            gate = ui.gate_of(site)
            faces = [ui.face_of(gate), sqs.face(site)]
            config = uvicorn.Config(
                App(site, faces), http=protocol(limits), ws="none", lifespan="off",
                log_config=None, access_log=False, server_header=False, timeout_keep_alive=75,
                timeout_graceful_shutdown=1,
            )  # fmt: skip
            server = uvicorn.Server(config)
            with socket.create_server(("127.0.0.1", 0)) as listener:
                tasks = [asyncio.create_task(task()) for face in faces for task in face.tasks]
                port = listener.getsockname()[1]
                loop, connections = asyncio.get_running_loop(), server.server_state.connections
                made.append(Running(port, site, loop, gate, connections, limits))
                work = asyncio.create_task(server._serve([listener]))
                while not server.started:
                    await asyncio.sleep(0.001)
                ready.set()
                await site.stopping.wait()
                server.should_exit = True
                await work
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def live() -> None:
        try:
            asyncio.run(serve())
        finally:
            ready.set()
            ended.set()

    thread = threading.Thread(target=live)
    thread.start()
    assert ready.wait(PATIENCE)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(watched, "HEALTH_SECONDS", PATIENCE)
            yield made[0]
    finally:
        if made and not ended.is_set():
            made[0].loop.call_soon_threadsafe(made[0].site.stopping.set)
        thread.join(PATIENCE)
        assert not thread.is_alive()


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.005)


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def elements(html: str) -> list[tuple[str, dict[str, str | None]]]:
    """All elements of a page, with their attributes."""
    parser = _Elements()
    parser.feed(html)
    return parser.found


def path_of(address: str) -> str:
    parts = urlsplit(address)
    return parts.path + (f"?{parts.query}" if parts.query else "")
