"""The queues, as SQS sees them: looked up once, and again when they may have changed.

What says that a queue or an option changed is `broker.generation`.  It does not change with the meta, so
that is read again after a second: of two servers on one store, each hears of the other's changes then.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from mq import AsyncDelivery, AsyncQueue, Queue, Receipt
from mq.api.options import QueueOptions, check_options
from mq.delivery.retry import Backoff
from mq.engine import commands, looking
from mq.engine.commands import NoQueue
from mq.serve.face import Site
from mq.serve.sqs import attributes, names
from mq.serve.sqs.fault import no_queue
from mq.serve.sqs.rounds import Rounds

T = TypeVar("T")

META_SECONDS: Final = 1.0
MEMORIES_MAX: Final = 10_000
RECEIVES_MAX: Final = 64  # visibility timeouts of receives that may share a round
NO_REST: Final = Backoff(0.0, 1.0, 0.0, 0.0)
"""What times out comes back at once, as in SQS."""

_texts: Final = msgspec.json.Decoder(dict[str, str])


@dataclass
class Memory:
    """What the server remembers of a queue, however often that is looked up.

    purged_at    monotonic seconds
    room         so many may be received before the messages in flight are counted again
    """

    purged_at: float = float("-inf")
    room: int = 0


@dataclass
class SqsQueue:
    """A queue as it was looked up.

    name        SQS's; that of mq is `handle.name`
    number      what its receipts begin with
    kept        attributes in its meta
    read_at     monotonic seconds
    """

    name: str
    handle: AsyncQueue[Any]
    number: int
    options: QueueOptions
    kept: dict[str, str]
    is_made_by_sqs: bool
    read_at: float
    memory: Memory

    def __post_init__(self) -> None:
        self.is_fifo = names.is_fifo(self.name)
        self.size_max = self._number_of("MaximumMessageSize")  # bytes of a message
        self.wait = self._number_of("ReceiveMessageWaitTimeSeconds")
        self.sends = Rounds(self.handle.publish_many)
        self.deletes = Rounds(self._delete)
        self._receives: dict[float | None, Rounds[None, AsyncDelivery[Any]]] = {}

    async def _delete(self, receipts: list[Receipt]) -> list[Receipt]:
        """Ack the messages, whichever receivers hold them."""
        await self.handle.ack_many(receipts, fenced=False)
        return receipts

    async def receive(self, limit: int, visibility: float | None) -> list[AsyncDelivery[Any]]:
        """What can be received now, of a standard queue."""
        rounds = self._receives.get(visibility)
        if rounds is None:
            if len(self._receives) >= RECEIVES_MAX:
                self._receives.clear()  # rounds that are open go on
            rounds = self._receives[visibility] = Rounds(
                lambda wanted: self.handle.receive_many(len(wanted), 0, visibility_timeout=visibility)
            )
        return await rounds.ask([None] * limit)

    def _number_of(self, attribute: str) -> int:
        """Of one in the meta."""
        return int(self.kept.get(attribute, attributes.DEFAULTS[attribute]))


class Queues:
    def __init__(self, site: Site) -> None:
        self._site = site
        self.broker = site.broker
        self._known: dict[str, SqsQueue] = {}
        self._memories: OrderedDict[str, Memory] = OrderedDict()
        self._generation = -1
        self._changes = 0  # made here, of any queue

    async def find(self, name: str) -> SqsQueue:
        """The queue with this name of SQS; a fault if there is none."""
        generation = self.broker.generation
        if generation != self._generation:
            self._known.clear()
            self._generation = generation
        found = self._known.get(name)
        if found and time.monotonic() < found.read_at + META_SECONDS:
            return found
        if found:
            found.read_at = time.monotonic()  # others need not read it at the same time
        return await self.read(name)

    async def read(self, name: str) -> SqsQueue:
        """The same, as it is now."""
        as_of = self.broker.generation, self._changes
        seen = await in_thread(self._read, name)
        if seen is None:
            self._memories.pop(name, None)
            raise no_queue()
        self._remember(seen)
        if as_of == (self.broker.generation, self._changes):  # else it may be as it was before
            self._known[name] = seen
        return seen

    async def delete(self, queue: SqsQueue) -> None:
        await queue.handle.delete()
        self._known.pop(queue.name, None)
        self._memories.pop(queue.name, None)

    def _read(self, name: str) -> SqsQueue | None:
        broker = self._site.plain_broker()
        own = names.to_mq(name)
        if broker.queues(prefix=own, limit=1) != [own]:
            return None
        queue = broker.queue(own)
        meta = queue.meta()
        handle: AsyncQueue[Any] = self.broker.queue(own)
        handle._queue._makes = False
        return SqsQueue(
            name, handle, looking.number(queue._store, queue._channel), queue.options(),
            _decoded(meta, attributes.META), attributes.META in meta, time.monotonic(), Memory(),
        )  # fmt: skip

    def _remember(self, seen: SqsQueue) -> None:
        """Give it the memory that there is of this queue."""
        seen.memory = self._memories.setdefault(seen.name, seen.memory)
        self._memories.move_to_end(seen.name)
        while len(self._memories) > MEMORIES_MAX:
            self._memories.popitem(last=False)

    # ── changes ────────────────────────────────────────────────────────────────────

    async def change(
        self, name: str, options: Mapping[str, Any],
        edit: Callable[[dict[str, str]], Mapping[str, str | None]], *, makes: bool = False,
    ) -> None:  # fmt: skip
        """Declare *options*, and then change the attributes in the meta: *edit* is given those of now.

        A fault if there is no such queue, unless it is to be made.
        """
        own = names.to_mq(name)
        await in_thread(self._change, own, options, attributes.META, edit, makes)
        self._known.pop(name, None)
        self._changes += 1

    async def tag(
        self, name: str, edit: Callable[[dict[str, str]], Mapping[str, str | None]]
    ) -> None:  # fmt: skip
        await in_thread(self._change, names.to_mq(name), {}, attributes.TAGS, edit, False)

    def _change(
        self, own: str, options: Mapping[str, Any], text: str,
        edit: Callable[[dict[str, str]], Mapping[str, str | None]], makes: bool,
    ) -> None:  # fmt: skip
        queue: Queue[Any] = self._site.plain_broker().queue(own)
        queue._makes = False
        checked, is_done = check_options(options), False
        while not is_done:
            if checked:
                commands.declare(queue._store, queue._channel, checked, makes=makes)
            try:
                is_done = _edit(queue, text, edit)
            except NoQueue:  # it was deleted since
                if not makes:
                    raise

    async def tags(self, name: str) -> dict[str, str]:
        def read() -> dict[str, str]:
            return _decoded(self._site.plain_broker().queue(names.to_mq(name)).meta(), attributes.TAGS)

        return await in_thread(read)

    # ── several ────────────────────────────────────────────────────────────────────

    async def listed(self, prefix: str, after: str, limit: int) -> list[str]:
        """Names of mq, of the first *limit* queues whose name of SQS begins with *prefix*."""
        start = prefix.split(names.ESCAPES)[0]  # so far both names are the same
        found: list[str] = []
        while len(found) < limit:
            page = await self.broker.queues(prefix=start, after=after, limit=limit)
            found += [each for each in page if names.to_sqs(each).startswith(prefix)]
            if len(page) < limit:
                break
            after = page[-1]
        return found[:limit]

    async def sources(self, name: str) -> list[str]:
        """Names of SQS, of the queues whose dead letters go to the queue *name*."""
        own = names.to_mq(name)

        def look() -> list[str]:
            broker = self._site.plain_broker()
            return [each for each in broker.queues() if _sends_to(broker.queue(each), own)]

        return [names.to_sqs(each) for each in await in_thread(look)]


def _edit(
    queue: Queue[Any], text: str, edit: Callable[[dict[str, str]], Mapping[str, str | None]]
) -> bool:  # fmt: skip
    """Whether nothing else changed them meanwhile.  Raises NoQueue."""
    before = queue.meta()
    now = _decoded(before, text)
    changes = edit(dict(now))
    after = {name: value for name, value in {**now, **changes}.items() if value is not None}
    return queue.update_meta({text: json.dumps(after)}, expect={text: before.get(text)})


def _sends_to(queue: Queue[Any], target: str) -> bool:
    options = queue.options()
    return options["max_attempts"] is not None and options["dead_letter"] == target


def _decoded(meta: Mapping[str, str], text: str) -> dict[str, str]:
    try:
        return _texts.decode(meta.get(text, "{}"))
    except msgspec.MsgspecError:
        return {}  # another program keeps something else there


async def in_thread(do: Callable[..., T], *given: Any) -> T:
    return await asyncio.to_thread(do, *given)
