"""ReceiveMessage: short and long polls, and what of a message is shown.

A long poll waits without a thread of its own, until there is a message, its time is over, the client has
hung up, or the server drains.  What it took for a client that has hung up goes back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from mq import AsyncDelivery
from mq.errors import StaleReceipt
from mq.serve.sqs import attributes, bodies, checksums, message_attributes, names, requests
from mq.serve.sqs.fault import OVER_LIMIT, Fault, bad_value
from mq.serve.sqs.queues import SqsQueue, in_thread
from mq.serve.sqs.requests import Value
from mq.serve.sqs.sending import check_label, sequence_number
from mq.serve.sqs.service import Answer, Call

COUNT_MAX: Final = 10
ROOM_SECONDS: Final = 1.0  # how often a long poll looks whether fewer messages are in flight
SYSTEM: Final = frozenset(
    {
        "All", "SenderId", "SentTimestamp", "ApproximateReceiveCount", "ApproximateFirstReceiveTimestamp",
        "SequenceNumber", "MessageDeduplicationId", "MessageGroupId", "AWSTraceHeader",
        "DeadLetterQueueSourceArn",
    }
)  # fmt: skip
FIRST_RECEIVE: Final = "ApproximateFirstReceiveTimestamp"

Taken = list[AsyncDelivery[Any]]


async def receive_message(call: Call, asked: requests.ReceiveMessage) -> Answer:
    queue = await call.queue(asked.queue_url)
    limit = _within("MaxNumberOfMessages", asked.max_number_of_messages, 1, 1, COUNT_MAX)
    wait = _within("WaitTimeSeconds", asked.wait_time_seconds, queue.wait, 0, attributes.WAIT_MAX)
    visibility = _visibility(asked.visibility_timeout)
    system = {*(asked.attribute_names or ()), *(asked.message_system_attribute_names or ())}
    for name in system - SYSTEM:
        raise attributes.unknown(name)
    taken = await _received(call, queue, asked, limit, float(wait), visibility)
    if not taken:
        return {}
    wanted = asked.message_attribute_names or ()
    firsts = await _first_received(taken) if system & {"All", FIRST_RECEIVE} else {}
    if queue.is_fifo:
        taken = _by_group(taken)
    return {"Messages": [_shown(call, queue, each, system, wanted, firsts) for each in taken]}


def _by_group(taken: Taken) -> Taken:
    """As SQS shows them: the messages of a group behind each other, in order."""
    groups: dict[str | None, Taken] = {}
    for each in taken:
        groups.setdefault(each.group, []).append(each)
    return [each for group in groups.values() for each in group]


def _within(name: str, asked: int | None, default: int, least: int, most: int) -> int:
    if asked is None:
        return default
    if not least <= asked <= most:
        reason = (
            f"Must be between {least} and {most}, if provided."
            if least
            else f"Must be >= 0 and <= {most}, if provided."
        )
        raise bad_value(asked, name, reason)
    return asked


def _visibility(asked: int | None) -> float | None:
    if asked is not None and not 0 <= asked <= attributes.VISIBILITY_MAX:
        raise bad_value(
            asked, "VisibilityTimeout", f"Must be >= 0 and <= {attributes.VISIBILITY_MAX}, if provided."
        )
    return asked


# ── taking ─────────────────────────────────────────────────────────────────────────


async def _received(
    call: Call, queue: SqsQueue, asked: requests.ReceiveMessage, limit: int, wait: float,
    visibility: float | None,
) -> Taken:  # fmt: skip
    attempt = asked.receive_request_attempt_id if queue.is_fifo else None
    check_label("ReceiveRequestAttemptId", attempt or None)
    if attempt:
        again = call.service.attempts.recall((queue.name, attempt))
        if again and await _still_held(queue, again, visibility):
            call.service.attempts.remember((queue.name, attempt), again)
            return again
    taken = await _take(call, queue, limit, wait, visibility)
    if attempt and taken:
        call.service.attempts.remember((queue.name, attempt), taken)
    return taken


async def _still_held(queue: SqsQueue, taken: Taken, visibility: float | None) -> bool:
    """Whether all of them are in flight as they were; then their time begins anew."""
    try:
        await queue.handle.extend_many(taken, visibility)
    except StaleReceipt:
        return False
    return True


async def _take(call: Call, queue: SqsQueue, limit: int, wait: float, visibility: float | None) -> Taken:
    async def receive(timeout: float | None) -> Taken:
        """*timeout*: None: it looks once, together with other requests; it cannot be undone then."""
        count = await _room(call, queue, limit)
        if not count:
            return []
        if timeout is None and not queue.is_fifo:
            taken = await queue.receive(count, visibility)
        else:
            per_group = None if queue.is_fifo else 1
            taken = await queue.handle.receive_many(
                count, timeout or 0.0, visibility_timeout=visibility, per_group=per_group
            )
        queue.memory.room -= len(taken)
        return taken

    async def poll() -> Taken:
        until = time.monotonic() + wait
        while not await _room(call, queue, limit) and (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(ROOM_SECONDS, left))
        return await receive(max(0.0, until - time.monotonic()))

    taken = await receive(None)
    if taken and call.has_gone():
        await _give_back(queue, taken)
        return []
    if taken:
        return taken
    if wait:
        return await _answered(call, queue, poll())
    if queue.memory.room <= 0 and not queue.is_fifo:  # where SQS says so; in other cases nothing is received
        raise Fault(
            OVER_LIMIT,
            f"Too many messages are in flight: {call.service.settings.in_flight_max}. Delete some, or wait"
            " until they time out.",
        )
    return []


async def _room(call: Call, queue: SqsQueue, limit: int) -> int:
    """How many may be received, up to *limit*: those in flight are counted when there may be too many.

    Polls that take at the same time may go beyond that by what they take.
    """
    if queue.memory.room < limit:
        stats = await queue.handle.stats()
        queue.memory.room = call.service.settings.in_flight_max - stats.in_flight
    return max(0, min(limit, queue.memory.room))


async def _answered(call: Call, queue: SqsQueue, polling: Coroutine[Any, Any, Taken]) -> Taken:
    """What a long poll takes; nothing, if the client hangs up or the server drains meanwhile."""
    poll = asyncio.ensure_future(polling)
    gone = asyncio.ensure_future(call.gone())
    try:
        await asyncio.wait([poll, gone, call.service.draining()], return_when=asyncio.FIRST_COMPLETED)
        if not poll.done():
            return []
        taken = poll.result()
        if gone.done() and taken:
            await _give_back(queue, taken)
            return []
        return taken
    finally:
        for task in (poll, gone):
            task.cancel()


async def _give_back(queue: SqsQueue, taken: Taken) -> None:
    """What was taken for a client that has hung up."""
    with suppress(StaleReceipt):  # its queue settles a delivery as it is made
        await queue.handle.release_many(taken)


# ── showing ────────────────────────────────────────────────────────────────────────


def _shown(
    call: Call, queue: SqsQueue, taken: AsyncDelivery[Any], system: set[str], wanted: Iterable[str],
    firsts: Mapping[int, int],
) -> Answer:  # fmt: skip
    text, encoding = bodies.text_of(taken)
    found: Answer = {
        "MessageId": call.message_id(taken.id), "ReceiptHandle": taken.receipt,
        "MD5OfBody": checksums.of_body(text), "Body": text,
    }  # fmt: skip
    if system and (told := _system(call, queue, taken, system, firsts)):
        found["Attributes"] = told
    if wanted:
        own = message_attributes.of_headers(taken.headers)
        if encoding:
            own[bodies.ENCODING] = Value(data_type="String", string_value=encoding)
        if chosen := message_attributes.chosen(own, wanted):
            found["MessageAttributes"] = {name: _members(value) for name, value in chosen.items()}
            found["MD5OfMessageAttributes"] = checksums.of_attributes(chosen)
    return found


def _members(value: Value) -> Answer:
    if value.binary_value is not None:
        return {"BinaryValue": value.binary_value, "DataType": value.data_type}
    return {"StringValue": value.string_value, "DataType": value.data_type}


def _system(
    call: Call, queue: SqsQueue, taken: AsyncDelivery[Any], wanted: set[str], firsts: Mapping[int, int]
) -> dict[str, str]:  # fmt: skip
    headers = taken.headers
    found = {
        "SenderId": call.account,
        "SentTimestamp": str(int(taken.created_at.timestamp() * 1000)),
        "ApproximateReceiveCount": str(_receives(taken)),
        FIRST_RECEIVE: str(firsts.get(taken.id, "")),
    }
    if group := taken.group or headers.get(message_attributes.GROUP):
        found["MessageGroupId"] = group
    if queue.is_fifo:
        found["SequenceNumber"] = sequence_number(taken.id)
    if dedup := headers.get(message_attributes.DEDUP):
        found["MessageDeduplicationId"] = dedup
    if trace := headers.get(message_attributes.TRACE):
        found["AWSTraceHeader"] = trace
    if taken.origin:
        found["DeadLetterQueueSourceArn"] = call.arn(names.to_sqs(taken.origin))
    return found if "All" in wanted else {name: text for name, text in found.items() if name in wanted}


def _receives(taken: AsyncDelivery[Any]) -> int:
    """How often it was received, also in the queue in which it died."""
    before = taken.failures[-1].attempt if taken.origin and taken.failures else 0
    return before + taken.attempts


async def _first_received(taken: Taken) -> dict[int, int]:
    """When each was first received, in milliseconds since 1970, by id.  The log is asked for it."""

    def look() -> dict[int, int]:
        now = datetime.now(UTC)
        return {each.id: int((each.first_received_at or now).timestamp() * 1000) for each in taken}

    return await in_thread(look)
