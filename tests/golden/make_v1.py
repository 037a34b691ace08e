"""How the golden stores of format 1 were made.  Not run any more, and not to be: history.

They were made once, by the mq of then, and are kept as they are: a store that was ever written
must open for ever.  This one writes other records (a NACK says when, a batch is one record), and
has no `_lock_fd`.  What it writes is compared in tests/storage/test_reference.py; a change of the
format gets a directory of its own beside this one's.

v1/recovered   a life with everything that queues do, killed in the middle of a write; a
               recovery killed in the middle of its fence; a second one, more work, a close
v1/cleaned     the head dropped several times, messages moved, a checkpoint, killed

What is in them is written down in tests/storage/test_golden.py.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from mq.api.broker import Broker
from mq.engine.store import Store
from mq.storage import record
from mq.storage.identity import Identity
from mq.storage.segment import Segment, encode_header
from mq.storage.shared import HOLDER

HERE = Path(__file__).parent / "v1"
IDENTITIES = {
    "recovered": Identity("0c0ffee00c0ffee00c0ffee00c0ffee0", bytes.fromhex("0102030405060708")),
    "cleaned": Identity("1c0ffee11c0ffee11c0ffee11c0ffee1", bytes.fromhex("1112131415161718")),
}
START = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC


class Life:
    """One process that has the store open, at a time of its own."""

    def __init__(self, path: Path, now: float) -> None:
        self.now = now
        self.store = Store(
            str(path), sync="always", read_only=False, segment_bytes=1024, clock=lambda: self.now,
            background=False,
        )  # fmt: skip
        self.broker = Broker(self.store)

    def kill(self) -> None:
        """Leave everything as it is; but the page names no process, for that would change with each run."""
        self.store.mark[HOLDER] = 0
        self.store.log.abandon()
        os.close(self.store._lock_fd)


def fresh(name: str) -> Path:
    path = HERE / name
    shutil.rmtree(path, ignore_errors=True)
    (path / "log").mkdir(parents=True)
    (path / "FORMAT").write_bytes(IDENTITIES[name].line())
    return path


def make_recovered() -> None:
    path = fresh("recovered")
    life = Life(path, START)
    letters = life.broker.queue("letters", visibility_timeout=45)
    letters.publish("Grüße")
    letters.publish(b"\x00\xff bytes")
    letters.publish({"id": 7, "tags": ["a", "b"], "price": 1.5, "none": None})
    letters.publish(b"")
    life.now += 1
    letters.publish_many(["of a group, first", "of a group, second", "of a group, third"])
    letters.receive(timeout=0).ack()
    letters.receive(timeout=0).nack(delay=86_400, reason="später")
    letters.receive(timeout=0).release()
    held = letters.receive(timeout=0)
    held.extend(7200)
    life.broker.queue("größen").publish("the other queue " * 8)
    letters.publish("into the second segment " * 20)
    spam = life.broker.queue("spam")
    spam.publish_many([b"in flight, stays", b"purged", b"purged too"])
    spam.receive(timeout=0, visibility_timeout=86_400)
    spam.purge()
    end = life.store.log.end
    last = life.store.log.segments[-1]
    life.kill()

    file = path / "log" / last.name
    with file.open("r+b") as log:  # the next record was torn after thirty bytes
        log.seek(last.offset(end))
        whole = record.encode(last.seed, end, end, 2000, 17, 0x10, 1, b"never confirmed, never finished")
        log.write(whole[:30])
    base = last.limit
    identity = IDENTITIES["recovered"]
    torn = Segment(last.number + 1, base, 1024, last.created_ms, record.seed(identity.key, base))
    fence = record.encode(
        torn.seed, base, end, 0, record.FENCE, 0, 0, record.FENCE_PAYLOAD.pack(end, 0, 1024, last.created_ms)
    )
    (path / "log" / torn.name).write_bytes(encode_header(identity, torn) + fence[:41])

    life = Life(path, START + 60)
    letters = life.broker.queue("letters")
    letters.publish("after the crash")
    letters.receive(timeout=0)
    letters.publish("last " * 40)
    life.broker.close()


def make_cleaned() -> None:
    path = fresh("cleaned")
    life = Life(path, START)
    work = life.broker.queue("work", visibility_timeout=600)
    work.publish("stays delayed")
    work.publish("stays in flight")
    work.receive(timeout=0).release()
    work.receive(timeout=0).nack(delay=3600, reason="later")
    work.receive(timeout=0, visibility_timeout=86_400)
    for number in range(30):
        life.now += 1
        work.publish(f"passing {number} " * 8)
        work.receive(timeout=0).ack()
    life.store.maintenance.run()
    work.publish("stays waiting")
    life.store.maintenance.checkpoints.write()
    work.publish("behind the checkpoint")
    work.publish("into the newer segment " * 20)
    life.kill()


if __name__ == "__main__":
    make_recovered()
    make_cleaned()
    for file in sorted(HERE.rglob("*")):
        if file.is_file():
            print(f"{file.stat().st_size:6} {file.relative_to(HERE)}", file=sys.stderr)
