"""Records at hand, and what their heads say: what the engine asks of a log in files, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mq.errors import CorruptStore
from mq.nats import message
from mq.nats.message import HEAD, RECORD, place_of
from mq.nats.pages import Pages
from mq.storage.glance import Head
from mq.storage.reader import Stored


class Reading:
    """Records that are at hand, or what their heads say: what the engine asks of a log in files, too."""

    def __init__(
        self, pages: Pages, read: Callable[[int], Stored], size: Callable[[], int], leave: Callable[[], None]
    ) -> None:  # fmt: skip
        self._pages, self._read, self.disk_bytes, self.after_fork = pages, read, size, leave
        self._walked: tuple[int, frozenset[int]] = (0, frozenset())  # a message, and where its records are

    def at_hand(self, position: int, kind: int) -> tuple[int, int, bytes] | None:
        """Flags, time and payload of the record, if it is of that *kind*, and in memory."""
        seq, at = place_of(position)
        data = self._pages.at_hand(seq)
        return None if data is None else _record(data, at, kind)

    def read_run(
        self, positions: Sequence[int], start: int, kind: int
    ) -> tuple[list[int], list[int], list[bytes]]:  # fmt: skip
        """Flags, times and payloads of the records at *positions* from index *start* on.

        As many as are of that *kind*, and there, and whole: perhaps none.
        """
        flags: list[int] = []
        times: list[int] = []
        payloads: list[bytes] = []
        places = [place_of(each) for each in positions[start:]]
        pages = self._pages.get_all([seq for seq, _ in places])
        for seq, at in places:
            data = pages.get(seq)
            found = None if data is None else _record(data, at, kind)
            if found is None:
                break
            flags.append(found[0])
            times.append(found[1])
            payloads.append(found[2])
        return flags, times, payloads

    def head(self, position: int, end: int) -> Head | None:
        """What the head of the record at *position* says; None if no record is there."""
        seq, _ = place_of(position)
        try:
            data = self._pages.get(seq)
            if position not in self._starts(seq, data):
                return None
        except CorruptStore:
            return None
        label, length = RECORD.unpack_from(data, place_of(position)[1] - RECORD.size)
        return Head(label & 0xFF, label >> 8 & 0xFF, length, message.head_of(data).time_ms)

    def _starts(self, seq: int, data: bytes) -> frozenset[int]:
        walked, starts = self._walked
        if walked != seq:
            starts = frozenset(message.starts(seq, data))
            self._walked = seq, starts
        return starts

    def payload(self, position: int, start: int, size: int) -> bytes:
        """*size* bytes of the payload; fewer if they cannot be read."""
        try:
            return self._read(position).payload[start : start + size]
        except CorruptStore:
            return b""


def _record(data: bytes, at: int, kind: int) -> tuple[int, int, bytes] | None:
    if not HEAD.size + RECORD.size <= at <= len(data):
        return None
    label, length = RECORD.unpack_from(data, at - RECORD.size)
    if label & 0xFF != kind or at + length > len(data):
        return None
    return label >> 8 & 0xFF, message.head_of(data).time_ms, data[at : at + length]
