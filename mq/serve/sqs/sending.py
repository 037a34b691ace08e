"""SendMessage and its batch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

import mq
from mq.api.options import PublishOptions
from mq.engine.commands import NoQueue
from mq.errors import MqError
from mq.serve.sqs import attributes, batches, checksums, message_attributes, requests
from mq.serve.sqs.fault import (
    BAD_CONTENTS,
    BATCH_TOO_LONG,
    Fault,
    bad,
    bad_value,
    fault_of,
    missing,
    no_queue,
)
from mq.serve.sqs.queues import SqsQueue
from mq.serve.sqs.service import Answer, Call

LABEL: Final = re.compile(r"[0-9a-zA-Z!\"#$%&'()*+,./:;<=>?@\[\\\]^_`{|}~-]{1,128}")
SEQUENCE_DIGITS: Final = 20


async def send_message(call: Call, asked: requests.SendMessage) -> Answer:
    queue = await call.queue(asked.queue_url)
    size = _size(asked)
    (id,) = await queue.sends.ask([_prepared(call, queue, asked, size)], size)
    return _sent(call, queue, asked, id)


async def send_batch(call: Call, asked: requests.SendMessageBatch) -> Answer:
    queue = await call.queue(asked.queue_url)
    entries = batches.check(asked.entries, "SendMessageBatchRequestEntry")
    sizes = [_size(entry) for entry in entries.values()]
    size = sum(sizes)
    if size > attributes.MESSAGE_BYTES_MAX:
        raise Fault(
            BATCH_TOO_LONG,
            f"Batch requests cannot be longer than {attributes.MESSAGE_BYTES_MAX} bytes. You have sent"
            f" {size} bytes.",
        )
    if queue.is_fifo:
        _check_fifo_batch(queue, entries.values())
    ready: dict[str, object] = {}
    failures: list[Answer] = []
    for (id, entry), own_size in zip(entries.items(), sizes, strict=True):
        try:
            ready[id] = _prepared(call, queue, entry, own_size)
        except Fault as fault:
            text = fault.message.replace("parameters are invalid", "parameters cannot be validated")
            failures.append(batches.failed(id, Fault(fault.kind, text)))
    try:
        ids = await queue.sends.ask(list(ready.values()), size) if ready else []
    except NoQueue:
        raise no_queue() from None
    except MqError as error:  # then none of them is there, or that is open: StoreFailed
        return batches.answer([], failures + [batches.failed(id, fault_of(error)) for id in ready])
    done = [
        {"Id": entry_id, **_sent(call, queue, entries[entry_id], id)}
        for entry_id, id in zip(ready, ids, strict=True)
    ]
    return batches.answer(done, failures)


def _check_fifo_batch(queue: SqsQueue, entries: Iterable[requests.SendEntry]) -> None:
    """What SQS refuses a whole batch for."""
    for entry in entries:
        if not entry.message_group_id:
            raise bad("The request must contain the parameter MessageGroupId.")
        if entry.message_deduplication_id is None:
            _check_by_content(queue)


def _sent(call: Call, queue: SqsQueue, asked: requests.Outgoing, id: int) -> Answer:
    found: Answer = {
        "MessageId": call.message_id(id), "MD5OfMessageBody": checksums.of_body(asked.message_body or "")
    }  # fmt: skip
    if asked.message_attributes:
        found["MD5OfMessageAttributes"] = checksums.of_attributes(asked.message_attributes)
    if asked.message_system_attributes:
        found["MD5OfMessageSystemAttributes"] = checksums.of_attributes(asked.message_system_attributes)
    if queue.is_fifo:
        found["SequenceNumber"] = sequence_number(id)
    return found


def sequence_number(id: int) -> str:
    return str(id).zfill(SEQUENCE_DIGITS)


# ── one message ────────────────────────────────────────────────────────────────────


def _size(asked: requests.Outgoing) -> int:
    body, attributes = asked.message_body or "", asked.message_attributes
    size = len(body) if body.isascii() else len(body.encode())
    return size + message_attributes.size(attributes) if attributes else size


def _prepared(call: Call, queue: SqsQueue, asked: requests.Outgoing, size: int) -> object:
    """What is to be published; *size*: bytes that count against the limit."""
    body, limit = asked.message_body, queue.size_max
    if not body:
        raise missing("MessageBody")
    if size > limit:
        raise bad(f"One or more parameters are invalid. Reason: Message must be shorter than {limit} bytes.")
    if not message_attributes.is_legal(body):
        raise Fault(
            BAD_CONTENTS,
            "Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF |"
            " #xE000 to #xFFFD | #x10000 to #x10FFFF",
        )
    headers = _headers(call, asked)
    options = _fifo_options(queue, asked, headers) if queue.is_fifo else _standard_options(asked, headers)
    if headers:
        options["headers"] = headers
    return mq.Outgoing(body, options) if options else body


def _headers(call: Call, asked: requests.Outgoing) -> dict[str, str]:
    headers: dict[str, str] = {}
    if asked.message_attributes:
        message_attributes.check(asked.message_attributes)
        headers = message_attributes.headers_of(asked.message_attributes)
    trace = call.trace
    if asked.message_system_attributes:
        trace = message_attributes.check_system(asked.message_system_attributes)
    if trace:
        headers[message_attributes.TRACE] = trace
    return headers


def check_label(name: str, text: str | None) -> None:
    if text is not None and not LABEL.fullmatch(text):
        raise bad_value(
            text,
            name,
            f"{name} can only include alphanumeric and punctuation characters. 1 to 128 in length.",
        )


def _standard_options(asked: requests.Outgoing, headers: dict[str, str]) -> PublishOptions:
    options: PublishOptions = {}
    if asked.message_deduplication_id is not None:
        check_label("MessageDeduplicationId", asked.message_deduplication_id)
        raise bad_value(
            asked.message_deduplication_id, "MessageDeduplicationId",
            "The request include parameter that is not valid for this queue type.",
        )  # fmt: skip
    if asked.message_group_id is not None:  # of a fair queue: it orders nothing
        check_label("MessageGroupId", asked.message_group_id)
        headers[message_attributes.GROUP] = asked.message_group_id
    delay = asked.delay_seconds
    if delay is not None:
        if not 0 <= delay <= attributes.DELAY_MAX:
            raise bad_value(delay, "DelaySeconds", "DelaySeconds must be >= 0 and <= 900.")
        options["delay"] = float(delay)
    return options


def _fifo_options(queue: SqsQueue, asked: requests.Outgoing, headers: dict[str, str]) -> PublishOptions:
    if asked.delay_seconds:
        raise bad_value(
            asked.delay_seconds, "DelaySeconds",
            "The request include parameter that is not valid for this queue type.",
        )  # fmt: skip
    group, dedup = asked.message_group_id, asked.message_deduplication_id
    if group is None:
        raise missing("MessageGroupId")
    check_label("MessageGroupId", group)
    check_label("MessageDeduplicationId", dedup)
    if dedup is None:
        _check_by_content(queue)
        dedup = hashlib.sha256((asked.message_body or "").encode()).hexdigest()
    headers[message_attributes.DEDUP] = dedup
    return {"group": group, "dedup_id": _scoped(queue, group, dedup)}


def _check_by_content(queue: SqsQueue) -> None:
    if queue.kept.get(attributes.BY_CONTENT) != "true":
        raise bad(
            "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId"
            " provided explicitly"
        )


def _scoped(queue: SqsQueue, group: str, dedup: str) -> str:
    if purges := queue.kept.get(attributes.PURGES):
        dedup = f"{purges}\n{dedup}"
    if queue.kept.get(attributes.SCOPE) != "messageGroup":
        return dedup
    return hashlib.sha256(f"{group}\n{dedup}".encode()).hexdigest()
