"""What a simulated process does with the store, and tells the witness.

    a.open()                   as mq.open does, on its own face of the disk
    a.publish("q", 2)          two bodies in one group
    a.take("q"), a.ack(), …    the oldest that it holds

Any operation may be cut short by the death of the process.  An error is excused only if a
call has failed before (StoreFailed, then the actor closes the store), or if the operation
expects it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from mq.api.broker import Broker
from mq.engine import scheduler
from mq.engine.store import Store
from mq.errors import MqError, StaleReceipt, StorageError, StoreFailed
from mq.storage.shared import OFFSET, waits_word

from .compared import KEY
from .driver import PATH, PEEK_MAX, Wrong
from .kernel import Killed, Process
from .op import Op, Taken
from .view import TICK, TOPIC, View, known_as, view
from .witness import Witness

P = ParamSpec("P")


def when_open(method: Callable[Concatenate[Actor, P], None]) -> Callable[Concatenate[Actor, P], None]:
    """Nothing is asked of a store that is not open: its opening was refused, or it has failed."""

    @wraps(method)
    def call(self: Actor, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.broker:
            method(self, *args, **kwargs)

    return call


class Actor:
    def __init__(self, process: Process, witness: Witness) -> None:
        self.process, self.witness, self.name = process, witness, process.name
        self.broker: Broker | None = None
        self.held: list[Taken] = []
        self.seen: View | None = None  # all that the store held when it looked
        self.deliveries: dict[Taken, Any] = {}
        self.opened = False  # it may be present
        self.failed = False  # it was told that the store has failed
        self.read_only = False
        self._published = 0
        self._topic: Any = None
        self._sync: str | float = "always"

    # ── opening and closing ────────────────────────────────────────────────────────

    def open(
        self, sync: str | float = "always", *, exclusive: bool = False, read_only: bool = False,
        segment_bytes: int = 1024, excuse: tuple[type[MqError], ...] = (),
    ) -> None:  # fmt: skip
        if self.broker:
            return
        self._sync, self.read_only = sync, read_only
        with self._op("open", excuse=excuse):
            self.opened = not read_only

            try:
                self.broker = open_for(
                    self.process, sync, exclusive=exclusive, read_only=read_only, segment_bytes=segment_bytes
                )
            except (MqError, OSError):
                self.opened = False
                raise

    def close(self) -> None:
        broker, self.broker = self.broker, None
        if broker:
            self.held.clear()
            with self._op("close") as op:
                op.syncs = not self.read_only
                broker.close()
            self.opened = False

    def fall_asleep(self, queue: str) -> None:
        """What a receiver does that finds nothing: it asks to be woken, and sleeps."""
        store = self._broker()._store
        with self._op("sleep", queue), store.turn.mutex:
            try:
                store.turn.enter()
                store.listener.ask({waits_word(queue)})
            finally:
                store.turn.leave()

    def bell(self) -> str:
        """The path of what wakes it."""
        return self.process.disk.path_of(self._broker()._store.listener._bell)

    def see_all(self) -> None:
        assert self.broker
        self.seen = view(self.broker)

    def rest(self) -> None:
        """Let the others go on."""
        self.process.disk.pause(0)

    # ── operations ─────────────────────────────────────────────────────────────────

    @when_open
    def publish(self, queue: str, count: int = 1, *, size: int = 0, group: str | None = None) -> None:
        options = {} if group is None else {"group": group}
        with self._publishing("publish", queue, count, size, group) as op:
            handle, bodies = self._queue(queue), op.bodies
            ids = handle.publish_many(bodies, **options) if count > 1 else [
                handle.publish(bodies[0], **options)
            ]  # fmt: skip
            self.witness.ids.update(zip(bodies, ids, strict=True))

    @when_open
    def fan_out(self, *, size: int = 0, group: str | None = None) -> None:
        """Publish to the topic, which fits every pattern."""
        options = {} if group is None else {"group": group}
        with self._publishing("fan_out", "", 1, size, group) as op:
            if self._topic is None or self._topic._store is not self._broker()._store:
                self._topic = self._broker().topic(TOPIC)  # and no other: it keeps what it has looked up
            self.witness.ids[op.bodies[0]] = self._topic.publish(op.bodies[0], **options)

    @contextmanager
    def _publishing(self, kind: str, queue: str, count: int, size: int, group: str | None) -> Iterator[Op]:
        bodies = tuple(self._body(size) for _ in range(count))
        with self._op(kind, queue) as op:
            op.bodies, op.syncs = bodies, self._sync == "always"
            self.witness.published.update((body, op) for body in bodies)
            if group is not None:
                self.witness.groups.update((body, group) for body in bodies)
            yield op

    def _body(self, size: int) -> bytes:
        self._published += 1
        text = b"%s%d." % (self.name.encode(), self._published)
        return text + b"\xa5" * max(0, size - len(text))

    @when_open
    def take(
        self, queue: str, limit: int = 0, *, visibility_timeout: float | None = None,
        per_group: int | None = 1,
    ) -> None:  # fmt: skip
        """Receive one, or up to *limit*."""
        with self._op("take", queue) as op:
            op.limit = limit
            handle = self._queue(queue)
            if limit:
                got = handle.receive_many(
                    limit, timeout=0, visibility_timeout=visibility_timeout, per_group=per_group
                )
            else:
                one = handle.receive(timeout=0, visibility_timeout=visibility_timeout)
                got = [one] if one else []
            for each in got:
                body = known_as(each.id, each.raw)
                taken = Taken(body, each.id, each._lsn, each.attempts, each._due_ms or 0, op)
                op.got.append(taken)
                self.witness.taken.setdefault((queue, body), []).append(taken)
                self.held.append(taken)
                self.deliveries[taken] = each

    @when_open
    def ack(self, taken: Taken | None = None) -> None:
        self._settle("ack", taken, lambda op, each: each.ack())

    @when_open
    def release(self, taken: Taken | None = None) -> None:
        self._settle("release", taken, lambda op, each: each.release())

    @when_open
    def nack(self, delay: float = 0.0, taken: Taken | None = None) -> None:
        def call(op: Op, each: Any) -> None:
            op.when = self._now()[1] + int(delay * 1000) if delay else 0
            each.nack(delay=delay)

        self._settle("nack", taken, call)

    @when_open
    def back_off(self, taken: Taken | None = None) -> None:
        def call(op: Op, each: Any) -> None:
            now, op.rests = self._now()[0], True
            op.when, op.latest = (now + int(each.attempts * factor * 1000) for factor in (0.5, 3))
            each.nack()

        self._settle("nack", taken, call)

    @when_open
    def extend(self, seconds: float = 60.0, taken: Taken | None = None) -> None:
        def call(op: Op, each: Any) -> None:
            op.when = self._now()[0] + int(seconds * 1000)
            each.extend(seconds)

        self._settle("extend", taken, call)

    @when_open
    def ack_elsewhere(self, taken: Taken) -> None:
        """By its receipt, as anybody can."""
        with self._op("ack", taken.op.queue, excuse=(StaleReceipt,)) as op:
            op.of = taken
            taken.settled.append(op)
            queue = self._queue(taken.op.queue)
            queue.ack_many([queue._receipt(taken.id, taken.receipt)])

    def _settle(self, kind: str, taken: Taken | None, call: Callable[[Op, Any], None]) -> None:
        if taken is None:
            if not self.held:
                return
            taken = self.held[0]
        if kind != "extend" and taken in self.held:
            self.held.remove(taken)
        with self._op(kind, taken.op.queue, excuse=(StaleReceipt,)) as op:
            op.of = taken
            taken.settled.append(op)
            call(op, self.deliveries[taken])

    @when_open
    def declare(self, queue: str, visibility_timeout: float) -> None:
        with self._op("declare", queue) as op:
            op.value, op.syncs = visibility_timeout, self._sync == "always"
            self._broker().queue(queue, visibility_timeout=visibility_timeout)

    @when_open
    def subscribe(self, queue: str, pattern: str = "#", *, since: bool = False) -> None:
        """*since*: with all that the topic retains."""
        with self._op("subscribe", queue) as op:
            op.pattern, op.since, op.syncs = pattern, since, self._sync == "always"
            self._queue(queue).subscribe(pattern, since=0 if since else None)

    @when_open
    def unsubscribe(self, queue: str, pattern: str = "#") -> None:
        with self._op("unsubscribe", queue) as op:
            op.pattern, op.syncs = pattern, self._sync == "always"
            self._queue(queue).unsubscribe(pattern)

    @when_open
    def retain(self, count: int) -> None:
        with self._op("retain") as op:
            op.value, op.syncs = count, self._sync == "always"
            self._broker().topic(TOPIC, retain_count=count)

    @when_open
    def read_history(self) -> None:
        with self._op("history") as op:
            op.read += [(each.id, each.raw) for each in self._broker().topic(TOPIC).history()]

    @when_open
    def schedule(self, name: str, queue: str, every: float) -> None:
        """Each of its ticks comes, however late."""
        with self._op("schedule", queue) as op:
            op.pattern, op.value, op.syncs = name, every * 1000, self._sync == "always"
            self._broker().schedule(name, queue, TICK + name.encode(), every=every, missed="all")

    @when_open
    def tick(self) -> None:
        """What the thread for ticks does."""
        with self._op("tick"):
            scheduler.tick(self._broker()._store)

    @when_open
    def compare_and_set(self, queue: str) -> None:
        """Read a text, and put another one in its place."""
        with self._op("read meta", queue) as op:
            op.text = self._queue(queue).meta().get(KEY, "")
        if self.broker and op.returned:
            self._published += 1
            with self._op("compare", queue) as setting:
                setting.expect, setting.text = op.text, f"{self.name}{self._published}"
                setting.syncs = self._sync == "always"
                setting.value = self._queue(queue).update_meta(
                    {KEY: setting.text}, expect={KEY: setting.expect or None}
                )

    @when_open
    def options(self, queue: str) -> None:
        with self._op("options", queue) as op:
            op.value = self._queue(queue).options()["visibility_timeout"]

    @when_open
    def purge(self, queue: str) -> None:
        with self._op("purge", queue):
            self._queue(queue).purge()

    @when_open
    def flush(self) -> None:
        with self._op("flush") as op:
            op.syncs = True
            self._broker().flush()

    @when_open
    def maintain(self, checkpoint_bytes: int = 1) -> None:
        with self._op("maintain"):
            maintenance = self._broker()._store.maintenance
            maintenance.run(checkpoint_bytes)
            if maintenance.cleaning.trouble and not self.process.kernel.disk.fired:
                raise Wrong(f"P9: space is not given back: {maintenance.cleaning.trouble!r}")

    @when_open
    def compact(self) -> None:
        with self._op("compact"):
            self._broker()._store.maintenance.compact()

    @when_open
    def look(self, queue: str) -> None:
        with self._op("look", queue):
            self._queue(queue).peek(PEEK_MAX)

    def sleep(self, seconds: float) -> None:
        self.process.kernel.seconds += seconds

    def set_wall_clock(self, seconds: float) -> None:
        """The clock is set: so much forward."""
        self.process.kernel.wall_shift += seconds

    # ── one operation ──────────────────────────────────────────────────────────────

    def _broker(self) -> Broker:
        assert self.broker
        return self.broker

    def _queue(self, name: str) -> Any:
        return self._broker().queue(name)

    def _now(self) -> tuple[int, int]:
        """Store time, by the page and not by what the process makes of it; and wall time."""
        kernel = self.process.kernel
        words, wall = kernel.disk.words_of(f"{PATH}/mark"), int(kernel.wall * 1000)
        offset = words[OFFSET] if words else 0
        return int(kernel.seconds * 1000) + offset - (offset >> 63 << 64), wall

    @contextmanager
    def _op(self, kind: str, queue: str = "", excuse: tuple[type[MqError], ...] = ()) -> Iterator[Op]:
        witness, kernel = self.witness, self.process.kernel
        op = Op(self.name, kind, queue, witness.tick(), self._now())
        witness.ops.append(op)
        self.process.steps = 0
        try:
            yield op
            op.outcome = "returned"
        except Killed:
            op.error = "killed"
            raise
        except KeyboardInterrupt:
            op.error = "interrupted"
        except excuse as error:
            op.outcome, op.error = "stale", type(error).__name__
        except StoreFailed as error:
            self._told(op, error)
        except StorageError as error:
            if not kernel.disk.fired:
                raise Wrong(f"P9: {op}: {error!r}") from error
            op.error = repr(error)
        except Exception as error:
            raise Wrong(f"P9: {op}: {error!r}") from error
        finally:
            if self.process.alive and op.error != "StoreFailed":
                op.end, op.end_ms = witness.tick(), self._now()

    def _told(self, op: Op, error: StoreFailed) -> None:
        """The store has failed: close it, as one is told to."""
        if not self.process.kernel.disk.fired:
            raise Wrong(f"P9: {op}: {error!r}") from error
        op.error, op.end, op.end_ms = "StoreFailed", self.witness.tick(), self._now()  # before it is closed
        self.failed = True
        if self.broker:
            self.held.clear()
            broker, self.broker = self.broker, None
            self.opened = False
            with suppress(StoreFailed):
                broker.close()


def open_for(
    process: Process, sync: str | float, *, exclusive: bool, read_only: bool, segment_bytes: int
) -> Broker:  # fmt: skip
    return Broker(
        Store(
            PATH, sync=sync, read_only=read_only, segment_bytes=segment_bytes, clock=None,
            disk=process.disk, background=False, exclusive=exclusive,
        )
    )  # fmt: skip
