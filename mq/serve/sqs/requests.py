"""What clients ask for: the members of each action, as published, for both protocols.

A member that is left out is None, or empty; the action says which one it needs.
"""

from __future__ import annotations

import msgspec


class Request(msgspec.Struct, rename="pascal", kw_only=True, gc=False):
    """Members that are not known are ignored, as SQS does."""


class OfQueue(Request):
    queue_url: str | None = None


# ── queues ─────────────────────────────────────────────────────────────────────────


class CreateQueue(Request):
    queue_name: str | None = None
    attributes: dict[str, str] | None = None
    tags: dict[str, str] | None = msgspec.field(default=None, name="tags")


class GetQueueUrl(Request):
    queue_name: str | None = None
    queue_owner_aws_account_id: str | None = msgspec.field(default=None, name="QueueOwnerAWSAccountId")


class ListQueues(Request):
    queue_name_prefix: str | None = None
    next_token: str | None = None
    max_results: int | None = None


class GetQueueAttributes(OfQueue):
    attribute_names: list[str] | None = None


class SetQueueAttributes(OfQueue):
    attributes: dict[str, str] | None = None


class TagQueue(OfQueue):
    tags: dict[str, str] | None = None


class UntagQueue(OfQueue):
    tag_keys: list[str] | None = None


class AddPermission(OfQueue):
    label: str | None = None
    aws_account_ids: list[str] | None = msgspec.field(default=None, name="AWSAccountIds")
    actions: list[str] | None = None


class RemovePermission(OfQueue):
    label: str | None = None


class ListDeadLetterSourceQueues(OfQueue):
    next_token: str | None = None
    max_results: int | None = None


# ── messages ───────────────────────────────────────────────────────────────────────


class Value(Request):
    """Of a message attribute."""

    data_type: str | None = None
    string_value: str | None = None
    binary_value: bytes | None = None
    string_list_values: list[str] | None = None
    binary_list_values: list[bytes] | None = None


class Outgoing(Request):
    """A message to be sent: of SendMessage, or an entry of its batch."""

    message_body: str | None = None
    delay_seconds: int | None = None
    message_attributes: dict[str, Value] | None = None
    message_system_attributes: dict[str, Value] | None = None
    message_deduplication_id: str | None = None
    message_group_id: str | None = None


class SendMessage(Outgoing):
    queue_url: str | None = None


class SendEntry(Outgoing):
    id: str | None = None


class SendMessageBatch(OfQueue):
    entries: list[SendEntry] | None = None


class ReceiveMessage(OfQueue):
    attribute_names: list[str] | None = None
    message_system_attribute_names: list[str] | None = None
    message_attribute_names: list[str] | None = None
    max_number_of_messages: int | None = None
    visibility_timeout: int | None = None
    wait_time_seconds: int | None = None
    receive_request_attempt_id: str | None = None


class Held(Request):
    """A message that was received: to be deleted, or an entry of such a batch."""

    receipt_handle: str | None = None
    visibility_timeout: int | None = None


class OneHeld(Held):
    queue_url: str | None = None


class HeldEntry(Held):
    id: str | None = None


class HeldBatch(OfQueue):
    entries: list[HeldEntry] | None = None


# ── move tasks ─────────────────────────────────────────────────────────────────────


class StartMessageMoveTask(Request):
    source_arn: str | None = None
    destination_arn: str | None = None
    max_number_of_messages_per_second: int | None = None


class CancelMessageMoveTask(Request):
    task_handle: str | None = None


class ListMessageMoveTasks(Request):
    source_arn: str | None = None
    max_results: int | None = None
