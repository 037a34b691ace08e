"""Settings: which store, and how it is used, as a URL and the options of a task library say.

    mq:///data                relative to the working directory
    mq:////var/data           from the root
    mq:///data?sync=0.1       with options

What the URL says counts, then the library's options.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar, Final, NamedTuple, Self, get_type_hints
from urllib.parse import parse_qsl, unquote

import msgspec

from mq.api.broker import Sync
from mq.api.options import QueueOptions
from mq.errors import UsageError
from mq.storage import paths

SCHEME: Final = "mq://"
FORMS: Final = "write mq:///data (relative to the working directory) or mq:////var/data (from the root)"


class Address(NamedTuple):
    """A URL, taken apart."""

    path: str
    options: Mapping[str, str]


def parse(url: str) -> Address:
    """Raises UsageError."""
    if not url.startswith(SCHEME):
        raise UsageError(f"{url!r} is not a store's URL: {FORMS}")
    place, _, query = url[len(SCHEME) :].partition("?")
    if not place.startswith("/") or place == "/":
        raise UsageError(f"{url!r} names no directory: {FORMS}")
    return Address(unquote(place[1:]), dict(parse_qsl(query, keep_blank_values=True)))


class Settings(msgspec.Struct, frozen=True):
    """path                  the store's directory
    sync                  "always" (the default), seconds, "never": as of `mq.open`
    visibility_timeout    seconds (as the queues have it, 30 at first) after which the messages of a worker
                          that died are delivered again
    max_attempts          N: after so many failed deliveries to the dead letters; as the queues have it
    """

    path: str
    sync: Sync = "always"
    visibility_timeout: float | None = None
    max_attempts: int | None = None

    EXPECTED: ClassVar[Mapping[str, str]] = {
        "sync": '"always", "never" or seconds',
        "visibility_timeout": "a number of seconds",
        "max_attempts": "a whole number",
    }

    @classmethod
    def of(cls, place: str | os.PathLike[str], **options: object) -> Self:
        """*place*: a URL or a directory; what a URL says counts, then *options* that are not None.

        An option may be text, as in a URL.  What is relative is of the working directory now.

        Raises UsageError, StorageError (there is no working directory).
        """
        path, asked = parse(place) if isinstance(place, str) and "://" in place else (os.fspath(place), {})
        if path == ":memory:":
            raise UsageError("a store in memory is of one process: give a directory")
        kinds, given = get_type_hints(cls), dict[str, Any]()
        for name, value in {**options, **asked}.items():
            if name not in cls.EXPECTED:
                raise UsageError(
                    f"{place!r}: {name} is no option of a store, those are {', '.join(sorted(cls.EXPECTED))}"
                )
            if value is not None:
                try:
                    given[name] = msgspec.convert(value, kinds[name], strict=False)
                except msgspec.ValidationError:
                    raise UsageError(f"{place!r}: {name} is {cls.EXPECTED[name]}, not {value!r}") from None
        return cls(paths.absolute(path), **given)

    def queue_options(self) -> QueueOptions:
        """What to declare queues with: no more than was asked for."""
        options: QueueOptions = {}
        if self.visibility_timeout is not None:
            options["visibility_timeout"] = self.visibility_timeout
        if self.max_attempts is not None:
            options["max_attempts"] = self.max_attempts
        return options
