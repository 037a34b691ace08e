"""Messages of the stream, read back by their sequence, and the last ones kept in memory.

Most messages are delivered soon after they were published, and then their bytes are here.  Others are asked
for: of any replica first, and of the leader if that has not got so far.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterable
from threading import RLock
from typing import Final

from mq.nats import message
from mq.nats.connection import REQUEST_SECONDS, SILENT, Connection
from mq.nats.stream import NO_MESSAGE, Stream, failure

AT_ONCE: Final = 64  # requests that wait for their answers
SEQUENCE: Final = "Nats-Sequence"  # header of a message that is read back


class Pages:
    kept_bytes = 32 << 20  # in memory, at most

    def __init__(self, connection: Connection, stream: Stream) -> None:
        self._connection, self._stream = connection, stream
        self.lock = RLock()  # while something comes in, or goes; to look takes none
        self._kept: dict[int, bytes] = {}  # by sequence, the first that came in first
        self._bytes = 0

    def keep(self, seq: int, data: bytes) -> None:
        """*data*, checked, may be asked for soon."""
        with self.lock:
            if seq not in self._kept:
                self._kept[seq] = data
                self._bytes += len(data)
            self._make_room()

    def _make_room(self) -> None:
        while self._bytes > self.kept_bytes and len(self._kept) > 1:
            self._bytes -= len(self._kept.pop(next(iter(self._kept))))

    def at_hand(self, seq: int) -> bytes | None:
        """The message, if it is in memory."""
        return self._kept.get(seq)

    def get(self, seq: int) -> bytes:
        """The message.  CorruptStore if it is not there, or damaged; StorageError if no server answers."""
        data = self._kept.get(seq)
        if data is None:
            data = self._checked(seq, self._connection.run(self.fetch(seq)))
            self.keep(seq, data)
        return data

    def get_all(self, seqs: Iterable[int]) -> dict[int, bytes]:
        """The first few of the messages, those that are there and whole; they are asked for at once."""
        found: dict[int, bytes] = {}
        missing: list[int] = []
        for seq in dict.fromkeys(seqs):
            if (data := self._kept.get(seq)) is not None:
                found[seq] = data
            elif len(missing) < AT_ONCE:
                missing.append(seq)
            else:
                break
        if missing:
            for seq, data in zip(missing, self._connection.run(self._fetch_all(missing)), strict=True):
                if data is not None and self._is_whole(data):
                    found[seq] = data
                    self.keep(seq, data)
        return found

    def _is_whole(self, data: bytes) -> bool:
        try:
            message.check(data, self._stream.seed)
        except message.Damaged:
            return False
        return True

    def _checked(self, seq: int, data: bytes | None) -> bytes:
        if data is None:
            raise self._stream.corrupt("it is not there", seq)
        try:
            message.check(data, self._stream.seed)
        except message.Damaged as error:
            raise self._stream.corrupt(str(error), seq) from error
        return data

    async def _fetch_all(self, seqs: list[int]) -> list[bytes | None]:
        return await asyncio.gather(*map(self.fetch, seqs))

    async def fetch(self, seq: int) -> bytes | None:
        """The message as any replica has it, or else as the leader has it; None if it is not there."""
        found = await self._fetch({"seq": seq})
        return found and found[1]

    async def fetch_compared(self, seq: int) -> tuple[int, bytes] | None:
        """The first compared message from *seq* on, with its sequence; None if none is there."""
        return await self._fetch({"seq": seq, "next_by_subj": self._stream.subject})

    async def _fetch(self, what: dict[str, object]) -> tuple[int, bytes] | None:
        asked = json.dumps(what).encode()
        try:
            answer = await self._connection.nc.request(
                f"$JS.API.DIRECT.GET.{self._stream.name}", asked, timeout=REQUEST_SECONDS
            )
            headers = answer.headers or {}
            if not headers.get("Status"):
                return int(headers[SEQUENCE]), answer.data
        except SILENT:
            pass  # the leader is asked, for longer
        found = await self._connection.ask(f"STREAM.MSG.GET.{self._stream.name}", what)
        if error := found.get("error"):
            if error.get("err_code") in NO_MESSAGE:
                return None
            raise failure(self._stream.path, error)
        return found["message"]["seq"], base64.b64decode(found["message"].get("data", ""))
