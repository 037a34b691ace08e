"""ReceiveMessage: short and long polls, and what of a message is shown.

A long poll waits without a thread of its own, until there is a message, its time is over, the client has
hung up, or the server drains.  What it took for a client that has hung up goes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from mq import AsyncDelivery
from mq.errors import StaleReceipt
from mq.serve.sqs import attributes, bodies, checksums, message_attributes, names, requests
from mq.serve.sqs.fault import OVER_LIMIT, Fault, bad_value
from mq.serve.sqs.queues import SqsQueue, in_thread
from mq.serve.sqs.requests import Value
from mq.serve.sqs.sending import sequence_number
from mq.serve.sqs.service import Answer, Call

COUNT_MAX: Final = 10
IN_FLIGHT_MAX: Final = 120_000
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
    wait = _within(
        "WaitTimeSeconds", asked.wait_time_seconds, queue.number_of("ReceiveMessageWaitTimeSeconds"), 0,
        attributes.WAIT_MAX,
    )  # fmt: skip
    visibility = _visibility(asked.visibility_timeout)
    system = {*(asked.attribute_names or ()), *(asked.message_system_attribute_names or ())}
    for name in system - SYSTEM:
        raise attributes.unknown(name)
    await _check_room(queue, limit)
    taken = await _received(call, queue, asked, limit, float(wait), visibility)
    queue.room -= len(taken)
    if not taken:
        return {}
    wanted = asked.message_attribute_names or ()
    firsts = await _first_received(taken) if system & {"All", FIRST_RECEIVE} else {}
    return {"Messages": [_shown(call, queue, each, system, wanted, firsts) for each in taken]}


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


async def _check_room(queue: SqsQueue, limit: int) -> None:
    """At most so many messages are in flight.  They are counted again when that many could be."""
    if queue.room >= limit:
        return
    stats = await queue.handle.stats()
    queue.room = IN_FLIGHT_MAX - stats.in_flight
    if queue.room <= 0:
        raise Fault(
            OVER_LIMIT,
            f"Too many messages are in flight: {stats.in_flight}. Delete some, or wait until they time out.",
        )


# ── taking ─────────────────────────────────────────────────────────────────────────


async def _received(
    call: Call, queue: SqsQueue, asked: requests.ReceiveMessage, limit: int, wait: float,
    visibility: float | None,
) -> Taken:  # fmt: skip
    attempt = asked.receive_request_attempt_id if queue.is_fifo else None
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
    def receive(timeout: float) -> Any:
        return queue.handle.receive_many(
            limit, timeout, visibility_timeout=visibility, per_group=None if queue.is_fifo else 1
        )

    taken: Taken = await receive(0)
    if taken or not wait:
        return taken
    poll = asyncio.ensure_future(receive(wait))
    gone = asyncio.ensure_future(call.gone())
    try:
        await asyncio.wait([poll, gone, call.service.draining()], return_when=asyncio.FIRST_COMPLETED)
        if not poll.done():
            return []
        taken = poll.result()
        if gone.done() and taken:
            await queue.handle.release_many(taken)
            return []
        return taken
    finally:
        for task in (poll, gone):
            task.cancel()


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
