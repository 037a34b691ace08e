"""Broker: an open store, as users see it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeVar, Unpack, overload

from mq import exact
from mq.api.message import Delivery, Leased
from mq.api.options import (
    PublishOptions,
    QueueOptions,
    TopicOptions,
    check_count,
    check_many,
    check_options,
    check_seconds,
    check_topic_options,
)
from mq.api.queue import Queue, ask
from mq.api.receipts import claim_of
from mq.api.schedule import Missed, Schedule, new_schedule, shown
from mq.api.topic import Topic
from mq.api.transaction import Transaction
from mq.api.watch import Watch
from mq.engine import commands, keeping, looking, retaining, scheduling, subscribing
from mq.engine.bodies import encode_body
from mq.engine.keeping import Kept
from mq.engine.looking import Stats
from mq.engine.names import check_name, check_schedule, check_topic, is_elsewhere
from mq.engine.several import Asked, receive_from
from mq.engine.store import MEMORY, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, Store, open_store
from mq.errors import UsageError
from mq.hold import Hold
from mq.workers.asked import Strategy, Wrap

if TYPE_CHECKING:
    from mq.api.consumers import Consumers

T = TypeVar("T")
H = TypeVar("H", bound=Callable[..., object])
Sync = Literal["always", "never"] | float
"""When a publish returns: on the disk | the background syncs at least every N seconds | with the kernel."""

SYNC_SECONDS_MIN = 0.001


class StoreStats(NamedTuple):
    """What a whole store holds, as `broker.stats()` says it.

    queues        for each queue its name and its `mq.Stats`
    disk_bytes    what the log takes on the disk
    live_bytes    bytes of all messages that are not settled, or are retained: bodies, and attributes if there
                  are any; once for all queues that hold a message
    segments      in how many files the log is
    processes     pids of those that have the store open; only this one's if the system does not say
    unrouted      how many publishes to topics found no queue that subscribes
    """

    queues: dict[str, Stats]
    disk_bytes: int
    live_bytes: int
    segments: int
    processes: list[int]
    unrouted: int


class Broker:
    """An open store, made by `mq.open(path)`.  Thread-safe; in the child of a fork it opens by itself.

    As a context manager it closes at the end of the block.

    Every method may raise Closed (the broker is closed), StoreFailed, and StorageError with what the
    system said.  All that changes the store raise Unsupported if it was opened with read_only=True.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._hold = store, store.hold()
        self._asked: Asked[Any] | None = None  # by the last `receive`: a program asks for the same again
        self._store_id = looking.store_id(store)

    def __repr__(self) -> str:
        return f"<Broker {self.path}{' closed' if self._store.closed else ''}>"

    @property
    def path(self) -> str:
        """The store's directory, as an absolute path; or ":memory:"."""
        return self._store.path

    @property
    def store_id(self) -> str:
        """What tells this store from all others; it never changes.

        `(store_id, message.id)` is unique within one history: a backup that is put back goes on with ids
        that were given out after it was made.
        """
        return self._store_id

    @property
    def generation(self) -> int:
        """A number that changes with every queue (made, renamed, deleted), option, subscription and schedule.

        `pause` and `resume` change it too.  It has changed when the call that changes something returns, in
        this or another process.  What happens to messages does not change it.  A program that keeps what it
        knows of the queues compares this number, and looks again when it is another one.  To read it takes no
        lock and no turn; with read_only=True it takes as long as `queues()`.

        Raises Closed.
        """
        return looking.generation(self._store)

    @overload
    def queue(self, name: str, *, type: type[T], **options: Unpack[QueueOptions]) -> Queue[T]: ...
    @overload
    def queue(self, name: str, *, type: Any = None, **options: Unpack[QueueOptions]) -> Queue[Any]: ...
    def queue(self, name: str, *, type: Any = None, **options: Unpack[QueueOptions]) -> Queue[Any]:
        """A handle on the queue *name*: 1 to 255 bytes of printable text.

        *type*: what structures are decoded and validated into, as msgspec does; None (the default): whatever
        they are.
        *options*: those of `mq.QueueOptions`.  With any, the queue is declared: those named are changed, for
        every process, and the others stay as they are.  Without, nothing is written.

        Raises UsageError (a bad name, type or option, or dead letters that would go in a circle), DiskFull,
        StoreFailed, Closed.
        """
        checked = check_options(options)
        channel = self._store.channel(name)
        queue: Queue[Any] = Queue(self._store, channel, type)
        if checked:
            commands.declare(self._store, channel, checked)
        return queue

    @overload
    def topic(self, name: str, *, type: type[T], **options: Unpack[TopicOptions]) -> Topic[T]: ...
    @overload
    def topic(self, name: str, *, type: Any = None, **options: Unpack[TopicOptions]) -> Topic[Any]: ...
    def topic(self, name: str, *, type: Any = None, **options: Unpack[TopicOptions]) -> Topic[Any]:
        """A handle on the topic *name*: words with dots between them, 1 to 255 bytes, without `*` and `#`.

        *type*: what structures are decoded and validated into, as msgspec does; None (the default): whatever
        they are.
        *options*: those of `mq.TopicOptions`: how much the topic retains.  With any, the topic is declared:
        those named are changed, for every process, and the others stay as they are.  Without, nothing is
        written.

        Raises UsageError (a bad name, type or option), DiskFull, StoreFailed, Closed.
        """
        checked = check_topic_options(options)
        topic: Topic[Any] = Topic(self._store, check_topic(name), type)
        if checked:
            retaining.declare(self._store, topic.name, checked)
        return topic

    def receive(self, queues: Iterable[Queue[T]], timeout: float | None = None) -> Delivery[T] | None:
        """Take the next message of the first of *queues*, in this order, that has one.

        *queues*: handles of this broker.
        *timeout*: seconds to wait for one, then None is returned; None (the default) waits for ever.

        Raises UsageError, Closed (also when the broker is closed while this waits), and CorruptStore as
        `Queue.receive` does.
        """
        until = None if timeout is None else time.monotonic() + check_seconds("timeout", timeout)
        listed = list(check_many("queues", queues))
        asked = self._asked
        if asked is None or not asked.is_of(listed):
            asked = self._asked = ask(listed, self._store)
        return receive_from(asked, until)

    def keep(self, delivery: Leased[Any]) -> None:
        """Have the broker extend a delivery, by the queue's visibility timeout, until it is settled.

        *delivery*: one that was received through this broker.

        It is extended when half of the visibility timeout is left, by a second at least each time, by one
        thread for all that are kept.  That ends when the delivery is settled, by whichever process, or was
        delivered again; when the broker is closed; and when the process ends.  It does not end if the
        program forgets the delivery, or if its work makes no progress.  In the child of a fork nothing is
        kept.  `due_at` stays what it was.

        Nothing happens if the delivery is settled already, or was delivered again.

        Raises UsageError (it is another broker's), StorageError (no thread can be had), Closed.
        """
        if not exact.is_a(delivery, Leased):
            raise UsageError(f"what is kept is a delivery, not {exact.kind(delivery)}")
        claim = claim_of(delivery, self._store)
        if not delivery._settled:
            kept = Kept(delivery._queue._channel, claim.id, claim.receipt)
            keeping.keep(self._store, kept)

    def watch(self, notify: Callable[[], object]) -> Watch:
        """Wait for messages without a thread, as event loops do: see `mq.Watch`, whose `arm` says for which.

        *notify*: a function without arguments, called once for each `arm`, by a thread of mq that holds no
        lock.  It may use the broker, and is to return soon: it keeps the other watches of the broker
        waiting.  What it raises is logged.

        Raises UsageError (it is no function).
        """
        if not callable(notify):
            raise UsageError(f"notify is a function without arguments, not {exact.kind(notify)}")
        return Watch(self._store, notify)

    @contextmanager
    def transaction(self) -> Generator[Transaction, None, None]:
        """Publishes, acks and nacks over any queues, all or nothing: a block with an `mq.Transaction`.

        What is done in the block is buffered, and happens at its end.  An exception in the block leaves no
        trace.

        Raises, at the end of the block, StaleReceipt (a delivery is not in force any more), QueueFull,
        DiskFull or Closed, and nothing of it has happened then; or StoreFailed: all of it has, or nothing.
        """
        transaction = Transaction(self._store)
        try:
            yield transaction
        except BaseException:
            transaction._end()
            raise
        transaction._commit()

    def schedule(
        self, name: str, queue: str | Queue[Any] | Topic[Any], body: object, *, cron: str | None = None,
        every: float | None = None, tz: str = "UTC", missed: Missed = "one",
        **options: Unpack[PublishOptions],
    ) -> None:  # fmt: skip
        """Publish *body* to *queue* again and again, exactly once at each tick, whichever processes run.

        Durable: it goes on until `unschedule`, while some process has the store open.  Under sync="always"
        it is on the disk when this returns.  Declared again, it is changed; with the same *cron*, *every* and
        *tz* the next tick stays when it is, else it is computed anew.

        *name*: of the schedule, 1 to 255 bytes of printable text.
        *queue*: a queue's name or handle, and it is made if it is not there; or the handle of a topic.
        *body*: as for `Queue.publish`.
        *cron*: five fields, minute, hour, day of the month, month, day of the week, as "30 9 * * MON-FRI"; or
        *every*: seconds between two ticks, at least 0.01, counted from now.  Give one of them.
        *tz*: the time zone of *cron*, an IANA name as "Europe/Berlin" ("UTC").  A fixed hour that a clock
        change skips comes at the next minute that there is; one that comes twice counts once.  It is not
        fixed if the field of the hour or of the minute begins with `*`: then each time counts that there is.
        *missed*: what becomes of ticks that came while no process had the store open, or the queue was full.
        "one" (the default): one message stands for all of them.  "all": each is published, at most 1,000.
        "skip": none is, unless it is less than 5 seconds late.
        *options*: those of `mq.PublishOptions` for each message, without at, dedup_id and timeout.

        Raises UsageError (also if there is no such time zone, or no data of time zones), DiskFull,
        StoreFailed, Closed.
        """
        is_topic, channel = False, None
        if exact.is_a(queue, Topic):
            to, is_topic = self._own_name(queue), True
        elif exact.is_a(queue, Queue):
            to, channel = self._own_name(queue), queue._channel
        else:
            to = check_name(queue)
        checked = new_schedule(
            name, to, topic=is_topic, cron=cron, every=every, tz=tz, missed=missed, options=options
        )
        scheduling.declare(self._store, checked, *encode_body(body), to=channel)

    def _own_name(self, handle: Queue[Any] | Topic[Any]) -> str:
        if handle._store is not self._store:
            raise UsageError(f"{handle.name!r} is another broker's")
        return handle.name

    def unschedule(self, name: str) -> bool:
        """Take back the schedule *name*; False if there is none.  What it has published stays.

        Raises UsageError, StoreFailed, Closed.
        """
        return scheduling.remove(self._store, check_schedule(name))

    def schedules(self) -> list[Schedule]:
        """All schedules, by name: see `mq.Schedule`.

        Raises Closed.
        """
        return [shown(each) for each in scheduling.listed(self._store)]

    def queues(self, *, prefix: str = "", after: str = "", limit: int | None = None) -> list[str]:
        """The names of all queues, sorted.

        *prefix*: only names that begin with it; "" (the default): all.
        *after*: only names behind this one, as the last name of the page before; "" (the default): all.
        *limit*: how many at most; None (the default): all.  A page takes as long as it is, however many
        queues there are.

        Raises UsageError, Closed.
        """
        prefix, after = exact.text("prefix", prefix), exact.text("after", after)
        if limit is not None:
            limit = check_count("limit", limit)
        return looking.names(self._store, prefix, after, limit)

    def topics(self) -> list[str]:
        """The topics that are known by name, sorted: those that retain, and those that a pattern spells out.

        Raises Closed.
        """
        return subscribing.topics(self._store)

    def subscriptions(self, topic: str | None = None) -> list[tuple[str, str]]:
        """All patterns of queues, each with the name of its queue; sorted.

        *topic*: the name of a topic: only the patterns that it fits.  None (the default): all.

        Raises UsageError, Closed.
        """
        return subscribing.subscriptions(self._store, None if topic is None else check_topic(topic))

    def stats(self, queues: Iterable[str] | None = None) -> StoreStats:
        """What the whole store holds: see `mq.StoreStats`.

        *queues*: names of queues; `queues` and `live_bytes` are of these alone, and those that are not there
        are left out.  None (the default): all queues.

        Raises UsageError, Closed.
        """
        store = self._store
        names = self.queues() if queues is None else list(map(check_name, check_many("queues", queues)))
        found = looking.stats_of(store, names)
        live_bytes = sum(each.bytes for each in found.values())
        if queues is None:
            live_bytes += retaining.extra_bytes(store)
        disk_bytes, segments = looking.files(self._store)
        return StoreStats(
            found, disk_bytes, live_bytes, segments, looking.processes(self._store),
            subscribing.unrouted(self._store),
        )  # fmt: skip

    def _source(self, queue: str | Queue[Any], type: Any) -> Queue[Any]:
        """The queue that a consumer is of; *type*: of its bodies, if it is named."""
        if exact.is_a(queue, str):
            return self.queue(exact.text("queue", queue), type=type)
        found: Any = queue
        if not exact.is_a(found, Queue) or found._store is not self._store:
            raise UsageError(f"a consumer is of a queue of this broker, not {exact.kind(queue)}")
        return found

    # ── workers ────────────────────────────────────────────────────────────────────

    @property
    def _consumers(self) -> Consumers:
        # Made at its first use: all that calls functions is loaded by programs that register one.
        from mq.api.consumers import Consumers

        found: Consumers = vars(self).setdefault("_registered", Consumers(Delivery))
        return found

    def consumer(
        self, queue: str | Queue[Any], *, concurrency: int = 1, batch: int | None = None, linger: float = 0.0,
        prefetch: int | None = None, strategy: Strategy = "round_robin", extend: bool = True,
    ) -> Callable[[H], H]:  # fmt: skip
        """A decorator: `run` calls the function with what comes into *queue*.

        The function takes one argument.  What it is given follows its annotation: `Delivery` or
        `Delivery[T]` the delivery, anything else the body, decoded and validated into that type.  It may be
        `async def`.  When it returns, the message is acked; when it raises, the message is nacked with the
        exception as its reason, or as `mq.Retry` and `mq.Reject` say.

        *queue*: its name, or a handle of this broker, whose type counts then.
        *concurrency*: how many calls at once (1): threads, or tasks of an event loop.
        *batch*: call it with a list of up to so many, acked together; None (the default): with one.  A body
        that does not fit the type is left out, and its message fails alone.
        *linger*: seconds to wait for a fuller batch once there is one message (0).
        *prefetch*: how many messages to hold at once, those in work included, but no fewer than *concurrency*
        calls take; None (the default): as many as are in work.
        *strategy*: which of the calls to come is given the next message, over all functions on that queue:
        "round_robin" (the default) by turns, "least_busy" where the fewest are, "random".
        *extend*: hold each message for as long as its call lasts (True): see `keep`.

        Raises UsageError.
        """
        return self._consumers.consumer(
            partial(self._source, queue), concurrency=concurrency, batch=batch, linger=linger,
            prefetch=prefetch, strategy=strategy, extend=extend,
        )  # fmt: skip

    def subscriber(self, pattern: str, *, group: str | None = None) -> Callable[[H], H]:
        """A decorator: `run` calls the function with what is published to topics that fit *pattern*.

        *pattern*: see `Queue.subscribe`.
        *group*: the name of a queue that is subscribed, durably; its members, in all processes, share what
        comes.  None (the default): a queue of its own, which gets everything from now on, and is deleted when
        `run` ends, or ten minutes after the process died.

        The function is as for `consumer`.

        Raises UsageError.
        """
        return self._consumers.subscriber(self._source, pattern, group)

    def middleware(self, wrap: Wrap) -> None:
        """Have *wrap* called around every call of a handler, the first one added outermost.

        *wrap*: a function of two arguments: the delivery (of a batch: the list), and a function without
        arguments that calls the handler.  It returns what that returns.

        Raises UsageError.
        """
        self._consumers.middleware(wrap)

    def run(self, *, grace: float = 30.0, until_empty: bool = False) -> None:
        """Call the consumers' functions, until SIGTERM, SIGINT or `close`; then return.

        A signal, in the main thread, stops taking.  What was taken and not begun is released; calls that
        are in work go on for *grace* seconds, and what is left then is released: no attempt is used.  A
        second signal does that at once.

        *grace*: seconds (30).
        *until_empty*: return when all the queues are empty: nothing ready, in flight or delayed (False).
        A paused queue is not waited for.

        A function that raises never ends this; it is logged, with its traceback, by the logger "mq.worker".

        Raises UsageError (there is no consumer, or they run already), StoreFailed.
        """
        self._consumers.run(self, grace, until_empty=until_empty)

    def flush(self) -> None:
        """Return when all that was written is on the disk, by whichever process.

        Raises StoreFailed, Closed.
        """
        self._store.flush()

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Copy the store to the directory *path*, as it is at one moment, while all processes go on.

        The directory is new or empty, or has an earlier backup of this store: then only what is new is
        copied.  The copy is a store with the same `store_id`, and opens as one.  Once it was opened it is a
        backup no longer.  A backup that is cut off is the earlier one or a later one, or no store yet.

        Raises StorageError (something else is there, or what it has differs from the store), StoreLocked (a
        process has the copy open), DiskFull, StoreFailed, Closed.
        """
        from mq.engine.backup import back_up  # here, as it is seldom used

        back_up(self._store, _directory(path))

    def close(self) -> None:
        """Sync, and let go of the store.  A second call does nothing.

        Threads that wait in it are woken with Closed; what is in flight stays so until its visibility
        timeout.  The handler of a signal may call this.

        Raises StoreFailed if a write or a sync failed, and no caller was told.
        """
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open(
    path: str | os.PathLike[str], *, sync: Sync = "always", exclusive: bool = False, read_only: bool = False,
    recover: Literal["refuse", "salvage"] = "refuse", segment_bytes: int = 64 << 20,
    mode: int | None = None, clock: Callable[[], float] | None = None,
) -> Broker:  # fmt: skip
    """Open the store in the directory *path*; made if it is not there.  ":memory:" is gone at close.

    Any number of processes and threads may have a store open at once.

    *sync*: when a publish returns.  "always" (the default): when it is on the disk.  A number of seconds: at
    once, and the disk is synced at least that often.  "never": at once, and the kernel decides.  In all
    three a publish that returned survives the death of the process.

    *exclusive* (False): only this process may have the store open, and every operation is a little faster.

    *read_only* (False): look, and change nothing, also while other processes have the store open.

    *recover*: what to do about damage, bytes that were on the disk and are gone or altered.  "refuse" (the
    default): raise CorruptStore, and change nothing.  "salvage": repair the store as `mq repair` does, which
    costs what is damaged and nothing else; a line for each place goes to the logger "mq".  A crash is no
    damage, and never needs a human.

    *segment_bytes* (64 MiB): how long the files are that the log is made of; 1 KiB to 256 MiB.

    *mode*: the permissions of a new store's files, as 0o660, whatever the umask is; its directories get the
    x bits to match.  None (the default): what the umask leaves of 0o666.  A store that is there already
    keeps what it has: each new file gets the owner, group and mode of FORMAT, so far as the process may
    give them.

    *clock*: a function that returns seconds since 1970, for tests; None (the default): the system's clocks.
    It must not go back, and all processes that share a store give the same one, or none.

    Raises UsageError, StoreLocked (another process has it exclusively), CorruptStore, Unsupported (a newer
    mq wrote it, or its file system is one of the network), StoreFailed, StorageError.
    """
    name, sync = _directory(path), _sync(sync)
    segment_bytes = exact.whole("segment_bytes", segment_bytes)
    if not SEGMENT_BYTES_MIN <= segment_bytes <= SEGMENT_BYTES_MAX:
        shown = exact.shown(segment_bytes)
        raise UsageError(f"segment_bytes is from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}, not {shown}")
    if mode is not None:
        mode = exact.whole("mode", mode)
        if mode & ~0o666 or mode & 0o600 != 0o600:
            given = oct(mode) if 0 <= mode <= 0o777777 else exact.shown(mode)
            raise UsageError(
                f"mode is the permissions of files, at least 0o600 and without x bits, not {given}:"
                " directories get their x bits by themselves"
            )
    if clock is not None and not callable(clock):
        raise UsageError(f"clock is a function that returns seconds since 1970, not {exact.kind(clock)}")
    recover = exact.one_of("recover", recover, ("refuse", "salvage"))  # type: ignore[assignment]
    exclusive, read_only = bool(exclusive), bool(read_only)  # each asked once
    if read_only and exclusive:
        raise UsageError(
            "exclusive=True keeps other processes out, and read_only=True lets them in: choose one of them"
        )
    if read_only and recover == "salvage":
        raise UsageError("salvage repairs the store, and read_only=True changes nothing: choose one of them")
    if read_only and name == MEMORY:
        raise UsageError('":memory:" is new and empty: there is nothing to open read-only')
    hold = Hold()  # first: whatever interrupts this, the store is let go of
    return Broker(
        opener_of(name)(
            name, sync=sync, read_only=read_only, segment_bytes=segment_bytes, clock=clock,
            salvage=recover == "salvage", exclusive=exclusive, mode=mode, hold=hold,
        )
    )  # fmt: skip


def opener_of(name: str) -> Callable[..., Store]:
    """What opens the store *name*: a directory, or one on NATS."""
    if not is_elsewhere(name):
        return open_store
    from mq.nats.store import open_store as open_stream  # its library is an extra

    return open_stream


def _directory(path: object) -> str:
    """The name that *path* is, or that it says when it is asked once; UsageError if it is none."""
    given = path
    if not exact.is_a(path, str):
        ask = getattr(type(path), "__fspath__", None)
        if ask is None:
            raise UsageError(f"path is the name of a directory, not {exact.kind(path)}")
        given = ask(path)
        if exact.is_a(given, bytes):
            given = os.fsdecode(exact.data(given) or b"")
    name = exact.text("path", given)
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        raise UsageError(f"path {exact.shown(name)} is not valid Unicode") from None
    if not name or "\0" in name:
        raise UsageError(f"path is the name of a directory, not {exact.shown(name)}")
    return name


def _sync(sync: object) -> Sync:
    if exact.is_a(sync, str):
        if (word := exact.text("sync", sync)) in ("always", "never"):
            return word  # type: ignore[return-value]
        raise UsageError(f'sync is "always", "never" or seconds, not {exact.shown(word)}')
    seconds = float(check_seconds("sync", sync))
    if seconds < SYNC_SECONDS_MIN:
        raise UsageError(f'sync is at least {SYNC_SECONDS_MIN} seconds, not {seconds}; or "always"')
    return seconds
