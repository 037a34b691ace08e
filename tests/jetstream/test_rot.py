"""Files of a server that rot: what mq reads is whole, or it says what is not."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from servers import Cluster, Node

import mq
from mq.nats import sending, stream
from mq.nats.connection import AGAIN_SECONDS, SILENT
from mq.nats.sending import Sending

COUNT = 40
MARK = b"the message number %02d"


def blocks(node: Node) -> Path:
    """The file in which a server has the messages of the store."""
    (found,) = node.directory.glob("data/jetstream/*/streams/mq_s/msgs/1.blk")
    return found


def flip(path: Path, text: bytes) -> None:
    """One bit of that text, wherever it is in the file."""
    data = bytearray(path.read_bytes())
    data[data.index(text)] ^= 1
    path.write_bytes(data)


def cut(path: Path, text: bytes) -> None:
    """Lose the end of the file from there on."""
    data = path.read_bytes()
    path.write_bytes(data[: data.index(text)])


def lose_index(node: Node) -> None:
    """What a server remembers of its own files: without it, it reads them."""
    for path in node.directory.glob("data/jetstream/*/streams/mq_s/msgs/index.db"):
        path.unlink()


def publish(url: str) -> None:
    with mq.open(url) as broker:
        for number in range(COUNT):
            broker.queue("mail").publish(MARK % number)


def test_a_message_that_is_missing_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P7: with its sequence."""
    monkeypatch.setattr(stream, "TRIM_SECONDS", 0.5)
    with Cluster(tmp_path, 1) as cluster:
        publish(cluster.url("s"))
        cluster.ask("STREAM.MSG.DELETE.mq_s", {"seq": 18})
        with pytest.raises(mq.CorruptStore, match="message 18 of the stream"):
            mq.open(cluster.url("s"))


def test_what_another_program_puts_into_the_stream_is_reported(tmp_path: Path) -> None:
    """P3, P7: by a process that has it open, and by the next one."""
    with Cluster(tmp_path, 1) as cluster, mq.open(cluster.url("s")) as broker:
        publish(cluster.url("s"))
        last = cluster.ask("STREAM.INFO.mq_s", {})["state"]["last_seq"]
        cluster.publish("mq.s.log", b"not of mq")
        for look in (lambda: broker.queue("mail").peek(), lambda: mq.open(cluster.url("s"))):
            with pytest.raises(mq.CorruptStore, match=f"message {last + 1} of the stream"):
                look()


def test_a_lost_end_is_noticed_by_a_process_that_has_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that opens the store later cannot know: that is what the documentation says of lost tails."""
    attempt = Sending._try

    async def answered(self: Sending, *group: Any) -> dict[str, Any]:
        """However slow the server is: what the store meets are its refusals."""
        while True:
            with suppress(*SILENT):
                return await attempt(self, *group)
            await asyncio.sleep(AGAIN_SECONDS)

    with Cluster(tmp_path, 1) as cluster, mq.open(cluster.url("s")) as broker:
        publish(cluster.url("s"))
        assert broker.queue("mail").stats().ready == COUNT
        node = cluster["n1"]
        node.kill()
        cut(blocks(node), MARK % 30)
        lose_index(node)
        cluster.start_all()
        monkeypatch.setattr(Sending, "_try", answered)
        monkeypatch.setattr(sending, "PATIENCE_SECONDS", 1.0)
        with pytest.raises(mq.CorruptStore, match="the stream ends at"):
            broker.queue("mail").publish(b"more")


def test_a_follower_that_rots_is_not_believed(tmp_path: Path) -> None:
    """One of three has a flipped bit, and then the leader dies: what is read is whole."""
    with Cluster(tmp_path) as cluster:
        publish(cluster.url("s"))
        rotten = cluster.followers("mq_s")[0]
        rotten.kill()
        flip(blocks(rotten), MARK % 17)
        lose_index(rotten)
        cluster.start_all()
        leader = cluster.leader("mq_s")
        leader.stop()
        with mq.open(cluster.url("s")) as broker:
            bodies = [message.raw for message in broker.queue("mail").peek(COUNT)]
        assert bodies == [MARK % number for number in range(COUNT)]
