"""Alerts: thresholds that are watched while the server runs, logged, shown, and told to a webhook.

    orders depth>1000        messages of the queue orders that are not settled: ready, in flight or delayed
    * age>5min               the oldest ready message of any queue
    *.dead ready>0           a pattern, as the shell's: * and ?
    orders dead>0            what is in the queue to which dead letters of orders go

The rules are looked at every EVERY_SECONDS, and of the store only the queues that they name are asked.  An
alert begins and ends once, however long it lasts; so often it is logged, and posted to the webhook as JSON.
"""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import re
import time
import urllib.error
import urllib.request
from collections import deque
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlsplit

import msgspec

from mq import Broker, MqError, Stats, values
from mq.engine import looking
from mq.serve import spared

EVERY_SECONDS: Final = 10.0
REST: Final = 20  # at least so many times as long as a look took is there between two
EVENTS_MAX: Final = 200
FIRING_MAX: Final = 1000  # queues for which one rule may be firing; more are counted in none
POSTS_MAX: Final = 100  # that wait for the webhook; the oldest are dropped
POST_SECONDS: Final = 10.0
POST_TRIES: Final = 3
RULE: Final = re.compile(
    r"(?:(?P<queues>.+?)\s+)?(?P<what>depth|ready|age|dead)\s*>\s*(?P<limit>[0-9][0-9a-z._]*)"
)
EXAMPLE: Final = (
    "a queue, what to look at (depth, ready, age, dead) and a limit, as 'orders depth>1000' or '* age>5min'"
)

log = logging.getLogger("mq.serve.alerts")


class Rule(NamedTuple):
    queues: str  # a pattern
    what: str
    limit: float
    text: str

    @classmethod
    def read(cls, text: str) -> Self | None:
        """The rule that a person wrote; None if it is none."""
        match = RULE.fullmatch(text.strip())
        if match is None:
            return None
        limit = values.read_duration(match["limit"]) if match["what"] == "age" else _count(match["limit"])
        return None if limit is None else cls(match["queues"] or "*", match["what"], limit, text.strip())

    @property
    def is_pattern(self) -> bool:
        return any(each in self.queues for each in "*?[")

    def shown(self, value: float) -> str:
        return values.duration(value) if self.what == "age" else f"{value:,.0f}"


def _count(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


class Event(NamedTuple):
    """An alert began, or ended."""

    at: float  # seconds since 1970
    began: bool
    rule: str
    queue: str
    value: str


class State(NamedTuple):
    """A rule, and the queues for which it is firing: since when, and what was seen last."""

    rule: Rule
    queues: list[tuple[str, float, str]]


class Watch:
    """Used by the tasks of one event loop."""

    def __init__(self, rules: tuple[Rule, ...], webhook: str | None, broker: Broker) -> None:
        self._rules, self._webhook, self._broker = rules, webhook, broker
        self._firing: dict[Rule, dict[str, tuple[float, float]]] = {
            rule: {} for rule in rules
        }  # since, value
        self._events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._posts: asyncio.Queue[Event] = asyncio.Queue()
        self.trouble = ""
        """Why the rules could not be looked at; "" if they were."""

    def states(self) -> list[State]:
        return [
            State(rule, [(name, since, rule.shown(value)) for name, (since, value) in sorted(found.items())])
            for rule, found in self._firing.items()
        ]

    def firing(self) -> list[State]:
        return [state for state in self.states() if state.queues]

    def events(self) -> list[Event]:
        """The last ones, the newest first."""
        return list(reversed(self._events))

    # ── looking ────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Look, again and again."""
        while True:
            began = time.monotonic()
            await self.look()
            await asyncio.sleep(max(EVERY_SECONDS, REST * (time.monotonic() - began)))

    async def look(self) -> None:
        try:
            found = await asyncio.to_thread(measure, self._broker, self._rules)
        except MqError as error:
            if not self.trouble:
                log.error("the store cannot be looked at: %s", error)
            self.trouble = str(error)
            return
        self.trouble = ""
        for rule, over in found.items():
            self._compare(rule, over, time.time())

    def _compare(self, rule: Rule, over: dict[str, float], now: float) -> None:
        firing = self._firing[rule]
        for name in firing.keys() - over.keys():
            del firing[name]
            self._tell(Event(now, False, rule.text, name, ""))
        for name, value in list(over.items())[:FIRING_MAX]:
            since, _ = firing.get(name, (0.0, 0.0))
            firing[name] = since or now, value
            if not since:
                self._tell(Event(now, True, rule.text, name, rule.shown(value)))

    def _tell(self, event: Event) -> None:
        self._events.append(event)
        if event.began:
            log.warning("%s: %s: %s", event.rule, values.escape(event.queue), event.value)
        else:
            log.warning("%s: %s: over", event.rule, values.escape(event.queue))
        if self._webhook:
            while self._posts.qsize() >= POSTS_MAX:
                self._posts.get_nowait()
            self._posts.put_nowait(event)

    # ── telling ────────────────────────────────────────────────────────────────────

    async def post(self) -> None:
        """Post events to the webhook, one after the other."""
        while self._webhook:
            event = await self._posts.get()
            for tried in range(POST_TRIES):
                trouble = await asyncio.to_thread(post, self._webhook, self.fields(event))
                if not trouble:
                    break
                log.warning("the webhook did not take an alert: %s", trouble)
                await asyncio.sleep(2.0**tried)

    def fields(self, event: Event) -> dict[str, Any]:
        """What the webhook is sent; `text` is what chat programs show."""
        state = "firing" if event.began else "resolved"
        return {
            "text": f"mq {state}: {event.rule} ({event.queue}{f': {event.value}' if event.value else ''})",
            "state": state, "rule": event.rule, "queue": event.queue, "value": event.value,
            "at": values.instant(int(event.at * 1000)), "store": self._broker.path,
        }  # fmt: skip


def measure(broker: Broker, rules: tuple[Rule, ...]) -> dict[Rule, dict[str, float]]:
    """For each rule the queues that are over its limit, with what they have."""
    names = {name for rule in rules for name in _queues_of(broker, rule)}
    targets = {}
    if any(rule.what == "dead" for rule in rules):
        targets = looking.targets_of(broker._store, list(names))
    stats = spared.stats(broker, names | set(filter(None, targets.values()))).queues
    found: dict[Rule, dict[str, float]] = {}
    for rule in rules:
        matching = [name for name in sorted(names & stats.keys()) if fnmatch.fnmatchcase(name, rule.queues)]
        seen = {
            name: _value(rule.what, stats.get(targets.get(name, "") if rule.what == "dead" else name))
            for name in matching
        }
        found[rule] = {name: value for name, value in seen.items() if value > rule.limit}
    return found


def _queues_of(broker: Broker, rule: Rule) -> list[str]:
    if not rule.is_pattern:
        return [rule.queues]
    prefix = re.split(r"[*?\[]", rule.queues, maxsplit=1)[0]
    return fnmatch.filter(broker.queues(prefix=prefix), rule.queues)


def _value(what: str, stats: Stats | None) -> float:
    if stats is None:
        return 0.0
    if what == "age":
        return stats.oldest_age
    if what == "ready":
        return stats.ready
    return stats.ready + stats.in_flight + stats.delayed


def check_webhook(url: str) -> bool:
    """Whether *url* is one that may be posted to."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


def post(url: str, fields: dict[str, Any]) -> str:
    """Why it failed; "" if it did not."""
    request = urllib.request.Request(url, msgspec.json.encode(fields), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=POST_SECONDS) as response:
            response.read(1024)
    except (OSError, ValueError, urllib.error.URLError) as error:
        return str(error)
    return ""
