"""Message move tasks: dead letters back to where they died, or to another queue, a slice at a time.

A task is the server's: when that ends, so does the task, and what it has moved stays moved.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
import uuid
from dataclasses import dataclass, field
from typing import Final

from mq.errors import MqError
from mq.serve.sqs import names, requests
from mq.serve.sqs.fault import NO_QUEUE, NO_RESOURCE, Fault, bad, bad_value, missing
from mq.serve.sqs.queues import SqsQueue
from mq.serve.sqs.service import Answer, Call

SLICE: Final = 100
RATE_MAX: Final = 500
LISTED_MAX: Final = 10
RUNNING: Final = "RUNNING"

log = logging.getLogger("mq.serve")


@dataclass
class Move:
    """
    source, destination    ARNs; no destination: each to where it died
    rate       messages a second; None: no limit
    status     RUNNING, CANCELLING, CANCELLED, COMPLETED or FAILED
    """

    source: str
    destination: str | None
    rate: int | None
    to_move: int
    status: str = RUNNING
    moved: int = 0
    failure: str | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    started_ms: int = field(default_factory=lambda: int(time.time() * 1000))
    task: asyncio.Task[None] | None = None

    @property
    def handle(self) -> str:
        return base64.b64encode(json.dumps({"taskId": self.id, "sourceArn": self.source}).encode()).decode()


async def start(call: Call, asked: requests.StartMessageMoveTask) -> Answer:
    source = await _named(call, "SourceArn", asked.source_arn)
    target = await _named(call, "DestinationArn", asked.destination_arn) if asked.destination_arn else None
    rate = asked.max_number_of_messages_per_second
    if rate is not None and not 1 <= rate <= RATE_MAX:
        raise bad_value(
            rate, "MaxNumberOfMessagesPerSecond", f"Must be between 1 and {RATE_MAX}, if provided."
        )
    if target and target.name == source.name:
        raise bad("Source queue arn and destination queue arn cannot be the same.")
    if not await call.service.queues.sources(source.name):
        raise bad("Source queue must be configured as a Dead Letter Queue.")
    moves = call.service.moves.setdefault(source.name, [])
    if any(each.status == RUNNING for each in moves):
        raise bad(
            "There is already a task running. Only one active task is allowed for a source queue arn at a"
            " given time."
        )
    stats = await source.handle.stats()
    move = Move(str(asked.source_arn), asked.destination_arn, rate, stats.ready + stats.delayed)
    move.task = asyncio.create_task(_run(move, source, target))
    moves.insert(0, move)
    del moves[LISTED_MAX:]
    return {"TaskHandle": move.handle}


async def _named(call: Call, parameter: str, arn: str | None) -> SqsQueue:
    if not arn:
        raise missing(parameter)
    name = names.of_arn(arn)
    if name is None:
        raise bad(
            "You must use this format to specify the "
            f"{parameter}: arn:<partition>:<service>:<region>:<account-id>:<resource-id>"
        )
    try:
        return await call.service.queues.find(name)
    except Fault as fault:
        if fault.kind is not NO_QUEUE:
            raise
        raise _no_resource(parameter) from None


def _no_resource(parameter: str) -> Fault:
    return Fault(
        NO_RESOURCE, f"The resource that you specified for the {parameter} parameter doesn't exist."
    )  # fmt: skip


async def list_tasks(call: Call, asked: requests.ListMessageMoveTasks) -> Answer:
    source = await _named(call, "SourceArn", asked.source_arn)
    limit = 1 if asked.max_results is None else asked.max_results
    if not 1 <= limit <= LISTED_MAX:
        raise bad_value(limit, "MaxResults", f"Value must be between 1 and {LISTED_MAX} inclusive.")
    moves = call.service.moves.get(source.name, [])
    return {"Results": [_entry(each) for each in moves[:limit]]}


def _entry(move: Move) -> Answer:
    found: Answer = {
        "TaskHandle": move.handle if move.status == RUNNING else None, "Status": move.status,
        "SourceArn": move.source, "DestinationArn": move.destination,
        "MaxNumberOfMessagesPerSecond": move.rate, "ApproximateNumberOfMessagesMoved": move.moved,
        "ApproximateNumberOfMessagesToMove": move.to_move, "FailureReason": move.failure,
        "StartedTimestamp": move.started_ms,
    }  # fmt: skip
    return {name: value for name, value in found.items() if value is not None}


async def cancel(call: Call, asked: requests.CancelMessageMoveTask) -> Answer:
    if not asked.task_handle:
        raise missing("TaskHandle")
    id, arn = _of_handle(asked.task_handle)
    source = await _named(call, "SourceArn", arn)
    for move in call.service.moves.get(source.name, []):
        if move.id == id:
            if move.status != RUNNING or move.task is None:
                raise bad("Only active tasks can be cancelled.")
            move.status = "CANCELLING"
            move.task.cancel()
            return {"ApproximateNumberOfMessagesMoved": move.moved}
    raise Fault(NO_RESOURCE, "Task does not exist.")


def _of_handle(text: str) -> tuple[str, str]:
    try:
        said = json.loads(base64.b64decode(text, validate=True))
        return str(said["taskId"]), str(said["sourceArn"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise bad("Value for parameter TaskHandle is invalid.") from None


# ── the work ───────────────────────────────────────────────────────────────────────


async def _run(move: Move, source: SqsQueue, target: SqsQueue | None) -> None:
    try:
        move.failure = await _move_all(move, source, target)
        move.status = "FAILED" if move.failure else "COMPLETED"
    except asyncio.CancelledError:
        move.status = "CANCELLED"
    except MqError as error:
        log.warning("moving the messages of %s: %s", source.handle.name, error)
        is_gone = target is not None and "there is no queue" in str(error)
        move.failure = NO_QUEUE.code if is_gone else str(error)
        move.status = "FAILED"


async def _move_all(move: Move, source: SqsQueue, target: SqsQueue | None) -> str | None:
    """Why not all of them moved; None: they did."""
    size = min(SLICE, move.rate or SLICE)
    while slice := await source.handle.peek(size):
        ids = [each.id for each in slice if target or each.origin]
        moved = await source.handle.replay(ids, to=target.handle.name if target else None)
        move.moved += moved
        if len(ids) < len(slice):
            return "CouldNotDetermineMessageSource"
        if moved == 0:  # receivers were quicker
            break
        if move.rate:
            await asyncio.sleep(len(slice) / move.rate)
    return None
