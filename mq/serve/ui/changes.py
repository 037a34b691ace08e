"""Changes: what a form may do.  Each asks first, on a page of its own, unless it takes nothing away.

    form ──► /ui/change ──► page "Purge mail?" ──► /ui/change, confirmed ──► done ──► back to the queue

The page that asks is made by the server from what the store holds then, so it needs no script.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec
from starlette.responses import Response

import mq
from mq import values
from mq.serve.ui.desk import CHANGE_SECONDS
from mq.serve.ui.gate import Gate, Problem, Visit
from mq.serve.ui.pages import address_of

IDS_MAX: Final = 500
BATCH: Final = 1000  # dead letters that are moved at once


class Asked(NamedTuple):
    """What a form asks for."""

    queue: str  # or the name of a schedule
    ids: list[int]
    visit: Visit

    @property
    def messages(self) -> str:
        return values.count(len(self.ids), "message")


Do = Callable[[mq.Broker, Asked], str]
"""Changes the store, and returns what was done, as a sentence."""


class Change(NamedTuple):
    """*question* and *text* may hold {queue}, {messages}."""

    do: Do
    question: str = ""  # "": it is done without asking
    text: str = ""
    button: str = ""
    is_danger: bool = False
    needs_ids: bool = False
    fields: str = ""  # what the page that asks has to fill in
    to: str = "queue"


def _there(broker: mq.Broker, asked: Asked) -> mq.Queue[Any]:
    """The queue, of which no change makes one: it may have been deleted since the page was made."""
    queue: mq.Queue[Any] = broker.queue(asked.queue)
    queue._makes = False
    return queue


def _pause(broker: mq.Broker, asked: Asked) -> str:
    _there(broker, asked).pause()
    return "Paused: nothing is delivered until it is resumed."


def _resume(broker: mq.Broker, asked: Asked) -> str:
    broker.queue(asked.queue).resume()
    return "Resumed."


def _purge(broker: mq.Broker, asked: Asked) -> str:
    in_flight = asked.visit.field("in_flight") == "1"
    return f"{values.count(broker.queue(asked.queue).purge(in_flight=in_flight), 'message')} purged."


def _replay(broker: mq.Broker, asked: Asked) -> str:
    count = broker.queue(asked.queue).replay(asked.ids)
    return f"{values.count(count, 'dead letter')} replayed."


def _replay_all(broker: mq.Broker, asked: Asked) -> str:
    return f"{values.count(broker.queue(asked.queue).replay(), 'dead letter')} replayed."


def _cancel(broker: mq.Broker, asked: Asked) -> str:
    queue: mq.Queue[Any] = broker.queue(asked.queue)
    return _told(asked, "cancelled", [queue.cancel(id) for id in asked.ids])


def _reschedule(broker: mq.Broker, asked: Asked) -> str:
    queue: mq.Queue[Any] = broker.queue(asked.queue)
    delay, at = _when(asked.visit)
    return _told(asked, "rescheduled", [queue.reschedule(id, delay=delay, at=at) for id in asked.ids])


def _told(asked: Asked, done: str, results: list[bool]) -> str:
    """The rest was not there any more, or in flight."""
    count = sum(results)
    left = len(asked.ids) - count
    told = f"{values.count(count, 'message')} {done}."
    return told + (
        f" {left} stayed as {'it is' if left == 1 else 'they are'}: in flight, or gone." if left else ""
    )


def _when(visit: Visit) -> tuple[float, datetime | None]:
    text = visit.field("when").strip() or "0"
    if (delay := values.read_duration(text)) is not None:
        return delay, None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise Problem(400, "When: a duration as 90s, 5m or 2h, or a time with its zone as 2030-01-31T06:30Z.")
    return 0.0, at


def _unschedule(broker: mq.Broker, asked: Asked) -> str:
    return "Taken back." if broker.unschedule(asked.queue) else "There was no such schedule any more."


# ── a test message ─────────────────────────────────────────────────────────────────


def _publish(broker: mq.Broker, asked: Asked) -> str:
    visit = asked.visit
    body = _body(visit.field("kind"), visit.field("body"))
    id = _there(broker, asked).publish(body, **_options(visit))
    return f"Published as message {id}."


def _body(kind: str, text: str) -> object:
    if kind == "json":
        try:
            return msgspec.json.decode(text.encode())
        except (ValueError, RecursionError) as error:
            raise Problem(400, f"The body is no JSON: {error}") from None
    if kind == "base64":
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise Problem(400, f"The body is no base64: {error}") from None
    return text.replace("\r\n", "\n")  # as browsers send the lines of a form


def _options(visit: Visit) -> mq.PublishOptions:
    options: mq.PublishOptions = {}
    if delay := visit.field("when").strip():
        seconds, at = _when(visit)
        if at is not None:
            options["at"] = at
        elif delay:
            options["delay"] = seconds
    if group := visit.field("group"):
        options["group"] = group
    if priority := visit.field("priority").strip():
        options["priority"] = _whole(priority)
    if headers := visit.field("headers").strip():
        options["headers"] = _headers(headers)
    return options


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 4):
        raise Problem(400, "The priority is a number from 0 to 255.")
    return int(text)


def _headers(text: str) -> dict[str, str]:
    found = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if not name or not equals:
            raise Problem(400, "A header is a name and a value with = between them, one a line.")
        found[name.strip()] = value.strip()
    return found


# ── asking, and doing it ───────────────────────────────────────────────────────────

CHANGES: Final[dict[str, Change]] = {
    "publish": Change(_publish),
    "resume": Change(_resume),
    "pause": Change(
        _pause, "Pause {queue}?", "Nothing is delivered from it until it is resumed.  Publishing goes on, and"
        " what is in flight can be settled.", "Pause",
    ),
    "purge": Change(
        _purge, "Purge {queue}?", "All messages that are ready or delayed are dropped.  They cannot be had"
        " back.", "Purge", is_danger=True, fields="purge",
    ),
    "replay": Change(
        _replay, "Replay {messages} of {queue}?", "Each goes back to the queue in which it died, with its"
        " attempts counted from the start.", "Replay", needs_ids=True,
    ),
    "replay_all": Change(
        _replay_all, "Replay all of {queue}?", "Each dead letter goes back to the queue in which it died,"
        " with its attempts counted from the start.", "Replay all",
    ),
    "cancel": Change(
        _cancel, "Cancel {messages} of {queue}?", "They are dropped, and cannot be had back.  What is in"
        " flight stays.", "Cancel messages", is_danger=True, needs_ids=True,
    ),
    "reschedule": Change(
        _reschedule, "Reschedule {messages} of {queue}?", "They become ready then.  What is in flight stays"
        " as it is.", "Reschedule", needs_ids=True, fields="when",
    ),
    "unschedule": Change(
        _unschedule, "Take back the schedule {queue}?", "It publishes nothing more.  What it has published"
        " stays.", "Take back", is_danger=True, to="schedules",
    ),
}  # fmt: skip


async def change(gate: Gate, visit: Visit) -> Response:
    """Ask whether to do what a form says, or do it."""
    if gate.read_only:
        raise Problem(403, "This server was started with --read-only: it shows, and changes nothing.")
    name = visit.field("do")
    wanted = CHANGES.get(name)
    if wanted is None:
        raise Problem(400, "There is no such change.")
    asked = _asked(visit, wanted)
    if wanted.question and visit.field("confirmed") != "1":
        return await _ask(gate, visit, name, wanted, asked)
    done = await gate.desk.ask(lambda broker: wanted.do(broker, asked), CHANGE_SECONDS)
    await gate.sampler.fresh(0)
    return gate.done(visit.visitor, done, _back(wanted, asked))


def _asked(visit: Visit, wanted: Change) -> Asked:
    given = visit.fields("id")
    if not all(each.isascii() and each.isdigit() and len(each) < 20 for each in given):
        raise Problem(400, "A message has a number.")
    ids = list(dict.fromkeys(map(int, given)))
    if wanted.needs_ids and not ids:
        raise Problem(400, "Choose messages first: nothing was done.")
    if len(ids) > IDS_MAX:
        raise Problem(400, f"At most {IDS_MAX} messages at once.")
    return Asked(visit.field("queue"), ids, visit)


async def _ask(gate: Gate, visit: Visit, name: str, wanted: Change, asked: Asked) -> Response:
    said = {"queue": asked.queue, "messages": asked.messages}
    stats = None
    if wanted.to == "queue":
        stats = await gate.desk.ask(lambda broker: broker.queue(asked.queue).stats())
    return gate.page(
        "confirm", visit.visitor, here=wanted.to if wanted.to != "queue" else "queues", do=name,
        question=wanted.question.format(**said), text=wanted.text, change=wanted, asked=asked, stats=stats,
        back=_back(wanted, asked),
    )  # fmt: skip


def _back(wanted: Change, asked: Asked) -> str:
    if wanted.to == "queue":
        state = asked.visit.field("state")
        return address_of(asked.queue, state if state in ("delayed", "in_flight") else "")
    return f"/ui/{wanted.to}"
