"""Queues over SQS, with boto3: made, found, changed, emptied, deleted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import mq
from mq.serve.sqs import names

Make = Callable[..., str]


def attributes(sqs: Any, url: str, *wanted: str) -> dict[str, str]:
    found: dict[str, str] = sqs.get_queue_attributes(
        QueueUrl=url, AttributeNames=list(wanted or ["All"])
    ).get("Attributes", {})
    return found


def code(error: Any) -> str:
    found: str = error.value.response["Error"]["Code"]
    return found


def test_a_queue_is_made_once(sqs: Any, name: str) -> None:
    url = sqs.create_queue(QueueName=name, Attributes={"DelaySeconds": "5"})["QueueUrl"]
    assert sqs.create_queue(QueueName=name, Attributes={"DelaySeconds": "5"})["QueueUrl"] == url
    assert (
        sqs.create_queue(QueueName=name)["QueueUrl"] == url == sqs.get_queue_url(QueueName=name)["QueueUrl"]
    )
    with pytest.raises(sqs.exceptions.QueueNameExists, match="a different value for attribute DelaySeconds"):
        sqs.create_queue(QueueName=name, Attributes={"DelaySeconds": "6"})
    sqs.delete_queue(QueueUrl=url)
    with pytest.raises(sqs.exceptions.QueueDoesNotExist):
        sqs.send_message(QueueUrl=url, MessageBody="x")
    with pytest.raises(sqs.exceptions.QueueDoesNotExist):
        sqs.get_queue_url(QueueName=name)


def test_its_attributes_are_options_of_the_queue(sqs: Any, made: Make, store: mq.Broker) -> None:
    """Both ways, and what is no option is durable too."""
    url = made(
        VisibilityTimeout="7", DelaySeconds="3", MessageRetentionPeriod="600", MaximumMessageSize="2048"
    )
    queue = store.queue(names.of_url(url))
    options = queue.options()
    assert (options["visibility_timeout"], options["delay"], options["ttl"]) == (7, 3, 600)
    store.queue(queue.name, visibility_timeout=9)
    sqs.set_queue_attributes(
        QueueUrl=url, Attributes={"ReceiveMessageWaitTimeSeconds": "4", "DelaySeconds": "0"}
    )
    has = attributes(sqs, url)
    assert (has["VisibilityTimeout"], has["DelaySeconds"], has["MaximumMessageSize"]) == ("9", "0", "2048")
    assert has["ReceiveMessageWaitTimeSeconds"] == "4"
    assert has["QueueArn"] == f"arn:aws:sqs:eu-west-1:000000000000:{queue.name}"


def test_a_queue_of_another_program_is_there(sqs: Any, store: mq.Broker, name: str) -> None:
    """Under a name that SQS permits; CreateQueue takes it as it is."""
    store.queue(f"{name}.größe", max_attempts=4).publish("x")
    escaped = f"{name}_x2e_gr_xc3__xb6__xc3__x9f_e"
    [url] = sqs.list_queues(QueueNamePrefix=f"{name}_x2e_gr")["QueueUrls"]
    assert url.endswith(f"/{escaped}")
    assert sqs.create_queue(QueueName=escaped)["QueueUrl"] == url
    policy = json.loads(attributes(sqs, url, "RedrivePolicy")["RedrivePolicy"])
    assert policy["maxReceiveCount"] == 4
    assert sqs.receive_message(QueueUrl=url)["Messages"][0]["Body"] == "x"


def test_queues_are_listed_in_pages(sqs: Any, name: str) -> None:
    urls = [sqs.create_queue(QueueName=f"{name}-{letter}")["QueueUrl"] for letter in "abcde"]
    pages = sqs.get_paginator("list_queues").paginate(
        QueueNamePrefix=f"{name}-", PaginationConfig={"PageSize": 2}
    )
    assert [page["QueueUrls"] for page in pages] == [urls[:2], urls[2:4], urls[4:]]
    assert "QueueUrls" not in sqs.list_queues(QueueNamePrefix="no such queue")


@pytest.mark.parametrize(
    "given, expected",
    [
        pytest.param({"Nonsense": "1"}, "InvalidAttributeName", id="unknown"),
        pytest.param({"VisibilityTimeout": "43201"}, "InvalidAttributeValue", id="too long"),
        pytest.param({"DelaySeconds": "x"}, "InvalidAttributeValue", id="no number"),
        pytest.param({"DelaySeconds": "-1"}, "InvalidAttributeValue", id="negative"),
        pytest.param({"RedrivePolicy": "{"}, "InvalidParameterValue", id="no JSON"),
        pytest.param({"RedrivePolicy": "[" * 100_000}, "InvalidParameterValue", id="deep JSON"),
        pytest.param({"ContentBasedDeduplication": "true"}, "InvalidAttributeName", id="of FIFO queues"),
        pytest.param({"FifoQueue": "true"}, "InvalidAttributeName", id="another kind"),
        pytest.param(
            {"RedrivePolicy": '{"deadLetterTargetArn": "arn:aws:sqs:x:0:nowhere", "maxReceiveCount": 1}'},
            "AWS.SimpleQueueService.NonExistentQueue", id="no such dead letters",
        ),
    ],
)  # fmt: skip
def test_an_attribute_that_cannot_be_is_refused(
    sqs: Any, url: str, given: dict[str, str], expected: str
) -> None:
    before = attributes(sqs, url)
    with pytest.raises(sqs.exceptions.ClientError) as error:
        sqs.set_queue_attributes(QueueUrl=url, Attributes=given)
    assert code(error) == expected
    assert attributes(sqs, url) == before


@pytest.mark.parametrize("bad", ["a.b", "a b", "x" * 81, "a.fifo", ""])
def test_a_name_that_sqs_forbids_is_refused(sqs: Any, bad: str) -> None:
    with pytest.raises(sqs.exceptions.ClientError) as error:
        sqs.create_queue(QueueName=bad)
    assert code(error) == "InvalidParameterValue"


def test_tags_and_permissions_are_kept(sqs: Any, url: str) -> None:
    sqs.tag_queue(QueueUrl=url, Tags={"a": "1", "b": "2"})
    sqs.untag_queue(QueueUrl=url, TagKeys=["a"])
    assert sqs.list_queue_tags(QueueUrl=url)["Tags"] == {"b": "2"}
    sqs.add_permission(QueueUrl=url, Label="l", AWSAccountIds=["123456789012"], Actions=["SendMessage"])
    [statement] = json.loads(attributes(sqs, url, "Policy")["Policy"])["Statement"]
    assert (statement["Sid"], statement["Action"]) == ("l", "SQS:SendMessage")
    sqs.remove_permission(QueueUrl=url, Label="l")
    assert "Policy" not in attributes(sqs, url)


def test_a_purge_takes_what_is_in_flight_too(sqs: Any, url: str) -> None:
    for body in ("a", "b"):
        sqs.send_message(QueueUrl=url, MessageBody=body)
    sqs.receive_message(QueueUrl=url)
    sqs.purge_queue(QueueUrl=url)
    counts = attributes(sqs, url)
    assert counts["ApproximateNumberOfMessages"] == counts["ApproximateNumberOfMessagesNotVisible"] == "0"


@pytest.mark.parametrize("scope", ["queue", "messageGroup"])
def test_a_purge_forgets_deduplication_ids(sqs: Any, made: Make, scope: str) -> None:
    url = made(fifo=True, ContentBasedDeduplication="true", DeduplicationScope=scope)
    for body in ("again", "again", "last"):
        sqs.send_message(QueueUrl=url, MessageBody=body, MessageGroupId="g")
    sqs.purge_queue(QueueUrl=url)
    for body in ("again", "again", "new"):
        sqs.send_message(QueueUrl=url, MessageBody=body, MessageGroupId="g")
    found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    assert [each["Body"] for each in found] == ["again", "new"]
    assert not [each for each in attributes(sqs, url) if "purge" in each.lower()]


def test_dead_letters_in_a_circle_are_refused(sqs: Any, made: Make) -> None:
    one, other = made(), made()
    for source, target in ((one, other), (other, one), (one, one)):
        arn = attributes(sqs, target, "QueueArn")["QueueArn"]
        policy = {"RedrivePolicy": json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 1})}
        if (source, target) == (one, other):
            sqs.set_queue_attributes(QueueUrl=source, Attributes=policy)
            continue
        with pytest.raises(sqs.exceptions.ClientError) as error:
            sqs.set_queue_attributes(QueueUrl=source, Attributes=policy)
        assert code(error) == "InvalidParameterValue"


def test_a_dead_letter_queue_may_allow_only_some(sqs: Any, made: Make) -> None:
    dead = made(RedriveAllowPolicy='{"redrivePermission": "denyAll"}')
    arn = attributes(sqs, dead, "QueueArn")["QueueArn"]
    with pytest.raises(sqs.exceptions.ClientError, match="RedriveAllowPolicy"):
        made(RedrivePolicy=json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 1}))
