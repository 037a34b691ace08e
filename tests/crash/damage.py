"""Bits of a small store flipped, every file of it cut short at every length.

P7: whatever is done to one file, opening either says so, or serves all that was there.
What was never on the disk of a store closed in order, its zeros and its hints, may
change without a word.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from mq.errors import MqError

from .disk import Directory, File, SimulatedDisk
from .driver import Driver, contents, open_store
from .explorer import FAR, determined
from .history import History, Key
from .workloads import Workload

CRASHES = (OSError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, AssertionError,
           struct.error, MemoryError)  # fmt: skip
MARK_BYTES = 72  # of the mapped page, every bit; behind them is nothing
ZEROS_BETWEEN = 61  # two cuts


def settled(d: Driver) -> None:
    """A little of each kind of record, closed."""
    d.open()
    d.publish("a", 3)
    d.take("a", 2)
    d.ack()
    d.nack(delay=5.0)
    d.publish("b", size=90)
    d.close()


def rotated(d: Driver) -> None:
    """Two segments and a fence, closed without a batch."""
    d.open()
    for _ in range(4):
        d.publish("a", size=230)
    d.take("a")
    d.ack()
    d.close()


def kept(d: Driver) -> None:
    """With a checkpoint, and a head that moved."""
    d.open()
    d.publish("b", 2)
    for _ in range(5):
        d.publish("c", size=250)
        d.take("c")
        d.ack()
    d.maintain()
    d.publish("a")
    d.close()


STORES: dict[str, Workload] = {each.__name__: each for each in (settled, rotated, kept)}


def make(workload: Workload) -> tuple[SimulatedDisk, Key]:
    """A store, and what it holds."""
    disk, history = SimulatedDisk(), History()
    workload(Driver(disk, history))
    (held,) = history.allowed(power=False)
    return disk, held


def damages(files: dict[str, bytes], *, thorough: bool) -> Iterator[tuple[str, str, bytes]]:
    """Path, what was done, and the file's bytes then; what is cut first, there are fewer of those.

    If not *thorough*, one bit of each byte, in turn, and fewer cuts in the zeros at the end.
    """
    for path, data in sorted(files.items()):
        used = len(data.rstrip(b"\0")) + 1
        for size in (*range(min(used, len(data))), *range(used, len(data), 1 if thorough else ZEROS_BETWEEN)):
            yield path, f"cut to {size} bytes", data[:size]
    for path, data in sorted(files.items()):
        flipped = {"mark": MARK_BYTES, "reserve": 0}.get(path.rpartition("/")[2], len(data))
        for at in range(flipped):
            for bit in range(8) if thorough else (at % 8,):
                byte = bytes([data[at] ^ 1 << bit])
                yield path, f"bit {bit} of byte {at} flipped", data[:at] + byte + data[at + 1 :]


def judge(disk: SimulatedDisk, held: Key) -> str:
    """What is wrong with opening the store on *disk*; "" if it is refused, or all is there."""
    try:
        found, _ = contents(open_store(disk, lambda: FAR))
    except MqError as error:
        return "" if str(error) else "refused without a reason"
    except CRASHES as error:
        return f"crashed: {error!r}"
    return "" if found == held else f"opened without a word, with {found!r}"


def explore(name: str, *, first: bool = False, thorough: bool = True) -> tuple[int, list[str]]:
    """All damages of one store: how many, and what went wrong; at most the *first*."""
    with determined(0):
        disk, held = make(STORES[name])
        files, numbers = disk.content(), disk.inodes()
        wrong, count = [], 0
        for path, what, data in damages(files, thorough=thorough):
            count += 1
            complaint = judge(disk_of({**files, path: data}, numbers), held)
            if complaint:
                wrong.append(f"{path}, {what}: {complaint}")
                if first:
                    break
    return count, wrong


def disk_of(files: dict[str, bytes], numbers: dict[str, int]) -> SimulatedDisk:
    """With the inode *numbers* that files and directories had; without them, as copies."""
    disk = SimulatedDisk()
    for path, data in files.items():
        *above, name = path.split("/")
        directory, at = disk.root, ""
        for part in above:
            at += f"{part}/"
            node = directory.names.setdefault(part, Directory(numbers.get(at, 0)))
            assert isinstance(node, Directory)
            directory = node
        directory.names[name] = File(data, numbers.get(path, 0))
    return disk
