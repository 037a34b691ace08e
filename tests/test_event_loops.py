"""The asyncio face where programs use it: other loops, web servers, notebooks, forks, and their signals."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from companions import until

import mq

PATIENCE = 120.0


def needs(*libraries: str) -> pytest.MarkDecorator:
    """Skipped, by name, where one of them is not installed."""
    missing = [each for each in libraries if importlib.util.find_spec(each) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is not installed")


async def all_of_it(path: Path) -> None:
    """What programs do: wait, be woken, settle, cancel, work, close."""
    async with mq.aopen(path) as broker:
        q, seen = broker.queue("q"), []
        waits = [asyncio.create_task(q.receive()) for _ in range(20)]
        await asyncio.sleep(0)
        for wait in waits[::2]:
            wait.cancel()
        await asyncio.gather(*[q.publish(n) for n in range(10)])
        for found in await asyncio.gather(*waits, return_exceptions=True):
            if isinstance(found, mq.AsyncDelivery):
                seen.append(found.body)
                await found.ack()
        assert sorted(seen) == list(range(10))
        assert await q.receive(timeout=0.01) is None
        assert await asyncio.to_thread(broker._broker.queue("q").publish, 10)

        @broker.consumer(q, concurrency=2)
        async def handle(body: int) -> None:
            seen.append(body)

        async with broker.transaction() as tx:
            tx.publish(q, 11)
        await broker.run(until_empty=True)
        assert sorted(seen) == list(range(12))


# ── other loops ────────────────────────────────────────────────────────────────────


@needs("uvloop")
def test_uvloop(tmp_path: Path) -> None:
    import uvloop

    uvloop.run(asyncio.wait_for(all_of_it(tmp_path), PATIENCE))


@needs("uvloop")
def test_uvloop_stops_by_a_signal(tmp_path: Path) -> None:
    import uvloop

    uvloop.run(asyncio.wait_for(stopped_by(signal.SIGTERM, tmp_path / "a"), PATIENCE))
    uvloop.run(asyncio.wait_for(stopped_by(signal.SIGINT, tmp_path / "b"), PATIENCE))


@needs("anyio")
def test_anyio(tmp_path: Path) -> None:
    import anyio

    anyio.run(all_of_it, tmp_path)


@needs("anyio")
@pytest.mark.parametrize("busy", [False, True])
def test_anyio_cancels_again_and_again_and_nothing_is_held(tmp_path: Path, busy: bool) -> None:
    """A scope that was cancelled cancels at each await until it is left."""
    import anyio

    async def main() -> None:
        async with mq.aopen(tmp_path) as broker:
            q = broker.queue("q")
            if busy:
                broker._broker._store.turn.is_free = lambda: False  # type: ignore[method-assign]
            begun = anyio.Event()

            async def work() -> None:
                async with await q.receive():
                    begun.set()
                    await anyio.sleep_forever()

            await q.publish(1)
            async with anyio.create_task_group() as group:
                group.start_soon(work)
                await begun.wait()
                for _ in range(3):
                    group.start_soon(q.receive)
                    group.start_soon(q.receive_many, 5)
                await anyio.sleep(0)
                group.cancel_scope.cancel()
            with anyio.fail_after(PATIENCE):
                while (await q.stats()).in_flight:
                    await anyio.sleep(0)
            assert [each.attempts for each in await q.peek()] == [0]

    anyio.run(main)


@needs("anyio")
def test_anyio_waits_for_a_run_that_it_cancels(tmp_path: Path) -> None:
    """What is in work is released before the broker is closed, though the task is cancelled all the time."""
    import anyio

    async def main() -> None:
        async with mq.aopen(tmp_path) as broker, anyio.create_task_group() as group:
            q, begun = broker.queue("q", visibility_timeout=3600), anyio.Event()

            @broker.consumer(q)
            async def handle(body: int) -> None:
                begun.set()
                await anyio.sleep_forever()

            await q.publish(1)
            group.start_soon(broker.run)
            await begun.wait()
            group.cancel_scope.cancel()

    anyio.run(main)
    with mq.open(tmp_path) as broker:
        assert [each.attempts for each in broker.queue("q").peek()] == [0]


# ── web servers and notebooks ──────────────────────────────────────────────────────


@needs("starlette", "httpx2")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_starlette_has_it_open_for_its_lifespan(tmp_path: Path, loop: str) -> None:
    """Requests publish; a consumer runs beside them, in the same loop, and is cancelled at the end."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route
    from starlette.testclient import TestClient

    if loop == "uvloop":
        pytest.importorskip("uvloop")
    done = threading.Event()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> Any:
        async with mq.aopen(tmp_path) as broker:

            @broker.consumer("orders")
            async def bill(order: str) -> None:
                done.set()

            async with asyncio.TaskGroup() as group:
                work = group.create_task(broker.run())
                yield {"broker": broker}
                work.cancel()

    async def order(request: Request) -> PlainTextResponse:
        id = await request.state.broker.queue("orders").publish(request.query_params["of"])
        return PlainTextResponse(str(id))

    app = Starlette(routes=[Route("/order", order)], lifespan=lifespan)
    with TestClient(app, backend_options={"use_uvloop": loop == "uvloop"}) as client:
        assert client.get("/order?of=tea").status_code == 200
        assert done.wait(PATIENCE)
    with mq.open(tmp_path, exclusive=True) as store:
        assert store.queue("orders").stats().acked == 1


