"""Messages over SQS, with boto3: sent, received, deleted, and seen by other programs."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

import mq
from mq.serve.sqs import names

Make = Callable[..., str]
PATIENCE_SECONDS = 120


def own_name(url: str) -> str:
    return names.to_mq(names.of_url(url))


def received(sqs: Any, url: str, **options: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = sqs.receive_message(
        **{"QueueUrl": url, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 20, **options}
    ).get("Messages", [])
    return found


def ended_task(sqs: Any, arn: str) -> dict[str, Any]:
    """The newest move task of a queue, once it has ended."""
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        task: dict[str, Any] = sqs.list_message_move_tasks(SourceArn=arn)["Results"][0]
        if task["Status"] not in ("RUNNING", "CANCELLING"):
            return task
    raise AssertionError(f"it goes on: {task}")


def code(error: Any) -> str:
    found: str = error.value.response["Error"]["Code"]
    return found


def test_what_is_sent_is_received_and_deleted(sqs: Any, url: str) -> None:
    sent = sqs.send_message(
        QueueUrl=url, MessageBody="héllo", MessageAttributes={
            "city": {"DataType": "String", "StringValue": "Köln"},
            "price": {"DataType": "Number.eur", "StringValue": "9.50"},
            "raw": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
        }, MessageSystemAttributes={"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1"}},
    )  # fmt: skip
    [message] = received(sqs, url, MessageAttributeNames=["All"], AttributeNames=["All"])  # boto3 checks MD5s
    assert message["MessageId"] == sent["MessageId"]
    assert message["Body"] == "héllo"
    assert message["MessageAttributes"]["price"] == {"DataType": "Number.eur", "StringValue": "9.50"}
    assert message["MessageAttributes"]["raw"] == {"DataType": "Binary", "BinaryValue": b"\x00\xff"}
    assert message["Attributes"]["AWSTraceHeader"] == "Root=1"
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"
    assert abs(int(message["Attributes"]["SentTimestamp"]) / 1000 - time.time()) < 60
    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])  # is done already
    counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert counts["ApproximateNumberOfMessages"] == counts["ApproximateNumberOfMessagesNotVisible"] == "0"


def test_other_programs_see_the_same_queue(sqs: Any, url: str, store: mq.Broker) -> None:
    """A body is text, an attribute a header; and the other way."""
    sqs.send_message(
        QueueUrl=url,
        MessageBody="from boto3",
        MessageAttributes={"k": {"DataType": "String", "StringValue": "v"}},
    )
    queue = store.queue(own_name(url))
    delivery = queue.receive(0)
    assert delivery
    assert (delivery.body, dict(delivery.headers)) == ("from boto3", {"k": "v"})
    delivery.ack()
    queue.publish("from mq", headers={"k": "w"})
    [message] = received(sqs, url, MessageAttributeNames=["All"])
    assert message["Body"] == "from mq"
    assert message["MessageAttributes"] == {"k": {"DataType": "String", "StringValue": "w"}}


@pytest.mark.parametrize(
    "body, text, encoding",
    [
        pytest.param({"id": 7, "tags": ["a"]}, '{"id":7,"tags":["a"]}', "json", id="a structure"),
        pytest.param(b"\x00\xff", base64.b64encode(b"\x00\xff").decode(), "base64", id="bytes"),
        pytest.param("a\x00b", base64.b64encode(b"a\x00b").decode(), "base64", id="text that SQS forbids"),
    ],
)
def test_what_is_no_text_comes_as_text_that_says_so(
    sqs: Any, url: str, store: mq.Broker, body: object, text: str, encoding: str
) -> None:
    store.queue(own_name(url)).publish(body)
    [message] = received(sqs, url, MessageAttributeNames=["mq.*"])
    assert message["Body"] == text
    assert message["MessageAttributes"]["mq.encoding"]["StringValue"] == encoding


def test_a_batch_succeeds_in_part(sqs: Any, made: Make) -> None:
    url = made(MaximumMessageSize="1024")
    sent = sqs.send_message_batch(
        QueueUrl=url,
        Entries=[
            {"Id": "good", "MessageBody": "a"},
            {"Id": "long", "MessageBody": "x" * 1025},
            {"Id": "late", "MessageBody": "b", "DelaySeconds": 901},
        ],
    )
    assert [each["Id"] for each in sent["Successful"]] == ["good"]
    assert {each["Id"]: (each["Code"], each["SenderFault"]) for each in sent["Failed"]} == {
        "long": ("InvalidParameterValue", True),
        "late": ("InvalidParameterValue", True),
    }
    [message] = received(sqs, url)
    deleted = sqs.delete_message_batch(
        QueueUrl=url,
        Entries=[
            {"Id": "1", "ReceiptHandle": message["ReceiptHandle"]},
            {"Id": "2", "ReceiptHandle": "nonsense"},
        ],
    )
    assert [each["Id"] for each in deleted["Successful"]] == ["1"]
    assert [each["Code"] for each in deleted["Failed"]] == ["ReceiptHandleIsInvalid"]


@pytest.mark.parametrize(
    "entries, expected",
    [
        pytest.param([], "EmptyBatchRequest", id="none"),
        pytest.param([("a", "x"), ("a", "y")], "BatchEntryIdsNotDistinct", id="the same id"),
        pytest.param([(f"{n}", "x") for n in range(11)], "TooManyEntriesInBatchRequest", id="eleven"),
        pytest.param([("a b", "x")], "InvalidBatchEntryId", id="an id with a space"),
        pytest.param([("a", "x" * 600_000), ("b", "x" * 600_000)], "BatchRequestTooLong", id="too long"),
    ],
)
def test_a_batch_that_cannot_be_right_is_refused(
    sqs: Any, url: str, entries: list[tuple[str, str]], expected: str
) -> None:
    with pytest.raises(sqs.exceptions.ClientError) as error:
        sqs.send_message_batch(
            QueueUrl=url, Entries=[{"Id": id, "MessageBody": body} for id, body in entries]
        )
    assert code(error) == f"AWS.SimpleQueueService.{expected}"
    assert received(sqs, url, WaitTimeSeconds=0) == []


def test_a_message_that_is_not_deleted_comes_again_at_once(sqs: Any, url: str) -> None:
    """Without a rest, and an old handle deletes it."""
    sqs.send_message(QueueUrl=url, MessageBody="again")
    [first] = received(sqs, url, VisibilityTimeout=0)
    [second] = received(sqs, url, AttributeNames=["ApproximateReceiveCount"])
    assert second["Attributes"] == {"ApproximateReceiveCount": "2"}
    sqs.delete_message(QueueUrl=url, ReceiptHandle=first["ReceiptHandle"])
    with pytest.raises(sqs.exceptions.ClientError) as error:
        sqs.change_message_visibility(
            QueueUrl=url, ReceiptHandle=second["ReceiptHandle"], VisibilityTimeout=0
        )
    assert code(error) == "InvalidParameterValue"


def test_a_visibility_of_zero_gives_it_back(sqs: Any, url: str) -> None:
    sqs.send_message(QueueUrl=url, MessageBody="not now")
    [message] = received(sqs, url)
    assert received(sqs, url, WaitTimeSeconds=0) == []
    sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0)
    [again] = received(sqs, url)
    assert again["MessageId"] == message["MessageId"]


def test_dead_letters_move_and_come_back(sqs: Any, made: Make) -> None:
    """The count goes on; a move task brings them back."""
    dead = made()
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    url = made(RedrivePolicy=json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "1"}))
    sqs.send_message(QueueUrl=url, MessageBody="poison")
    received(sqs, url, VisibilityTimeout=0)
    [message] = received(sqs, dead, AttributeNames=["All"], VisibilityTimeout=0)
    assert message["Attributes"]["ApproximateReceiveCount"] == "2"
    assert message["Attributes"]["DeadLetterQueueSourceArn"].endswith(names.of_url(url))
    assert sqs.list_dead_letter_source_queues(QueueUrl=dead)["queueUrls"] == [url]

    sqs.start_message_move_task(SourceArn=arn)
    [back] = received(sqs, url, AttributeNames=["ApproximateReceiveCount"])
    assert (back["Body"], back["Attributes"]["ApproximateReceiveCount"]) == ("poison", "1")
    task = ended_task(sqs, arn)
    assert (task["Status"], task["ApproximateNumberOfMessagesMoved"]) == ("COMPLETED", 1)


# ── FIFO ───────────────────────────────────────────────────────────────────────────


def test_a_group_comes_in_order_and_one_batch_at_a_time(sqs: Any, made: Make) -> None:
    url = made(fifo=True, ContentBasedDeduplication="true")
    sent = [
        sqs.send_message(QueueUrl=url, MessageBody=body, MessageGroupId=body[0])
        for body in ("a1", "a2", "b1", "a3")
    ]
    assert sorted(each["SequenceNumber"] for each in sent) == [each["SequenceNumber"] for each in sent]
    batch = received(sqs, url, MaxNumberOfMessages=2, AttributeNames=["All"])
    assert [each["Body"] for each in batch] == ["a1", "a2"]
    assert batch[0]["Attributes"]["MessageGroupId"] == "a"
    assert [each["Body"] for each in received(sqs, url)] == ["b1"]  # a3 waits for a1 and a2
    for each in batch:
        sqs.delete_message(QueueUrl=url, ReceiptHandle=each["ReceiptHandle"])
    assert [each["Body"] for each in received(sqs, url)] == ["a3"]


@pytest.mark.parametrize("scope, comes", [("queue", 1), ("messageGroup", 2)])
def test_a_dedup_id_counts_once_in_its_scope(sqs: Any, made: Make, scope: str, comes: int) -> None:
    url = made(fifo=True, DeduplicationScope=scope)
    ids = {
        sqs.send_message(QueueUrl=url, MessageBody=group, MessageGroupId=group, MessageDeduplicationId="d")[
            "MessageId"
        ]
        for group in ("a", "a", "b")
    }
    assert len(ids) == comes
    batch = received(sqs, url, AttributeNames=["MessageDeduplicationId"])
    assert [each["Attributes"]["MessageDeduplicationId"] for each in batch] == ["d"] * comes


def test_a_receive_that_is_tried_again_gets_the_same(sqs: Any, made: Make) -> None:
    url = made(fifo=True, ContentBasedDeduplication="true")
    sqs.send_message(QueueUrl=url, MessageBody="once", MessageGroupId="g")
    first, second = (received(sqs, url, ReceiveRequestAttemptId="try", WaitTimeSeconds=0) for _ in range(2))
    assert [each["ReceiptHandle"] for each in first] == [each["ReceiptHandle"] for each in second]
    sqs.delete_message(QueueUrl=url, ReceiptHandle=first[0]["ReceiptHandle"])
    assert received(sqs, url, ReceiveRequestAttemptId="try", WaitTimeSeconds=0) == []


def test_an_attempt_that_would_fill_the_memory_is_refused(sqs: Any, made: Make) -> None:
    """Its id is kept for minutes, and bodies alone are counted."""
    url = made(fifo=True)
    with pytest.raises(sqs.exceptions.ClientError) as error:
        sqs.receive_message(QueueUrl=url, ReceiveRequestAttemptId="x" * 129)
    assert code(error) == "InvalidParameterValue"


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({"DataType": "String", "StringValue": "a", "BinaryValue": b"b"}, id="text and bytes"),
        pytest.param({"DataType": "Binary", "StringValue": "a", "BinaryValue": b"b"}, id="bytes and text"),
        pytest.param({"DataType": "Number", "StringValue": "1_000"}, id="a number of Python"),
        pytest.param({"DataType": "Number", "StringValue": "\uff15"}, id="a digit of another script"),
        pytest.param({"DataType": "Number", "StringValue": "1" * 39}, id="too many digits"),
        pytest.param({"DataType": "Number", "StringValue": "Infinity"}, id="no number"),
    ],
)
def test_an_attribute_that_would_not_come_back_as_it_is_is_refused(
    sqs: Any, url: str, value: dict[str, Any]
) -> None:
    with pytest.raises(sqs.exceptions.ClientError) as error:
        sqs.send_message(QueueUrl=url, MessageBody="x", MessageAttributes={"a": value})
    assert code(error) == "InvalidParameterValue"
    assert received(sqs, url, WaitTimeSeconds=0) == []


def test_an_empty_field_beside_the_value_of_an_attribute_is_none(sqs: Any, url: str) -> None:
    given = {
        "text": {"DataType": "String", "StringValue": "a", "BinaryValue": b""},
        "bytes": {"DataType": "Binary", "StringValue": "", "BinaryValue": b"b"},
        "number": {"DataType": "Number", "StringValue": "-9.50e3"},
    }
    sqs.send_message(QueueUrl=url, MessageBody="x", MessageAttributes=given)
    [message] = received(sqs, url, MessageAttributeNames=["All"])
    assert message["MessageAttributes"] == {
        "text": {"DataType": "String", "StringValue": "a"},
        "bytes": {"DataType": "Binary", "BinaryValue": b"b"},
        "number": {"DataType": "Number", "StringValue": "-9.50e3"},
    }


def test_a_trace_with_characters_that_sqs_forbids_is_refused(sqs: Any, url: str) -> None:
    trace = {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=\0"}}
    with pytest.raises(sqs.exceptions.ClientError) as error:
        sqs.send_message(QueueUrl=url, MessageBody="x", MessageSystemAttributes=trace)
    assert code(error) == "InvalidParameterValue"


def test_a_fifo_queue_refuses_an_old_handle(sqs: Any, made: Make) -> None:
    url = made(fifo=True, ContentBasedDeduplication="true")
    sqs.send_message(QueueUrl=url, MessageBody="x", MessageGroupId="g")
    [message] = received(sqs, url, VisibilityTimeout=0)
    with pytest.raises(sqs.exceptions.ClientError, match="The receipt handle has expired"):
        sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    assert len(received(sqs, url)) == 1


def test_the_handle_of_another_queue_is_refused(sqs: Any, made: Make) -> None:
    one, other = made(), made()
    sqs.send_message(QueueUrl=one, MessageBody="x")
    [message] = received(sqs, one)
    for settle in (
        lambda handle: sqs.delete_message(QueueUrl=other, ReceiptHandle=handle),
        lambda handle: sqs.change_message_visibility(
            QueueUrl=other, ReceiptHandle=handle, VisibilityTimeout=0
        ),
    ):
        with pytest.raises(sqs.exceptions.ReceiptHandleIsInvalid):
            settle(message["ReceiptHandle"])
    assert received(sqs, one, WaitTimeSeconds=0) == []


@pytest.mark.parametrize("fifo", [False, True])
@pytest.mark.parametrize("part", [1, 2])
def test_a_handle_with_a_number_that_no_message_has_is_refused(
    sqs: Any, made: Make, fifo: bool, part: int
) -> None:  # fmt: skip
    given = {"MessageGroupId": "g", "MessageDeduplicationId": "d"} if fifo else {}
    url = made(fifo=fifo)
    sqs.send_message(QueueUrl=url, MessageBody="x", **given)
    parts = received(sqs, url)[0]["ReceiptHandle"].split("-")
    parts[part] = str(1 << 63)
    with pytest.raises(sqs.exceptions.ReceiptHandleIsInvalid):
        sqs.delete_message(QueueUrl=url, ReceiptHandle="-".join(parts))
    with pytest.raises(sqs.exceptions.ReceiptHandleIsInvalid):
        sqs.change_message_visibility(QueueUrl=url, ReceiptHandle="-".join(parts), VisibilityTimeout=1)


def test_the_messages_of_a_group_are_shown_behind_each_other(sqs: Any, made: Make) -> None:
    url = made(fifo=True, ContentBasedDeduplication="true")
    for body in ("a1", "b1", "a2", "b2"):
        sqs.send_message(QueueUrl=url, MessageBody=body, MessageGroupId=body[0])
    assert [each["Body"] for each in received(sqs, url)] == ["a1", "a2", "b1", "b2"]
