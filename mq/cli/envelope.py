"""A message as `mq receive --json` prints it, read again: body and kind, headers, priority, group, expiry."""

from __future__ import annotations

import base64
import binascii
import time
from datetime import datetime
from typing import Any, Final

import msgspec

import mq
from mq.engine.bodies import encode_body
from mq.errors import UsageError

SECONDS_MIN: Final = 0.001  # the time to live of a message that has just expired


class BadLine(Exception):
    """A message that cannot be published as it is."""


class Envelope(msgspec.Struct):
    """The keys that count; all others are passed over."""

    body_type: str
    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    body_base64: str | None = None
    headers: dict[str, str] = {}
    priority: int = 0
    group: str | None = None
    expires_at: datetime | None = None


decode: Final = msgspec.json.Decoder(Envelope).decode


def read(raw: bytes, given: dict[str, Any]) -> mq.Outgoing:
    """The message; BadLine if it is none.  *given*: options that come before its own."""
    try:
        found = decode(raw)
        body = _body(found)
        encode_body(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, UsageError, binascii.Error) as error:
        raise BadLine(
            f"not a message as `mq receive --json` prints it ({error}); --as json takes the line as a body"
        ) from None
    own: dict[str, Any] = {"headers": found.headers} if found.headers else {}
    own |= {"priority": found.priority} if found.priority else {}
    own |= {"group": found.group} if found.group is not None else {}
    if found.expires_at is not None:
        own["ttl"] = max(SECONDS_MIN, found.expires_at.timestamp() - time.time())
    options: Any = own | given
    return mq.Outgoing(body, options)


def _body(found: Envelope) -> object:
    data = None if found.body_base64 is None else base64.b64decode(found.body_base64, validate=True)
    if found.body_type == "structure":
        if data is not None:
            return msgspec.msgpack.decode(data)
        if isinstance(found.body, msgspec.Raw):
            return msgspec.json.decode(found.body)
    elif found.body_type in ("text", "bytes"):
        if data is None and isinstance(found.body, msgspec.Raw):
            data = msgspec.json.decode(found.body, type=str).encode()
        if data is not None:
            return data if found.body_type == "bytes" else data.decode()
    else:
        raise UsageError(f"body_type is text, bytes or structure, not {found.body_type!r}")
    raise UsageError("it has no body")
