"""Actions on queues: made, found, listed, changed, emptied, deleted, tagged."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from typing import Any, Final

from mq.serve.sqs import attributes, names, requests
from mq.serve.sqs.fault import (
    BAD_ATTRIBUTE_VALUE,
    NAME_EXISTS,
    PURGE_IN_PROGRESS,
    Fault,
    bad,
    bad_value,
    missing,
    no_queue,
)
from mq.serve.sqs.queues import NO_REST, SqsQueue
from mq.serve.sqs.service import Answer, Call

PAGE_MAX: Final = 1000
TAGS_MAX: Final = 50
TAG_KEY_CHARS_MAX: Final = 128
TAG_VALUE_CHARS_MAX: Final = 256


async def create_queue(call: Call, asked: requests.CreateQueue) -> Answer:
    name = asked.queue_name
    if name is None:
        raise missing("QueueName")
    given = asked.attributes or {}
    fifo = given.get(attributes.FIFO_QUEUE, "").lower() == "true"
    names.check_new(name, fifo=fifo)
    checked = attributes.check(given, fifo=fifo)
    tags = _checked_tags(asked.tags or {}, name)
    await _check_dead_letters(call, name, checked)
    try:
        there: SqsQueue | None = await call.service.queues.read(name)
    except Fault:
        there = None
    if there and there.is_made_by_sqs:
        _check_same(there, checked, call.arn(name))
        return {"QueueUrl": call.url(name)}
    await _make(call, name, checked, is_new=there is None)
    if tags:
        await call.service.queues.tag(name, lambda _: tags)
    return {"QueueUrl": call.url(name)}


async def _make(call: Call, name: str, checked: Mapping[str, str], *, is_new: bool) -> None:
    """Declare the queue; or, of one that another program declared, what the client says of it."""
    options = attributes.options_of({**attributes.NEW, **checked} if is_new else checked)
    if is_new:
        options["backoff"] = NO_REST
    now = str(int(time.time()))
    kept = {**attributes.kept(checked), **dict.fromkeys(attributes.TIMES, now)}
    await call.service.queues.change(name, options, lambda _: kept, makes=True)


def _check_same(there: SqsQueue, checked: Mapping[str, str], arn: str) -> None:
    has = attributes.shown(there.options, there.kept, fifo=there.is_fifo, arn=arn)
    for name, value in checked.items():
        if not attributes.is_same(name, has.get(name, ""), value):
            raise Fault(
                NAME_EXISTS,
                f"A queue already exists with the same name and a different value for attribute {name}",
            )


async def _check_dead_letters(call: Call, name: str, checked: Mapping[str, str]) -> None:
    """The queue of dead letters is there, of the same kind, and allows it."""
    policy = attributes.redrive(checked.get(attributes.REDRIVE))
    if policy is None:
        return
    value = checked[attributes.REDRIVE]
    target = await call.service.queues.read(policy[0])
    if target.is_fifo != names.is_fifo(name):
        kind = "FIFO" if names.is_fifo(name) else "standard"
        raise bad_value(
            value, attributes.REDRIVE, f"Dead-letter queue must be same type of queue as the source: {kind}."
        )
    if target.name == name:
        raise bad_value(value, attributes.REDRIVE, "A queue cannot be its own dead-letter queue.")
    if not attributes.allows(target.kept.get(attributes.ALLOW), call.arn(name)):
        raise bad_value(
            value,
            attributes.REDRIVE,
            "The dead-letter queue does not allow this queue: see its RedriveAllowPolicy.",
        )


async def get_queue_url(call: Call, asked: requests.GetQueueUrl) -> Answer:
    if not asked.queue_name:
        raise missing("QueueName")
    if not names.LEGAL.fullmatch(asked.queue_name):
        raise no_queue()
    queue = await call.service.queues.find(asked.queue_name)
    return {"QueueUrl": call.url(queue.name)}


async def delete_queue(call: Call, asked: requests.OfQueue) -> None:
    await call.service.queues.delete(await call.queue(asked.queue_url))


async def purge_queue(call: Call, asked: requests.OfQueue) -> None:
    queue = await call.queue(asked.queue_url)
    now = time.monotonic()
    if now < queue.memory.purged_at + call.service.settings.purge_seconds:
        raise Fault(
            PURGE_IN_PROGRESS, f"Only one PurgeQueue operation on {queue.name} is allowed every 60 seconds."
        )
    queue.memory.purged_at = now
    await queue.handle.purge(in_flight=True)
    if queue.is_fifo:
        await call.service.queues.change(queue.name, {}, attributes.purged)


# ── lists ──────────────────────────────────────────────────────────────────────────


async def list_queues(call: Call, asked: requests.ListQueues) -> Answer:
    limit = _page_size(asked.max_results)
    found = await call.service.queues.listed(
        asked.queue_name_prefix or "", _after(asked.next_token), limit + 1
    )
    urls = [call.url(names.to_sqs(each)) for each in found[:limit]]
    is_more = len(found) > limit and asked.max_results is not None
    return _page("QueueUrls", urls, _token(found[limit - 1]) if is_more else None)


async def list_sources(call: Call, asked: requests.ListDeadLetterSourceQueues) -> Answer:
    limit = _page_size(asked.max_results)
    queue = await call.queue(asked.queue_url)
    after = _after(asked.next_token)
    found = [each for each in await call.service.queues.sources(queue.name) if each > after or not after]
    token = _token(found[limit - 1]) if len(found) > limit and asked.max_results is not None else None
    return {"queueUrls": [call.url(each) for each in found[:limit]]} | ({"NextToken": token} if token else {})


def _page(name: str, urls: list[str], token: str | None) -> Answer:
    found: Answer = {name: urls} if urls else {}
    if token:
        found["NextToken"] = token
    return found


def _page_size(asked: int | None) -> int:
    if asked is not None and not 1 <= asked <= PAGE_MAX:
        raise bad_value(asked, "MaxResults", f"Value must be between 1 and {PAGE_MAX} inclusive.")
    return asked or PAGE_MAX


def _token(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _after(token: str | None) -> str:
    try:
        return base64.urlsafe_b64decode(token.encode()).decode() if token else ""
    except ValueError:
        raise bad("Invalid or expired next token.") from None


# ── attributes ─────────────────────────────────────────────────────────────────────


async def get_attributes(call: Call, asked: requests.GetQueueAttributes) -> Answer:
    wanted = set(asked.attribute_names or ())
    for name in wanted - attributes.KNOWN:
        raise attributes.unknown(name)
    queue = await call.service.queues.read(call.name_in(asked.queue_url))
    has = attributes.shown(queue.options, queue.kept, fifo=queue.is_fifo, arn=call.arn(queue.name))
    if wanted & {attributes.ALL, *attributes.COUNTS}:
        stats = await queue.handle.stats()
        has |= {name: str(getattr(stats, field)) for name, field in attributes.COUNTS.items()}
    found = has if attributes.ALL in wanted else {name: has[name] for name in wanted if name in has}
    return {"Attributes": found} if found else {}


async def set_attributes(call: Call, asked: requests.SetQueueAttributes) -> None:
    given = asked.attributes
    if not given:
        raise missing("Attributes" if given is None else "Attribute.Name")
    queue = await call.queue(asked.queue_url)
    if attributes.FIFO_QUEUE in given:
        if not queue.is_fifo or given[attributes.FIFO_QUEUE].lower() == "true":
            given = _without_kind(given, fifo=queue.is_fifo)
        else:
            raise Fault(
                BAD_ATTRIBUTE_VALUE,
                "Invalid value for the parameter FifoQueue. Reason: Modifying queue type is not supported.",
            )
    checked = attributes.check(given, fifo=queue.is_fifo)
    await _check_dead_letters(call, queue.name, checked)
    kept = {**attributes.kept(checked), "LastModifiedTimestamp": str(int(time.time()))}
    await call.service.queues.change(queue.name, attributes.options_of(checked), lambda _: kept)


def _without_kind(given: Mapping[str, str], *, fifo: bool) -> dict[str, str]:
    if not fifo:
        raise attributes.unknown(attributes.FIFO_QUEUE)
    return {name: value for name, value in given.items() if name != attributes.FIFO_QUEUE}


# ── tags ───────────────────────────────────────────────────────────────────────────


async def tag_queue(call: Call, asked: requests.TagQueue) -> None:
    queue = await call.queue(asked.queue_url)
    if not asked.tags:
        raise missing("Tags")
    tags = _checked_tags(asked.tags, queue.name)

    def edit(now: dict[str, str]) -> Mapping[str, str | None]:
        if len({**now, **tags}) > TAGS_MAX:
            raise _too_many_tags(queue.name)
        return tags

    await call.service.queues.tag(queue.name, edit)


def _too_many_tags(name: str) -> Fault:
    return bad(f"Too many tags added for queue {name}.")


def _checked_tags(tags: Mapping[str, str], name: str) -> dict[str, str]:
    if len(tags) > TAGS_MAX:
        raise _too_many_tags(name)
    for key, value in tags.items():
        if not 1 <= len(key) <= TAG_KEY_CHARS_MAX:
            raise bad(f"Tag keys must be between 1 and {TAG_KEY_CHARS_MAX} characters in length.")
        if len(value) > TAG_VALUE_CHARS_MAX:
            raise bad(f"Tag values must be between 0 and {TAG_VALUE_CHARS_MAX} characters in length.")
    return dict(tags)


async def untag_queue(call: Call, asked: requests.UntagQueue) -> None:
    queue = await call.queue(asked.queue_url)
    keys = asked.tag_keys
    if not keys:
        raise bad(f"Tag keys must be between 1 and {TAG_KEY_CHARS_MAX} characters in length.")
    gone: dict[str, str | None] = dict.fromkeys(keys)
    await call.service.queues.tag(queue.name, lambda _: gone)


async def list_tags(call: Call, asked: requests.OfQueue) -> Answer:
    queue = await call.queue(asked.queue_url)
    tags: Any = await call.service.queues.tags(queue.name)
    return {"Tags": tags} if tags else {}
