"""mq export, import: queues as lines of JSON, and back."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import BinaryIO, Final

import click

import mq
from mq.cli import archive, existing, output, stdin
from mq.cli.app import CORRUPT, USAGE, Failure, command, json_option, note, store_option
from mq.cli.envelope import BadLine
from mq.cli.looking import look, open_or_make
from mq.cli.params import QUEUE
from mq.cli.progress import Progress
from mq.cli.publish import ENVELOPE_BYTES_MAX, size_of
from mq.delivery.options import TOPIC_KEY
from mq.engine import carrying, incoming, outgoing
from mq.engine.carrying import Landing
from mq.engine.names import check_name
from mq.engine.outgoing import OF_TOPICS, Walk, topic_key
from mq.errors import MqError, UsageError

LINE_BYTES_MAX: Final = ENVELOPE_BYTES_MAX
GO_ON: Final = "run it again with --resume to go on"


@command(short_help="Write queues as lines of JSON.")
@click.argument("queues", nargs=-1, metavar="[QUEUE]...", type=QUEUE)
@click.option("--json", is_flag=True, expose_value=False, help="An export is always lines of JSON.")
@store_option
def export(queues: tuple[str, ...], store: str) -> None:
    """Write all that `mq import` needs to make QUEUE again, or without QUEUE the whole store.

    One JSON object a line, as of one moment; nothing is taken, and nothing is written to the store.
    It has options, meta, subscriptions, topics with what they retain, schedules, and each message
    with its attempts, failures, delay, time to live, group, priority and dedup id.  What is in
    flight is ready where it is imported.  `mq publish --json` takes the lines of messages, too.

    \b
    mq export mail > mail.ndjson
    mq export | zstd > store.ndjson.zst
    mq export mail | mq -s other import
    """
    with look(store) as broker:
        names = [existing.queue(broker, name).name for name in dict.fromkeys(queues)] or broker.queues()
        existing.tell_of_under_way(broker, names)
        topics = [] if queues else outgoing.topics(broker._store)
        found = [outgoing.definition(broker._store, key) for key in [*names, *map(topic_key, topics)]]
        total = sum(each.messages for each in found if each)
        with Progress("exporting", total, "message", hidden=output.is_terminal()) as progress:
            exporter = Exporter(broker, progress)
            exporter.run(names, topics, everything=not queues)
    if exporter.error:
        damaged = output.count(exporter.damaged, "damaged message")
        raise Failure(f"{exporter.error}; without {damaged} the export is whole", CORRUPT)


class Exporter:
    """Prints the lines of one export."""

    def __init__(self, broker: mq.Broker, progress: Progress) -> None:
        self._broker, self._store, self._progress = broker, broker._store, progress
        self._messages = self.damaged = 0
        self.error: mq.CorruptStore | None = None  # of the first message that is damaged

    def run(self, names: list[str], topics: list[str], *, everything: bool) -> None:
        output.json_line(archive.export(self._broker, int(time.time() * 1000), names, topics))
        for name in names:
            if found := outgoing.definition(self._store, name):
                output.json_line(archive.queue(name, self._broker.queue(name).options(), found))
                self._print(name, name)
                self._print_remembered(name, name)
        for name in topics:
            if found := outgoing.definition(self._store, topic_key(name)):
                output.json_line(archive.topic(name, found))
                self._print(topic_key(name), None)
        schedules = outgoing.schedules(self._store) if everything else []
        if everything:
            self._print_remembered(OF_TOPICS, None)
        for scheduled in schedules:
            output.json_line(archive.schedule(scheduled))
        output.json_line(archive.End(len(names), self._messages, len(topics), len(schedules)))

    def _print(self, key: str, queue: str | None) -> None:
        walk = Walk(self._store, key, -1)
        for parcel, state in walk:
            output.json_line(archive.message(queue, parcel, state))
            self._progress.add(1)
            self._messages += 1
        self.damaged += walk.damaged
        self.error = self.error or walk.error

    def _print_remembered(self, key: str, queue: str | None) -> None:
        for each in outgoing.remembered(self._store, key):
            output.json_line(archive.dedup(queue, each))


@command(short_help="Make queues again from lines of JSON.")
@click.argument("file", required=False, metavar="[FILE]")
@click.option("--resume", is_flag=True, help="Go on behind the last message that an earlier import stored.")
@click.option("--again", is_flag=True, help="Store all, also what an earlier import stored.")
@json_option
@store_option
def import_(file: str | None, resume: bool, again: bool, as_json: bool, store: str) -> None:
    """Read what `mq export` wrote, from FILE or standard input (also as -), and store it.

    The store is made if it is missing.  Messages get ids of their own, and all else is as it was.
    A queue that is there already keeps its options, and gets the messages.

    Each part of the messages is stored together with a note of how far it goes.  So an import that
    was cut off, at whatever point, goes on with --resume, and no message is lost or doubled.

    \b
    mq import mail.ndjson
    zstdcat store.ndjson.zst | mq -s other import
    mq import mail.ndjson --resume
    """
    if resume and again:
        raise click.UsageError("--resume and --again exclude each other")
    with ExitStack() as stack:
        source = _source(file, stack)
        lines = _lines(source)
        head = _head(next(lines, None))
        broker = stack.enter_context(open_or_make(store, late=True))  # synced once, at the end
        size = size_of(source) or 0
        with Progress("importing", size, "" if size else "message") as progress:
            importer = Importer(broker, head, resume=resume, again=again)
            importer.check()
            importer.run(lines, progress)
        broker.flush()
        importer.say(as_json)


def _source(file: str | None, stack: ExitStack) -> BinaryIO:
    if file not in (None, "-"):
        try:
            return stack.enter_context(open(file, "rb"))
        except OSError as error:
            raise Failure(f"{output.plain(file)}: {error.strerror}") from None
    if sys.stdin is None:
        raise Failure("standard input is closed; name the file", USAGE)
    source = stdin.stream()
    if source.isatty():
        note("reading an export from the terminal; Ctrl-D ends")
    return source


def _lines(source: BinaryIO) -> Iterator[bytes]:
    while line := source.readline(LINE_BYTES_MAX + 1):
        yield line


def _head(line: bytes | None) -> archive.Export:
    if line is None:
        raise Failure("there is nothing to import: it is empty", USAGE)
    try:
        head = archive.read(line)
    except BadLine as error:
        raise Failure(f"line 1: {error}", USAGE) from None
    if not isinstance(head, archive.Export):
        raise Failure(
            "line 1 is not the first line of an export; `mq publish QUEUE --json` takes messages alone", USAGE
        )
    if not (head.id == "-" or (head.id.isascii() and head.id.isalnum())):
        raise Failure("line 1: the export's id is letters and digits, as `mq export` writes it", USAGE)
    if head.version > archive.VERSION:
        raise Failure(f"a newer mq, {output.excerpt(head.mq, 20)}, wrote this export: upgrade mq")
    return head


class Importer:
    """Stores what is on the lines of one export."""

    def __init__(self, broker: mq.Broker, head: archive.Export, *, resume: bool, again: bool) -> None:
        self._broker, self._store, self._head = broker, broker._store, head
        self._resume, self._again = resume, again
        self._landings: dict[str, Landing] = {}
        self._key = ""  # of the queue that messages come to now
        self._last: dict[str, int] = {}  # by key, the id of the last message that was read
        self.skipped = self.read = 0
        self._number = 1  # of the line that was read last
        self._end: archive.End | None = None

    def check(self) -> None:
        """Before anything is stored: an earlier import is not repeated by mistake, or gone on with by another
        export."""
        for key in (*self._head.queues, *map(topic_key, self._head.topics)):
            self._landing(key)

    def run(self, lines: Iterator[bytes], progress: Progress) -> None:
        try:
            for line in lines:
                self._number += 1
                self._take(line, progress)
                progress.add(len(line) if not progress.unit else 1)
        except (BadLine, UsageError) as error:
            self._land()
            raise Failure(f"line {self._number:,}: {error}; all before it is stored: {GO_ON}") from None
        except (MqError, KeyboardInterrupt):
            note(f"line {self._number:,} was reached, and some lines before it may be missing: {GO_ON}")
            raise
        self._land()
        self._check_end()

    def _take(self, line: bytes, progress: Progress) -> None:
        if len(line) > LINE_BYTES_MAX:
            raise BadLine(f"longer than {LINE_BYTES_MAX:,} bytes")
        if not line.strip():
            return
        if self._end:
            raise BadLine("it comes behind the end of the export")
        found = archive.read(line)
        if isinstance(found, archive.Message):
            self._message(found)
        elif isinstance(found, archive.Export):
            raise BadLine("another export begins here; import one after the other")
        else:
            self._land()
            self._other(found)

    def _message(self, line: archive.Message) -> None:
        key = line.queue if line.queue is not None else topic_key(line.topic or "")
        if key != self._key:
            self._land()
            self._key = key
        landing, parcel = self._landing(key), archive.parcel_of(line)
        if parcel.id <= self._last.get(key, -1):
            raise BadLine("its message is older than the one before: an export has them in order")
        self._last[key] = parcel.id
        self.read += 1
        if parcel.id <= landing.before.id:
            self.skipped += 1
        else:
            landing.add(parcel)

    def _other(self, line: object) -> None:
        if isinstance(line, archive.End):
            self._end = line
        elif isinstance(line, archive.Dedup):
            key = OF_TOPICS if line.topic is not None else check_name(line.queue)
            incoming.remember(self._store, key, [archive.remembered_of(line)])
        elif isinstance(line, archive.Schedule):
            if not incoming.schedule(self._store, archive.scheduled_of(line)) and not self._resume:
                note(f"there is a schedule {line.schedule!r} already, which stays as it is")
        elif isinstance(line, archive.Queue):
            self._define(line.queue, f"queue {line.queue!r}", line, line.subscriptions)
        elif isinstance(line, archive.Topic):
            self._define(topic_key(line.topic), f"topic {line.topic!r}", line, {})

    def _define(
        self, key: str, what: str, line: archive.Queue | archive.Topic, matches: dict[str, dict[str, str]]
    ) -> None:  # fmt: skip
        found = outgoing.Definition(archive.definition_of(line), matches, 0)
        landing = self._landing(key)
        if carrying.bring_definition(self._store, key, found, landing):
            landing.look_again()
        elif not landing.is_begun:
            note(f"there is a {what} already, which keeps its options")

    def _landing(self, key: str) -> Landing:
        if key not in self._landings:
            if key[:1] != TOPIC_KEY:
                check_name(key)
            landing = Landing(self._store, key, self._head.store_id, key, self._head.id)
            if landing.before.id >= 0 and not self._again:
                self._refuse_to_repeat(key, landing)
            if self._again:
                landing.begin_again()
            self._landings[key] = landing
        return self._landings[key]

    def _refuse_to_repeat(self, key: str, landing: Landing) -> None:
        brought = (
            f"has brought {output.count(landing.before.messages, 'message')}, up to id {landing.before.id}:"
            " nothing was stored"
        )
        name = key.removeprefix(TOPIC_KEY)
        if landing.is_of_another:
            raise Failure(
                f"{name}: another export of the same store, or a copy of it, {brought}; this one may"
                " have more before that id, so it cannot go on there: --again stores all of it; `mq copy`"
                " brings what is new",
                USAGE,
            )
        if not self._resume:
            raise Failure(
                f"{name}: an earlier import of this export {brought}; --resume goes on behind them, --again"
                " stores all once more",
                USAGE,
            )

    def _land(self) -> None:
        if self._key:
            self._landings[self._key].store()

    def _check_end(self) -> None:
        if self._end is None:
            raise Failure(
                f"the export is cut off behind line {self._number:,}: what is there is stored; with the whole"
                f" of it, {GO_ON}"
            )
        if self._end.messages != self.read:
            raise Failure(
                f"the export had {output.count(self._end.messages, 'message')}, and {self.read:,} are here:"
                " lines are missing; what is here is stored"
            )

    def say(self, as_json: bool) -> None:
        stored = {key: each.stored for key, each in self._landings.items()}
        if as_json:
            for key, count in stored.items():
                of_topic = key[:1] == TOPIC_KEY
                output.json_line(
                    {
                        "queue": None if of_topic else key,
                        "topic": key[1:] if of_topic else None,
                        "stored": count,
                    }
                )
        else:
            text = f"{output.count(sum(stored.values()), 'message')} of {output.count(len(stored), 'queue')}"
            output.line(f"{text} imported")
        if self.skipped:
            note(f"{output.count(self.skipped, 'message')} an earlier import had stored")
