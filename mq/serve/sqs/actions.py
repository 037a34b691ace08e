"""The actions by name: what each is asked with, and what does it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

from mq.serve.sqs import managing, moving, permissions, receiving, requests, sending, settling
from mq.serve.sqs.requests import Request
from mq.serve.sqs.service import Answer


class Action(NamedTuple):
    """
    asked      the type of the request
    do         answers a call; None: there is nothing to say
    entry      what an entry of its batch is called in the Query protocol
    """

    asked: type[Request]
    do: Callable[[Any, Any], Coroutine[Any, Any, Answer | None]]
    entry: str = ""


ACTIONS: Final = {
    "CreateQueue": Action(requests.CreateQueue, managing.create_queue),
    "GetQueueUrl": Action(requests.GetQueueUrl, managing.get_queue_url),
    "ListQueues": Action(requests.ListQueues, managing.list_queues),
    "DeleteQueue": Action(requests.OfQueue, managing.delete_queue),
    "PurgeQueue": Action(requests.OfQueue, managing.purge_queue),
    "GetQueueAttributes": Action(requests.GetQueueAttributes, managing.get_attributes),
    "SetQueueAttributes": Action(requests.SetQueueAttributes, managing.set_attributes),
    "TagQueue": Action(requests.TagQueue, managing.tag_queue),
    "UntagQueue": Action(requests.UntagQueue, managing.untag_queue),
    "ListQueueTags": Action(requests.OfQueue, managing.list_tags),
    "AddPermission": Action(requests.AddPermission, permissions.add_permission),
    "RemovePermission": Action(requests.RemovePermission, permissions.remove_permission),
    "ListDeadLetterSourceQueues": Action(requests.ListDeadLetterSourceQueues, managing.list_sources),
    "SendMessage": Action(requests.SendMessage, sending.send_message),
    "SendMessageBatch": Action(requests.SendMessageBatch, sending.send_batch, "SendMessageBatch"),
    "ReceiveMessage": Action(requests.ReceiveMessage, receiving.receive_message),
    "DeleteMessage": Action(requests.OneHeld, settling.delete_message),
    "DeleteMessageBatch": Action(requests.HeldBatch, settling.delete_batch, "DeleteMessageBatch"),
    "ChangeMessageVisibility": Action(requests.OneHeld, settling.change_visibility),
    "ChangeMessageVisibilityBatch": Action(
        requests.HeldBatch, settling.change_batch, "ChangeMessageVisibilityBatch"
    ),
    "StartMessageMoveTask": Action(requests.StartMessageMoveTask, moving.start),
    "CancelMessageMoveTask": Action(requests.CancelMessageMoveTask, moving.cancel),
    "ListMessageMoveTasks": Action(requests.ListMessageMoveTasks, moving.list_tasks),
}
