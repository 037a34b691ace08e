"""Exchanges as topics, arguments as options, URLs as settings: what needs no store."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import pytest

pytest.importorskip("kombu", reason='kombu is not installed: pip install "mq[celery]"')

from kombu.exceptions import ChannelError

import mq
from mq.contrib.kombu import routes
from mq.contrib.kombu.arguments import publish_options, queue_options
from mq.contrib.kombu.settings import ConnectionSettings
from mq.contrib.settings import parse

# ── routes ─────────────────────────────────────────────────────────────────────────

STRANGE = [
    "",
    ".",
    "..",
    "a..b",
    ".a",
    "a.",
    "*",
    "#",
    "%",
    "%2E",
    "a b",
    "ä.ö",
    "*.#",
    "a*b",
    "\n",
    "\U0001f600",
]


@pytest.mark.parametrize(
    ("kind", "bound", "key", "fits"),
    [
        ("direct", "images", "images", True),
        ("direct", "images", "images.big", False),
        ("direct", "a.b", "a.b", True),
        ("direct", "*", "a", False),
        ("direct", "#", "a.b", False),
        ("direct", "*", "*", True),
        ("direct", "", "", True),
        ("direct", "", "a", False),
        ("topic", "eu.*", "eu.sport", True),
        ("topic", "eu.*", "eu.sport.today", False),
        ("topic", "eu.#", "eu", True),
        ("topic", "eu.#", "eu.sport.today", True),
        ("topic", "*.sport", "eu.sport", True),
        ("topic", "#", "", True),
        ("topic", "a%b", "a%b", True),
        ("topic", "a*b", "axb", False),
        ("fanout", "", "anything.at all", True),
        ("fanout", "ignored", "", True),
    ],
)
def test_a_message_comes_to_the_queues_that_are_bound_to_it(broker, kind, bound, key, fits) -> None:
    queue = broker.queue("q")
    queue.subscribe(routes.pattern(kind, "ex.change", bound))
    broker.topic(routes.topic("ex.change", key)).publish("x")
    assert (queue.receive(timeout=0) is not None) is fits


def test_no_two_places_are_one_topic(broker) -> None:
    """An exchange a with a key b.c is not an exchange a.b with a key c."""
    places = [(exchange, key) for exchange in STRANGE if exchange for key in STRANGE]
    topics = [routes.topic(*place) for place in places]
    assert len(set(topics)) == len(places)
    for topic in topics:
        broker.topic(topic)  # mq takes each of them as a name


def test_a_binding_is_read_back_from_its_pattern() -> None:
    for exchange, key in itertools.product(["celery", "a.b", "100%"], STRANGE):
        found = routes.binding(routes.pattern("direct", exchange, key), "q")
        assert found == (exchange, key, "q")


# ── arguments of queues ────────────────────────────────────────────────────────────


def options(arguments, *, auto_delete=False):
    return queue_options(
        arguments, auto_delete=auto_delete, dead_letters=lambda exchange, key: f"{exchange}/{key}"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, {}),
        ({"x-expires": 1500}, {"delete_when_abandoned": 1.5}),
        ({"x-message-ttl": 2000}, {"ttl": 2.0}),
        ({"x-message-ttl": 0}, {"ttl": 0.001}),
        ({"x-max-length": 3}, {"max_length": 3, "overflow": "drop_oldest"}),
        ({"x-max-length-bytes": 9, "x-overflow": "reject-publish"}, {"max_bytes": 9, "overflow": "reject"}),
        ({"x-delivery-limit": 3}, {"max_attempts": 4}),
        (
            {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "bad"},
            {"dead_letter": "/bad", "expired": "dead_letter"},
        ),
        ({"x-max-priority": 10, "x-queue-mode": "lazy", "x-unheard-of": 1}, {}),
    ],
)
def test_arguments_are_options(arguments, expected) -> None:
    assert options(arguments) == expected


def test_an_auto_delete_queue_goes_a_while_after_its_last_consumer() -> None:
    assert options({}, auto_delete=True) == {"delete_when_abandoned": 60.0}
    assert options({"x-expires": 10_000}, auto_delete=True) == {"delete_when_abandoned": 60.0}
    assert options({"x-expires": 90_000}, auto_delete=True) == {"delete_when_abandoned": 90.0}


@pytest.mark.parametrize(
    "arguments",
    [
        {"x-single-active-consumer": True},
        {"x-queue-type": "stream"},
        {"x-max-length": 1, "x-overflow": "reject-publish-dlx"},
    ],
)
def test_what_mq_has_not_is_refused_by_name(arguments) -> None:
    with pytest.raises(ChannelError, match=r"mq has no x-"):
        options(arguments)
    assert options({"x-queue-type": "quorum", "x-single-active-consumer": False}) == {}


# ── options of messages ────────────────────────────────────────────────────────────

ETA = "2031-02-03T04:05:06+00:00"


@pytest.mark.parametrize(
    ("headers", "properties", "expected"),
    [
        ({}, {}, {}),
        ({}, {"priority": 7}, {"priority": 7}),
        ({}, {"priority": 999}, {"priority": 255}),
        ({}, {"priority": -1}, {}),
        ({}, {"priority": None}, {}),
        ({}, {"expiration": "1500"}, {"ttl": 1.5}),
        ({"task": "t", "expires": "2030-01-01T00:00:00+00:00"}, {"expiration": "1500"}, {}),
        ({"task": "t", "eta": ETA}, {}, {"at": datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC)}),
        ({"task": "t", "eta": "2031-02-03T04:05:06"}, {}, {}),
        ({"task": "t", "eta": "tomorrow"}, {}, {}),
        ({"task": "t", "eta": None}, {}, {}),
        ({"eta": ETA}, {}, {}),
        ({}, {"dedup_id": "x"}, {"dedup_id": "x"}),
    ],
)
def test_properties_are_options(headers, properties, expected) -> None:
    message = {"headers": headers, "properties": properties}
    assert publish_options(message, low_first=False, waits_here=True) == expected


def test_a_task_with_an_eta_may_wait_in_a_worker() -> None:
    message = {"headers": {"task": "t", "eta": ETA}, "properties": {}}
    assert publish_options(message, low_first=False, waits_here=False) == {}


@pytest.mark.parametrize(("given", "stored"), [(None, 9), (0, 9), (3, 6), (9, None), (50, None)])
def test_the_lowest_priority_may_be_the_first(given, stored) -> None:
    message = {"properties": {"priority": given}}
    assert publish_options(message, low_first=True, waits_here=True).get("priority") == stored


# ── URLs ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("mq:///data", "data"),
        ("mq:////var/data", "/var/data"),
        ("mq:///a%20b/c", "a b/c"),
        ("mq:///../data?sync=1", "../data"),
    ],
)
def test_a_url_names_a_directory(url, path) -> None:
    assert parse(url).path == path


@pytest.mark.parametrize("url", ["mq://data", "mq://", "mq:///", "redis:///data", "", "mq:/data"])
def test_other_urls_are_refused_and_the_form_is_told(url) -> None:
    with pytest.raises(mq.UsageError, match="mq:///data"):
        parse(url)


def test_the_url_counts_and_then_the_transport_options() -> None:
    of_url = ConnectionSettings.of_url
    found = of_url("mq:////d?sync=0.1", {"sync": "never", "visibility_timeout": 5, "max_retries": 3})
    assert found == ConnectionSettings("/d", 0.1, 5.0, None, "high_first", "queue")
    assert of_url("mq:////d?max_attempts=5&eta=worker", {}) == ConnectionSettings(
        "/d", max_attempts=5, eta="worker"
    )


@pytest.mark.parametrize(
    ("url", "given", "said"),
    [
        ("mq:///d?snyc=1", {}, "snyc is no option"),
        ("mq:///d?sync=often", {}, "sync is"),
        ("mq:///d", {"priority_order": "up"}, "one of high_first, low_first"),
        ("mq:///d?visibility_timeout=soon", {}, "is a number of seconds"),
    ],
)
def test_settings_are_checked(url, given, said) -> None:
    with pytest.raises(mq.UsageError, match=said):
        ConnectionSettings.of_url(url, given)
