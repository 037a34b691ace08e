"""The dashboard at /ui/: pages made by the server, one script that shows what changes; /metrics, /healthz.

__init__   the face: which address is answered by what
gate       what every request passes and every answer gets: user, token, headers, errors
sessions   cookies, logins, tokens
desk       threads that ask the store; bounded
samples    what the store holds, every other second, while a page is open
table      the list of queues: filter, order, pages
pages      what each page shows;  live: what of it changes;  changes: what forms do
shown      messages and bodies, for a person;  spark: pictures;  syncs: how long syncs take
assets     stylesheet, script, icon (static/);  templates/: HTML
watched    /metrics and /healthz
"""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from mq.serve.alerts import Watch
from mq.serve.face import Face, Site
from mq.serve.ui import assets, pages, watched
from mq.serve.ui.changes import change
from mq.serve.ui.desk import Desk
from mq.serve.ui.gate import Gate
from mq.serve.ui.live import stream
from mq.serve.ui.samples import Sampler


def face(site: Site) -> Face:
    """The dashboard, /metrics and /healthz."""
    return face_of(gate_of(site))


def gate_of(site: Site) -> Gate:
    settings, broker = site.settings, site.plain_broker()
    desk = Desk(broker)
    watch = Watch(settings.alerts, settings.alert_webhook, broker) if settings.alerts else None
    return Gate(site, desk, Sampler(desk), watch)


def face_of(gate: Gate) -> Face:
    async def keep_desk() -> None:
        try:
            await asyncio.Event().wait()  # until the server cancels this, when no request is left
        finally:
            gate.desk.close()

    tasks = [keep_desk, *([gate.alerts.run, gate.alerts.post] if gate.alerts else [])]
    return Face([*_routes(gate), *watched.routes(gate)], tasks=tasks)


def _routes(gate: Gate) -> list[Route]:
    route = gate.route
    return [
        Route("/ui", _home),
        route("/ui/", pages.show(pages.QUEUES)),
        route("/ui/queue", pages.show(pages.WHOLE_QUEUE)),
        route("/ui/message", pages.show_message),
        route("/ui/body", pages.send_body),
        route("/ui/topics", pages.show(pages.TOPICS)),
        route("/ui/schedules", pages.show(pages.SCHEDULES)),
        route("/ui/store", pages.show(pages.STORE)),
        route("/ui/alerts", pages.show(pages.ALERTS)),
        route("/ui/live", stream),
        route("/ui/change", change, changes=True),
        route("/ui/login", pages.show_login, is_open=True),
        route("/ui/login", pages.log_in, changes=True, is_open=True),
        route("/ui/logout", pages.log_out, changes=True),
        *assets.ROUTES,
        Route("/ui/{rest:path}", _nowhere, methods=["GET", "POST"]),
    ]


async def _nowhere(request: Request) -> Response:
    return PlainTextResponse("There is no such page.", 404)


async def _home(request: Request) -> Response:
    return RedirectResponse("/ui/", 308)
