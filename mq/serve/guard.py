"""The web browser of a user as a way in: which requests come from pages of other sites, and are refused.

A page of another site may have a browser post forms to 127.0.0.1, and read what comes back once its own name
points there (DNS rebinding).  So, before any face sees a request:

    Host                         without credentials: a name of this computer, or of --allow-host
    Origin, Sec-Fetch-Site       if a browser says them, of the same origin; reading by a link is let through.
                                 The scheme is not compared: a proxy in front may speak TLS

A request that no browser makes has neither Origin nor Sec-Fetch-Site, and is none of this module's business.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Final

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
OWN_SITES: Final = frozenset({"same-origin", "none"})  # none: typed in, or a bookmark
HOST_CHARS_MAX: Final = 300


def names_of(host: str, allowed: Collection[str], *, has_credentials: bool) -> frozenset[str] | None:
    """The names that a request may be for; None: all, because each needs credentials and none were named.

    *host*: the address that the server listens at.
    """
    if has_credentials:
        return frozenset(allowed) or None
    return LOCAL_NAMES | {host, *allowed}


class Guard:
    """Middleware, for all faces."""

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None) -> None:
        """*hosts*: the names that a request may be for, without ports; None: any, credentials are asked."""
        self._app = app
        self._hosts = None if hosts is None else frozenset(map(str.lower, hosts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        why = self._refusal(scope) if scope["type"] == "http" else ""
        if why:
            await PlainTextResponse(why, 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> str:
        """Why the request is refused; "" if it is not."""
        said = {name: value.decode("latin-1") for name, value in scope["headers"]}
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        host = said.get(b"host", "")
        if len(hosts) > 1:
            return "The request has more than one Host."
        if self._hosts is not None and hostname(host) not in self._hosts:
            return "This server does not go by that name: allow it with --allow-host NAME."
        if scope["method"] in SAFE_METHODS:
            return ""
        if said.get(b"sec-fetch-site", "none") not in OWN_SITES:
            return "A page of another site may not change anything here."
        origin = said.get(b"origin")
        if origin is not None and origin.lower().rpartition("://")[2] != host.lower():
            return "A page of another origin may not change anything here."
        return ""


def hostname(host: str) -> str:
    """The name in a Host header, without its port, in lower case; "" if it is none."""
    if len(host) > HOST_CHARS_MAX:
        return ""
    name, port = host, ""
    if host.startswith("["):
        name, bracket, rest = host[1:].partition("]")
        port = rest.removeprefix(":")
        if not bracket or (rest and not rest.startswith(":")) or not _is_address(name):
            return ""
    elif ":" in host:
        name, _, port = host.partition(":")
    return name.lower().removesuffix(".") if port.isascii() and (port.isdigit() or not port) else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
