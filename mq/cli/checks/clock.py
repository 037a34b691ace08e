"""The clocks: is the wall clock set, has it jumped, and how far is store time from it?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from mq.cli import output
from mq.cli.checks.finding import Finding
from mq.cli.checks.subject import Subject
from mq.engine import clock, looking
from mq.storage import paths, shared
from mq.storage.rotation import SKEW_MS

SET_IT: Final = "set the clock (NTP); deliveries and their timeouts do not depend on it"
BY_CLOCK: Final = "delays, dates and ttl, which follow the clock"


def check(subject: Subject) -> Iterator[Finding]:
    if time.time() * 1000 < clock.SET_MS:
        yield Finding(
            "clock-unset", "error", f"the clock of this computer says {output.instant(_wall_ms())}",
            SET_IT,
        )  # fmt: skip
    elif subject.held and subject.words()[shared.BOOT] == clock.CUSTOM:
        yield Finding(
            "clock-custom", "note", "a process has it open with clock=: its time is what that says",
            "nothing needs to be done", paths.mark(subject.path),
        )  # fmt: skip
    else:
        yield from _check_world(subject)
        yield from _check_skew(subject)


def _wall_ms() -> int:
    return max(0, int(time.time() * 1000))


def _check_world(subject: Subject) -> Iterator[Finding]:
    """Processes that share a store go by one monotonic clock."""
    words, (boot, space) = subject.words(), subject.disk.clocks()
    path = paths.mark(subject.path)
    if not subject.held or not words[shared.BOOT]:
        return
    if boot and boot != words[shared.BOOT]:
        yield Finding(
            "boot", "error", "it is open on another computer, or virtual machine, that shares this directory",
            "close it there, and use a store on one computer only", path,
        )  # fmt: skip
    elif space and words[shared.TIMESPACE] not in (0, space):
        yield Finding(
            "timespace", "warning", "it is open in a process in another time namespace: none joins from here",
            "run all of its processes in one time namespace", path,
        )  # fmt: skip


def _check_skew(subject: Subject) -> Iterator[Finding]:
    """*skew*: how far the wall clock is ahead of store time; the log says how far it was."""
    newest = subject.newest()
    if not subject.broker or not newest:
        return
    store = subject.broker._store
    then, now = looking.skew_ms(store), store.clock.skew_ms()
    last = store.replica.log.reader.path(newest)
    if then - now > SKEW_MS:
        yield Finding(
            "clock-behind", "warning",
            f"the clock is {_span(then - now)} behind what the store has seen: it was set back, or is not"
            f" set: {BY_CLOCK}, come late", SET_IT, last,
        )  # fmt: skip
    elif now - then > SKEW_MS:
        closed = "" if subject.held else ", or the store was closed for longer than a year"
        yield Finding(
            "clock-jumped", "warning",
            f"the clock was set forward by {_span(now - then)} since the store was written to{closed}: that"
            f" moves {BY_CLOCK}", "nothing needs to be done if it is right now; else set it (NTP)", last,
        )  # fmt: skip
    elif abs(now) > SKEW_MS:
        way = "behind" if now > 0 else "ahead of"
        yield Finding(
            "store-time", "note",
            f"store time is {_span(abs(now))} {way} the clock, which was set since the store was made, or the"
            " computer slept", "nothing needs to be done: `mq` shows times by the clock", last,
        )  # fmt: skip


def _span(ms: int) -> str:
    return output.duration(ms / 1000)
