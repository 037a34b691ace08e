"""The stylesheet, the script and the icon: read once, named by their content, so that they may be kept."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
FILES: Final = {
    name: files("mq.serve.ui").joinpath("static", name).read_bytes()
    for name in ("ui.css", "ui.js", "icon.svg")
}
NAMES: Final = {
    name: f"/ui/static/{name}?{hashlib.sha256(data).hexdigest()[:12]}" for name, data in FILES.items()
}


async def _serve(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in FILES:
        return PlainTextResponse("There is no such file.", 404)
    headers = {"cache-control": "public, max-age=31536000, immutable", "x-content-type-options": "nosniff"}
    return Response(FILES[name], media_type=TYPES[name.rpartition(".")[2]], headers=headers)


async def _icon(request: Request) -> Response:
    return Response(FILES["icon.svg"], media_type=TYPES["svg"], headers={"cache-control": "max-age=86400"})


async def _robots(request: Request) -> Response:
    return PlainTextResponse("User-agent: *\nDisallow: /\n")


ROUTES: Final = [
    Route("/ui/static/{name}", _serve), Route("/favicon.ico", _icon), Route("/robots.txt", _robots),
]  # fmt: skip
