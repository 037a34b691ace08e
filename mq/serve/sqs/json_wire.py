"""The JSON protocol: AWS JSON 1.0, as SQS speaks it to newer SDKs.

    POST /                                  {"QueueUrl": "…", "MessageBody": "…"}
    X-Amz-Target: AmazonSQS.SendMessage

An error has the name of its shape in `__type`, and its older code in the header x-amzn-query-error.
"""

from __future__ import annotations

from typing import Final

import msgspec

from mq.serve.sqs.actions import ACTIONS, Action
from mq.serve.sqs.fault import MALFORMED, NO_ACTION, Fault
from mq.serve.sqs.reply import Reply
from mq.serve.sqs.requests import Request
from mq.serve.sqs.service import Answer

TYPE: Final = "application/x-amz-json-1.0"
TARGET: Final = "AmazonSQS."
MODELED: Final = "com.amazonaws.sqs#"

_decoders: Final = {
    name: msgspec.json.Decoder(action.asked, strict=False) for name, action in ACTIONS.items()
}  # fmt: skip
_encode: Final = msgspec.json.Encoder().encode


def asked(target: str, body: bytes) -> tuple[str, Action, Request]:
    """What a client asks for; a fault if that cannot be understood."""
    name = target.removeprefix(TARGET)
    if name == target or name not in ACTIONS:
        raise Fault(NO_ACTION, f"The operation {target[:100]} is not known.")
    try:
        return name, ACTIONS[name], _decoders[name].decode(body or b"{}")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Fault(MALFORMED, f"The request cannot be read: {error}") from None


def answer(found: Answer | None) -> Reply:
    return Reply(200, TYPE, b"" if found is None else _encode(found))


def failure(fault: Fault) -> Reply:
    kind = fault.kind
    said = {"__type": MODELED + kind.shape, "message": fault.message}
    header = f"{kind.code};{'Sender' if kind.is_senders else 'Receiver'}"
    return Reply(kind.status, TYPE, _encode(said), (("x-amzn-query-error", header),))
