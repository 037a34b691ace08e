"""The stream of a store: made by the first process that opens it, and the same for all that follow.

    mq_<name>            the log, of two subjects: one whose last sequence is compared with each append, and
                         one for what is appended without that
    OBJ_mq_<name>        an object store, with the newest checkpoint

The settings that mq's promises rest on are compared with those that are there; a stream with others is
refused by name.  Its limit of bytes is its administrator's to set: publishes raise DiskFull there.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from datetime import datetime
from typing import Any, Final, NamedTuple

from mq.errors import CorruptStore, DiskFull, StorageError, Unsupported
from mq.nats.connection import AGAIN_SECONDS, PATIENCE_SECONDS, Connection
from mq.notes import INFO, Notes
from mq.storage.crc import crc32c
from mq.storage.identity import Identity

FORMAT: Final = "3"  # of what is in the messages
RULES: Final = "3"  # how processes decide: all that share a store decide alike
FORMAT_KEY, STORE_KEY, RULES_KEY = "mq.format", "mq.store", "mq.rules"
DEDUP_NS: Final = 120_000_000_000  # a message that is sent again is known by its id for so long
REPLICAS: Final = 3  # of a new stream on a cluster
TRIM_SECONDS: Final = 20.0  # until a server that answers as the leader knows of a trim
SETTINGS: Final[dict[str, object]] = {
    "retention": "limits", "discard": "new", "storage": "file", "allow_direct": True, "allow_atomic": True,
    "max_age": 0, "max_msgs": -1, "max_msgs_per_subject": -1, "max_msg_size": -1, "sealed": False,
    "no_ack": False, "deny_purge": False, "mirror": None, "sources": None, "subject_transform": None,
    "republish": None, "allow_rollup_hdrs": False,
}  # fmt: skip
NOT_FOUND: Final = frozenset({10059})  # error codes of the server
UNLED: Final = frozenset({10008})  # the servers have no leader just now
NAME_IN_USE: Final = frozenset({10058})
NO_MESSAGE: Final = frozenset({10037})
NOT_CLUSTERED: Final = frozenset({10074, 10052})
FULL: Final = frozenset({10002, 10023, 10028, 10047, 10077})


class NoStream(StorageError):
    """No store has that name."""


class Range(NamedTuple):
    """What the stream has, as its leader says."""

    first: int  # sequence of the first message
    last: int  # of the last one, also if it was purged
    bytes: int
    messages: int
    now_ms: int  # the server's clock


def failure(path: str, error: dict[str, Any]) -> StorageError:
    """What the server's *error* is to a caller."""
    text = f"{error.get('description', 'an error without a text')} ({error.get('err_code', 0)})"
    if error.get("err_code") in FULL:
        return DiskFull(path, f"the stream has no room: {text}; settle or purge messages, or raise its limit")
    return StorageError(path, f"NATS refuses: {text}")


