"""TCP proxies: what passes them can be delayed, held, or cut.

    client ──► Link.port ──► pipe up   ──► server
           ◄──           ◄── pipe down ◄──

*Held* bytes wait, as in a network that loses every packet: they arrive when `let_through` is called, or
never, if the link is cut first.  That is how an answer is lost.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal

CHUNK_BYTES = 64 << 10

Way = Literal["up", "down"]  # up: to the server


class Links:
    """All links of one cluster, on one event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._thread.start()
        self._links: list[Link] = []

    def open(self, port: int) -> Link:
        """A link to a server at *port*, which need not be there yet."""
        link = Link(self, port)
        self.run(link.listen)
        self._links.append(link)
        return link

    def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """On the loop's thread, until it is done."""

        async def done() -> None:
            await work()

        asyncio.run_coroutine_threadsafe(done(), self._loop).result()

    def close(self) -> None:
        for link in self._links:
            self.run(link.close)
        self.run(self._end_all)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end_all(self) -> None:
        """What is still on its way, such as a connection that comes in just now."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # the loop closes the sockets of what was aborted


class Link:
    def __init__(self, links: Links, target: int) -> None:
        self._links, self._target = links, target
        self.port = 0
        self._delay = 0.0
        self._refuses = False
        self._trap: tuple[Way, bytes] | None = None
        self._open: dict[Way, asyncio.Event] = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    # What a test does, from any thread

    def hold(self, *ways: Way) -> None:
        """Nothing passes in these ways (without: in both); connections stay."""

        async def close_gates() -> None:
            for way in ways or self._open:
                self._open[way].clear()

        self._links.run(close_gates)

    def hold_before(self, text: bytes, way: Way = "down") -> None:
        """The same in one way, from the next piece on that has this in it."""
        self._trap = way, text

    def cut(self) -> None:
        """End every connection, lose what is held, and refuse new ones."""

        async def drop_all() -> None:
            self._refuses = True
            await self._drop()

        self._links.run(drop_all)

    def reset(self) -> None:
        """End every connection and lose what is held; new ones pass."""

        async def drop_all() -> None:
            await self._drop()
            self._let_through()

        self._links.run(drop_all)

    def delay(self, seconds: float) -> None:
        """All that passes takes so much longer."""
        self._delay = seconds

    def is_open(self) -> bool:
        """Whether both ways pass."""
        return all(gate.is_set() for gate in self._open.values())

    def let_through(self) -> None:
        async def open_gates() -> None:
            self._let_through()

        self._links.run(open_gates)

    # On the loop

    async def listen(self) -> None:
        for gate in self._open.values():
            gate.set()
        self._server = await asyncio.start_server(self._come_in, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server
        self._server.close()
        self._refuses = True
        await self._drop()

    def _let_through(self) -> None:
        self._refuses = False
        for gate in self._open.values():
            gate.set()

    async def _drop(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _come_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            writer.transport.abort()
            return
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            self._carry("up", reader, far_writer)
            self._carry("down", far_reader, writer)
            return
        writer.transport.abort()

    def _carry(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._pipe(way, reader, writer))
        self._tasks.add(task)
        self._writers.add(writer)
        task.add_done_callback(self._tasks.discard)

    async def _pipe(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(CHUNK_BYTES):
                if self._trap and self._trap[0] == way and self._trap[1] in data:
                    self._open[way].clear()
                    self._trap = None
                if self._delay:
                    await asyncio.sleep(self._delay)
                await self._open[way].wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # one end has gone, and so the other one goes too
        finally:
            self._writers.discard(writer)
            writer.transport.abort() if self._refuses else writer.close()
