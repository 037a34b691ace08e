"""The pages that show something: queues, a queue, a message, topics, schedules, the store, alerts.

Each is made of what a function here finds; a stream (live.py) calls the same function, and sends the part of
the page that changes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, get_args
from urllib.parse import quote

from starlette.responses import RedirectResponse, Response

import mq
from mq.engine import occupancy, retaining
from mq.serve.ui import shown, spark
from mq.serve.ui.gate import Gate, Problem, Visit
from mq.serve.ui.samples import Sample
from mq.serve.ui.sessions import TooMany, address_of_client
from mq.serve.ui.table import COLUMNS, FILTERS, ROWS, View, page_of, row_of
from mq.storage.proc import command_of

SEGMENTS_MAX: Final = 128  # that are drawn
ROWS_MAX: Final = 500  # of topics, subscriptions and schedules
SHAPE_SECONDS: Final = 15.0  # for which what was found of the log is shown again

Found = dict[str, Any]
Find = Callable[[Gate, Visit, Sample | None], Awaitable[Found]]


class Page(NamedTuple):
    """One page: its template, where it stands in the menu, and what finds its content."""

    template: str
    here: str
    find: Find


def show(page: Page) -> Callable[[Gate, Visit], Awaitable[Response]]:
    """What answers a request for *page*."""

    async def handler(gate: Gate, visit: Visit) -> Response:
        is_top = page is QUEUES and View.of(visit.request.query_params) == View()
        sample = await gate.sampler.top() if is_top else None
        sample = sample or await gate.sampler.fresh()
        if sample is None:
            raise Problem(503, gate.sampler.trouble)
        found = await page.find(gate, visit, sample)
        about = {"here": page.here, "live": _stream_of(page, visit), "sample": sample, **found}
        return gate.page(
            page.template, visit.visitor, note=gate.sessions.said(visit.visitor), **about
        )  # fmt: skip

    return handler


def _stream_of(page: Page, visit: Visit) -> str:
    query = str(visit.request.url.query)
    return f"/ui/live?of={page.template}" + (f"&{query}" if query else "")


# ── queues ─────────────────────────────────────────────────────────────────────────


async def find_queues(gate: Gate, visit: Visit, sample: Sample | None) -> Found:
    assert sample
    view = View.of(visit.request.query_params)
    page = await gate.desk.ask(lambda broker: page_of(sample, view))
    return {"page": page, "columns": COLUMNS, "kinds": list(FILTERS), "rows_max": ROWS}


async def find_queue(gate: Gate, visit: Visit, sample: Sample | None) -> Found:
    assert sample
    name, state = visit.asked("name"), visit.asked("state") or "ready"
    limit = shown.LIMITS[1] if visit.asked("more") == "1" else shown.LIMITS[0]
    if state not in get_args(mq.State):
        raise Problem(400, "A state is ready, delayed or in_flight.")
    row = row_of(sample, name)
    if row is None:
        sample = await gate.sampler.fresh(0)  # it may be new
        row = row_of(sample, name) if sample else None
    if row is None:
        raise Problem(404, f"There is no queue {name!r}; it may have been deleted or renamed.")
    found: Found = {"row": row, "state": state, "limit": limit, "sample": sample}
    return found


async def find_whole_queue(gate: Gate, visit: Visit, sample: Sample | None) -> Found:
    """With its messages, which a stream does not send: a list that is worked on stays as it is."""
    found = await find_queue(gate, visit, sample)
    row, state, limit = found["row"], found["state"], found["limit"]

    def look(broker: mq.Broker) -> Found:
        queue: mq.Queue[Any] = broker.queue(row.name)
        return {
            "lines": shown.lines(queue, state, limit), "options": queue.options(),
            "subscriptions": queue.subscriptions()[:ROWS_MAX], "meta": dict(queue.meta()),
        }  # fmt: skip

    return found | await gate.desk.ask(look)


async def show_message(gate: Gate, visit: Visit) -> Response:
    name, id = visit.asked("queue"), _id(visit.asked("id"))

    def look(broker: mq.Broker) -> Found:
        queue: mq.Queue[Any] = broker.queue(name)
        message = queue.get(id)
        if message is None:
            raise Problem(
                404, f"There is no message {id} in {name!r} any more; `mq dump --message {id}` has its story."
            )
        return {
            "message": message, "body": shown.body_of(message._flags, message.raw),
            "first_received": message.first_received_at,
        }  # fmt: skip

    found = await gate.desk.ask(look)
    return gate.page(
        "message", visit.visitor, here="queues", note=gate.sessions.said(visit.visitor), name=name, **found
    )  # fmt: skip


async def send_body(gate: Gate, visit: Visit) -> Response:
    """A body as it is stored, to be saved to a file."""
    name, id = visit.asked("queue"), _id(visit.asked("id"))
    message = await gate.desk.ask(lambda broker: broker.queue(name).get(id))
    if message is None:
        raise Problem(404, f"There is no message {id} in {name!r} any more.")
    headers = {
        "content-disposition": f'attachment; filename="message-{id}.bin"',
        "content-security-policy": "sandbox",
    }
    return Response(message.raw, media_type="application/octet-stream", headers=headers)


def _id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise Problem(400, "A message has a number.")
    return int(text)


# ── topics, schedules ──────────────────────────────────────────────────────────────


class Topic(NamedTuple):
    name: str
    retained: retaining.Retained | None


async def find_topics(gate: Gate, visit: Visit, sample: Sample | None) -> Found:
    text = visit.asked("text")[:255]

    def look(broker: mq.Broker) -> Found:
        names = [name for name in broker.topics() if text in name]
        pairs = [pair for pair in broker.subscriptions() if text in pair[0] or text in pair[1]]
        topics = [Topic(name, retaining.retained(broker._store, name)) for name in names[:ROWS_MAX]]
        return {
            "topics": topics, "topics_left": len(names) - len(topics), "subscriptions": pairs[:ROWS_MAX],
            "subscriptions_left": max(0, len(pairs) - ROWS_MAX), "text": text,
        }  # fmt: skip

    return await gate.desk.ask(look)


async def find_schedules(gate: Gate, visit: Visit, sample: Sample | None) -> Found:
    found = await gate.desk.ask(lambda broker: broker.schedules())
    return {"schedules": found[:ROWS_MAX], "schedules_left": max(0, len(found) - ROWS_MAX)}


# ── the store, alerts ──────────────────────────────────────────────────────────────


class Process(NamedTuple):
    pid: int
    command: str


async def find_store(gate: Gate, visit: Visit, sample: Sample | None) -> Found:
    def look(broker: mq.Broker) -> Found:
        shape = occupancy.shape(broker._store, SEGMENTS_MAX)
        return {"shape": shape, "drawing": spark.drawing(shape), "store_id": broker.store_id}

    assert sample
    shape = await gate.kept("shape", SHAPE_SECONDS, look)
    processes = [Process(pid, command_of(pid) or "") for pid in sample.stats.processes[:ROWS_MAX]]
    return {
        **shape,
        "processes": processes,
        "syncs": gate.syncs.summary(),
        "started_at": gate.site.started_at,
    }


async def find_alerts(gate: Gate, visit: Visit, sample: Sample | None) -> Found:
    watch = gate.alerts
    return {"rules": watch.states() if watch else [], "events": watch.events() if watch else []}


QUEUES: Final = Page("queues", "queues", find_queues)
QUEUE: Final = Page("queue", "queues", find_queue)
WHOLE_QUEUE: Final = QUEUE._replace(find=find_whole_queue)
TOPICS: Final = Page("topics", "topics", find_topics)
SCHEDULES: Final = Page("schedules", "schedules", find_schedules)
STORE: Final = Page("store", "store", find_store)
ALERTS: Final = Page("alerts", "alerts", find_alerts)
LIVE: Final = {page.template: page for page in (QUEUES, QUEUE, TOPICS, SCHEDULES, STORE, ALERTS)}


# ── coming and going ───────────────────────────────────────────────────────────────


async def show_login(gate: Gate, visit: Visit) -> Response:
    if gate.sessions.may_enter(visit.visitor):
        return RedirectResponse("/ui/", 303)
    return gate.page(
        "login", visit.visitor, to=_own(visit.asked("to")), wrong="", users=gate.sessions.has_users()
    )


async def log_in(gate: Gate, visit: Visit) -> Response:
    to, address = _own(visit.field("to")), address_of_client(visit.request)
    try:
        token = await gate.sessions.log_in(visit.field("user"), visit.field("password"), address)
    except TooMany as error:
        return _again(gate, visit, to, str(error), 429)
    if token is None:
        return _again(gate, visit, to, "User and password do not fit.", 403)
    response = RedirectResponse(to, 303)
    gate.sessions.give_cookie(response, token)
    return response


def _again(gate: Gate, visit: Visit, to: str, wrong: str, status: int) -> Response:
    return gate.page(
        "login", visit.visitor, status=status, to=to, wrong=wrong, users=gate.sessions.has_users()
    )


def _own(to: str) -> str:
    """Where to go after a login: a page of the dashboard, and nowhere else."""
    is_own = to.startswith("/ui/") and to.isascii() and to.isprintable() and "\\" not in to
    return to if is_own else "/ui/"


async def log_out(gate: Gate, visit: Visit) -> Response:
    gate.sessions.log_out(visit.visitor)
    return RedirectResponse("/ui/login", 303)


def address_of(name: str, state: str = "") -> str:
    """The page of a queue."""
    return f"/ui/queue?name={quote(name, safe='')}" + (f"&state={state}" if state else "")
