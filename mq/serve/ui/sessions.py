"""Who asks for a page: a visitor by a cookie, a user after a login; and the token that every change carries.

    cookie       256 random bits, HttpOnly, SameSite=Lax; each port has a cookie of its own name
    csrf token   a keyed hash of the cookie: another site can send the cookie along, and not know the token
    user         remembered here by a hash of the cookie, until it has not been used for a day, the password
                 changes, or the server ends; each login gets a new cookie

Without credentials, on loopback, each visitor may do all.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from typing import Final, NamedTuple

from starlette.requests import HTTPConnection
from starlette.responses import Response

from mq.serve.credentials import Credentials
from mq.serve.passwords import hash_password, verify

SESSION_SECONDS: Final = 86_400.0
SESSIONS_MAX: Final = 1000
NOTES_MAX: Final = 256


class Visitor(NamedTuple):
    token: str  # of the cookie
    csrf: str
    user: str | None
    is_new: bool  # the browser has to be given the cookie


class _User(NamedTuple):
    name: str
    stored: str  # the hash of the password with which the user came in
    until: float  # monotonic seconds


class TooMany(Exception):
    """Too many passwords from one address were wrong.

    seconds    until the next one is looked at
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"Too many logins failed: wait {seconds:.0f} seconds.")
        self.seconds = seconds


class Sessions:
    """Used by the tasks of one event loop."""

    def __init__(self, credentials: Credentials | None, port: int, *, secure: bool) -> None:
        self._credentials, self._secure = credentials, secure
        self._cookie = f"mq_{port}"
        self._key = secrets.token_bytes(32)
        self._users: OrderedDict[bytes, _User] = OrderedDict()
        self._notes: OrderedDict[bytes, str] = OrderedDict()
        # Compared with, if there is no such user, so that names cannot be told by the time it takes.
        self._nobody = hash_password(secrets.token_urlsafe()) if credentials else ""
        self._checking = asyncio.Semaphore(1)  # a password costs 50 ms of a core
        self._known: OrderedDict[bytes, str] = OrderedDict()  # Authorization headers that were right
        self.throttle = Throttle()

    def visitor(self, request: HTTPConnection) -> Visitor:
        token = request.cookies.get(self._cookie, "")
        is_new = not 40 <= len(token) <= 64 or not token.isascii()
        if is_new:
            token = secrets.token_urlsafe(32)
        csrf = hmac.new(self._key, token.encode(), hashlib.sha256).hexdigest()
        return Visitor(token, csrf, self._user_of(token), is_new)

    def may_enter(self, visitor: Visitor) -> bool:
        return self._credentials is None or visitor.user is not None

    def has_users(self) -> bool:
        """Whether a login can succeed."""
        return bool(self._credentials and self._credentials.users)

    def give_cookie(self, response: Response, token: str) -> None:
        response.set_cookie(self._cookie, token, httponly=True, samesite="lax", secure=self._secure, path="/")

    # ── coming and going ───────────────────────────────────────────────────────────

    async def log_in(self, name: str, password: str, address: str) -> str | None:
        """The cookie of a session that begins; None if name and password are not right.

        Raises TooMany.
        """
        stored = self._credentials.users.get(name) if self._credentials else None
        if not await self._is_right(password, stored, address):
            return None
        token = secrets.token_urlsafe(32)
        self._users[_digest(token)] = _User(name, stored or "", time.monotonic() + SESSION_SECONDS)
        while len(self._users) > SESSIONS_MAX:
            self._users.popitem(last=False)
        return token

    def log_out(self, visitor: Visitor) -> None:
        self._users.pop(_digest(visitor.token), None)

    async def has_basic(self, authorization: str, address: str) -> bool:
        """Whether a header says a user and the password (HTTP Basic), as Prometheus does.  Raises TooMany."""
        scheme, _, given = authorization.partition(" ")
        if self._credentials is None or scheme.lower() != "basic" or len(given) > 4096:
            return False
        try:
            name, _, password = base64.b64decode(given, validate=True).decode().partition(":")
        except ValueError:
            return False
        stored, digest = self._credentials.users.get(name), _digest(given)
        if stored and self._known.get(digest) == stored:
            return True
        if not await self._is_right(password, stored, address):
            return False
        self._known[digest] = stored or ""
        while len(self._known) > NOTES_MAX:
            self._known.popitem(last=False)
        return True

    async def _is_right(self, password: str, stored: str | None, address: str) -> bool:
        if wait := self.throttle.wait(address):
            raise TooMany(wait)
        self.throttle.failed(address)  # until it is right: others that are tried meanwhile come behind it
        async with self._checking:
            right = await asyncio.to_thread(verify, password, stored or self._nobody)
        if not right or stored is None:
            return False
        self.throttle.succeeded(address)
        return True

    def _user_of(self, token: str) -> str | None:
        digest = _digest(token)
        user = self._users.get(digest)
        if user is None or self._credentials is None:
            return None
        if self._credentials.users.get(user.name) != user.stored or time.monotonic() > user.until:
            del self._users[digest]
            return None
        self._users[digest] = user._replace(until=time.monotonic() + SESSION_SECONDS)
        self._users.move_to_end(digest)
        return user.name

    # ── what is said on the next page ──────────────────────────────────────────────

    def say(self, visitor: Visitor, note: str) -> None:
        self._notes[_digest(visitor.token)] = note
        while len(self._notes) > NOTES_MAX:
            self._notes.popitem(last=False)

    def said(self, visitor: Visitor) -> str:
        """What was said, once."""
        return self._notes.pop(_digest(visitor.token), "")


def address_of_client(request: HTTPConnection) -> str:
    return request.client.host if request.client else ""


def is_token(visitor: Visitor, given: str) -> bool:
    return hmac.compare_digest(visitor.csrf.encode(), given.encode("utf-8", "replace"))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


class Throttle:
    """Logins that fail make the next ones from the same address wait, longer each time."""

    FREE: Final = 5
    SECONDS_MAX: Final = 300.0
    ADDRESSES_MAX: Final = 1000

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()  # how many, and the last one

    def wait(self, address: str) -> float:
        """For how many seconds no login is tried; 0: at once."""
        count, last = self._failures.get(address, (0, 0.0))
        if count < self.FREE:
            return 0.0
        pause = min(self.SECONDS_MAX, 2.0 ** (count - self.FREE))
        return max(0.0, last + pause - time.monotonic())

    def failed(self, address: str) -> None:
        count, _ = self._failures.pop(address, (0, 0.0))
        self._failures[address] = min(count + 1, 64), time.monotonic()
        while len(self._failures) > self.ADDRESSES_MAX:
            self._failures.popitem(last=False)

    def succeeded(self, address: str) -> None:
        self._failures.pop(address, None)
