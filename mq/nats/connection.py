"""One connection to NATS, on an event loop of a thread of its own.

    a thread of the program ── run(coroutine) ──► the loop's thread ──► the server
                            ◄──── result ────────

A server that does not answer is asked again, for PATIENCE_SECONDS: a leader that died is replaced within
seconds, and the client connects to another server of the cluster by itself.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import ssl
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from nats.aio.client import Client
from nats.errors import Error as NatsError

from mq.engine.operation import nested
from mq.errors import Closed, StorageError, Unsupported
from mq.nats.address import Address

T = TypeVar("T")

PATIENCE_SECONDS: Final = 20.0  # without an answer: a cluster takes up to 9 to find a new leader
REQUEST_SECONDS: Final = 2.0  # until a request without an answer is made again
AGAIN_SECONDS: Final = 0.1  # between two attempts
LOOK_SECONDS: Final = 1.0  # until a thread that waits looks whether the loop is still there
CLOSE_SECONDS: Final = 1.0  # for an answer to a store that is being closed; without one it says no farewell
CLOSE_SECONDS_MAX: Final = 5.0  # for that farewell
MOVE_SECONDS: Final = 3.0  # at least, until another server is tried
PING_SECONDS: Final = 5  # a server that answers no ping for twice as long is left for another one
VERSION_MIN: Final = (2, 12, 1)  # the first that knows the batch again that was sent twice
SILENT: Final = (NatsError, asyncio.TimeoutError, OSError)
"""No answer, or none that says what became of a request."""

_parents: list[object] = []  # connections of the parent, in the child of a fork: never finalised there


class _InTheClear(NatsError):
    pass


class _Client(Client):
    """The library's uses TLS if the server asks for it; this one also if the address does."""

    def __init__(self, secure: bool) -> None:
        super().__init__()
        self._secure = secure

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """Called with what a server says first, before it is told the password."""
        if self._secure and initial_connection:
            if not (info.get("tls_required") or info.get("tls_available")):
                raise _InTheClear("the server does not speak TLS, which the address asks for: check both")
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)