@needs("ipykernel", "jupyter_client")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_notebook_awaits_in_its_cells(tmp_path: Path) -> None:
    """A kernel's loop runs between cells; to interrupt it stops a run as a signal does."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(
        env={**os.environ, "PYTHONPATH": str(Path(mq.__file__).parents[1]), "IPYTHONDIR": str(tmp_path)}
    )

    def cell(code: str) -> None:
        answer = client.execute_interactive(code, timeout=PATIENCE, output_hook=lambda _: None)
        assert answer["content"]["status"] == "ok", "\n".join(answer["content"]["traceback"])

    try:
        cell("import asyncio, contextlib, os, signal, mq")
        cell(f"broker = await mq.aopen({os.fspath(tmp_path / 'data')!r})")
        cell("q = broker.queue('q')\nwaits = asyncio.create_task(q.receive())")
        cell("await q.publish('hello')")
        cell("message = await waits\nassert message.body == 'hello'\nawait message.ack()")
        cell("await q.publish('work')")
        cell(
            "@broker.consumer(q)\n"
            "async def handle(body):\n"
            "    os.kill(os.getpid(), signal.SIGINT)\n"
            "with contextlib.suppress(asyncio.CancelledError):  # some kernels cancel the cell\n"
            "    await broker.run()\n"
            "assert (await q.stats()).acked == 2"
        )
        cell("await broker.close()")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


# ── signals ────────────────────────────────────────────────────────────────────────


async def stopped_by(number: int, path: Path) -> None:
    """Two brokers run in one loop; a signal stops both, and afterwards all is as it was."""
    before = signal.getsignal(number)
    async with mq.aopen(path / "a") as one, mq.aopen(path / "b") as other, mq.aopen(path / "c") as first:
        begun = asyncio.Event()
        first.consumer("q")(lambda body: None)
        ended = asyncio.create_task(first.run(until_empty=True))  # it began first, and is over by then
        await asyncio.sleep(0)

        @one.consumer("q")
        async def handle(body: int) -> None:
            begun.set()

        other.consumer("q")(lambda body: None)
        runs = [asyncio.create_task(each.run()) for each in (one, other)]
        await one.queue("q").publish(1)
        await begun.wait()
        await ended
        os.kill(os.getpid(), number)
        await asyncio.gather(*runs)
        assert (await one.queue("q").stats()).acked == 1
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_brokers_of_a_loop(tmp_path: Path, number: int) -> None:
    asyncio.run(asyncio.wait_for(stopped_by(number, tmp_path), PATIENCE))


@pytest.fixture
def own_handler() -> Iterator[list[int]]:
    """The program handles SIGTERM itself; the signals that it got."""
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    yield heard
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("by_loop", [False, True])
def test_a_signal_that_the_program_handles_stays_the_programs(own_handler: list[int], by_loop: bool) -> None:
    """As those of a web server, in whose loop the broker runs: the program cancels it."""
    heard: list[int] = []

    async def main() -> None:
        async with mq.aopen(":memory:") as broker:
            begun, ended = asyncio.Event(), asyncio.Event()
            if by_loop:
                asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, heard.append, signal.SIGTERM)

            @broker.consumer("q")
            async def handle(body: int) -> None:
                os.kill(os.getpid(), signal.SIGTERM)
                begun.set()
                await ended.wait()

            await broker.queue("q").publish(1)
            work = asyncio.create_task(broker.run())
            await begun.wait()
            await broker.queue("q").publish(2)
            ended.set()
            while (await broker.queue("q").stats()).acked < 2:  # it takes more
                await asyncio.sleep(0)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert len(heard if by_loop else own_handler) == 2


# ── run, cancelled ─────────────────────────────────────────────────────────────────


def test_a_run_that_is_cancelled_lets_work_end_and_once_more_gives_it_up() -> None:
    """Either way it returns when no handler's message is held any more."""

    async def main() -> None:
        async with mq.aopen(":memory:") as broker:
            q, begun, end = broker.queue("q"), asyncio.Event(), asyncio.Event()

            @broker.consumer(q)
            async def handle(body: int) -> None:
                begun.set()
                await end.wait()

            async def cancelled(*, times: int) -> None:
                begun.clear()
                work = asyncio.create_task(broker.run(grace=3600))
                await begun.wait()
                for _ in range(times):
                    work.cancel()
                    await asyncio.sleep(0)
                    assert not work.done()
                if times == 1:
                    end.set()
                with pytest.raises(asyncio.CancelledError):
                    await work

            await q.publish(1)
            await cancelled(times=2)
            assert [each.attempts for each in await q.peek()] == [0]
            await cancelled(times=1)
            assert (await q.stats()).acked == 1

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


