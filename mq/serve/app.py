"""One application of all faces: what comes from a page of another site is refused, the rest goes to its face.

The first word of a path says which face answers: those of routes that are named, and for all others the face
that answers everything.  There, no layer stands between the connection and the face.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mq.serve.face import Face, Site
from mq.serve.guard import names_of, refusal


class App:
    def __init__(self, site: Site, faces: Sequence[Face]) -> None:
        settings = site.settings
        self._hosts = names_of(
            settings.host, settings.allow_hosts, has_credentials=site.credentials is not None
        )
        routes = [route for face in faces for route in face.routes]
        self._routed: ASGIApp = Starlette(routes=routes)
        self._rest = next((face.rest for face in faces if face.rest), self._routed)
        self._words = frozenset(_first_word(route.path) for route in routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if why := refusal(scope, self._hosts):
            await PlainTextResponse(why, 403)(scope, receive, send)
        elif _first_word(scope["path"]) not in self._words:
            await self._rest(scope, receive, send)
        else:
            with suppress(ClientDisconnect):
                await self._routed(scope, receive, send)


def _first_word(path: str) -> str:
    return path[1:].partition("/")[0]
