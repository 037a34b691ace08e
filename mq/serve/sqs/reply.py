"""Reply: an HTTP response with its whole body."""

from __future__ import annotations

from typing import NamedTuple

from starlette.types import Send


class Reply(NamedTuple):
    status: int
    type: str
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()

    async def send(self, send: Send, request_id: str) -> None:
        headers = [
            (b"content-type", self.type.encode()),
            (b"content-length", b"%d" % len(self.body)),
            (b"x-amzn-requestid", request_id.encode()),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})
