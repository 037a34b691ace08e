"""What kombu says of queues and messages, as options of mq."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from kombu.exceptions import ChannelError

from mq.api.options import PRIORITY_MAX, PublishOptions, QueueOptions

TEMPORARY_SECONDS: Final = 60.0  # an auto-delete queue stays at least so long without a consumer
TTL_MIN: Final = 0.001  # seconds; a queue with x-message-ttl 0 has this
OVERFLOW: Final = {"drop-head": "drop_oldest", "reject-publish": "reject"}
REFUSED: Final = {
    "x-single-active-consumer": "give the messages a group, or run one worker",
    "x-queue-type=stream": "retain the history of a topic",
}

Arguments = Mapping[str, Any]


# ── queues ─────────────────────────────────────────────────────────────────────────


def queue_options(
    arguments: Arguments, *, auto_delete: bool, dead_letters: Callable[[str, str], str]
) -> QueueOptions:
    """The options to declare; those that *arguments* do not name are left out.

    *dead_letters*: the queue that gets what is published to an exchange with a key.
    """
    _refuse(arguments)
    options: QueueOptions = {}
    if (expires := arguments.get("x-expires")) is not None:
        options["delete_when_abandoned"] = expires / 1000
    if auto_delete:
        options["delete_when_abandoned"] = max((expires or 0) / 1000, TEMPORARY_SECONDS)
    if (ttl := arguments.get("x-message-ttl")) is not None:
        options["ttl"] = max(ttl / 1000, TTL_MIN)
    if (length := arguments.get("x-max-length")) is not None:
        options["max_length"] = length
    if (size := arguments.get("x-max-length-bytes")) is not None:
        options["max_bytes"] = size
    if length is not None or size is not None:
        options["overflow"] = _overflow(arguments.get("x-overflow", "drop-head"))  # type: ignore[typeddict-item]
    if (limit := arguments.get("x-delivery-limit")) is not None:
        options["max_attempts"] = limit + 1
    if (exchange := arguments.get("x-dead-letter-exchange")) is not None:
        options["dead_letter"] = dead_letters(exchange, arguments.get("x-dead-letter-routing-key", ""))
        options["expired"] = "dead_letter"
    return options


def _refuse(arguments: Arguments) -> None:
    for name, instead in REFUSED.items():
        name, _, value = name.partition("=")
        if arguments.get(name) and (not value or arguments[name] == value):
            raise ChannelError(f"mq has no {name}{value and f' {value}'}: {instead}")


def _overflow(name: str) -> str:
    if name not in OVERFLOW:
        raise ChannelError(f"mq has no x-overflow {name!r}, only {' and '.join(OVERFLOW)}")
    return OVERFLOW[name]


# ── messages ───────────────────────────────────────────────────────────────────────


def publish_options(message: Mapping[str, Any], *, low_first: bool, waits_here: bool) -> PublishOptions:
    """*low_first*: whether 0 is the highest priority; *waits_here*: whether a task waits in the store."""
    properties, headers = message["properties"], message.get("headers") or {}
    options: PublishOptions = {}
    if priority := _priority(properties.get("priority"), low_first=low_first):
        options["priority"] = priority
    is_task = "task" in headers
    if waits_here and is_task and (due := _due(headers.get("eta"))):
        options["at"] = due
    # A task that has expired is delivered: its worker revokes it, which its caller and events are told of.
    if (ttl := properties.get("expiration")) is not None and not is_task:
        options["ttl"] = max(int(ttl) / 1000, TTL_MIN)
    if dedup_id := properties.get("dedup_id"):
        options["dedup_id"] = dedup_id
    return options


def _priority(given: object, *, low_first: bool) -> int:
    priority = given if isinstance(given, int) else 0
    if low_first:  # from 0 to 9, as kombu with Redis
        return 9 - max(0, min(priority, 9))
    return max(0, min(priority, PRIORITY_MAX))


def _due(eta: object) -> datetime | None:
    """When a task is due; None: at once, or its worker has to say, for it is a time without a zone."""
    if not isinstance(eta, str):
        return None
    try:
        due = datetime.fromisoformat(eta)
    except ValueError:
        return None
    return due if due.tzinfo else None