class Stream:
    identity: Identity
    """Once `open` has returned; so `seed`."""
    seed: int
    """Of the checksums of messages."""

    def __init__(self, connection: Connection, notes: Notes) -> None:
        self._connection, self.notes = connection, notes
        self.path, self.address = connection.path, connection.address
        self.name = f"mq_{self.address.name}"
        self.subject = f"mq.{self.address.name}.log"
        self.shared = f"mq.{self.address.name}.shared"
        self.replicas = 1
        self.max_bytes = -1  # that the stream may have; -1: no limit

    def open(self, *, create: bool) -> None:
        """Have the stream; it is made, with *create*, if it is not there."""
        info = self._connection.api(f"STREAM.INFO.{self.name}")
        if info.get("error", {}).get("err_code") in NOT_FOUND:
            if not create:
                raise NoStream(self.path, f"there is no stream {self.name!r}: check the address")
            info = self._create()
        config = self._answer(info)["config"]
        self._require(config)
        self.identity = Identity(
            config["metadata"][STORE_KEY], bytes.fromhex(config["metadata"][STORE_KEY])[:8]
        )
        self.seed = crc32c(self.identity.store_id.encode())
        self.replicas, self.max_bytes = config["num_replicas"], config.get("max_bytes", -1)

    def _create(self) -> dict[str, Any]:
        store_id = uuid.uuid4().hex
        metadata = {FORMAT_KEY: FORMAT, STORE_KEY: store_id, RULES_KEY: RULES}
        settings = {key: value for key, value in SETTINGS.items() if value is not None}
        config = {
            **settings, "name": self.name, "subjects": [self.subject, self.shared], "metadata": metadata,
            "duplicate_window": DEDUP_NS, "num_replicas": self.address.replicas or REPLICAS,
        }  # fmt: skip
        if self.address.max_bytes:
            config["max_bytes"] = self.address.max_bytes
        answer = self._connection.api(f"STREAM.CREATE.{self.name}", config)
        if self.address.replicas is None and answer.get("error", {}).get("err_code") in NOT_CLUSTERED:
            config["num_replicas"] = 1
            answer = self._connection.api(f"STREAM.CREATE.{self.name}", config)
        if answer.get("error", {}).get("err_code") in NAME_IN_USE:  # another process was first
            return self._connection.api(f"STREAM.INFO.{self.name}")
        replicas = self._answer(answer)["config"]["num_replicas"]
        self.notes.put_down(
            INFO, "created the store %s, a stream with %s", self.path,
            f"{replicas} replicas" if replicas > 1 else "one replica: it is lost with the disk of its server",
        )  # fmt: skip
        return answer

    def _require(self, config: dict[str, Any]) -> None:
        metadata = config.get("metadata") or {}
        if STORE_KEY not in metadata:
            raise Unsupported(
                f"{self.path}: the stream {self.name!r} was not made by mq: choose another name"
            )
        for key, ours in ((FORMAT_KEY, FORMAT), (RULES_KEY, RULES)):
            if metadata.get(key) != ours:
                raise Unsupported(
                    f"{self.path}: the stream {self.name!r} has {key} {metadata.get(key)}, and this version"
                    f" of mq has {ours}: use one version of mq in all processes, and upgrade this one"
                )
        wanted = {**SETTINGS, "subjects": [self.subject, self.shared]}
        wrong = [key for key, value in wanted.items() if not _is(config.get(key), value)]
        if wrong:
            said = ", ".join(f"{key} {config.get(key)!r} instead of {wanted[key]!r}" for key in wrong)
            raise Unsupported(f"{self.path}: the stream {self.name!r} has {said}: set that back")

    def _answer(self, answer: dict[str, Any]) -> dict[str, Any]:
        if error := answer.get("error"):
            raise failure(self.path, error)
        return answer

    # ── asking ─────────────────────────────────────────────────────────────────────

    def range(self) -> Range:
        """Asked of its leader, now."""
        info = self._connection.run(self._led())
        state, self.max_bytes = info["state"], info["config"]["max_bytes"]
        return Range(
            state["first_seq"], state["last_seq"], state["bytes"], state["messages"], _ms(info["ts"])
        )

    def range_up_to(self, seq: int, known_by: str) -> Range:
        """`range`, once that reaches message *seq*, of which *known_by* says why it was there.

        CorruptStore if it does not.  A new leader may know less for a while, and so may one that is cut off.
        """
        there = self.range()
        give_up = time.monotonic() + 2 * PATIENCE_SECONDS
        while there.last < seq:
            if time.monotonic() > give_up:
                raise self.corrupt(f"lost: the stream ends at {there.last}, and {known_by}", seq)
            self._connection.run(self._connection.go_elsewhere())
            time.sleep(AGAIN_SECONDS)
            there = self.range()
        return there

    def is_trimmed(self, seq: int, known: int) -> bool:
        """Whether the message *seq* is not there any more because of a trim; *known* has come, behind it.

        The server that has delivered that one may be ahead of the leader, and one that leads no more answers,
        too.
        """
        give_up = time.monotonic() + TRIM_SECONDS
        while self.range_up_to(known, "it was delivered").first <= seq:
            if time.monotonic() > give_up:
                return False
            time.sleep(AGAIN_SECONDS)
        return True

    async def _led(self) -> dict[str, Any]:
        """What the leader says of the stream: a replica that has lost it says what it knows itself."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            info = await self._connection.ask(f"STREAM.INFO.{self.name}")
            if info.get("error", {}).get("err_code") not in UNLED:
                info = self._answer(info)
                if "cluster" not in info or info["cluster"].get("leader"):
                    return info
            if time.monotonic() > give_up:
                raise StorageError(self.path, f"the stream has no leader for {PATIENCE_SECONDS:g} seconds")
            await self._connection.go_elsewhere()
            await asyncio.sleep(AGAIN_SECONDS)

    def purge(self, before: int) -> None:
        """Forget the messages with a sequence below *before*."""
        self._answer(self._connection.api(f"STREAM.PURGE.{self.name}", {"seq": before}))

    def corrupt(self, reason: str, seq: int) -> CorruptStore:
        return CorruptStore(
            self.path,
            f"message {seq} of the stream {self.name!r}: {reason}; restore the stream from a replica or a"
            " backup",
            seq,
        )


def _is(there: object, wanted: object) -> bool:
    return there == wanted or (not there and not wanted)


def _ms(stamp: str) -> int:
    """Milliseconds since 1970 of a time as the server writes it: RFC 3339, with nanoseconds."""
    day, _, fraction = stamp.rstrip("Z").partition(".")
    seconds = datetime.fromisoformat(f"{day}+00:00").timestamp()
    return int(seconds) * 1000 + int((fraction + "000")[:3])
