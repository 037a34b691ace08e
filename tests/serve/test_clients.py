"""What programs do with SQS, with each of the clients that they use (clients.py), against one server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from clients import CLIENTS, Call, Refused
from served import Served

import mq
from mq.serve.sqs import names

Make = Callable[..., str]
NO_QUEUE = {"QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"}  # of the two protocols


@pytest.fixture(scope="module", params=CLIENTS)
def call(request: pytest.FixtureRequest, served: Served) -> Iterator[Call]:
    with CLIENTS[request.param](served.url) as call:
        yield call


@pytest.fixture
def make(call: Call, name: str) -> Make:
    """Makes a queue with this client, and gives its URL."""

    def make(suffix: str = "", **attributes: str) -> str:
        found: str = call("CreateQueue", QueueName=name + suffix, Attributes=attributes)["QueueUrl"]
        return found

    return make


def received(call: Call, url: str, **members: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = call("ReceiveMessage", QueueUrl=url, **members).get("Messages", [])
    return found


def test_a_message_is_sent_received_and_deleted(call: Call, make: Make, store: mq.Broker) -> None:
    """With its attributes; and the queue of mq is empty then."""
    url = make(VisibilityTimeout="60")
    attributes = {
        "city": {"DataType": "String", "StringValue": "Köln"},
        "price": {"DataType": "Number", "StringValue": "9.50"},
    }
    sent = call("SendMessage", QueueUrl=url, MessageBody="héllo <&>", MessageAttributes=attributes)
    [message] = received(call, url, MessageAttributeNames=["All"], AttributeNames=["All"])
    assert (message["MessageId"], message["Body"]) == (sent["MessageId"], "héllo <&>")
    assert message["MessageAttributes"] == attributes
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"
    assert received(call, url) == []
    call("DeleteMessage", QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    stats = store.queue(names.to_mq(names.of_url(url))).stats()
    assert (stats.ready, stats.in_flight, stats.acked) == (0, 0, 1)


def test_a_message_is_given_back_and_comes_again(call: Call, make: Make) -> None:
    url = make()
    call("SendMessage", QueueUrl=url, MessageBody="again")
    [first] = received(call, url)
    call("ChangeMessageVisibility", QueueUrl=url, ReceiptHandle=first["ReceiptHandle"], VisibilityTimeout=0)
    [second] = received(call, url, WaitTimeSeconds=20, AttributeNames=["ApproximateReceiveCount"])
    assert second["MessageId"] == first["MessageId"]
    assert second["Attributes"] == {"ApproximateReceiveCount": "2"}


def test_a_batch_is_sent_in_part_received_and_deleted(call: Call, make: Make) -> None:
    url = make()
    entries = [{"Id": str(number), "MessageBody": f"body {number}"} for number in range(9)]
    late = {"Id": "late", "MessageBody": "x", "DelaySeconds": 901}
    sent = call("SendMessageBatch", QueueUrl=url, Entries=[*entries, late])
    assert [each["Id"] for each in sent["Successful"]] == [each["Id"] for each in entries]
    assert [each["Id"] for each in sent["Failed"]] == ["late"]
    found = received(call, url, MaxNumberOfMessages=10)
    assert [each["Body"] for each in found] == [each["MessageBody"] for each in entries]
    held = [{"Id": str(n), "ReceiptHandle": each["ReceiptHandle"]} for n, each in enumerate(found)]
    deleted = call("DeleteMessageBatch", QueueUrl=url, Entries=held)
    assert len(deleted["Successful"]) == 9
    has = call("GetQueueAttributes", QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert has["ApproximateNumberOfMessages"] == has["ApproximateNumberOfMessagesNotVisible"] == "0"


def test_a_long_poll_is_given_what_comes(call: Call, make: Make, store: mq.Broker) -> None:
    url = make()
    store.queue(names.to_mq(names.of_url(url))).publish("from another program", delay=0.2)
    [message] = received(call, url, WaitTimeSeconds=20)
    assert message["Body"] == "from another program"


def test_a_fifo_queue_keeps_the_order_of_a_group(call: Call, make: Make) -> None:
    """One message of a group at a time, apart from batches; and what is sent twice is there once."""
    url = make(".fifo", FifoQueue="true")
    numbers = [
        call(
            "SendMessage", QueueUrl=url, MessageBody=body, MessageGroupId=group, MessageDeduplicationId=dedup
        )["SequenceNumber"]
        for body, group, dedup in (("a1", "a", "1"), ("a2", "a", "2"), ("a1", "a", "1"), ("b1", "b", "3"))
    ]  # fmt: skip
    assert numbers[0] == numbers[2] and numbers[0] < numbers[1] < numbers[3]
    [first] = received(call, url, AttributeNames=["All"])
    assert (first["Body"], first["Attributes"]["MessageGroupId"]) == ("a1", "a")
    [other] = received(call, url)
    assert other["Body"] == "b1"
    assert received(call, url) == []
    call("DeleteMessage", QueueUrl=url, ReceiptHandle=first["ReceiptHandle"])
    [second] = received(call, url)
    assert second["Body"] == "a2"


def test_an_error_has_the_code_of_sqs(call: Call, name: str, make: Make) -> None:
    with pytest.raises(Refused) as refused:
        call("GetQueueUrl", QueueName=name)
    assert refused.value.args[0] in NO_QUEUE
    url = make()
    with pytest.raises(Refused) as refused:
        call("DeleteMessage", QueueUrl=url, ReceiptHandle="none")
    assert refused.value.args == ("ReceiptHandleIsInvalid",)


def test_queues_are_listed_tagged_and_deleted(call: Call, name: str, make: Make) -> None:
    urls = [make(suffix) for suffix in ("-a", "-b", "-c")]
    first = call("ListQueues", QueueNamePrefix=name, MaxResults=2)
    rest = call("ListQueues", QueueNamePrefix=name, MaxResults=2, NextToken=first["NextToken"])
    assert first["QueueUrls"] + rest["QueueUrls"] == urls
    call("TagQueue", QueueUrl=urls[0], Tags={"team": "blue"})
    assert call("ListQueueTags", QueueUrl=urls[0])["Tags"] == {"team": "blue"}
    for url in urls:
        call("DeleteQueue", QueueUrl=url)
    assert not call("ListQueues", QueueNamePrefix=name).get("QueueUrls")
