"""Records ⇄ messages of the stream.  No I/O; see FORMAT.md §11.

     0        4   5       6      8       10    12                24        32       40                52
    ┌────────┬───┬───────┬──────┬───────┬─────┬────────┬────────┬─────────┬────────┬────────┬────────┬─ ─ ─
    │ crc32c │ v │ flags │ part │ parts │  0  │ crc of │ seq of │ writer, │ time,  │ crc of │ seq of │ records
    │        │   │       │      │       │     │    the mark     │ counts  │ ms     │ the last known  │
    └────────┴───┴───────┴──────┴───────┴─────┴────────┴────────┴─────────┴────────┴────────┴────────┴─ ─ ─
    a record:  kind u8, flags u8, queue u16, length u32, payload

    position of a record  =  sequence of its message << 20  |  offset of its payload in the message

A message is shorter than 2^20 bytes, and a record has as many bytes as the messages that it names, so no two
records and no two receipts have one position.  The checksum is seeded by the store's id.  A message names the
sequence and the checksum of its mark, on which it depends whether it holds (fences.py), and those of the last
message that its writer knew: one that was put in another's place does not pass.  A group that is too long for
one message is several, appended as one batch; those behind the first name the checksum of the part before,
and sequence 0.  A record that is too long for a message goes on in the next parts, which hold nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from typing import Final, NamedTuple

from mq.storage.crc import crc32c

VERSION: Final = 3
HEAD: Final = Struct("<IBBHHHIQQQIQ")
SHARED, FENCE, HOLD, TAKES = 1, 2, 4, 8  # flags: see fences.py
FLAGS: Final = SHARED | FENCE | HOLD | TAKES
WORD: Final = 1 << 64
RECORD: Final = Struct("<II")  # label (kind, flags, queue), length of the payload
CRC_BYTES: Final = 4
PLACE_BITS: Final = 20
PLACE_MASK: Final = (1 << PLACE_BITS) - 1
MESSAGE_BYTES_MAX: Final = 700_000  # less than PLACE_MASK, and than what servers accept by default
PARTS_MAX: Final = 1000  # of a batch: the limit of servers
Draft = tuple[int, int, int, bytes]  # kind, flags, queue, payload


class Head(NamedTuple):
    crc: int
    flags: int
    part: int  # of `parts`, from 1
    parts: int
    mark: tuple[int, int]
    """Sequence and checksum of the compared message before; of a shared one: of the last fence.

    Of a part behind the first: 0, and the checksum of the part before.
    """
    writer: int  # a number that no other group has; of one process they count up
    time_ms: int
    known: tuple[int, int]  # those of the last message that its writer knew; a checksum of 0: not known


class Damaged(Exception):
    """A message of the stream is not what mq wrote."""


def begin_of(seq: int) -> int:
    """The first position in the message *seq*, and the end of a log whose last message is the one before."""
    return seq << PLACE_BITS


def place_of(position: int) -> tuple[int, int]:
    """The sequence of the message, and the offset in it."""
    return position >> PLACE_BITS, position & PLACE_MASK


class Encoded(NamedTuple):
    """A group of records, not in the stream yet."""

    bodies: list[bytes]  # of the messages, without their heads
    places: list[tuple[int, int]]  # of each record: the index of its message, and the offset in it

    def positions(self, first: int) -> list[int]:
        """Of the records, once the first message has the sequence *first*."""
        return [first + index << PLACE_BITS | at for index, at in self.places]

    def messages(
        self, seed: int, mark: tuple[int, int], writer: int, time_ms: int, flags: int = 0,
        known: tuple[int, int] = (0, 0),
    ) -> list[bytes]:  # fmt: skip
        """The messages; *mark*, *known*: see Head.

        *writer*: a number that no other group has, so that one is known again that had no answer.
        """
        found: list[bytes] = []
        parts = len(self.bodies)
        (mark_seq, mark_crc), (known_seq, known_crc) = mark, known
        for part, body in enumerate(self.bodies, 1):
            head = HEAD.pack(
                0, VERSION, flags, part, parts, 0, mark_crc, mark_seq, writer, time_ms, known_crc, known_seq
            )
            rest = head[CRC_BYTES:] + body
            mark_seq, mark_crc = 0, crc32c(rest, seed)
            found.append(mark_crc.to_bytes(CRC_BYTES, "little") + rest)
        return found


def encode(drafts: Iterable[Draft], most: int = MESSAGE_BYTES_MAX) -> Encoded:
    """*drafts* in as few messages as may be, each of *most* bytes at most."""
    bodies: list[bytes] = []
    places: list[tuple[int, int]] = []
    pieces: list[bytes] = []
    size = HEAD.size
    for kind, flags, queue, payload in drafts:
        taken = RECORD.size + len(payload)
        if pieces and size + taken > most:
            bodies.append(b"".join(pieces))
            pieces, size = [], HEAD.size
        places.append((len(bodies), size + RECORD.size))
        pieces += [RECORD.pack(kind | flags << 8 | queue << 16, len(payload)), payload]
        size += taken
        if size > most:  # it has the message for itself, and goes on in others
            whole, room = b"".join(pieces), most - HEAD.size
            bodies += [whole[at : at + room] for at in range(0, len(whole), room)]
            pieces, size = [], HEAD.size
    if pieces or not bodies:
        bodies.append(b"".join(pieces))
    return Encoded(bodies, places)


def head_of(data: bytes) -> Head:
    """The head of a message, unchecked."""
    if len(data) < HEAD.size:
        raise Damaged(f"it has {len(data)} bytes, and a head alone has {HEAD.size}")
    crc, version, flags, part, parts, _, mark_crc, mark, writer, time_ms, known_crc, known = HEAD.unpack_from(
        data
    )
    if version != VERSION or flags & ~FLAGS:
        raise Damaged(f"it is of format {version}, flags {flags}: upgrade mq")
    if not 0 < part <= parts:
        raise Damaged(f"it is part {part} of {parts}")
    return Head(crc, flags, part, parts, (mark, mark_crc), writer, time_ms, (known, known_crc))


def check(data: bytes, seed: int, head: Head | None = None) -> Head:
    """The head of a message that passes its checksum; Damaged if it does not.  *head*: as it was read."""
    if head is None:
        head = head_of(data)
    if crc32c(data[CRC_BYTES:], seed) != head.crc:
        raise Damaged("it does not pass its checksum")
    return head


def outline(seq: int, data: bytes) -> tuple[list[int], list[int], list[int]]:
    """Positions, labels and lengths of the records in the message *seq*, whose parts are joined."""
    positions: list[int] = []
    labels: list[int] = []
    lengths: list[int] = []
    begin, at, size = begin_of(seq), HEAD.size, len(data)
    while at < size:
        if at + RECORD.size > size:
            raise Damaged("it ends inside a record")
        label, length = RECORD.unpack_from(data, at)
        at += RECORD.size
        positions.append(begin + at)
        labels.append(label)
        lengths.append(length)
        at += length
    if at > size:
        raise Damaged("it ends inside a record")
    return positions, labels, lengths


def starts(seq: int, data: bytes) -> Iterator[int]:
    """The positions of the records in the message *seq*; the last one may go on in the next parts."""
    begin, at, size = begin_of(seq), HEAD.size, len(data)
    while at + RECORD.size <= size:
        at += RECORD.size
        yield begin + at
        at += RECORD.unpack_from(data, at - RECORD.size)[1]


def missing(data: bytes) -> int:
    """How many bytes of the last record of this message are in the next parts; 0: it is whole."""
    at, size = HEAD.size, len(data)
    while at + RECORD.size <= size:
        at += RECORD.size + RECORD.unpack_from(data, at)[1]
    return max(0, at - size)


def join(parts: Sequence[bytes]) -> bytes:
    """A message whose last record goes on in the next parts, and these."""
    return b"".join([parts[0], *(part[HEAD.size :] for part in parts[1:])])
