"""The attributes of a queue: which there are, what they may be, and where mq keeps them.

VisibilityTimeout, DelaySeconds, MessageRetentionPeriod     the queue's options visibility_timeout, delay, ttl
RedrivePolicy                                               its options max_attempts and dead_letter
all others that clients set                                 JSON in the queue's meta, under META
counts, QueueArn                                            of the moment
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from mq.api.options import QueueOptions
from mq.serve.sqs import names
from mq.serve.sqs.fault import BAD_ATTRIBUTE_NAME, BAD_ATTRIBUTE_VALUE, Fault, bad_value

META: Final = "sqs.attributes"
TAGS: Final = "sqs.tags"
FIFO_QUEUE: Final = "FifoQueue"
REDRIVE: Final = "RedrivePolicy"
ALLOW: Final = "RedriveAllowPolicy"
KMS: Final = "KmsMasterKeyId"
SSE: Final = "SqsManagedSseEnabled"
REUSE: Final = "KmsDataKeyReusePeriodSeconds"
BY_CONTENT: Final = "ContentBasedDeduplication"
SCOPE: Final = "DeduplicationScope"
THROUGHPUT: Final = "FifoThroughputLimit"
PURGES: Final = "mq.purges"
"""How often a FIFO queue was purged: no attribute of SQS.  Deduplication ids from before count no more."""

MESSAGE_BYTES_MAX: Final = 1 << 20
VISIBILITY_MAX: Final = 43_200
DELAY_MAX: Final = 900
WAIT_MAX: Final = 20
RECEIVES_MAX: Final = 1000
RETENTION_MAX: Final = 1_209_600
SOURCES_MAX: Final = 10
REUSE_DEFAULT: Final = "300"

OPTIONS: Final = {  # those of which a number is an option of the queue
    "VisibilityTimeout": "visibility_timeout", "DelaySeconds": "delay", "MessageRetentionPeriod": "ttl",
}  # fmt: skip
RANGES: Final = {
    "VisibilityTimeout": (0, VISIBILITY_MAX), "DelaySeconds": (0, DELAY_MAX),
    "MessageRetentionPeriod": (60, RETENTION_MAX), "MaximumMessageSize": (1024, MESSAGE_BYTES_MAX),
    "ReceiveMessageWaitTimeSeconds": (0, WAIT_MAX), REUSE: (60, 86_400),
}  # fmt: skip
CHOICES: Final = {
    FIFO_QUEUE: ("true", "false"), BY_CONTENT: ("true", "false"), SSE: ("true", "false"),
    SCOPE: ("queue", "messageGroup"), THROUGHPUT: ("perQueue", "perMessageGroupId"),
}  # fmt: skip
COUNTS: Final = {
    "ApproximateNumberOfMessages": "ready", "ApproximateNumberOfMessagesNotVisible": "in_flight",
    "ApproximateNumberOfMessagesDelayed": "delayed",
}  # fmt: skip
TIMES: Final = ("CreatedTimestamp", "LastModifiedTimestamp")
TEXTS: Final = ("Policy", KMS)
POLICIES: Final = (REDRIVE, ALLOW)
ALL: Final = "All"
SETTABLE: Final = frozenset({*RANGES, *CHOICES, *TEXTS, *POLICIES})
KNOWN: Final = SETTABLE | {*COUNTS, *TIMES, "QueueArn", ALL}

DEFAULTS: Final = {  # of those in the meta
    "MaximumMessageSize": str(MESSAGE_BYTES_MAX), "ReceiveMessageWaitTimeSeconds": "0", SSE: "true",
}  # fmt: skip
FIFO_DEFAULTS: Final = {
    FIFO_QUEUE: "true", BY_CONTENT: "false", SCOPE: "queue", THROUGHPUT: "perQueue",
}  # fmt: skip
NEW: Final = {"VisibilityTimeout": "30", "DelaySeconds": "0", "MessageRetentionPeriod": "345600"}
"""What a new queue has, unless the client says otherwise."""


def unknown(name: str) -> Fault:
    return Fault(BAD_ATTRIBUTE_NAME, f"Unknown Attribute {name}.")


def check(given: Mapping[str, str], *, fifo: bool) -> dict[str, str]:
    """*given*, in the form in which they are kept; a fault if one of them is unknown or cannot be so.

    An empty text takes an attribute back.
    """
    checked: dict[str, str] = {}
    for raw, text in given.items():
        name = raw.strip()
        if name not in SETTABLE:
            raise unknown(name)
        _check_kind(name, fifo=fifo)
        value = text.lower() if name in CHOICES and text.lower() in CHOICES[name] else text
        _check_value(name, value)
        checked[name] = value
    if checked.get(KMS) and checked.get(SSE) == "true":
        raise Fault(
            BAD_ATTRIBUTE_NAME,
            "You can use one type of server-side encryption (SSE) at one time. You can either enable KMS SSE"
            " or SQS SSE.",
        )
    return checked


def _check_kind(name: str, *, fifo: bool) -> None:
    if fifo or name not in FIFO_DEFAULTS:
        return
    if name in (SCOPE, THROUGHPUT):
        raise Fault(BAD_ATTRIBUTE_NAME, f"You can specify the {name} only when FifoQueue is set to true.")
    raise unknown(name)


def _check_value(name: str, value: str) -> None:
    if value == "" and name not in CHOICES:
        return
    if name in CHOICES and value not in CHOICES[name]:
        raise _bad(name)
    if name in RANGES:
        least, most = RANGES[name]
        if not (value.isascii() and value.isdigit() and len(value) < 10 and least <= int(value) <= most):
            raise _bad(name)
    if name == REDRIVE:
        _check_redrive(value)
    if name == ALLOW:
        _check_allow(value)
    if name == "Policy":
        _json_map(name, value)


def _bad(name: str) -> Fault:
    return Fault(BAD_ATTRIBUTE_VALUE, f"Invalid value for the parameter {name}.")


def _json_map(name: str, value: str) -> dict[str, Any]:
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        if name == REDRIVE:
            raise bad_value(value, name, "Redrive policy is not a valid JSON map.")
        raise _bad(name)
    return found


def _check_redrive(value: str) -> None:
    policy = _json_map(REDRIVE, value)
    if not policy:
        return
    for name in ("deadLetterTargetArn", "maxReceiveCount"):
        if name not in policy:
            raise bad_value(
                value, REDRIVE, f"Redrive policy does not contain mandatory attribute: {name}."
            )  # fmt: skip
    count = policy["maxReceiveCount"]
    text = str(count)
    if isinstance(count, bool) or not (
        text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= RECEIVES_MAX
    ):
        raise bad_value(
            value, REDRIVE,
            f"Invalid value for maxReceiveCount: {text[:20]}, valid values are from 1 to {RECEIVES_MAX} both"
            " inclusive.",
        )  # fmt: skip
    if names.of_arn(str(policy["deadLetterTargetArn"])) is None:
        raise bad_value(value, REDRIVE, "Invalid value for deadLetterTargetArn.")


def _check_allow(value: str) -> None:
    policy = _json_map(ALLOW, value)
    if not policy:
        return
    permission, arns = policy.get("redrivePermission"), policy.get("sourceQueueArns", [])
    is_right = permission in ("allowAll", "denyAll", "byQueue") and isinstance(arns, list)
    if not is_right or (permission == "byQueue") != bool(arns) or len(arns) > SOURCES_MAX:
        raise _bad(ALLOW)


# ── RedrivePolicy ──────────────────────────────────────────────────────────────────


def redrive(value: str | None) -> tuple[str, int] | None:
    """SQS's name of the dead-letter queue, and after how many receives, of a checked policy."""
    policy = json.loads(value) if value else {}
    if not policy:
        return None
    return str(names.of_arn(policy["deadLetterTargetArn"])), int(policy["maxReceiveCount"])


