"""The MD5 sums that clients compare: of a body, and of message attributes, as published."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import md5
from struct import Struct
from typing import Final

from mq.serve.sqs.requests import Value

LENGTH: Final = Struct(">I")
TEXT: Final = b"\x01"
BINARY: Final = b"\x02"


def of_body(text: str) -> str:
    return md5(text.encode(), usedforsecurity=False).hexdigest()


def of_attributes(attributes: Mapping[str, Value]) -> str:
    parts: list[bytes] = []
    for name, value in sorted(attributes.items()):
        parts += _part(name.encode()), _part((value.data_type or "").encode())
        if value.binary_value is not None:
            parts += BINARY, _part(value.binary_value)
        else:
            parts += TEXT, _part((value.string_value or "").encode())
    return md5(b"".join(parts), usedforsecurity=False).hexdigest()


def _part(raw: bytes) -> bytes:
    return LENGTH.pack(len(raw)) + raw
