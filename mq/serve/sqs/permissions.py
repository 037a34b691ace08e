"""AddPermission and RemovePermission: statements in the attribute Policy.  Kept, and not enforced."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from mq.serve.sqs import requests
from mq.serve.sqs.fault import BAD_ATTRIBUTE_VALUE, OVER_LIMIT, Fault, bad_value, missing
from mq.serve.sqs.service import Call

POLICY: Final = "Policy"
VERSION: Final = "2008-10-17"
LABEL_CHARS_MAX: Final = 80
STATEMENTS_MAX: Final = 20
ACTIONS_MAX: Final = 7
GRANTABLE: Final = frozenset(
    {
        "*", "SendMessage", "ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility",
        "GetQueueAttributes", "GetQueueUrl", "ListDeadLetterSourceQueues", "PurgeQueue",
    }
)  # fmt: skip
OWNERS_ACTIONS: Final = frozenset(
    {
        "AddPermission", "CancelMessageMoveTask", "CreateQueue", "DeleteQueue", "ListMessageMoveTasks",
        "ListQueues", "ListQueueTags", "RemovePermission", "SetQueueAttributes", "StartMessageMoveTask",
        "TagQueue", "UntagQueue",
    }
)  # fmt: skip
OWNERS: Final = "Only the queue owner is allowed to invoke this action."
UNKNOWN: Final = "Please refer to the appropriate WSDL for a list of valid actions. "


async def add_permission(call: Call, asked: requests.AddPermission) -> None:
    queue = await call.queue(asked.queue_url)
    label, accounts, actions = asked.label, asked.aws_account_ids, asked.actions
    if not label:
        raise missing("Label")
    if not accounts:
        raise bad_value("[]", "PrincipalId", "Unable to verify.")
    if not actions:
        raise missing("Actions")
    for action in actions:
        if action not in GRANTABLE:
            raise bad_value(f"SQS:{action}", "ActionName", OWNERS if action in OWNERS_ACTIONS else UNKNOWN)
    if len(actions) > ACTIONS_MAX:
        raise Fault(OVER_LIMIT, f"{len(actions)} Actions were found, maximum allowed is {ACTIONS_MAX}.")
    if len(label) > LABEL_CHARS_MAX:
        raise bad_value(label, "Label", f"Label can be at most {LABEL_CHARS_MAX} characters long.")
    arn = call.arn(queue.name)
    statement = {
        "Sid": label, "Effect": "Allow",
        "Principal": {"AWS": _one_or_all([f"arn:aws:iam::{each}:root" for each in accounts])},
        "Action": _one_or_all([f"SQS:{each}" for each in actions]), "Resource": arn,
    }  # fmt: skip

    def edit(kept: dict[str, str]) -> Mapping[str, str | None]:
        policy = _policy(kept, arn)
        known = policy["Statement"]
        if any(each.get("Sid") == label for each in known):
            raise bad_value(label, "Label", "Already exists.")
        if len(known) >= STATEMENTS_MAX:
            raise Fault(OVER_LIMIT, f"A policy has at most {STATEMENTS_MAX} statements.")
        return {POLICY: json.dumps({**policy, "Statement": [*known, statement]})}

    await call.service.queues.change(queue.name, {}, edit)


async def remove_permission(call: Call, asked: requests.RemovePermission) -> None:
    queue = await call.queue(asked.queue_url)
    label = asked.label
    if not label:
        raise missing("Label")

    def edit(kept: dict[str, str]) -> Mapping[str, str | None]:
        policy = _policy(kept, call.arn(queue.name))
        left = [each for each in policy["Statement"] if each.get("Sid") != label]
        if len(left) == len(policy["Statement"]):
            raise bad_value(label, "Label", "can't find label.")
        return {POLICY: json.dumps({**policy, "Statement": left}) if left else None}

    await call.service.queues.change(queue.name, {}, edit)


def _policy(kept: Mapping[str, str], arn: str) -> dict[str, Any]:
    new = {"Version": VERSION, "Id": f"{arn}/SQSDefaultPolicy", "Statement": []}
    policy: dict[str, Any] = {**new, **json.loads(kept.get(POLICY, "{}"))}
    if isinstance(policy["Statement"], dict):  # a single one may stand alone
        policy["Statement"] = [policy["Statement"]]
    if not isinstance(policy["Statement"], list) or not all(isinstance(e, dict) for e in policy["Statement"]):
        raise Fault(BAD_ATTRIBUTE_VALUE, "Invalid value for the parameter Policy.")
    return policy


def _one_or_all(texts: list[str]) -> str | list[str]:
    return texts[0] if len(texts) == 1 else texts
