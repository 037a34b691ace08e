"""One process that uses a store through the public handles, and writes the history.

    driver.open()                  begins a life; again after close()
    driver.publish("a", 2)         two bodies in one group
    driver.take("a")               receives; the delivery is held until it is settled
    driver.ack(), nack(), …        the oldest that is held

Bodies are made up here, each different, some of them the image of a record.  *only*
leaves out all operations but those numbered so: that is how a failure is made shorter.
When a call says that the store has failed, the driver does as it is told: it looks
whether the failure stays, closes, and opens again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mq.api.broker import Broker
from mq.api.message import Delivery
from mq.delivery import records
from mq.delivery.queue import State
from mq.engine import backfill
from mq.engine.store import Store
from mq.errors import DiskFull, MqError, StaleReceipt, StorageError, StoreFailed
from mq.storage import record

from . import history as model
from .disk import SimulatedDisk
from .history import Found, History

PATH = "data/store"  # neither is there
PEEK_MAX = 1000
SCHEDULE_SECONDS = 300_000_000  # between two ticks: none is due by itself
PASSERS_BY = 8  # more than there are queues with something due
GOLDEN = Path(__file__).parents[1] / "golden" / "v1"
EPOCH = 1_700_000_000.0  # seconds since 1970, when every workload begins


class Wrong(BaseException):
    """A promise was broken.  Not an Exception: nothing under test may swallow it."""


class Driver:
    def __init__(
        self, disk: SimulatedDisk, history: History, *,
        start: float = EPOCH, only: set[int] | None = None, dot: bytes = b".",
    ) -> None:  # fmt: skip
        """*dot*: what the numbers in bodies end with; another one for a store that is to differ."""
        self.disk, self.history = disk, history
        self.clock = start
        self.held: list[tuple[str, Delivery[Any]]] = []
        self.done = 0
        self._only, self._dot = only, dot
        self._broker: Broker | None = None
        self.options: dict[str, Any] = {}

    @property
    def tag(self) -> str:
        """What the receipts of the store that is open end with; "" if none is."""
        return self._broker._store.tag if self._broker else ""

    # ── opening and closing ────────────────────────────────────────────────────────

    def open(self, sync: str = "always", segment_bytes: int = 1024) -> None:
        """Not numbered: without it there is nothing."""
        self.options = {"sync": sync, "segment_bytes": segment_bytes}
        history, begun = self.history, self.disk.calls
        history.begin(f"open(sync={sync!r})", model.unchanged)
        # What a recovery has found stands closed until something is appended to it.
        history.closed |= history.allowed(power=True)
        try:
            self._broker = open_store(self.disk, self.tick, **self.options)
        except (MqError, OSError) as error:
            history.raised(repr(error), nothing_done=True)
            self._excuse(error, begun)
            self.open(sync, segment_bytes)
            return
        history.returns()
        history.on_disk()
        history.store_id = history.store_id or self._broker.store_id
        self._narrow()

    def inherit(self, name: str) -> None:
        """Begin with a store that mq 0.1.0 left: one of tests/golden/v1."""
        if self._dot != b".":
            return  # a store that is to differ has another key, too
        golden = GOLDEN / name
        paths = [each for each in golden.rglob("*") if each.is_file()]
        self.disk.lay_out({f"{PATH}/{each.relative_to(golden)}": each.read_bytes() for each in paths})
        broker = open_store(self.disk.after_kill(), self.tick)
        held, ids = contents(broker)
        history = self.history
        history.reborn(Found(broker._store.replica.verdict.value, broker.store_id, held, ids), platter=True)
        history.published.update((body, queue) for queue, _, body in ids)
        history.store_id = broker.store_id
        history.closed.add(held)

    def _excuse(self, error: Exception, begun: int) -> None:
        """Errors are for those whose disk has just failed."""
        if self.disk.fired <= begun:
            raise Wrong(f"P9: {error!r}") from None

    def _narrow(self) -> None:
        """After an outcome unknown, look which it was."""
        if self._broker is None or len(self.history.now) == 1:
            return
        try:
            found = contents(self._broker)[0]
        except StorageError as error:
            self._excuse(error, self.disk.calls - 1)
            self._narrow()  # the fault has struck, the next try meets none
            return
        if not self.history.narrow(found):
            raise Wrong(f"P6: neither done nor not: {found!r}")

    def close(self) -> None:
        if self._skip() or self._broker is None:
            return
        self.history.begin("close()", model.unchanged)
        self.history.closed.update(map(model.key, self.history.now))
        broker, self._broker, begun = self._broker, None, self.disk.calls
        self.held.clear()
        try:
            broker.close()
            self.history.returns()
            self.history.on_disk()
        except StorageError as error:
            self._excuse(error, begun)
            self.history.raised(type(error).__name__)

    def reopen(self, *, from_log: bool = False, **options: Any) -> None:
        """*from_log*: the checkpoints are gone, if they can be removed, which costs nothing but time."""
        self.close()
        if self._broker is None:
            if from_log:
                with suppress(OSError):
                    for name in self.disk.names(f"{PATH}/checkpoint"):
                        self.disk.unlink(f"{PATH}/checkpoint/{name}")
            self.open(**{**self.options, **options})

    def tick(self) -> float:
        return self.clock

    def sleep(self, seconds: float) -> None:
        self.clock += seconds

    # ── operations ─────────────────────────────────────────────────────────────────

    def declare(self, name: str, visibility_timeout: float, **options: Any) -> None:
        if not self._skip():
            self._do(
                f"declare({name!r}, {visibility_timeout}, {options})",
                model.declare(name, visibility_timeout),
                lambda broker: broker.queue(name, visibility_timeout=visibility_timeout, **options),
                syncs=True,
            )

    def update_meta(self, name: str, key: str, text: str, expect: str | None = None) -> None:
        """Compare and set."""
        if not self._skip():
            self._do(
                f"update_meta({name!r}, {key!r}, {text[:9]!r}, {expect!r})",
                model.update_meta(name, key, text, expect),
                lambda broker: broker.queue(name).update_meta({key: text}, expect={key: expect}),
                syncs=True,
            )

    def publish(
        self, name: str, count: int = 1, *, size: int = 0, group: bool = False, **options: Any
    ) -> None:
        """*count* messages at once; as a batch if there are more than one, or *group*."""
        if self._skip():
            return
        history = self.history
        bodies = tuple(make_body(len(history.published) + index, size, self._dot) for index in range(count))
        history.published.update((body, name) for body in bodies)
        if options:
            place = options.get("priority", 0), options.get("group_name")
            history.said.update((body, place) for body in bodies)
            options = {"group" if key == "group_name" else key: each for key, each in options.items()}
        if count > 1:
            history.groups.update((body, bodies) for body in bodies)
        lasting = () if "ttl" in options else bodies  # `contents` leaves out what will expire

        def call(broker: Broker) -> None:
            queue = broker.queue(name)
            batch = count > 1 or group
            ids = queue.publish_many(bodies, **options) if batch else [queue.publish(bodies[0], **options)]
            for id, body in zip(ids, bodies, strict=True):
                self._learn(id, body)
            history.returned.update(lasting)

        sizes = f"{count} × {len(bodies[0])} bytes" if count > 1 else f"{len(bodies[0])} bytes"
        # What expires is not followed: it is never shown, whenever a process looks.
        step = model.publish(name, lasting)
        self._do(f"publish({name!r}, {sizes}, {options})", step, call, syncs=True)

    def schedule(self, name: str, to: str) -> None:
        """With a body of its own; declared again it has another one, and ticks when it would have."""
        if self._skip():
            return
        body = make_body(len(self.history.published), 0, self._dot)
        self.history.published[body] = to
        first = int(self.clock * 1000) + SCHEDULE_SECONDS * 1000
        self._do(
            f"schedule({name!r}, {to!r}, {len(body)} bytes)",
            model.scheduled(name, to, body, first),
            lambda broker: broker.schedule(name, to, body, every=SCHEDULE_SECONDS, missed="all"),
            syncs=True,
        )

    def do_tick(self, name: str) -> None:
        """At the time by the wall clock at which it is due, far from now; it does not wait for the disk."""
        if self._skip():
            return

        def call(broker: Broker) -> None:
            store = broker._store
            entry = store.replica.state.calendar.get(name)
            if entry and not try_to(store, entry.when) and store.committer.no_room:
                store.committer.no_room = False
                store.maintenance.make_way()
                try_to(store, entry.when)  # it was put off

        def try_to(store: Store, when: int) -> bool:
            wall_ms = store.clock.wall_ms
            store.clock.wall_ms = lambda: when  # type: ignore[method-assign]
            try:
                return store.turn.take(store.committer.do_tick)
            finally:
                store.clock.wall_ms = wall_ms  # type: ignore[method-assign]

        step = model.ticked(name, SCHEDULE_SECONDS * 1000)
        self._do(f"do_tick({name!r})", step, call, perhaps=[model.unchanged])  # on a full disk it is put off

    def unschedule(self, name: str) -> None:
        if not self._skip():
            self._do(
                f"unschedule({name!r})", model.unscheduled(name), lambda broker: broker.unschedule(name),
                syncs=True,
            )  # fmt: skip

    def publish_once(self, name: str, key: str, *, waits: bool = True) -> None:
        """With a dedup id: the second time it is there already.  *waits*: for the disk."""
        if self._skip():
            return
        history = self.history
        body = key.encode()
        history.published[body] = name
        known = history.ids.get(body) if body in history.safe else None

        def call(broker: Broker) -> None:
            store = broker._store
            durable, store.sync_always = store.sync_always, store.sync_always and waits
            try:
                id = broker.queue(name).publish(body, dedup_id=key)
            finally:
                store.sync_always = durable
            if known is not None and id != known:
                raise Wrong(f"dedup: {key!r} was {known} on the disk, and is {id} now")
            self._learn(id, body)
            history.returned.add(body)

        self._do(f"publish_once({name!r}, {key!r}, {waits})", model.once(name, body), call, syncs=waits)

    def subscribe(self, name: str, pattern: str = "#") -> None:
        if not self._skip():
            step = model.subscribe(name, pattern, gets=True)
            self._do(
                f"subscribe({name!r}, {pattern!r})", step,
                lambda broker: broker.queue(name).subscribe(pattern), syncs=True,
            )  # fmt: skip

    def start_in_the_past(self, name: str, pattern: str = "#", *, slices: int = 0) -> None:
        """Subscribe, with all that is retained; *slices*: put aside before, so many at a time."""
        if self._skip():
            return

        def call(broker: Broker) -> None:
            with patch.multiple(backfill, MANY=1 if slices else backfill.MANY, ASIDE_IDS=slices):
                broker.queue(name).subscribe(pattern, since=0)

        step = model.start_in_the_past(name, pattern)
        self._do(f"start_in_the_past({name!r}, {pattern!r}, {slices})", step, call, syncs=True)

    def rename(self, name: str, new: str) -> None:
        if self._skip() or self._broker is None or not self._broker._store.replica.state.named(name):
            return
        self._do(
            f"rename({name!r}, {new!r})", model.rename(name, new),
            lambda broker: broker.queue(name).rename(new), syncs=True,
        )  # fmt: skip
        self.held = [(new if queue == name else queue, each) for queue, each in self.held]

    def retain(self, count: int | None) -> None:
        """The topic retains so many of its newest messages; None: nothing any more."""
        if not self._skip():
            self._do(
                f"retain({count})", model.retain(count),
                lambda broker: broker.topic("t", retain_count=count), syncs=True,
            )  # fmt: skip

    def unsubscribe(self, name: str, pattern: str = "#") -> None:
        if not self._skip():
            step = model.subscribe(name, pattern, gets=False)
            self._do(
                f"unsubscribe({name!r}, {pattern!r})", step,
                lambda broker: broker.queue(name).unsubscribe(pattern), syncs=True,
            )  # fmt: skip

    def fan_out(self, *, size: int = 0, **options: Any) -> None:
        """To a topic that fits every pattern."""
        if self._skip():
            return
        history = self.history
        body = make_body(len(history.published), size, self._dot)
        history.published[body] = ""
        if options:
            history.said[body] = options.get("priority", 0), options.get("group")

        def call(broker: Broker) -> None:
            found = broker.topic("t").publish(body, **options)
            self._learn(found, body)
            if any(declared[2] for declared, _ in history.now[0].values()):
                history.returned.add(body)

        self._do(f"fan_out({len(body)} bytes, {options})", model.fan_out(body), call, syncs=True)

    def take_settled(self, name: str) -> None:
        """From a queue that delivers at most once: what was handed over never comes again."""
        if self._skip() or self._broker is None:
            return
        state = self._broker._store.replica.state.named(name)
        if state is None or state.options.delivery != "at_most_once":
            return  # its declaration has failed
        head = self._ready(name)[:1]
        self.history.ended.update((body, False) for body in head)

        def call(broker: Broker) -> None:
            got = broker.queue(name).receive(timeout=0)
            if [each.raw for each in (got,) if each] != head:
                raise Wrong(f"P5: received {got!r}, not {head!r}")

        step = model.gone(name, lambda body: body not in head)
        # One that the disk would not read is not handed over: it has failed an attempt.
        perhaps = [model.tried(name, head, +1)] if self.disk.faulty else ()
        self._do(f"take_settled({name!r})", step, call, syncs=True, perhaps=perhaps)

    def transform(self, name: str, to: str) -> None:
        """Consume, transform, produce: the oldest held goes, and what was made of it comes, together."""
        taken = self._settling(1)
        if not taken:
            return
        each = taken[0][1]
        body = make_body(len(self.history.published), 0, self._dot)
        self.history.published[body] = to
        self.history.ended.setdefault(each.raw, False)
        step = model.both(model.gone(name, lambda body, raw=each.raw: body != raw), model.publish(to, [body]))

        def call(broker: Broker) -> None:
            with broker.transaction() as tx:
                tx.publish(to, body)
                tx.ack(each)
            self._learn(tx.ids[0], body)
            self.history.returned.add(body)

        self._do(f"transform({name!r}, {to!r})", step, call, syncs=True)

    def cancel(self, name: str) -> None:
        """The oldest that waits."""
        if self._skip() or self._broker is None:
            return
        head = self._ready(name)[:1]
        if head and head[0] in self.history.ids:
            id = self.history.ids[head[0]]
            self.history.ended.setdefault(head[0], False)
            step = model.gone(name, lambda body: body != head[0])
            self._do(f"cancel({name!r})", step, lambda broker: broker.queue(name).cancel(id), syncs=True)

    def replay(self, name: str) -> None:
        """All dead letters that can go, to the queue that they died in."""
        if self._skip() or self._broker is None:
            return
        going, to = self._ready(name), name.removesuffix(".dead")
        step = model.moved(name, going, to)
        self._do(f"replay({name!r})", step, lambda broker: broker.queue(name).replay(), syncs=True)

    def reject(self) -> None:
        for name, each in self._settling(1):
            step = model.moved(name, [each.raw], f"{name}.dead")
            self._do(f"reject({name!r})", step, lambda _, each=each: each.reject("hopeless"))

    def fall_due(self) -> None:
        """What no call asks for: last attempts that timed out, and what has expired."""
        if self._skip() or self._broker is None:
            return
        store, step = self._broker._store, model.unchanged
        for name in sorted(store.replica.state.names()):
            queue = store.replica.state.named(name)
            queue.counts(store.clock.now())
            last = self._bodies(name, "in_flight") if queue.timers.exhausted_count else set()
            exhausted = filter(queue.timers.is_exhausted, queue.timers.exhausted)
            dying = {self.history.bodies.get(id) for id in exhausted}
            gone = [body for body in last if body in dying]
            step = model.both(step, model.moved(name, gone, f"{name}.dead"))
            flying = {
                body: each for id, each in queue.flights.items() if (body := self.history.bodies.get(id))
            }
            late = [body for body, each in flying.items() if each.deadline <= store.clock.now().store]
            firsts = {self._group(body): body for body in sorted(late, key=model.number, reverse=True)}
            for body in firsts.values():
                step = model.both(step, self._back(name, body, 0, flying))

        def call(broker: Broker) -> None:
            store = broker._store

            def pass_by() -> bool:
                """Whether nothing is due any more."""
                if store.clock.now().store < store.replica.state.board.next:
                    return True
                store.committer.do_due()
                return False

            for _ in range(PASSERS_BY):
                if store.turn.take(pass_by):
                    return
            raise Wrong("P5: what has fallen due is there, however often a process comes by")

        self._do("fall_due()", step, call)

    def take(self, name: str, limit: int = 0, *, per_group: int = 1) -> None:
        """Receive one, or up to *limit* as a batch."""
        if self._skip() or self._broker is None:
            return
        # What it will be is only known to the library; the order it comes in is checked
        # against the model, and so the model knows which it must be.
        head = self._ready(name, per_group)[: limit or 1]
        got: list[Delivery[Any]] = []
        begun = self.disk.calls

        def call(broker: Broker) -> None:
            queue = broker.queue(name)
            if limit:
                got.extend(queue.receive_many(limit, timeout=0, per_group=per_group))
            else:
                one = queue.receive(timeout=0)
                got.extend([one] if one else [])
            bodies = [each.raw for each in got]
            # One that the disk would not read is set aside, and the others go on.
            expected = [body for body in head if body in bodies] if self.disk.fired > begun else head
            if bodies != expected:
                raise Wrong(f"P5: received {bodies!r}, not {head!r}")

        taken = model.tried(name, head, +1)
        # A call that fails for want of descriptors gives that one back.
        perhaps = [model.both(taken, self._back(name, body, among=head)) for body in head]
        # One that the disk would not read has failed an attempt; and those behind it were not tried.
        if per_group > 1:
            perhaps += [model.both(taken, self._back(name, body, 0, head)) for body in head]
        self._do(f"take({name!r}, {limit or 1})", taken, call, perhaps=perhaps if self.disk.faulty else ())
        self.held.extend((name, each) for each in got)

    def _back(
        self, name: str, body: bytes, by: int = -1, among: Iterable[bytes] | None = None
    ) -> model.Step:  # fmt: skip
        """*body* goes back, and with it those of its group behind it, *among* those in flight."""
        group, step = self._group(body), model.tried(name, [body], by)
        if group is None:
            return step
        flying = self._bodies(name, "in_flight") if among is None else among
        behind = [
            each for each in flying if self._group(each) == group and model.number(each) > model.number(body)
        ]
        self.held = [(queue, each) for queue, each in self.held if each.raw not in behind]
        return model.both(step, model.tried(name, behind, -1))

    def _group(self, body: bytes) -> str | None:
        return self.history.said.get(body, (0, None))[1]

    def _ready(self, name: str, per_group: int = 1) -> list[bytes]:
        """What may be received now: all that the model has, but for what is in flight or delayed."""
        away = self._bodies(name, "in_flight") | self._bodies(name, "delayed")
        said, busy, found = self.history.said, Counter[str | None](), []
        for body, _ in self.history.now[0].get(name, model.NEW)[1]:
            priority, group = said.get(body, (0, None))
            if body not in away and (group is None or busy[group] < per_group):
                found.append((-priority, len(found), body))
            busy[group] += per_group if body in away else 1  # those behind one that is away wait for it
        return [body for *_, body in sorted(found)]

    def _bodies(self, name: str, state: State) -> set[bytes]:
        assert self._broker
        try:
            return {each.raw for each in self._broker.queue(name).peek(PEEK_MAX, state=state)}
        except StorageError as error:
            self._excuse(error, self.disk.calls - 1)
            return self._bodies(name, state)  # the fault has struck, the next try meets none

    def ack(self, count: int = 1) -> None:
        """The oldest held; several as one batch: two by their receipts, which takes another way."""
        taken = self._settling(count)
        if not taken:
            return
        name, bodies = taken[0][0], [each.raw for _, each in taken]
        self.history.ended.update((body, False) for body in bodies if body not in self.history.ended)

        def call(broker: Broker) -> None:
            if count == 1:
                taken[0][1].ack()
            else:
                broker.queue(name).ack_many([each.receipt if count == 2 else each for _, each in taken])

        self._do(f"ack({name!r}, {count})", model.gone(name, lambda body: body not in bodies), call)

    def nack(self, delay: float = 0.0, *, last: bool = False) -> None:
        """*last*: of the attempts that the queue gives it."""
        for name, each in self._settling(1):
            back = self._back(name, each.raw, 0)
            step = model.both(back, model.moved(name, [each.raw], f"{name}.dead")) if last else back
            self._do(f"nack({delay})", step, lambda _, each=each: each.nack(delay=delay))

    def release(self) -> None:
        for name, each in self._settling(1):
            step = self._back(name, each.raw)
            self._do(f"release({name!r})", step, lambda _, each=each: each.release())

    def extend(self, seconds: float = 60.0) -> None:
        for name, each in self._settling(1):
            self.held.append((name, each))  # first: nothing is held any more once the store was opened again
            self._do(f"extend({name!r})", model.unchanged, lambda _, each=each: each.extend(seconds))

    def _settling(self, count: int) -> list[tuple[str, Delivery[Any]]]:
        if self._skip() or self._broker is None:
            return []
        taken, self.held = self.held[:count], self.held[count:]
        return taken

    def purge(self, name: str) -> None:
        if self._skip() or self._broker is None:
            return
        flying = self._bodies(name, "in_flight")
        for body, _ in self.history.now[0].get(name, model.NEW)[1]:
            if body not in flying:
                self.history.ended.setdefault(body, False)
        step = model.gone(name, lambda body: body in flying)
        self._do(f"purge({name!r})", step, lambda broker: broker.queue(name).purge())

    def flush(self) -> None:
        if not self._skip():
            self._do("flush()", model.unchanged, lambda broker: broker.flush(), syncs=True, always=True)

    def maintain(self, checkpoint_bytes: int = 1) -> None:
        """Clean, if that is due, and write a checkpoint, if the log has grown so much since the last."""
        if self._skip() or self._broker is None:
            return
        maintenance = self._broker._store.maintenance
        self._do("maintain()", model.unchanged, lambda _: maintenance.run(checkpoint_bytes))

    # ── one operation ──────────────────────────────────────────────────────────────

    def _skip(self) -> bool:
        self.done += 1
        return self._only is not None and self.done not in self._only

    def _do(
        self, line: str, step: model.Step, call: Callable[[Broker], object], *,
        syncs: bool = False, always: bool = False, perhaps: Sequence[model.Step] = (),
    ) -> None:  # fmt: skip
        """*syncs*: once it has returned, all of it is on the disk, under sync="always", or *always*.

        *perhaps*: what else it may do.
        """
        if self._broker is None:
            return
        self.history.begin(line, step, *perhaps)
        begun = self.disk.calls
        try:
            call(self._broker)
        except (StorageError, StaleReceipt, OSError) as error:
            self._excuse(error, begun)
            self.history.raised(type(error).__name__, nothing_done=isinstance(error, DiskFull))
            if isinstance(error, StoreFailed) and self._broker._store.replica.log.failure.error:
                self._obey()  # else no file was to be had to sync, and the store goes on
            self._narrow()
            return
        fired = self.disk.fired > begun
        self.history.returns(certain=not fired)
        if always or (syncs and self.options["sync"] == "always"):
            self.history.on_disk()
        if fired:
            self._ask()
            self._narrow()

    def _ask(self) -> None:
        """A call failed, and the operation did not: it was maintenance, which has no caller to tell.

        If the store has failed with it, the next operation is told.
        """
        assert self._broker
        self.history.begin("queues()", model.unchanged)
        try:
            self._broker.queues()
        except StoreFailed:
            self.history.raised("StoreFailed", nothing_done=True)
            self._obey()
        else:
            self.history.returns()

    def _obey(self) -> None:
        """The store has failed: see that it stays so, close it and open it again."""
        broker, self._broker = self._broker, None
        assert broker
        self.held.clear()
        self.history.begin("publish() on the failed store", model.unchanged)
        with suppress(StorageError):
            broker.queue("a").publish(b"late")
            raise Wrong("P1: publish returned after the store had failed")
        self.history.raised("as it must", nothing_done=True)
        self.history.begin("flush() on the failed store", model.unchanged)
        with suppress(StorageError):
            broker.flush()
            raise Wrong("P1: flush returned after the store had failed")
        self.history.raised("as it must", nothing_done=True)
        broker.close()
        self.open(**self.options)

    def _learn(self, id: int, body: bytes) -> None:
        wrong = self.history.learn(id, body)
        if wrong:
            raise Wrong(wrong)


def open_store(
    disk: SimulatedDisk, clock: Callable[[], float], sync: str = "always", segment_bytes: int = 1024
) -> Broker:
    options = {"sync": sync, "read_only": False, "segment_bytes": segment_bytes, "clock": clock}
    return Broker(Store(PATH, **options, disk=disk, background=False))  # type: ignore[arg-type]


Ids = tuple[tuple[str, int, bytes], ...]  # queue, id, body
Said = tuple[tuple[bytes, int, str | None, str | None], ...]  # body, priority, group, origin


def contents(broker: Broker) -> tuple[model.Key, Ids]:
    """All that the store holds, and the ids; in delivery order, if nothing is in flight or delayed."""
    return holdings(broker)[:2]


def holdings(broker: Broker, *, counted: bool = False) -> tuple[model.Key, Ids, Said]:
    """As contents, and what was said of each message.

    *counted*: the bytes of each queue must be those of its messages, unless some of them expire.
    """
    queues: model.Queues = {}
    ids = []
    said = []
    for name in broker.queues():
        queue = broker.queue(name)
        messages = queue.peek(PEEK_MAX)
        away = queue.peek(PEEK_MAX, state="in_flight") + queue.peek(PEEK_MAX, state="delayed")
        said += [(name, each.raw, each.priority, each.group, each.origin) for each in messages + away]
        state = broker._store.replica.state.named(name)
        size = sum(each._size for each in messages + away)
        if counted and size != state.bytes and not state.timers.expiries.agenda:
            raise Wrong(f"counts: {name!r} has {size} bytes, and counts {state.bytes}")
        messages = [each for each in messages if not (each._more and each._more.traits.expires)]
        if away or any(each._more for each in messages):
            messages = sorted(messages + away, key=lambda each: each.id)
        queues[name] = (
            (
                queue.options()["visibility_timeout"],
                tuple(sorted(queue.meta().items())),
                tuple(queue.subscriptions()),
            ),
            tuple([(each.raw, each.attempts) for each in messages]),
        )
        ids += [(name, each.id, each.raw) for each in messages]
    if held := broker._store.replica.state.topic("t"):
        retained = list(broker.topic("t").history())
        queues[model.RETAINED] = (
            (float(held.options.retain_count), (), ()), tuple([(each.raw, 0) for each in retained]),
        )  # fmt: skip
        ids += [(model.RETAINED, each.id, each.raw) for each in retained]
    if counted:
        _count_shares(broker)
    store = broker._store
    for entry in store.replica.state.calendar:
        assert entry.position is not None
        each, body = entry.schedule, store.committer._read_body(entry.position)[1]
        queues[each.name] = (each.next, ((each.queue, body.hex()),), ()), ()
    return model.key(queues), tuple(ids), tuple(said)


def _count_shares(broker: Broker) -> None:
    """What the register says of messages that several queues hold is what counting says."""
    state = broker._store.replica.state
    held: dict[int, set[int]] = {}
    for queue in [*map(state.named, broker.queues()), *state.hidden()]:
        for id in queue.everything():
            held.setdefault(id, set()).add(queue.number)
    several = {id: tuple(sorted(numbers)) for id, numbers in held.items() if len(numbers) > 1}
    shared = state.board.shared
    if {id: shared.holders(id) for id in several} != several or len(shared) != len(several):
        raise Wrong(f"counts: messages are held by {several}, and that is not what is noted")
    for id, numbers in several.items():
        if len({state.queue(number).position(id) for number in numbers}) > 1:
            raise Wrong(f"counts: message {id} stands in two places")
    if not several and shared.extra_bytes:
        raise Wrong(f"counts: {shared.extra_bytes} bytes are shared, and no message is")


def make_body(number: int, size: int, dot: bytes = b".") -> bytes:
    """A body like no other; every fifth looks like a record, its checksum right but for the seed."""
    text = b"%d%b" % (number, dot)
    if number % 5 == 4:
        lookalike = record.encode(0, 0, 0, 0, records.ACK, 0, 1, records.ACK_PAYLOAD.pack(number, 1))
        text += lookalike
    return text + b"\xa5" * max(0, (size or 1 + number * 7 % 60) - len(text))
