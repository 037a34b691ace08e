"""What options and arguments take: durations, sizes, instants, places, pairs and names.

--ttl 90s        seconds as a number, or with ms, s, m, h, d behind it
--max-bytes 1G   bytes, or with K, M, G behind it (of 1024)
--at 2030-01-31T06:30+01:00
--since 10m      an id; a time as above; or how long ago
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from mq.values import read_duration

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from mq import Broker

    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType

NONE: Final = object()  # what "none" on the command line becomes, where an option may be taken back
SIZES: Final = ("", "k", "m", "g", "t")
SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kmgt]?)(?:i?b)?", re.IGNORECASE)


class Param(ParamType):
    """Refuses a value by saying how one is written."""

    example: str

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):  # a default
            return value
        found = self.read(value.strip())
        if found is None:
            self.fail(f"{value!r}: write {self.example}", param, ctx)
        return found

    def read(self, text: str) -> Any:
        """The value; None if *text* is none."""
        raise NotImplementedError


class Duration(Param):
    name = "seconds"
    example = "seconds, or a number with ms, s, m, h or d behind it, as 90s or 1.5h"

    def read(self, text: str) -> float | None:
        return read_duration(text)


class Size(Param):
    name = "bytes"
    example = "bytes, or a number with K, M or G behind it, as 100M"

    def read(self, text: str) -> int | None:
        match = SIZE.fullmatch(text)
        if match is None:
            return None
        return int(float(match[1]) * 1024 ** SIZES.index(match[2].lower()))


class Instant(Param):
    name = "time"
    example = "a time with its zone, as 2030-01-31T06:30Z or 2030-01-31T06:30+01:00"

    def read(self, text: str) -> datetime | None:
        with suppress(ValueError):
            at = datetime.fromisoformat(text)
            return at if at.tzinfo else None
        return None


class Place(Param):
    """An id or a position in the log; or a time."""

    name = "place"
    example = "an id, a time with its zone as 2030-01-31T06:30Z, or how long ago, as 10m"

    def read(self, text: str) -> int | datetime | None:
        if text.isascii() and text.isdigit():
            return int(text)
        if (seconds := DURATION.read(text)) is not None:
            with suppress(OverflowError):
                return datetime.now(UTC) - timedelta(seconds=seconds)
            return None
        return INSTANT.read(text)


class Pair(Param):
    name = "key=value"
    example = "a name and a value with = between them, as source=shop"

    def read(self, text: str) -> tuple[str, str] | None:
        name, equals, value = text.partition("=")
        return (name, value) if name and equals else None


class Optional(ParamType):
    """A value, or `none`, which takes the option back."""

    def __init__(self, inner: ParamType) -> None:
        self._inner = inner
        self.name = inner.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value is NONE or value == "none":
            return NONE
        return self._inner.convert(value, param, ctx)


class Name(ParamType):
    """A name that a shell can complete, because the store knows it."""

    def __init__(self, name: str, names: Callable[[Broker, str], Iterable[str]]) -> None:
        self.name, self._names = name, names

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:  # fmt: skip
        from click.shell_completion import CompletionItem  # only needed where a shell asks

        import mq

        store = ctx.params.get("store") or ctx.find_root().params.get("store")
        # A shell that completes shows no errors: there is nothing to complete then.
        with suppress(mq.MqError, OSError):
            with mq.open(str(store), read_only=True) as broker:
                found = list(self._names(broker, incomplete))
            return [CompletionItem(name) for name in found if name.startswith(incomplete)]
        return []


class File(ParamType):
    """A path, that a shell completes.  Whether it is there, and may be used, is told by what uses it."""

    name = "text"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:  # fmt: skip
        from click.shell_completion import CompletionItem  # only needed where a shell asks

        return [CompletionItem(incomplete, type="file")]


DURATION: Final = Duration()
SIZE_TYPE: Final = Size()
INSTANT: Final = Instant()
PLACE: Final = Place()
PAIR: Final = Pair()
FILE: Final = File()
QUEUE: Final = Name("queue", lambda broker, prefix: broker.queues(prefix=prefix, limit=COMPLETIONS_MAX))
TOPIC: Final = Name("topic", lambda broker, _: broker.topics())
SCHEDULE: Final = Name("schedule", lambda broker, _: [each.name for each in broker.schedules()])
COMPLETIONS_MAX: Final = 500
