"""The endpoint: a request of either protocol in, its answer or fault out.  No other error leaves.

POST, with X-Amz-Target     JSON           json_wire.py
POST of a form; GET         Query, XML     query_wire.py
"""

from __future__ import annotations

import logging
import uuid
from itertools import count
from typing import Final

from starlette.types import Receive, Scope, Send

from mq.errors import MqError
from mq.serve.sqs import identity, json_wire, query_wire
from mq.serve.sqs.fault import (
    FAILED,
    NOT_ALLOWED,
    UNAVAILABLE,
    Fault,
    fault_of,
)
from mq.serve.sqs.reply import Reply
from mq.serve.sqs.service import Call, Service
from mq.serve.sqs.signatures import Headers, claimed, verify

DASHBOARD: Final = "/ui/"

log = logging.getLogger("mq.serve")
_ids_head, _ids = str(uuid.uuid4())[:24], count()


class Endpoint:
    """An ASGI application."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = _new_id()
        headers: Headers = dict(scope["headers"])
        target = headers.get(b"x-amz-target")
        try:
            if _is_browser(scope, headers):
                await Reply(302, "text/plain", b"", (("location", DASHBOARD),)).send(scope, request_id)
                return
            body = await _body(receive)
            if body is None:
                return
            reply = await self._answer(scope, headers, body, receive, request_id)
        except Fault as fault:
            reply = _failure(fault, target, request_id)
        except MqError as error:
            log.warning("%s %s: %s", scope["method"], scope["path"], error)
            reply = _failure(fault_of(error), target, request_id)
        except Exception:  # the client is told that, and no more; the log has the rest
            log.exception("%s %s", scope["method"], scope["path"])
            reply = _failure(Fault(FAILED, "The server has an error."), target, request_id)
        await reply.send(scope, request_id)

    async def _answer(
        self, scope: Scope, headers: Headers, body: bytes, receive: Receive, request_id: str
    ) -> Reply:  # fmt: skip
        if (credentials := self._service.site.credentials) is not None:
            verify(credentials, scope, headers, body)
        target = headers.get(b"x-amz-target")
        if target is not None:
            name, action, asked = json_wire.asked(target.decode("latin-1"), body)
            call = self._call(scope, headers, name, receive)
            return json_wire.answer(await action.do(call, asked))
        if scope["method"] not in ("GET", "POST"):
            raise Fault(NOT_ALLOWED, "Send a POST with X-Amz-Target, or a form, or a GET with Action=.")
        fields = query_wire.fields_of(scope["query_string"])
        if _is_form(headers):
            fields |= query_wire.fields_of(body)
        if fields.get("Action") == identity.ACTION:
            key = claimed(scope, headers).key
            return identity.answer(self._service.settings.account, key, request_id)
        if "Action" not in fields and scope["method"] == "GET":
            return query_wire.nothing()
        name, action, asked = query_wire.asked(scope["path"], fields)
        call = self._call(scope, headers, name, receive)
        return query_wire.answer(name, await action.do(call, asked), request_id)

    def _call(self, scope: Scope, headers: Headers, name: str, receive: Receive) -> Call:
        if self._service.site.stopping.is_set():
            raise Fault(UNAVAILABLE, "The server is shutting down.")
        return Call(self._service, name, scope, headers, receive)


def _new_id() -> str:
    """A UUID, as a client expects it.  Others may guess it: it is for logs."""
    return f"{_ids_head}{next(_ids):012x}"


def _failure(fault: Fault, target: bytes | None, request_id: str) -> Reply:
    return query_wire.failure(fault, request_id) if target is None else json_wire.failure(fault)


def _is_browser(scope: Scope, headers: Headers) -> bool:
    """Whether a person has come to the root of the server."""
    is_root = scope["path"] == "/" and not scope["query_string"] and scope["method"] == "GET"
    return is_root and b"text/html" in headers.get(b"accept", b"")


def _is_form(headers: Headers) -> bool:
    return headers.get(b"content-type", b"").startswith(b"application/x-www-form-urlencoded")


async def _body(receive: Receive) -> bytes | None:
    """The whole body; None if the client hung up.  How long it may be: see limits.py."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)
