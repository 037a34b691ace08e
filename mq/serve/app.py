"""One application of all faces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from starlette.applications import Starlette
from starlette.types import ASGIApp

from mq.serve.face import Face, Site
from mq.serve.guard import Guard, names_of
from mq.serve.limits import Limits

Middleware = Callable[[ASGIApp, Site], ASGIApp]


def _guarded(app: ASGIApp, site: Site) -> ASGIApp:
    settings = site.settings
    names = names_of(settings.host, settings.allow_hosts, has_credentials=site.credentials is not None)
    return Guard(app, names)


def _limited(app: ASGIApp, site: Site) -> ASGIApp:
    return Limits(app, site.settings.body_bytes_max)


MIDDLEWARE: Final[Sequence[Middleware]] = (_guarded, _limited)
"""What each request passes through, the outermost first."""


def build(site: Site, faces: Sequence[Face]) -> ASGIApp:
    app: ASGIApp = Starlette(routes=[route for face in faces for route in face.routes])
    for wrap in reversed(MIDDLEWARE):
        app = wrap(app, site)
    return app
