"""The two protocols as bytes: whatever a client sends, it is answered, and no error of Python leaves."""

from __future__ import annotations

import base64
import http.client
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mq.serve.sqs import attributes, json_wire, message_attributes, moving, query_wire, signatures
from mq.serve.sqs.actions import ACTIONS
from mq.serve.sqs.fault import Fault
from mq.serve.sqs.requests import ReceiveMessage, SendMessageBatch

FORM = "application/x-www-form-urlencoded"


def ask(
    url: str, body: bytes = b"", headers: Mapping[str, str] | None = None, method: str = "POST",
    path: str = "/",
) -> tuple[int, Mapping[str, str], bytes]:  # fmt: skip
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def query(url: str, path: str = "/", /, **fields: str) -> ElementTree.Element:
    """The XML that a form is answered with, without its namespace."""
    _, _, body = ask(url, urlencode(fields).encode(), {"Content-Type": FORM}, path=path)
    return ElementTree.fromstring(re.sub(rb' xmlns="[^"]+"', b"", body))


# ── Query ──────────────────────────────────────────────────────────────────────────


def test_the_query_protocol_does_the_same(served: Any, url: str) -> None:
    """A form to the queue's own URL; XML back, whatever characters there are."""
    path = urlsplit(url).path
    sent = query(
        served.url, path, Action="SendMessage", MessageBody='<&>"\r\n\t é', **{
            "MessageAttribute.1.Name": "n", "MessageAttribute.1.Value.DataType": "Number",
            "MessageAttribute.1.Value.StringValue": "7", "MessageAttribute.2.Name": "b",
            "MessageAttribute.2.Value.DataType": "Binary", "MessageAttribute.2.Value.BinaryValue": "AP8=",
        },
    )  # fmt: skip
    found = query(
        served.url, path, Action="ReceiveMessage", WaitTimeSeconds="20",
        **{"MessageAttributeName.1": "All", "AttributeName.1": "SentTimestamp"},
    )  # fmt: skip
    message = found.find("./ReceiveMessageResult/Message")
    assert message is not None
    assert message.findtext("Body") == '<&>"\r\n\t é'
    assert message.findtext("MD5OfBody") == sent.findtext("./SendMessageResult/MD5OfMessageBody")
    values = {each.findtext("Name"): each.find("Value") for each in message.findall("MessageAttribute")}
    assert values["n"] is not None and values["n"].findtext("StringValue") == "7"
    assert values["b"] is not None and values["b"].findtext("BinaryValue") == "AP8="
    assert [each.findtext("Name") for each in message.findall("Attribute")] == ["SentTimestamp"]
    deleted = query(
        served.url, path, Action="DeleteMessageBatch", **{
            "DeleteMessageBatchRequestEntry.1.Id": "a",
            "DeleteMessageBatchRequestEntry.1.ReceiptHandle": message.findtext("ReceiptHandle") or "",
        },
    )  # fmt: skip
    assert deleted.findtext(".//DeleteMessageBatchResultEntry/Id") == "a"


def test_a_fault_in_xml_is_as_published(served: Any) -> None:
    found = query(served.url, Action="GetQueueUrl", QueueName="nowhere")
    assert found.findtext("./Error/Type") == "Sender"
    assert found.findtext("./Error/Code") == "AWS.SimpleQueueService.NonExistentQueue"


def test_curl_needs_no_more_than_a_url(served: Any, url: str) -> None:
    status, headers, body = ask(
        served.url, method="GET", path=urlsplit(url).path + "?Action=SendMessage&MessageBody=hello"
    )  # fmt: skip
    assert (status, headers["content-type"]) == (200, "text/xml")
    assert b"<MessageId>" in body


def test_sts_says_who_asks(served: Any) -> None:
    found = query(served.url, Action="GetCallerIdentity", Version="2011-06-15")
    assert found.findtext("./GetCallerIdentityResult/Account") == "000000000000"


# ── mistakes, as a client sees them ────────────────────────────────────────────────


