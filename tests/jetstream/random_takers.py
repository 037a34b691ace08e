"""Three processes that do anything to two queues, in each other's appends; and what all must agree on.

    python tests/jetstream/random_takers.py [--minutes N] [--seed S]

Whatever they do, all see the same: those that have read the whole stream, and those that open the store late,
with a checkpoint and without one, from the first message that is left.  And so does the auditor, which
knows FORMAT.md and nothing of how mq decides.  Time passes when a step says so.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import click
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from auditor import audit, read
from fakes import FakeClock
from logs import log_of
from servers import Cluster

import mq
from mq.engine import ahead
from mq.nats import following, takes
from mq.nats import log as stream_log

NAMES: Final = ("q", "other")
STATES: Final[tuple[mq.State, ...]] = ("ready", "delayed", "in_flight")
TIMEOUTS: Final = (3600.0, 3600.0, 5.0)  # of a delivery
STEPS: Final = 60
MEANWHILE_SHARE: Final = 0.4  # of the appends: once they are decided, another process does something
LOOK_SHARE: Final = 0.1
ALL: Final = 999


class Disagreement(AssertionError):
    """Two see the store otherwise."""


class Process:
    """A broker, and what it holds."""

    def __init__(self, name: str, broker: mq.Broker, chance: random.Random, clock: FakeClock) -> None:
        self.name, self.broker, self.chance, self.clock = name, broker, chance, clock
        self.held: list[mq.Delivery[Any]] = []
        self.loop: Iterator[mq.Delivery[Any]] | None = None
        self.is_waiting = False  # in the midst of an operation that would wait if its message is gone
        self._store: Any = broker._store

    def queue(self) -> mq.Queue[Any]:
        return self.broker.queue(self.chance.choice(NAMES) if self.chance.random() < 0.3 else "q")

    def one(self) -> mq.Delivery[Any] | None:
        """A message that it holds, and mostly settles now."""
        if not self.held:
            return None
        message = self.chance.choice(self.held)
        if self.chance.random() < 0.9:
            self.held.remove(message)
        return message

    # ── what it may do ─────────────────────────────────────────────────────────────

    def publish(self) -> None:
        self.queue().publish(f"{self.name}{self.chance.randrange(1000)}")

    def publish_oddly(self) -> None:
        options: dict[str, Any] = self.chance.choice(
            [{"priority": 9}, {"priority": 1}, {"delay": 3}, {"group": "g"}, {"group": "h"}, {"ttl": 20},
             {"headers": {"a": "b"}}, {"dedup_id": "d"}, {"priority": 2, "delay": 3, "ttl": 60}]
        )  # fmt: skip
        self.queue().publish("odd", **options)

    def publish_many(self) -> None:
        self.queue().publish_many(["m1", "m2", "m3"])

    def receive(self) -> None:
        timeout = self.chance.choice(TIMEOUTS)
        if message := self.queue().receive(timeout=0, visibility_timeout=timeout):
            self.held.append(message)

    def receive_many(self) -> None:
        count = self.chance.choice([1, 2, 5])
        self.held += self.queue().receive_many(
            count, timeout=0, visibility_timeout=self.chance.choice(TIMEOUTS)
        )

    def ack(self) -> None:
        if message := self.one():
            message.ack()

    def nack(self) -> None:
        if message := self.one():
            message.nack(delay=self.chance.choice([None, 0, 4]))

    def release(self) -> None:
        if message := self.one():
            message.release()

    def extend(self) -> None:
        if message := self.one():
            message.extend(self.chance.choice([1, 30, 3600]))

    def reject(self) -> None:
        if message := self.one():
            message.reject("bad")

    def settle_many(self) -> None:
        some = [message for message in self.held if message.queue == "q"][:3]
        queue = self.broker.queue("q")
        for message in some:
            self.held.remove(message)
        self.chance.choice([queue.ack_many, queue.release_many, queue.nack_many])(some)

    def transaction(self) -> None:
        message = self.one()
        with self.broker.transaction() as transaction:
            if message:
                transaction.ack(message)
            transaction.publish(self.queue(), "with it")

    def work(self) -> None:
        """A few turns of a loop, whose acks take the next message along."""
        queue, store = self.broker.queue("q"), self._store
        queue.stats()  # it has followed
        if self.loop is None:
            self.loop = iter(queue)
        for _ in range(self.chance.choice([2, 3, 5])):
            if store.replica.state.named("q").head(store.clock.now()) is None:
                return  # else it would wait
            self.is_waiting = True
            message = next(self.loop)
            self.is_waiting = False
            message.ack()

    def leave_loop(self) -> None:
        loop: Any = self.loop
        if loop is not None:
            self.loop = None
            loop.close()

    def purge(self) -> None:
        self.queue().purge(in_flight=self.chance.random() < 0.5)

    def declare(self) -> None:
        options: dict[str, Any] = self.chance.choice(
            [{"max_attempts": 2}, {"max_attempts": None}, {"max_length": 6, "overflow": "drop_oldest"},
             {"max_length": None}, {"ttl": 50}, {"ttl": None}, {"delay": 2}, {"delay": 0}]
        )  # fmt: skip
        self.broker.queue("q", **options)

    def delete(self) -> None:
        self.broker.queue("other").delete()

    def rename(self) -> None:
        with suppress(mq.UsageError):  # another queue has that name
            self.broker.queue("other").rename("another")

    def pause(self) -> None:
        queue = self.broker.queue("other")
        queue.resume() if queue.stats().paused else queue.pause()

    def change(self) -> None:
        there = self.broker.queue("q").peek(3)
        if there:
            id = self.chance.choice(there).id
            queue = self.broker.queue("q")
            queue.cancel(id) if self.chance.random() < 0.5 else queue.reschedule(
                id, delay=self.chance.choice([0, 3])
            )

    def replay(self) -> None:
        self.broker.queue("q.dead").replay()

    def trim(self) -> None:
        self._store.maintenance.cleaning.trim()

    def trim_all(self) -> None:
        self._store.maintenance.cleaning.trim_all()

    def keep(self) -> None:
        self._store.maintenance.checkpoints.write()

    def pass_time(self) -> None:
        self.clock.advance(self.chance.choice([0.5, 2, 6]))


OFTEN: Final = ("publish", "publish", "publish", "receive", "receive", "ack", "ack", "work")
SOMETIMES: Final = (
    "publish_oddly", "publish_many", "receive_many", "nack", "release", "extend", "reject", "settle_many",
    "transaction", "pass_time", "pass_time",
)  # fmt: skip
SELDOM: Final = (
    "purge", "declare", "delete", "rename", "pause", "change", "replay", "trim", "trim", "trim_all", "keep",
    "leave_loop",
)  # fmt: skip
REFUSED: Final = (mq.StaleReceipt, mq.QueueFull)


def picture(broker: mq.Broker) -> dict[str, object]:
    """All that the store holds."""
    found: dict[str, object] = {}
    for name in broker.queues():
        queue = broker.queue(name)
        there = {
            state: [(each.id, each.body, each.attempts) for each in queue.peek(ALL, state=state)]
            for state in STATES
        }
        found[name] = there, dict(queue.options())
    return found


def counts(broker: mq.Broker) -> dict[str, object]:
    return {name: broker.queue(name).stats()._replace(oldest_age=0) for name in broker.queues()}


class Story:
    """What the processes of one store do, as the *seed* says."""

    def __init__(self, cluster: Cluster, seed: str) -> None:
        self._cluster, self._chance, self._clock = cluster, random.Random(seed), FakeClock()
        self._name = f"s{uuid.uuid4().hex}"
        self.told: list[str] = []
        self._processes: list[Process] = []
        self._active: list[Process] = []  # those in the midst of an operation, each inside of the one before

    def play(self, steps: int = STEPS) -> None:
        """Disagreement says what happened before."""
        with ExitStack() as undo:
            patch = undo.enter_context(pytest.MonkeyPatch.context())
            random.seed(self._chance.random())  # of the engine
            patch.setattr(os, "urandom", random.Random(self._chance.random()).randbytes)
            patch.setattr(following, "FENCE_MESSAGES", self._chance.choice([4, 12, 256]))
            patch.setattr(stream_log, "WAY_SECONDS", 0.001)  # the other one is in the midst of its append
            patch.setattr(takes, "OFTEN", self._chance.choice([1, takes.OFTEN]))
            patch.setattr(ahead, "PROMPT_SECONDS", 100.0)
            patch.setattr(ahead, "GIVE_BACK_SECONDS", 100.0)
            self._processes = [
                Process(name, undo.enter_context(self._open()), self._chance, self._clock) for name in "abc"
            ]
            for process in self._processes:
                self._weave(process)
            self._processes[0].broker.queue("q", visibility_timeout=3600.0, backoff=mq.Backoff(1, 2, 8, 0.5))
            self._processes[0].broker.queue("other", visibility_timeout=3600.0)
            try:
                for _ in range(steps):
                    self._do(self._chance.choice(self._processes), self._draw())
                    if self._chance.random() < LOOK_SHARE:
                        self._look()
                for process in self._processes:
                    process.leave_loop()
                self._look()
            except AssertionError as error:
                raise Disagreement(f"{error}\n{self.told}") from error

    def _open(self) -> mq.Broker:
        return mq.open(self._cluster.url(self._name), clock=self._clock)

    def _weave(self, process: Process) -> None:
        """Before an append of the *process* is sent, others do something, perhaps."""
        sending: Any = log_of(process.broker)._sending

        def woven(send: Callable[..., Any]) -> Callable[..., Any]:
            def send_behind(*given: Any) -> Any:
                self._interrupt(process)
                return send(*given)

            return send_behind

        sending.share, sending.send = woven(sending.share), woven(sending.send)

    def _interrupt(self, process: Process) -> None:
        idle = [each for each in self._processes if each not in self._active]
        if process.is_waiting or not self._active or not idle or self._chance.random() > MEANWHILE_SHARE:
            return
        rival = self._chance.choice(idle)
        for _ in range(self._chance.choice([1, 1, 2])):
            self._do(rival, self._draw())

    def _draw(self) -> str:
        return self._chance.choice(self._chance.choices([OFTEN, SOMETIMES, SELDOM], [6, 3, 1])[0])

    def _do(self, process: Process, name: str) -> None:
        self.told.append(f"{'  ' * len(self._active)}{process.name}:{name}")
        self._active.append(process)
        try:
            getattr(process, name)()
        except REFUSED as error:
            self.told.append(f"{type(error).__name__} {name}")
        finally:
            self._active.pop()

    def _look(self) -> None:
        """All agree."""
        with ExitStack() as undo:
            late = undo.enter_context(self._open())
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("mq.nats.opening.fetch", lambda *args: None)
                later = undo.enter_context(self._open())
            readers = {process.name: process.broker for process in self._processes}
            readers |= {"with a checkpoint": late, "without a checkpoint": later}
            for broker in readers.values():
                picture(broker)  # what is due is done, and all follow
            seen = {name: (picture(broker), counts(broker)) for name, broker in readers.items()}
            first = seen["a"]
            for name, other in seen.items():
                assert other[0] == first[0], f"{name} sees\n{other[0]}\nand a sees\n{first[0]}"
                assert other[1] == first[1], f"{name} counts\n{other[1]}\nand a counts\n{first[1]}"
            found = audit(asyncio.run(read(self._cluster.servers(), self._name)), late.store_id)
        assert not found.wrong, found.wrong
        states: Any = first[0]
        contents = {
            name: {id: attempts for part in there.values() for id, _, attempts in part}
            for name, (there, _) in states.items()
        }
        audited = found.contents(int(self._clock() * 1000))
        assert audited == contents, f"the auditor sees\n{audited}\nand a sees\n{contents}"
        self.told.append("all agree")


@click.command(help=__doc__.partition("\n")[0])
@click.option("--minutes", default=1.0, show_default=True)
@click.option("--seed", default=None, help="as it was printed; without it new ones")
def main(minutes: float, seed: str | None) -> None:
    give_up = time.monotonic() + 60 * minutes
    seeds = [seed] if seed else (str(random.randrange(1 << 32)) for _ in iter(int, 1))
    with tempfile.TemporaryDirectory() as scratch, Cluster(Path(scratch), 1, sync="2m") as cluster:
        for count, each in enumerate(seeds, 1):
            try:
                Story(cluster, each).play()
            except Disagreement as error:
                raise SystemExit(f"seed {each}: {error}") from error
            if time.monotonic() > give_up:
                print(f"{count} stories")
                break


if __name__ == "__main__":
    main()
