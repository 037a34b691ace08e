"""The Query protocol: a form, and XML, as SQS speaks it to older SDKs and to curl.

    Action=SendMessage&MessageBody=hello&MessageAttribute.1.Name=city&MessageAttribute.1.Value.DataType=String…

A name is a path: numbers are items of a list, or of a map with Name and Value (Key and Value of tags).
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

import msgspec

from mq.serve.sqs.actions import ACTIONS, Action
from mq.serve.sqs.fault import BAD_PARAMETER, MALFORMED, NO_ACTION, NO_QUEUE, Fault
from mq.serve.sqs.message_attributes import ILLEGAL
from mq.serve.sqs.reply import Reply
from mq.serve.sqs.requests import Request
from mq.serve.sqs.service import Answer

TYPE: Final = "text/xml"
NAMESPACE: Final = "http://queue.amazonaws.com/doc/2012-11-05/"
FIELDS_MAX: Final = 2000
DEPTH_MAX: Final = 8
NO_QUEUE_TEXT: Final = "The specified queue does not exist for this wsdl version."

Tree = dict[str, Any]  # texts, and trees

LISTS: Final[dict[str, str]] = {  # the members that are lists, by what an item is called in a form
    "AttributeName": "AttributeNames", "MessageAttributeName": "MessageAttributeNames",
    "MessageSystemAttributeName": "MessageSystemAttributeNames", "TagKey": "TagKeys",
    "AWSAccountId": "AWSAccountIds", "ActionName": "Actions",
}  # fmt: skip
LISTS.update({name: name for name in LISTS.values()})  # some SDKs call an empty one so
MAPS: Final = {
    "Attribute": "Attributes", "MessageAttribute": "MessageAttributes",
    "MessageSystemAttribute": "MessageSystemAttributes", "Tag": "Tags",
}  # fmt: skip
ENTRY: Final = "RequestEntry"
ELEMENTS: Final = {  # what an item of these members is called in XML
    "QueueUrls": "QueueUrl", "queueUrls": "QueueUrl", "Messages": "Message", "Attributes": "Attribute",
    "MessageAttributes": "MessageAttribute", "Tags": "Tag", "Failed": "BatchResultErrorEntry",
    "Results": "ListMessageMoveTasksResultEntry",
}  # fmt: skip
TREES: Final = {
    "Attributes": ("Name", "Value"),
    "MessageAttributes": ("Name", "Value"),
    "Tags": ("Key", "Value"),
}
"""The members that are maps, and what a key and a value are called."""


def fields_of(form: bytes) -> dict[str, str]:
    """The fields of a form; a fault if it is none."""
    try:
        pairs = parse_qsl(form.decode(), keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MAX)
    except ValueError as error:  # bytes that are not UTF-8, too
        raise Fault(MALFORMED, f"The form cannot be read: {error}") from None
    return dict(pairs)


def asked(path: str, fields: dict[str, str]) -> tuple[str, Action, Request]:
    """What a client asks for; a fault if that cannot be understood.

    *path*: of the request.  At the URL of a queue there are the actions of a queue alone.
    """
    name = fields.get("Action", "")
    action = ACTIONS.get(name)
    if action is None or (path.strip("/") and "queue_url" not in action.asked.__struct_fields__):
        raise Fault(NO_ACTION, f"The action {name[:100]} is not valid for this endpoint.")
    try:
        members = _members(_tree(fields), action)
        if "Tags" in members and name == "CreateQueue":
            members["tags"] = members.pop("Tags")
        return name, action, msgspec.convert(members, action.asked, strict=False)
    except msgspec.ValidationError as error:
        raise Fault(BAD_PARAMETER, f"The request cannot be read: {error}") from None


def _tree(fields: dict[str, str]) -> Tree:
    tree: Tree = {}
    for name, text in fields.items():
        *path, last = name.split(".", DEPTH_MAX)
        inner = tree
        for word in path:
            deeper = inner.setdefault(word, {})
            if not isinstance(deeper, dict):
                raise Fault(MALFORMED, f"{name[:100]} is a text and a list at once.")
            inner = deeper
        if last in inner:
            raise Fault(MALFORMED, f"{name[:100]} is a text and a list at once.")
        inner[last] = text
    return tree


def _members(tree: Tree, action: Action) -> dict[str, Any]:
    """The members of the request, or of an entry of its batch, under the names of the JSON protocol."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if name in MAPS:
            found[MAPS[name]] = dict(_pairs(value))
        elif name in LISTS:
            found[LISTS[name]] = _items(value)
        elif action.entry and name in (action.entry + ENTRY, "Entries"):
            found["Entries"] = [_members(_as_tree(each), action) for each in _items(value)]
        else:
            found[name] = value
    return found


