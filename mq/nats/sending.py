"""A group of records, sent to the stream: stored once, or not at all, however often no answer comes.

    the last sequence is another one    that one is read.  It may be this very group, which is told by its
                                        bytes: a number of its writer's is in them.  Else None: another writer
                                        was first
    ... and it is not there             a server answered that does not lead any more: sent again
    no server is there to answer        nothing was stored: sent again
    no answer                           stored, or not: sent again
    no answer for PATIENCE_SECONDS      StoreFailed: the outcome is open

All attempts name the same last sequence, so at most one of them is stored.  For a moment two servers may take
themselves for the leader: the one stores a message, and the other one, whose answer comes first, refuses it.
A client that is left without an answer connects to another server: its own may be cut off from the others.
The first attempt goes over a connection of the thread's own (direct.py), if it is one message.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
import uuid
from contextlib import suppress
from typing import Any, Final, NamedTuple

from nats.errors import NoRespondersError

from mq.errors import StorageError, StoreFailed
from mq.nats.arrivals import Arrival, Arrivals
from mq.nats.connection import AGAIN_SECONDS, PATIENCE_SECONDS, REQUEST_SECONDS, SILENT, Connection
from mq.nats.direct import Direct
from mq.nats.pages import Pages
from mq.nats.stream import FULL, Stream, failure

WRONG_LAST: Final = frozenset({10071, 10164})  # error codes of the server
DUPLICATE: Final = frozenset({10201})  # of a batch: a message of it is in the stream already
PASSING: Final = frozenset({10008, 10158, 10176, 10210})  # no leader, still at it, a batch cut off, too many
SOON_SECONDS: Final = 0.1  # until what another writer appended has come, as a rule
COMMIT_SECONDS: Final = 5.0  # until a batch is sent again: its commit takes longer than a message
EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_LAST: Final = "Nats-Expected-Last-Sequence"
ID: Final = "Nats-Msg-Id"  # tells the server that it has the message already
BATCH_ID, BATCH_SEQUENCE, BATCH_COMMIT = "Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit"


class Unsure(Exception):
    """A message that is sent once may be in the stream, or come there."""

    is_full = False  # a server has refused it, for want of room


class Compared(NamedTuple):
    """What a group is appended behind."""

    seq: int  # of the last compared message; with *wholly*, of the last message
    wholly: bool  # nothing at all may stand in between, and not only nothing compared

    def headers(self) -> dict[str, str]:
        return {EXPECTED_LAST if self.wholly else EXPECTED: str(self.seq)}


class Sending:
    def __init__(self, connection: Connection, stream: Stream, pages: Pages, arrivals: Arrivals) -> None:
        self._connection, self._stream, self._pages, self._arrivals = connection, stream, pages, arrivals
        self.direct = Direct(connection)

    def share(self, data: bytes) -> int | None:
        """The sequence of a shared message, which is sent once; None if it was not sent.

        Unsure: it is stored, or will be, or not.
        """
        try:
            answer = self.direct.ask(self._stream.shared, data, {})
        except OSError as error:
            raise Unsure from error
        if answer is None:
            return None
        if refusal := answer.get("error"):  # of a server that leads no more, perhaps
            unsure = Unsure()
            unsure.is_full = refusal.get("err_code") in FULL
            raise unsure
        return answer["seq"]  # type: ignore[no-any-return]

    def send(self, parts: list[bytes], expected: Compared) -> int | None:
        """The sequence of the last part, stored behind what is *expected*; None: another one is there.

        DiskFull, StorageError: nothing was stored.  StoreFailed: the outcome is open.
        """
        name, answer, unsure = uuid.uuid4().hex, None, False
        try:
            if len(parts) == 1:
                answer = self.direct.ask(self._stream.subject, parts[0], {**expected.headers(), ID: name})
        except OSError:
            unsure = True
        if answer and "error" not in answer:
            return answer["seq"]  # type: ignore[no-any-return]
        if answer and answer["error"].get("err_code") in WRONG_LAST:  # by far the most common refusal
            there = self._first_come(expected)
            if there is not None:
                return there.seq if there.data == parts[0] else None
        return self._connection.run(self._send(parts, expected, name, answer, unsure=unsure))

    def _first_come(self, expected: Compared) -> Arrival | None:
        """What another writer appended behind what was *expected*, if it comes soon."""
        if not expected.wholly:
            return self._arrivals.first_compared(expected.seq, SOON_SECONDS)
        with suppress(StorageError):
            self._arrivals.wait(expected.seq + 1, SOON_SECONDS)
        return self._arrivals.at_hand(expected.seq + 1)

    async def _send(
        self, parts: list[bytes], expected: Compared, name: str, answer: dict[str, Any] | None, *,
        unsure: bool,
    ) -> int | None:  # fmt: skip
        """*answer*: to a first attempt, that was made already; *unsure*: one may have been stored."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            refusal = None
            try:
                if answer is None:
                    answer = await self._try(parts, name, expected)
            except NoRespondersError:
                reason = "no server has the stream at hand"
            except SILENT as error:
                unsure, reason = True, str(error) or type(error).__name__
                await self._connection.go_elsewhere()
            else:
                refusal = answer.get("error")
                if refusal is None:
                    return answer["seq"]  # type: ignore[no-any-return]
                reason = str(refusal.get("description"))
            answer = None
            if refusal and refusal.get("err_code") in WRONG_LAST | DUPLICATE:
                there = await self._first_behind(expected)
                if there is not None:
                    return there[0] + len(parts) - 1 if there[1] == parts[0] else None
                unsure = True
                await self._connection.go_elsewhere()
            if refusal and refusal.get("err_code") not in PASSING and not unsure:
                raise failure(self._stream.path, refusal)
            if time.monotonic() > give_up:
                self._require_end(_end_in(refusal), expected.seq, give_up)
                if _end_in(refusal) >= expected.seq:
                    raise self._given_up(reason, unsure=unsure)
            await asyncio.sleep(AGAIN_SECONDS)

    def _require_end(self, end: float, expected: int, give_up: float) -> None:
        """CorruptStore if a server still says that the stream ends before what this process has read.

        One that was cut off believes for some 15 seconds that it leads, so this is waited for, too.
        """
        if end < expected and time.monotonic() > give_up + PATIENCE_SECONDS:
            raise self._stream.corrupt(
                f"lost: the stream ends at {end}, and this process has read on", expected
            )

    async def _first_behind(self, expected: Compared) -> tuple[int, bytes] | None:
        """The message behind what was *expected*; None if it is not there, or no server says."""
        seq, arrivals = expected.seq + 1, self._arrivals
        come = arrivals.at_hand(seq) if expected.wholly else arrivals.compared_at_hand(expected.seq)
        if come is not None:
            return come.seq, come.data
        with suppress(StorageError):
            if not expected.wholly:
                return await self._pages.fetch_compared(seq)
            found = await self._pages.fetch(seq)
            return None if found is None else (seq, found)
        return None

    def _given_up(self, reason: str, *, unsure: bool) -> StorageError:
        said = f"no answer from NATS within {PATIENCE_SECONDS:g} seconds ({reason})"
        if not unsure:
            return StorageError(self._stream.path, f"{said}; nothing was stored: try again later")
        return StoreFailed(
            self._stream.path,
            f"{said}, so the outcome is unknown: it is there whole, or will be, or not at all; publish again"
            " with the same dedup_id",
        )

    async def _try(self, parts: list[bytes], name: str, expected: Compared) -> dict[str, Any]:
        nc, subject = self._connection.nc, self._stream.subject
        if len(parts) == 1:
            headers = {**expected.headers(), ID: name}
            answer = await nc.request(subject, parts[0], timeout=REQUEST_SECONDS, headers=headers)
            return json.loads(answer.data)  # type: ignore[no-any-return]
        headers = expected.headers()
        batch = uuid.uuid4().hex  # a batch that is sent again is another one
        for number, data in enumerate(parts[:-1], 1):
            each = {BATCH_ID: batch, BATCH_SEQUENCE: str(number), **headers}
            if number == 1:  # its answer says whether the server takes a batch
                answer = await nc.request(subject, data, timeout=REQUEST_SECONDS, headers=each)
                if answer.data:
                    return json.loads(answer.data)  # type: ignore[no-any-return]
            else:
                await nc.publish(subject, data, headers=each)
            headers = {}
        last = {BATCH_ID: batch, BATCH_SEQUENCE: str(len(parts)), BATCH_COMMIT: "1"}
        answer = await nc.request(subject, parts[-1], timeout=COMMIT_SECONDS, headers=last)
        return json.loads(answer.data)  # type: ignore[no-any-return]


def _end_in(refusal: dict[str, Any] | None) -> float:
    """The last sequence that a server knows, if it refuses for that; else infinity."""
    said, _, end = str(refusal and refusal.get("description")).rpartition(" ")
    return int(end) if said == "wrong last sequence:" else math.inf
