"""DeleteMessage, ChangeMessageVisibility, and their batches.

A standard queue accepts an old handle: it is the message that goes, or is hidden for longer, whichever
receiver holds it.  A FIFO queue accepts the handle of a delivery that is in force, and no other.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final

from mq import Message, Receipt
from mq.errors import MqError, StaleReceipt, UsageError
from mq.serve.sqs import attributes, batches, requests
from mq.serve.sqs.fault import (
    BAD_RECEIPT,
    NOT_IN_FLIGHT,
    Fault,
    bad_value,
    fault_of,
    missing,
)
from mq.serve.sqs.queues import SqsQueue
from mq.serve.sqs.service import Answer, Call

RECEIPT: Final = re.compile(r"([0-9]{1,19}-){3}[0-9a-f]{1,64}")
ID_MAX: Final = (1 << 63) - 1
EXPIRED: Final = "The receipt handle has expired."
GONE: Final = "Message does not exist or is not available for visibility timeout change."

Settle = Callable[[SqsQueue, requests.Held], Awaitable[None]]


async def delete_message(call: Call, asked: requests.OneHeld) -> None:
    await _delete(await call.queue(asked.queue_url), asked)


async def change_visibility(call: Call, asked: requests.OneHeld) -> None:
    await _change(await call.queue(asked.queue_url), asked)


async def delete_batch(call: Call, asked: requests.HeldBatch) -> Answer:
    kind = "DeleteMessageBatchRequestEntry"
    queue = await call.queue(asked.queue_url)
    if queue.is_fifo:
        return await _batch(call, asked, kind, _delete)
    failures: list[Answer] = []
    receipts: dict[str, Receipt] = {}
    for id, entry in batches.check(asked.entries, kind).items():
        try:
            receipts[id] = _receipt(queue, entry)[0]
        except Fault as fault:
            failures.append(batches.failed(id, fault))
    try:
        await queue.deletes.ask(list(receipts.values()))
    except (StaleReceipt, UsageError):  # one is of another store: each by itself
        return await _batch(call, asked, kind, _delete)
    return batches.answer([{"Id": id} for id in receipts], failures)


async def change_batch(call: Call, asked: requests.HeldBatch) -> Answer:
    return await _batch(call, asked, "ChangeMessageVisibilityBatchRequestEntry", _change)


async def _batch(call: Call, asked: requests.HeldBatch, kind: str, settle: Settle) -> Answer:
    queue = await call.queue(asked.queue_url)
    done: list[Answer] = []
    failures: list[Answer] = []
    for id, entry in batches.check(asked.entries, kind).items():
        try:
            await settle(queue, entry)
        except Fault as fault:
            failures.append(batches.failed(id, fault))
        except MqError as error:
            failures.append(batches.failed(id, fault_of(error)))
        else:
            done.append({"Id": id})
    return batches.answer(done, failures)


# ── one message ────────────────────────────────────────────────────────────────────


def _receipt(queue: SqsQueue, asked: requests.Held) -> tuple[Receipt, int]:
    """The receipt that a handle is, and the id of its message."""
    handle = asked.receipt_handle
    if not handle:
        raise missing("ReceiptHandle")
    if not RECEIPT.fullmatch(handle):
        raise _bad_receipt(handle)
    number, id, flight = map(int, handle.split("-")[:3])
    if number != queue.number or max(id, flight) > ID_MAX:
        raise _bad_receipt(handle)
    return Receipt(handle), id


def _bad_receipt(handle: str) -> Fault:
    return Fault(BAD_RECEIPT, f'The input receipt handle "{handle[:1024]}" is not a valid receipt handle.')


async def _delete(queue: SqsQueue, asked: requests.Held) -> None:
    receipt, id = _receipt(queue, asked)
    if queue.is_fifo:
        message = await queue.handle.get(id)
        if message is None:
            return  # it is done already
        if message.state != "in_flight":
            raise bad_value(receipt, "ReceiptHandle", EXPIRED)
    try:
        if queue.is_fifo:
            await queue.handle.ack_many([receipt])
        else:
            await queue.deletes.ask([receipt])
    except StaleReceipt:
        if queue.is_fifo and await queue.handle.get(id) is not None:
            raise bad_value(receipt, "ReceiptHandle", EXPIRED) from None
    except UsageError:
        raise _bad_receipt(receipt) from None


async def _change(queue: SqsQueue, asked: requests.Held) -> None:
    receipt, id = _receipt(queue, asked)
    seconds = asked.visibility_timeout
    if seconds is None:
        raise missing("VisibilityTimeout")
    if not 0 <= seconds <= attributes.VISIBILITY_MAX:
        raise bad_value(
            seconds, "VisibilityTimeout",
            f"VisibilityTimeout must be an integer between 0 and {attributes.VISIBILITY_MAX}.",
        )  # fmt: skip
    try:
        await queue.handle.extend_many([receipt], float(seconds))
    except StaleReceipt:
        await _change_another(queue, receipt, await queue.handle.get(id), float(seconds))
    except UsageError:
        raise _bad_receipt(receipt) from None


async def _change_another(
    queue: SqsQueue, receipt: Receipt, message: Message[object] | None, seconds: float
) -> None:  # fmt: skip
    """Its delivery is not in force any more."""
    if message is None:
        raise bad_value(receipt, "ReceiptHandle", GONE)
    if queue.is_fifo:
        raise bad_value(receipt, "ReceiptHandle", EXPIRED)
    if message.state != "in_flight":
        raise Fault(NOT_IN_FLIGHT, "The message referred to isn't in flight.")
    await queue.handle.extend_many([receipt], seconds, fenced=False)
