"""The server: opens the store, listens, and drains.

SIGTERM or SIGINT ─► no new connection ─► `stopping`: long polls are answered empty ─► requests have
`grace` seconds ─► the tasks of the faces are cancelled ─► the store is closed.  What is in flight stays so.
A second signal ends the requests at once.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
import ssl
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import uvicorn

import mq
from mq.errors import MqError, UsageError
from mq.serve import sqs, ui
from mq.serve.app import App
from mq.serve.connection import protocol
from mq.serve.credentials import Credentials
from mq.serve.face import Face, Site
from mq.serve.limits import Limits
from mq.serve.settings import Settings

FACES: Final[tuple[Callable[[Site], Face], ...]] = (ui.face, sqs.face)
"""sqs answers all paths that the others do not have."""

BACKLOG: Final = 2048
KEEP_ALIVE_SECONDS: Final = 75
TICK_SECONDS: Final = 1.0  # how often the date of the responses is made anew
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger("mq.serve")


def run(settings: Settings, ready: Callable[[str], None]) -> None:
    """Serve until a signal; *ready* is given the URL once clients may come.

    Raises UsageError (a setting cannot be right), MqError (the address is not to be had), and what `mq.open`
    raises.
    """
    credentials = None if settings.credentials is None else Credentials.load(settings.credentials)
    check_reach(settings, credentials)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings, credentials, ready))


def check_reach(settings: Settings, credentials: Credentials | None) -> None:
    """UsageError if another computer could come in without a key."""
    if credentials is None and not is_loopback(settings.host):
        raise UsageError(
            f"{settings.host} can be reached from other computers, so clients need keys there: make one with"
            " `mq serve keys add --credentials FILE`, and name that file with --credentials"
        )


def is_loopback(host: str) -> bool:
    """Whether no other computer reaches *host*."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(
    settings: Settings, credentials: Credentials | None, ready: Callable[[str], None]
) -> None:  # fmt: skip
    opening = mq.aopen(settings.store, sync=settings.sync, read_only=settings.read_only)
    async with opening as broker:
        with _listening(settings) as listener:
            site = Site(broker, settings, credentials, time.time())
            faces = [face(site) for face in FACES]
            server = Server(_config(settings, site, faces), site.stopping)
            tasks = [asyncio.create_task(_logged(task)) for face in faces for task in face.tasks]
            try:
                with server.signals():
                    ready(_url(settings, listener))
                    await server.serve([listener])
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


async def _logged(task: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        await task()
    except Exception:  # one face's fault is not the end of the others
        log.exception("%r has ended", task)


def _config(settings: Settings, site: Site, faces: list[Face]) -> uvicorn.Config:
    limits = Limits(settings.connections_max, settings.body_bytes_max)
    config = uvicorn.Config(
        App(site, faces), http=protocol(limits), ws="none", lifespan="off",
        log_config=None, access_log=False, proxy_headers=False, server_header=False, backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(settings.grace)), ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )  # fmt: skip
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"--tls-cert and --tls-key cannot be used: {error.strerror or error}") from None
    return config


@contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MqError(
            f"cannot listen on {settings.host} port {settings.port}: {reason}; choose another --host or"
            " --port"
        ) from None
    with listener:
        yield listener


def _url(settings: Settings, listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    scheme = "http" if settings.tls_cert is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn's, which sleeps while there is nothing to do, and ends when `stopping` is set."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await self._serve(sockets)  # without its own handlers of signals

    @contextmanager
    def signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        self._stopping.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), TICK_SECONDS)
