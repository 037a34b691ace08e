"""The two processes that are killed.  Each goes on where its notes, and the store, say that it was."""

from __future__ import annotations

from pathlib import Path

from notes import Notes, digest

import mq

VISIBILITY_SECONDS = 1.0  # what a killed consumer held is delivered again after this


def open_queue(broker: mq.Broker) -> mq.Queue[bytes]:
    return broker.queue("webhooks", visibility_timeout=VISIBILITY_SECONDS)


def publish(work: Path, total: int) -> None:
    """Publish *total* messages: the lines of the input in turn, from the top again at its end."""
    lines = (work / "input").read_bytes().split(b"\n")
    notes = Notes(work / "published")
    with mq.open(work / "store") as broker:
        queue = open_queue(broker)
        for index in range(len(notes.read()), total):
            body = lines[index % len(lines)]
            id = queue.publish(body)
            notes.add(index, id, digest(body))


def consume(work: Path) -> None:
    """Take and ack until the queue is empty, with what another process held when it died."""
    notes = Notes(work / "consumed")
    with mq.open(work / "store") as broker:
        queue = open_queue(broker)
        while message := queue.receive(timeout=2 * VISIBILITY_SECONDS):
            notes.add("got", message.id, message.attempts, digest(message.raw))
            message.ack()
            notes.add("acked", message.id)
