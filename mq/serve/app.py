"""One application of all faces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from starlette.applications import Starlette
from starlette.types import ASGIApp

from mq.serve.face import Face, Site

Middleware = Callable[[ASGIApp, Site], ASGIApp]

MIDDLEWARE: Final[Sequence[Middleware]] = ()
"""What each request passes through, the outermost first."""


def build(site: Site, faces: Sequence[Face]) -> ASGIApp:
    app: ASGIApp = Starlette(routes=[route for face in faces for route in face.routes])
    for wrap in reversed(MIDDLEWARE):
        app = wrap(app, site)
    return app
