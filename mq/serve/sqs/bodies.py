"""The body of a message as text, which is all that SQS has.

    text                       as it is
    a structure                JSON
    bytes; text that SQS       base64
    forbids; a structure that
    JSON cannot say

What is not text as it is has an attribute, ENCODING, that says so.
"""

from __future__ import annotations

import base64
from typing import Any, Final

import msgspec

from mq.api.message import Message
from mq.errors import BadBody
from mq.serve.sqs.message_attributes import is_legal

ENCODING: Final = "mq.encoding"


def text_of(message: Message[Any]) -> tuple[str, str | None]:
    """The text, and its encoding: "json", "base64", "base64;msgpack", or None."""
    try:
        body = message.body
    except BadBody:
        return _base64(message.raw), "base64"
    if isinstance(body, str):
        return (body, None) if is_legal(body) else (_base64(message.raw), "base64")
    if isinstance(body, bytes):
        return _base64(body), "base64"
    try:
        said = msgspec.json.encode(body).decode()
    except (ValueError, TypeError, RecursionError):
        return _base64(message.raw), "base64;msgpack"
    return (said, "json") if is_legal(said) else (_base64(message.raw), "base64;msgpack")


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