@pytest.mark.parametrize(
    "target, body, shape",
    [
        pytest.param("AmazonSQS.ListQueues", b"{", "SerializationException", id="no JSON"),
        pytest.param("AmazonSQS.ListQueues", b"[" * 99_999, "SerializationException", id="deep"),
        pytest.param("AmazonSQS.ListQueues", b'{"MaxResults": "x"}', "SerializationException", id="a type"),
        pytest.param("AmazonSQS.ListQueues", b"\xff\xfe", "SerializationException", id="no UTF-8"),
        pytest.param("AmazonSQS.Nonsense", b"{}", "UnknownOperationException", id="an action"),
        pytest.param("S3.ListQueues", b"{}", "UnknownOperationException", id="a service"),
        pytest.param("AmazonSQS.SendMessage", b"{}", "MissingRequiredParameterException", id="no queue"),
    ],
)
def test_a_mistake_in_json_is_a_fault(served: Any, target: str, body: bytes, shape: str) -> None:
    status, told, text = ask(served.url, body, {"X-Amz-Target": target})
    assert (status, json.loads(text)["__type"].rpartition("#")[2]) == (400, shape)
    assert told["x-amzn-query-error"].endswith(";Sender")


@pytest.mark.parametrize(
    "method, body, headers",
    [
        pytest.param("POST", b"Action=Nonsense", {"Content-Type": FORM}, id="an action"),
        pytest.param("POST", b"Action=ListQueues&x=%FF", {"Content-Type": FORM}, id="no UTF-8"),
        pytest.param(
            "POST", b"&".join(b"a%d=1" % n for n in range(3000)), {"Content-Type": FORM}, id="many fields"
        ),
        pytest.param(
            "POST", b"Action=SendMessage&MessageAttribute.1=x", {"Content-Type": FORM}, id="a text for a map"
        ),
        pytest.param("POST", b"Action=SendMessage&a=1&a.b=2", {"Content-Type": FORM}, id="a text and a list"),
        pytest.param(
            "POST", b"<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>", {"Content-Type": "text/xml"}, id="XML"
        ),
        pytest.param("DELETE", b"", {}, id="a method"),
    ],
)
def test_a_mistake_in_a_form_is_a_fault(
    served: Any, method: str, body: bytes, headers: dict[str, str]
) -> None:
    status, _, text = ask(served.url, body, headers, method)
    assert 400 <= status < 500
    assert ElementTree.fromstring(text).tag.endswith("ErrorResponse")


def test_a_browser_is_led_to_the_dashboard(served: Any) -> None:
    status, headers, _ = ask(served.url, method="GET", headers={"Accept": "text/html"})
    assert (status, headers["location"]) == (302, "/ui/")


# ── parsers, fuzzed ────────────────────────────────────────────────────────────────

WORDS = st.sampled_from(
    ["Action", "SendMessage", "Entries", "MessageAttribute", "Attribute", "Name", "Key", "Value", "1", "-1",
     "DataType", "Id", "Tag", "TagKey", "AttributeName", "SendMessageBatchRequestEntry", "é", "\x00", ""]
)  # fmt: skip
FIELDS = st.dictionaries(
    st.lists(WORDS, min_size=1, max_size=9).map(".".join), st.text(max_size=9), max_size=9
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=9,
)


@given(
    st.sampled_from([*ACTIONS, "Nonsense"]),
    st.binary(max_size=200) | JSON.map(lambda v: json.dumps(v).encode()),
)
def test_any_json_is_understood_or_a_fault(name: str, body: bytes) -> None:
    try:
        _, action, asked = json_wire.asked(json_wire.TARGET + name, body)
    except Fault as fault:
        assert json.loads(json_wire.failure(fault).body)["message"]
    else:
        assert isinstance(asked, action.asked)


@given(st.sampled_from([*ACTIONS, "Nonsense"]), FIELDS)
def test_any_form_is_understood_or_a_fault(name: str, fields: dict[str, str]) -> None:
    try:
        _, action, asked = query_wire.asked("/", {**fields, "Action": name})
    except Fault as fault:
        ElementTree.fromstring(query_wire.failure(fault, "id").body)
    else:
        assert isinstance(asked, action.asked)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_form_or_a_fault(body: bytes) -> None:
    try:
        assert isinstance(query_wire.fields_of(body), dict)
    except Fault as fault:
        assert fault.kind.status == 400


