"""Gate: what every request for the dashboard passes, and every answer gets.

A request needs a user, if the server has credentials; a change needs the token of its page as well, and a
server that may change something.  An error becomes a page with one line; no traceback leaves the server.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import parse_qsl, quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

import mq
from mq import values
from mq.engine.commands import NoQueue
from mq.serve.alerts import Watch
from mq.serve.face import Site
from mq.serve.ui import assets
from mq.serve.ui.desk import Busy, Desk
from mq.serve.ui.render import environment
from mq.serve.ui.samples import Sample, Sampler
from mq.serve.ui.sessions import Sessions, Visitor, is_token
from mq.serve.ui.syncs import Syncs

T = TypeVar("T")
FORM_BYTES_MAX: Final = 2 << 20
FIELDS_MAX: Final = 1000  # of a form
HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
STATUS: Final[Mapping[type[Exception], int]] = {
    NoQueue: 404, mq.UsageError: 400, mq.QueueFull: 409, mq.DiskFull: 507, mq.Unsupported: 403, Busy: 503,
}  # fmt: skip

log = logging.getLogger("mq.serve")


class Problem(Exception):
    """What keeps a page from being shown, for a person."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Visit(NamedTuple):
    """One request."""

    request: Request
    visitor: Visitor
    form: list[tuple[str, str]]  # of a POST

    def field(self, name: str, default: str = "") -> str:
        return next((value for key, value in self.form if key == name), default)

    def fields(self, name: str) -> list[str]:
        return [value for key, value in self.form if key == name]

    def asked(self, name: str) -> str:
        return str(self.request.query_params.get(name, ""))


Handler = Callable[["Gate", Visit], Awaitable[Response]]


class Gate:
    def __init__(self, site: Site, desk: Desk, sampler: Sampler, alerts: Watch | None) -> None:
        self.site, self.desk, self.sampler, self.alerts = site, desk, sampler, alerts
        settings = site.settings
        self.sessions = Sessions(site.credentials, settings.port, secure=settings.tls_cert is not None)
        self.read_only = settings.read_only
        self.streams = 0  # that are open
        self.syncs = Syncs(site.plain_broker())
        self._kept: dict[str, tuple[float, Any]] = {}
        self.pages = environment(
            read_only=self.read_only, store=site.broker.path, assets=assets.NAMES
        )  # fmt: skip

    # ── the way in ─────────────────────────────────────────────────────────────────

    def route(self, path: str, handler: Handler, *, changes: bool = False, is_open: bool = False) -> Route:
        """*changes*: by POST, with a token.  *is_open*: without a user."""

        async def serve(request: Request) -> Response:
            visitor = self.sessions.visitor(request)
            try:
                if not is_open and not self.sessions.may_enter(visitor):
                    response = self._to_login(request)
                else:
                    response = await handler(self, await self._visit(request, visitor, changes))
            except ClientDisconnect:  # there is no client to answer
                raise
            except Exception as error:  # noqa: BLE001  # a page says so, and the log has the rest
                response = self._problem(visitor, error)
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            if visitor.is_new and "set-cookie" not in response.headers:
                self.sessions.give_cookie(response, visitor.token)
            return response

        return Route(path, serve, methods=["POST"] if changes else ["GET"])

    async def _visit(self, request: Request, visitor: Visitor, changes: bool) -> Visit:
        if not changes:
            return Visit(request, visitor, [])
        visit = Visit(request, visitor, _fields(await _body(request)))
        if not is_token(visitor, visit.field("csrf")):
            raise Problem(403, "This form is from another session: go back, reload the page, and try again.")
        return visit

    def _to_login(self, request: Request) -> Response:
        if request.method != "GET" or "text/html" not in request.headers.get("accept", "text/html"):
            raise Problem(401, "Log in first.")
        wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/ui/login?to={quote(wanted, safe='')}", 303)

    def _problem(self, visitor: Visitor, error: Exception) -> Response:
        status, text = 500, "Something went wrong in the server; its log says what."
        if isinstance(error, Problem):
            status, text = error.status, str(error)
        elif isinstance(error, (mq.MqError, Busy)):
            status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 503)
            text = " ".join(values.plain(str(error)).split())
        else:
            log.error("a page of the dashboard failed", exc_info=error)
        return self.page("problem", visitor, status=status, code=status, text=text)

    # ── the way out ────────────────────────────────────────────────────────────────

    def page(self, name: str, visitor: Visitor, /, *, status: int = 200, **given: Any) -> HTMLResponse:
        """A whole page, from the template *name*."""
        return HTMLResponse(
            self.pages.get_template(f"{name}.html").render(self.common(visitor, given)), status
        )

    def part(self, name: str, block: str, visitor: Visitor, /, **given: Any) -> str:
        """A part of a page that changes while it is looked at."""
        template = self.pages.get_template(f"{name}.html")
        context = template.new_context({**self.common(visitor, given), "streaming": True})
        return "".join(template.blocks[block](context))

    def common(self, visitor: Visitor, given: dict[str, Any]) -> dict[str, Any]:
        sample: Sample | None = given.get("sample", self.sampler.latest)
        firing = self.alerts.firing() if self.alerts else []
        health = sample.health if sample else None
        failed = self.sampler.failed or bool(health and health.failed)
        return {
            "visitor": visitor, "sample": sample, "trouble": self.sampler.trouble, "here": "", "live": "",
            "health": health, "failed": failed, "firing": len(firing), "note": "", "streaming": False,
            **given,
        }  # fmt: skip

    async def kept(self, name: str, seconds: float, question: Callable[[mq.Broker], T]) -> T:
        """What *question* returned within the last *seconds*, for all visitors."""
        at, answer = self._kept.get(name, (0.0, None))
        if time.monotonic() - at > seconds:
            answer = await self.desk.ask(question)
            self._kept[name] = time.monotonic(), answer
        found: T = answer
        return found

    def done(self, visitor: Visitor, note: str, to: str) -> Response:
        """Go to another page, which says *note*."""
        self.sessions.say(visitor, note)
        return RedirectResponse(to, 303)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > FORM_BYTES_MAX:
            raise Problem(
                413, f"A form has at most {values.size(FORM_BYTES_MAX)}: use `mq publish` for more."
            )
    return bytes(body)


def _fields(body: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict")
    except ValueError:  # not UTF-8, or too many fields
        raise Problem(400, "The form cannot be read.") from None