def _items(value: str | Tree) -> list[Any]:
    """In the order of their numbers.  A list without items is an empty text."""
    if isinstance(value, str):
        return [value] if value else []
    return [item for _, item in sorted(value.items(), key=lambda pair: _number(pair[0]))]


def _number(word: str) -> int:
    return int(word) if word.isascii() and word.isdigit() and len(word) < 10 else 0


def _pairs(value: str | Tree) -> Iterator[tuple[str, Any]]:
    tree = _as_tree(value)
    entries = [tree] if "Name" in tree or "Key" in tree else [_as_tree(each) for each in _items(tree)]
    for entry in entries:
        yield str(entry.get("Name", entry.get("Key", ""))), entry.get("Value", "")


def _as_tree(value: str | Tree) -> Tree:
    if isinstance(value, str):
        raise Fault(MALFORMED, f"{value[:100]} stands where several fields are expected.")
    return value


# ── XML ────────────────────────────────────────────────────────────────────────────


def answer(action: str, found: Answer | None, request_id: str) -> Reply:
    inner = "".join(_elements(found or {}, action))
    result = f"<{action}Result>{inner}</{action}Result>" if inner else f"<{action}Result/>"
    result = "" if found is None else result
    return Reply(
        200, TYPE,
        f'<?xml version="1.0"?><{action}Response xmlns="{NAMESPACE}">{result}'
        f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{action}Response>".encode(),
    )  # fmt: skip


def nothing() -> Reply:
    """What a GET without an action is answered with."""
    return Reply(404, TYPE, b"<UnknownOperationException/>\n")


def failure(fault: Fault, request_id: str) -> Reply:
    kind = fault.kind
    text = NO_QUEUE_TEXT if kind is NO_QUEUE else fault.message
    return Reply(
        kind.status, TYPE,
        f'<?xml version="1.0"?><ErrorResponse xmlns="{NAMESPACE}"><Error>'
        f"<Type>{'Sender' if kind.is_senders else 'Receiver'}</Type><Code>{kind.code}</Code>"
        f"<Message>{_said(text)}</Message><Detail/></Error><RequestId>{request_id}</RequestId></ErrorResponse>".encode(),
    )  # fmt: skip


def _elements(members: Answer, action: str) -> Iterator[str]:
    for name, value in members.items():
        element = f"{action}ResultEntry" if name == "Successful" else ELEMENTS.get(name, name)
        if name in TREES:
            key, content = TREES[name]
            for each, inner in value.items():
                said = f"<{content}>{_content(inner, action)}</{content}>"
                yield f"<{element}><{key}>{_said(each)}</{key}>{said}</{element}>"
        elif isinstance(value, list):
            yield from (f"<{element}>{_content(each, action)}</{element}>" for each in value)
        else:
            yield f"<{element}>{_content(value, action)}</{element}>"


def _content(value: object, action: str) -> str:
    if isinstance(value, dict):
        return "".join(_elements(value, action))
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, bool):
        return "true" if value else "false"
    return _said(str(value))


def _said(text: str) -> str:
    """As XML; line ends, too, which a parser would change.  What XML cannot say is U+FFFD."""
    return escape(ILLEGAL.sub("\ufffd", text), {'"': "&quot;", "\r": "&#13;"})