@pytest.mark.parametrize("kept", [False, True])
def test_a_run_whose_loop_is_closed_gives_back_what_it_took(tmp_path: Path, kept: bool) -> None:
    """Once its task is forgotten, or there is a message for a task of that loop."""
    loop, begun = asyncio.new_event_loop(), threading.Event()

    async def begin() -> tuple[mq.AsyncBroker, asyncio.Task[None]]:
        broker = await mq.aopen(tmp_path)
        q = broker.queue("q", visibility_timeout=3600)

        @broker.consumer(q, concurrency=2)
        async def handle(body: int) -> None:
            begun.set()
            await asyncio.Event().wait()

        await q.publish(1)
        run = asyncio.create_task(broker.run())
        while not begun.is_set():
            await asyncio.sleep(0)
        return broker, run

    broker, run = loop.run_until_complete(begin())
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    del task
    loop.close()
    with mq.open(tmp_path) as other:
        q = other.queue("q")
        if kept:
            q.publish(2)
        else:
            del run
        until(lambda: _collect() or q.stats().ready == 1 + kept)
        assert [each.attempts for each in q.peek()] == [0] * (1 + kept)
    asyncio.run(broker.close())
    run = None
    collector = threading.Thread(target=gc.collect)  # where signals may not be handled
    collector.start()
    collector.join(PATIENCE)


def _collect() -> None:
    gc.collect()


# ── forks ──────────────────────────────────────────────────────────────────────────


def in_child(main: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Fork, and run it there, in a loop of its own; how the child ended."""
    if (pid := os.fork()) == 0:
        code = 1
        try:
            signal.alarm(int(PATIENCE))
            asyncio.run(main())
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # to fork where there are threads
@pytest.mark.parametrize("do", ["publish", "receive", "close", "run"])
def test_the_child_of_a_fork_has_a_lane_of_its_own(tmp_path: Path, do: str) -> None:
    """The parent's has threads, which the child has not, and one of them is at work as it forks."""

    async def main() -> None:
        async with mq.aopen(tmp_path) as broker:
            q = broker.queue("q")
            await asyncio.gather(*[q.publish(n) for n in range(3)])
            broker.consumer("mail")(lambda body: None)

            async def child() -> None:
                if do == "publish":
                    await asyncio.gather(*[q.publish(n) for n in range(3, 6)])
                elif do == "receive":
                    waits = asyncio.create_task(broker.queue("empty").receive())
                    assert len(await q.receive_many(9)) == 3
                    await broker.queue("empty").publish("x")
                    await (await waits).ack()
                elif do == "run":
                    await broker.queue("mail").publish(1)
                    await broker.run(until_empty=True)
                await broker.close()
                with pytest.raises(mq.Closed):
                    await q.publish(7)

            with broker._lane._syncs._lock:
                assert in_child(child) == 0
            assert sorted([each.body for each in await q.peek()]) == {
                "publish": [0, 1, 2, 3, 4, 5],
                "receive": [],  # until its visibility timeout: the child settled nothing
            }.get(do, [0, 1, 2])
            await q.publish(8)

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