def allows(value: str | None, source_arn: str) -> bool:
    """Whether a checked RedriveAllowPolicy lets the queue *source_arn* have its dead letters here."""
    policy = json.loads(value) if value else {}
    permission = policy.get("redrivePermission", "allowAll")
    return permission == "allowAll" or (permission == "byQueue" and source_arn in policy["sourceQueueArns"])


# ── as mq keeps them ───────────────────────────────────────────────────────────────


def options_of(checked: Mapping[str, str]) -> dict[str, Any]:
    """The options of the queue that *checked* attributes say something of."""
    found: dict[str, Any] = {
        option: float(checked[name] or NEW[name]) for name, option in OPTIONS.items() if name in checked
    }
    if REDRIVE in checked:
        if target := redrive(checked[REDRIVE]):
            found["dead_letter"], found["max_attempts"] = names.to_mq(target[0]), target[1]
        else:
            found["max_attempts"] = None
    return found


def kept(checked: Mapping[str, str]) -> dict[str, str | None]:
    """What the meta has of *checked* attributes; None: nothing any more."""
    found: dict[str, str | None] = {}
    for name, value in checked.items():
        if name in OPTIONS or name == FIFO_QUEUE:
            continue
        is_empty = value == "" or (name in POLICIES and not json.loads(value))
        found[name] = None if is_empty or (name == REUSE and value == REUSE_DEFAULT) else value
    if found.get(KMS):
        found.setdefault(SSE, "false")
    if found.get(SSE) == "true":
        found[KMS] = found[REUSE] = None
    return found


def purged(kept: Mapping[str, str]) -> dict[str, str | None]:
    """What a purge changes in the meta of a FIFO queue."""
    return {PURGES: str(int(kept.get(PURGES, "0")) + 1)}


def shown(options: QueueOptions, kept: Mapping[str, str], *, fifo: bool, arn: str) -> dict[str, str]:
    """All attributes of a queue but its counts; *arn*: its own."""
    found = {**DEFAULTS, **(FIFO_DEFAULTS if fifo else {}), **kept, "QueueArn": arn}
    for name, option in OPTIONS.items():
        value = options[option]  # type: ignore[literal-required]
        found[name] = str(RETENTION_MAX if value is None else int(value))
    found.pop(PURGES, None)
    found.pop(REDRIVE, None)
    if options["max_attempts"] is not None:
        found[REDRIVE] = _shown_redrive(options, kept.get(REDRIVE), arn)
    return found


def _shown_redrive(options: QueueOptions, said: str | None, arn: str) -> str:
    """The policy as a client *said* it, as long as it is so, and the count is a number there."""
    target, attempts = names.to_sqs(options["dead_letter"]), options["max_attempts"]
    policy = json.loads(said) if said else {}
    if said and redrive(said) == (target, attempts) and policy["maxReceiveCount"] == attempts:
        return said
    named = str(policy.get("deadLetterTargetArn", ""))
    if names.of_arn(named) != target:
        named = f"{arn.rpartition(':')[0]}:{target}"
    return json.dumps({"deadLetterTargetArn": named, "maxReceiveCount": attempts})


def is_same(name: str, one: str, other: str) -> bool:
    """Whether two values of an attribute say the same."""
    if name == REDRIVE:
        return redrive(one) == redrive(other)
    return one == other