@given(
    st.dictionaries(
        st.sampled_from(sorted(attributes.SETTABLE)) | st.text(max_size=9),
        st.text(max_size=30) | JSON.map(json.dumps),
    ),
    st.booleans(),
)
def test_any_attributes_are_kept_or_a_fault(given: dict[str, str], fifo: bool) -> None:
    try:
        checked = attributes.check(given, fifo=fifo)
    except Fault:
        return
    attributes.options_of(checked)
    attributes.kept(checked)


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=12)))
def test_any_headers_are_attributes_as_far_as_sqs_permits(headers: dict[str, str]) -> None:
    found = message_attributes.of_headers(headers)
    assert found.keys() <= headers.keys()
    message_attributes.check(dict(list(found.items())[:10]))


@given(
    st.text(max_size=60)
    | st.builds(
        lambda a, b: f"{signatures.ALGORITHM} Credential={a}, SignedHeaders={b}, Signature=00",
        st.text(max_size=20),
        st.text(max_size=20),
    ),
    st.binary(max_size=40),
)
def test_any_authorization_is_a_claim_or_none(authorization: str, query: bytes) -> None:
    headers = {b"authorization": authorization.encode("latin-1", "replace")}
    scope = {"query_string": query, "method": "POST", "path": "/", "raw_path": b"/"}
    assert isinstance(signatures.claimed(scope, headers), signatures.Signed)


class Keys:
    def secret(self, key: str) -> str:
        return "secret"


@given(
    st.lists(st.text(max_size=12), min_size=5, max_size=5),
    st.sampled_from(["today", ""]) | st.text(max_size=8),
)
@example(["host", "\xe9", "60", "eu-west-1", "key"], "today")
def test_any_signature_of_a_known_key_that_is_none_is_a_fault(texts: list[str], day: str) -> None:
    headers, signature, expires, region, key = texts
    now = datetime.now(UTC).strftime(signatures.TIME)
    day = day.replace("today", now[:8])
    fields = {
        "X-Amz-Algorithm": signatures.ALGORITHM, "X-Amz-SignedHeaders": headers,
        "X-Amz-Signature": signature, "X-Amz-Expires": expires,
        "X-Amz-Date": now,
        "X-Amz-Credential": f"{key}/{day}/{region}/sqs/aws4_request",
    }  # fmt: skip
    scope = {
        "query_string": urlencode(fields).encode(), "method": "GET", "path": "/", "raw_path": b"/",
    }  # fmt: skip
    keys: Any = Keys()
    with pytest.raises(Fault) as fault:
        signatures.verify(keys, scope, {b"host": b"here"}, b"")
    assert fault.value.kind.status == 403


@given(st.text(max_size=40) | JSON.map(lambda v: base64.b64encode(json.dumps(v).encode()).decode()))
def test_any_task_handle_is_one_or_a_fault(text: str) -> None:
    try:
        assert len(moving._of_handle(text)) == 2
    except Fault as fault:
        assert fault.kind.status == 400


@given(st.lists(st.text()), st.binary())
def test_any_text_is_well_formed_in_xml(texts: list[str], raw: bytes) -> None:
    """It comes back as it was, as far as SQS permits its characters."""
    found = {f"{number}": text for number, text in enumerate(texts)}
    reply = query_wire.answer("X", {"Attributes": found, "Body": raw}, "id")
    root = ElementTree.fromstring(reply.body)
    values = [each.text or "" for each in root.iter() if each.tag.endswith("Value")]
    for text, value in zip(texts, values, strict=True):
        assert value == text or not message_attributes.is_legal(text)
    [body] = [each.text or "" for each in root.iter() if each.tag.endswith("Body")]
    assert base64.b64decode(body) == raw


def test_an_empty_list_in_a_form_is_empty() -> None:
    """As botocore's older protocol writes it."""
    _, _, asked = query_wire.asked(
        "/", {"Action": "ReceiveMessage", "MessageAttributeName": "", "MessageAttributeNames": ""}
    )
    assert isinstance(asked, ReceiveMessage)
    assert asked.message_attribute_names == []
    _, _, batch = query_wire.asked("/", {"Action": "SendMessageBatch", "Entries": ""})
    assert isinstance(batch, SendMessageBatch)
    assert batch.entries == []


def test_at_the_url_of_a_queue_there_are_the_actions_of_a_queue_alone(served: Any, url: str) -> None:
    path = urlsplit(url).path
    for action in ("CreateQueue", "ListQueues"):
        found = query(served.url, path, Action=action, QueueName="another")
        assert found.findtext("./Error/Code") == "InvalidAction"
    status, _, body = ask(served.url, method="GET", path=path)
    assert (status, body) == (404, b"<UnknownOperationException/>\n")