class Connection:
    def __init__(self, address: Address) -> None:
        self.address, self.path = address, address.shown
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, name="mq-nats", daemon=True)
        self._ident = 0  # of the thread, while it lives
        self._pid = os.getpid()
        self._trouble: BaseException | None = None  # the last one that the library told of
        self._refused: asyncio.Event | None = None  # set when a server refuses this client, or is refused
        self._refusal = ""  # what is wrong then
        self._moved_at = 0.0  # monotonic seconds
        self.is_own: Callable[[], bool] = bool  # whether the calling thread is the store's, not the program's
        self._own: set[asyncio.Task[Any]] = set()  # what such threads wait for; the loop's
        self._until = math.inf  # monotonic seconds: it is cut off then
        self.nc: Client  # once it is open

    # ── opening ────────────────────────────────────────────────────────────────────

    def open(self) -> None:
        """Connect.  StorageError if no server answers, or refuses; Unsupported if it is too old."""
        options = self.address.options()
        self._thread.start()
        try:
            self.nc = self.run(self._connect(options))
            self._require_version(self.run(self._version()))
        except BaseException:
            self.close()
            raise

    async def _connect(self, options: dict[str, Any]) -> Client:
        self._refused = asyncio.Event()
        client = _Client(self.address.secure)
        options["reconnect_time_wait"] = AGAIN_SECONDS
        connecting = asyncio.ensure_future(
            client.connect(
                **options, name="mq", error_cb=self._note, max_reconnect_attempts=-1,
                connect_timeout=2, ping_interval=PING_SECONDS, max_outstanding_pings=2,
            )
        )  # fmt: skip
        refused = asyncio.ensure_future(self._refused.wait())
        try:
            await asyncio.wait(
                {connecting, refused}, timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if connecting.done():
                await connecting
                return client
        except SILENT as error:
            self._trouble = error
        finally:
            for each in (connecting, refused):
                if not each.done():
                    each.cancel()
                    with suppress(asyncio.CancelledError):
                        await each
        if self._refusal:
            raise StorageError(self.path, self._refusal)
        raise self._no_answer()

    def _no_answer(self) -> StorageError:
        return StorageError(
            self.path, f"no connection to NATS within {PATIENCE_SECONDS:g} seconds: {_reason(self._trouble)}"
        )

    async def _version(self) -> tuple[int, int, int]:
        """The server's.  It may have died since: until another one answers, the library knows none."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < give_up:
            version = self.nc.connected_server_version
            found = version.major, version.minor, version.patch
            if any(found):
                return found
            await asyncio.sleep(AGAIN_SECONDS)
        raise self._no_answer()

    async def _note(self, error: Exception) -> None:
        self._trouble = error
        refusal = None
        if "authorization" in str(error).lower():
            refusal = "NATS refuses this client: check its user and password, token or credentials"
        elif isinstance(error, ssl.SSLCertVerificationError):
            refusal = (
                f"the server's certificate is not believed ({error.verify_message}): give ca=, or check it"
            )
        elif isinstance(error, _InTheClear):
            refusal = str(error)
        if refusal and self._refused and not self._refused.is_set():
            self._refusal = refusal
            self._refused.set()

    def _require_version(self, version: tuple[int, int, int]) -> None:
        if version < VERSION_MIN:
            found, least = (".".join(map(str, each)) for each in (version, VERSION_MIN))
            raise Unsupported(
                f"{self.path}: the server is NATS {found}, and mq needs {least} or later, which stores a"
                " batch whole or not at all"
            )

    # ── using it ───────────────────────────────────────────────────────────────────

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What *work* returns, which the loop does meanwhile.

        UsageError in the loop's own thread, where a finaliser may come by: it would wait for itself.
        """
        if self.is_this_thread():
            work.close()
            raise nested()
        if self._pid != os.getpid():
            work.close()
            raise self._is_closed()
        bell, done, is_own = threading.Lock(), [], self.is_own()
        bell.acquire()

        def end(task: asyncio.Task[T]) -> None:
            # Asked for here: asyncio prints an error that is not, and a thread that is interrupted does not.
            _ = task.cancelled() or task.exception()
            done.append(task)
            bell.release()

        def begin() -> None:
            task = self._loop.create_task(work)
            task.add_done_callback(end)
            if is_own:
                self._own.add(task)
                task.add_done_callback(self._own.discard)
                if self._until < math.inf:
                    self._cut_off()

        try:
            self._loop.call_soon_threadsafe(begin)
        except RuntimeError:  # the loop is closed
            work.close()
            raise self._is_closed() from None
        # What is asked for as the loop ends is not begun, and nothing would say so.
        while not bell.acquire(timeout=LOOK_SECONDS):
            if not self._thread.is_alive():
                work.close()
                raise self._is_closed()
        if done[0].cancelled():
            raise self._is_closed()
        return done[0].result()

    def is_this_thread(self) -> bool:
        """Whether this is the loop's thread."""
        return threading.get_ident() == self._ident and self._pid == os.getpid()

    def hurry(self, what: str) -> bool:
        """The store is being closed: what its own threads wait for is cut off, soon, and they meet Closed.

        At once if the API does not answer *what*; whether it did.
        """
        is_there = False
        with suppress(Closed):  # its thread has ended
            is_there = self.run(self._answers(what))
        self._until = time.monotonic() + (CLOSE_SECONDS_MAX if is_there else 0.0)
        self.call(self._cut_off)
        return is_there

    async def _answers(self, what: str) -> bool:
        try:
            answer = await self.nc.request(f"$JS.API.{what}", timeout=CLOSE_SECONDS)
        except SILENT:
            return False
        return "error" not in json.loads(answer.data)

    def _cut_off(self) -> None:
        """Called by the loop."""
        if (left := self._until - time.monotonic()) > 0:
            self._loop.call_later(left, self._cut_off)
        else:
            for task in self._own:
                task.cancel()

    def call(self, do: Callable[[], object]) -> None:
        """Have the loop call *do*, soon, unless it is closed."""
        if self._pid == os.getpid():
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(do)

    def _is_closed(self) -> Closed:
        return Closed(f"{self.path}: the connection is closed")

    def api(self, what: str, body: object = None) -> dict[str, Any]:
        """The answer of JetStream's API, which may be an error of its own: see `ask`."""
        return self.run(self.ask(what, body))

    async def ask(self, what: str, body: object = None) -> dict[str, Any]:
        """The answer of JetStream's API to the request *what*.  StorageError if there is none."""
        data = b"" if body is None else json.dumps(body).encode()
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                answer = await self.nc.request(f"$JS.API.{what}", data, timeout=REQUEST_SECONDS)
                return json.loads(answer.data)  # type: ignore[no-any-return]
            except SILENT as error:
                if isinstance(error, asyncio.TimeoutError):
                    await self.go_elsewhere()
                if time.monotonic() > give_up or self.nc.is_closed:
                    raise StorageError(
                        self.path,
                        f"NATS does not answer within {PATIENCE_SECONDS:g} seconds: {_reason(error)}",
                    ) from error
            await asyncio.sleep(AGAIN_SECONDS)

    async def go_elsewhere(self) -> None:
        """Connect to another server, if there is one: this one may be cut off from the others."""
        if len(self.address.servers) > 1 and time.monotonic() - self._moved_at > MOVE_SECONDS:
            self._moved_at = time.monotonic()
            await self.nc.force_reconnect()

    # ── leaving ────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Leave no socket, no thread, and no loop; a second call does nothing."""
        if self._pid != os.getpid() or self._loop.is_closed():
            return
        if self._thread.ident is not None:
            with suppress(*SILENT):
                self.run(self._close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        try:
            if nc := getattr(self, "nc", None):
                await nc.close()
        finally:  # also if it met a server that is not there
            me = asyncio.current_task()
            others = [task for task in asyncio.all_tasks() if task is not me]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    def after_fork(self) -> None:
        """In a child: the thread is the parent's, and so is what the server hears on this socket."""
        _parents.append(self)
        transport = getattr(getattr(self, "nc", None), "_transport", None)
        writer = getattr(transport, "_io_writer", None)
        if writer is not None and (inner := writer.get_extra_info("socket")) is not None:
            with suppress(OSError, AttributeError):  # the library changed: the socket stays open here
                os.close(inner._sock.detach())

    def _live(self) -> None:
        self._ident = threading.get_ident()
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._ident = 0


def _reason(error: BaseException | None) -> str:
    if error is None:
        return "no answer; check the address"
    return str(error) or type(error).__name__
