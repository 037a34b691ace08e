"""Message attributes: checked, kept as the headers of a message, and read again.

    attribute of SQS              header
    name, String                  the same name and text
    name, another DataType        the same name; its text, or base64; and its type in the header TYPES
    AWSTraceHeader                TRACE
    a FIFO message's dedup id     DEDUP;  a standard one's group: GROUP

So headers that a program publishes are attributes of type String, as far as SQS permits their names.
No client may call an attribute as one of the others here, which begin with AWS.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Final

import msgspec

from mq.serve.sqs.fault import UNSUPPORTED, Fault, bad
from mq.serve.sqs.requests import Value

TYPES: Final = "AWS.types"
TRACE: Final = "AWS.TraceHeader"
DEDUP: Final = "AWS.MessageDeduplicationId"
GROUP: Final = "AWS.MessageGroupId"
TRACE_ATTRIBUTE: Final = "AWSTraceHeader"

COUNT_MAX: Final = 10
NAME_CHARS_MAX: Final = 256
NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")
RESERVED: Final = re.compile(r"(?i)(aws|amazon)\.")
TYPE: Final = re.compile(r"(String|Number|Binary)(\..+)?")
ILLEGAL: Final = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
LEGAL_ASCII: Final = bytes([9, 10, 13, *range(32, 128)])
NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,9})?")
NUMBER_DIGITS_MAX: Final = 38
WILDCARDS: Final = frozenset({"All", ".*", "*"})

_types: Final = msgspec.json.Decoder(dict[str, str])


def is_legal(text: str) -> bool:
    """Whether SQS permits all characters of *text*: those of XML."""
    if text.isascii():  # the quick way
        return not text.encode().translate(None, LEGAL_ASCII)
    return ILLEGAL.search(text) is None


def size(attributes: Mapping[str, Value]) -> int:
    """In bytes, as it counts against the limit of a message."""
    return sum(
        len(name.encode()) + len((value.data_type or "").encode()) + len(_raw(value))
        for name, value in attributes.items()
    )


def _raw(value: Value) -> bytes:
    return value.binary_value or (value.string_value or "").encode()


# ── what a client sends ────────────────────────────────────────────────────────────


def check(attributes: Mapping[str, Value]) -> None:
    if len(attributes) > COUNT_MAX:
        raise bad(
            f"Number of message attributes [{len(attributes)}] exceeds the allowed maximum [{COUNT_MAX}]."
        )
    for name, value in attributes.items():
        _check_name(name)
        _check_value(name, value)


def _check_name(name: str) -> None:
    if not name:
        raise bad("The request must contain non-empty message attribute names.")
    if len(name) > NAME_CHARS_MAX:
        raise bad("Message (user) attribute names must be shorter than 256 Bytes")
    if not NAME.fullmatch(name):
        raise bad(
            "Message (user) attributes name can only contain upper and lower score characters, digits,"
            " periods, hyphens and underscores. "
        )
    if RESERVED.match(name) or name.startswith(".") or name.endswith(".") or ".." in name:
        raise bad(
            "You can't use message attribute names beginning with 'AWS.' or 'Amazon.'. These strings are"
            " reserved for internal use. Additionally, they cannot start or end with '.'."
        )


def _check_value(name: str, value: Value) -> None:
    if value.string_list_values or value.binary_list_values:
        raise Fault(UNSUPPORTED, "Message attribute list values in SendMessage operation are not supported.")
    kind = TYPE.fullmatch(value.data_type or "")
    if not value.data_type:
        raise bad(f"The message attribute '{name}' must contain a non-empty message attribute type.")
    if kind is None or len(value.data_type) > NAME_CHARS_MAX:
        raise bad(
            f"The message attribute '{name}' has an invalid message attribute type, the set of supported type"
            " prefixes is Binary, Number, and String."
        )
    given = _given(name, kind[1], value)
    if isinstance(given, str) and not is_legal(given):
        raise bad(f"Message (user) attribute '{name}' has characters that are not allowed.")
    if kind[1] == "Number" and not _is_number(value.string_value or ""):
        raise bad(f"Can't cast the value of message (user) attribute '{name}' to a number.")


def _given(name: str, kind: str, value: Value) -> str | bytes:
    """The value, of the field that its type has.  The other one is None from now on."""
    is_binary = kind == "Binary"
    given: str | bytes | None = value.binary_value if is_binary else value.string_value
    other: str | bytes | None = value.string_value if is_binary else value.binary_value
    if other:  # one of them would be lost
        field = "Binary" if is_binary else "String"
        raise bad(f"The message attribute '{name}' with type '{kind}' must use field '{field}'.")
    if not given:
        raise bad(f"Message (user) attribute '{name}' must contain a non-empty value of type '{kind}'.")
    if is_binary:
        value.string_value = None
    else:
        value.binary_value = None
    return given


def _is_number(text: str) -> bool:
    return NUMBER.fullmatch(text) is not None and len(Decimal(text).as_tuple().digits) <= NUMBER_DIGITS_MAX


def check_system(attributes: Mapping[str, Value]) -> str:
    """The trace header, which is all that may be among them."""
    for name, value in attributes.items():
        if name != TRACE_ATTRIBUTE:
            raise bad(
                f"Message system attribute name '{name}' is invalid. The only permitted one is"
                f" {TRACE_ATTRIBUTE}."
            )
        if value.data_type != "String" or not value.string_value:
            raise bad(f"Message (system) attribute '{name}' must contain a non-empty value of type 'String'.")
        if not is_legal(value.string_value):
            raise bad(f"Message (system) attribute '{name}' has characters that are not allowed.")
    return attributes[TRACE_ATTRIBUTE].string_value or ""


def headers_of(attributes: Mapping[str, Value]) -> dict[str, str]:
    """*attributes*, which are checked, as headers."""
    found: dict[str, str] = {}
    types: dict[str, str] = {}
    for name, value in attributes.items():
        found[name] = _text(value)
        if value.data_type != "String":
            types[name] = value.data_type or ""
    if types:
        found[TYPES] = msgspec.json.encode(types).decode()
    return found


def _text(value: Value) -> str:
    if value.binary_value is not None:
        return base64.b64encode(value.binary_value).decode()
    return value.string_value or ""


# ── what a client is given ─────────────────────────────────────────────────────────


def of_headers(headers: Mapping[str, str]) -> dict[str, Value]:
    """The attributes that *headers* are, as far as SQS permits them."""
    types = _types_of(headers)
    found: dict[str, Value] = {}
    for name, text in headers.items():
        value = _value(types.get(name, "String"), text)
        try:
            _check_name(name)
            _check_value(name, value)
        except Fault:
            continue
        found[name] = value
    return found


def _types_of(headers: Mapping[str, str]) -> dict[str, str]:
    try:
        return _types.decode(headers.get(TYPES, "{}"))
    except msgspec.MsgspecError:
        return {}


def _value(kind: str, text: str) -> Value:
    if not kind.startswith("Binary"):
        return Value(data_type=kind, string_value=text)
    try:
        return Value(data_type=kind, binary_value=base64.b64decode(text, validate=True))
    except ValueError:
        return Value(data_type=kind)


def chosen(attributes: Mapping[str, Value], wanted: Iterable[str]) -> dict[str, Value]:
    """Those of *attributes* that a client *wanted*: by name, by `prefix.*`, or all."""
    names = set(wanted)
    if names & WILDCARDS:
        return dict(attributes)
    prefixes = tuple(each[:-2] for each in names if each.endswith(".*"))
    return {
        name: value for name, value in attributes.items() if name in names or name.startswith(prefixes)
    }  # fmt: skip
