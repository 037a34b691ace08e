"""Reply: an HTTP response with its whole body."""

from __future__ import annotations

from typing import NamedTuple

from starlette.types import Scope

from mq.serve.face import RESPOND


class Reply(NamedTuple):
    status: int
    type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()

    async def send(self, scope: Scope, request_id: str) -> None:
        head = f"content-type: {self.type}\r\ncontent-length: {len(self.body)}\r\n"
        head += f"x-amzn-requestid: {request_id}\r\n"
        for name, value in self.headers:
            head += f"{name}: {value}\r\n"
        await scope["extensions"][RESPOND](self.status, head.encode(), self.body)
