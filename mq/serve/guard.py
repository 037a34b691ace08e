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
from functools import lru_cache
from typing import Final

from starlette.types import Scope

LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
OWN_SITES: Final = frozenset({"same-origin", "none"})  # none: typed in, or a bookmark
HOST_CHARS_MAX: Final = 300
HOSTS_KEPT: Final = 64


def names_of(host: str, allowed: Collection[str], *, has_credentials: bool) -> frozenset[str] | None:
    """The names that a request may be for; None: all, because each needs credentials and none were named.

    *host*: the address that the server listens at.
    """
    if has_credentials:
        return frozenset(map(str.lower, allowed)) or None
    return LOCAL_NAMES | {name.lower() for name in (host, *allowed)}


def refusal(scope: Scope, hosts: Collection[str] | None) -> str:
    """Why the request is refused; "" if it is not.

    *hosts*: the names that a request may be for, without ports, in lower case; None: any, for credentials
    are asked.
    """
    host, origin, site, count = "", None, "none", 0
    for name, value in scope["headers"]:
        if name == b"host":
            host, count = value.decode("latin-1"), count + 1
        elif name == b"origin":
            origin = value.decode("latin-1")
        elif name == b"sec-fetch-site":
            site = value.decode("latin-1")
    if count > 1:
        return "The request has more than one Host."
    if hosts is not None and hostname(host) not in hosts:
        return "This server does not go by that name: allow it with --allow-host NAME."
    if scope["method"] in SAFE_METHODS:
        return ""
    if site not in OWN_SITES:
        return "A page of another site may not change anything here."
    if origin is not None and origin.lower().rpartition("://")[2] != host.lower():
        return "A page of another origin may not change anything here."
    return ""


def hostname(host: str) -> str:
    """The name in a Host header, without its port, in lower case; "" if it is none."""
    return _hostname(host) if len(host) <= HOST_CHARS_MAX else ""


@lru_cache(HOSTS_KEPT)
def _hostname(host: str) -> str:
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
