"""Fault: an error in the words of SQS, as published: its name, code, status, and text."""

from __future__ import annotations

from typing import Final, NamedTuple

from mq.engine.commands import NoQueue
from mq.errors import Closed, DiskFull, MqError, QueueFull, StorageError, Unsupported, UsageError

SIMPLE: Final = "AWS.SimpleQueueService."
VALUE_CHARS_MAX: Final = 1024  # of what a client sent, in a text


class Kind(NamedTuple):
    """
    shape     its name in the JSON protocol
    code      its code in the Query protocol, and in an entry of a batch
    status    of the response
    """

    shape: str
    code: str
    status: int = 400

    @property
    def is_senders(self) -> bool:
        return self.status < 500


def _simple(name: str, status: int = 400) -> Kind:
    return Kind(name, SIMPLE + name, status)


def _same(name: str, status: int = 400) -> Kind:
    return Kind(name, name, status)


NO_QUEUE: Final = Kind("QueueDoesNotExist", SIMPLE + "NonExistentQueue")
NAME_EXISTS: Final = Kind("QueueNameExists", "QueueAlreadyExists")
EMPTY_BATCH: Final = _simple("EmptyBatchRequest")
IDS_NOT_DISTINCT: Final = _simple("BatchEntryIdsNotDistinct")
TOO_MANY_ENTRIES: Final = _simple("TooManyEntriesInBatchRequest")
BAD_ENTRY_ID: Final = _simple("InvalidBatchEntryId")
BATCH_TOO_LONG: Final = _simple("BatchRequestTooLong")
PURGE_IN_PROGRESS: Final = _simple("PurgeQueueInProgress", 403)
UNSUPPORTED: Final = _simple("UnsupportedOperation")
NOT_IN_FLIGHT: Final = _simple("MessageNotInflight")
BAD_RECEIPT: Final = _same("ReceiptHandleIsInvalid", 404)
BAD_CONTENTS: Final = _same("InvalidMessageContents")
BAD_ATTRIBUTE_NAME: Final = _same("InvalidAttributeName")
BAD_ATTRIBUTE_VALUE: Final = _same("InvalidAttributeValue")
NO_RESOURCE: Final = _same("ResourceNotFoundException", 404)
OVER_LIMIT: Final = _same("OverLimit", 403)
THROTTLED: Final = _same("RequestThrottled", 403)
BAD_PARAMETER: Final = Kind("InvalidParameterValueException", "InvalidParameterValue")
NO_PARAMETER: Final = Kind("MissingRequiredParameterException", "MissingParameter")
NO_ACTION: Final = Kind("UnknownOperationException", "InvalidAction")
MALFORMED: Final = Kind("SerializationException", "MalformedQueryString")
DENIED: Final = Kind("AccessDeniedException", "AccessDenied", 403)
NOT_ALLOWED: Final = _same("MethodNotAllowed", 405)
NO_TOKEN: Final = Kind("MissingAuthenticationTokenException", "MissingAuthenticationToken", 403)
NO_KEY: Final = Kind("InvalidClientTokenId", "InvalidClientTokenId", 403)
BAD_SIGNATURE: Final = Kind("InvalidSignatureException", "SignatureDoesNotMatch", 403)
UNAVAILABLE: Final = Kind("ServiceUnavailable", "ServiceUnavailable", 503)
FAILED: Final = Kind("InternalFailure", "InternalFailure", 500)


class Fault(Exception):
    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind, self.message = kind, message


def bad(message: str) -> Fault:
    return Fault(BAD_PARAMETER, message)


def bad_value(value: object, parameter: str, reason: str) -> Fault:
    return bad(f"Value {shown(value)} for parameter {parameter} is invalid. Reason: {reason}")


def missing(parameter: str) -> Fault:
    return Fault(NO_PARAMETER, f"The request must contain the parameter {parameter}.")


def no_queue() -> Fault:
    return Fault(NO_QUEUE, "The specified queue does not exist.")


def shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= VALUE_CHARS_MAX else text[:VALUE_CHARS_MAX] + "…"


def fault_of(error: MqError) -> Fault:
    """What a client is told of an error of the store.  What may succeed later is what SDKs try again."""
    if isinstance(error, NoQueue):
        return no_queue()
    if isinstance(error, QueueFull):
        return Fault(THROTTLED, str(error))
    if isinstance(error, DiskFull):
        return Fault(
            UNAVAILABLE, "The disk of the store is full: nothing was done. Receive and delete, or make room."
        )
    if isinstance(error, StorageError):
        return Fault(UNAVAILABLE, f"The store cannot be used now: {error.reason}")
    if isinstance(error, Closed):
        return Fault(UNAVAILABLE, "The server is shutting down.")
    if isinstance(error, Unsupported):
        return Fault(DENIED, "The store is served read-only.")
    if isinstance(error, UsageError):
        return bad(str(error))
    return Fault(FAILED, str(error))
