"""Values that are not what they look like, for every place where a caller gives one.

Each is made anew for each call: some answer differently each time they are asked.
`Boom` is what the values themselves raise: that is the caller's own error, and is to come out as it is.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from itertools import count
from typing import Any

import mq


class Boom(Exception):
    """Raised by a value's own method."""


def _boom(*args: object, **kwargs: object) -> Any:
    raise Boom


def _lie(*args: object, **kwargs: object) -> Any:
    return "a lie"


def _always(answer: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: answer


def _shifty(*answers: Any) -> Callable[..., Any]:
    turn = count()
    return lambda *args, **kwargs: answers[next(turn) % len(answers)]


NUMERIC = [
    "add",
    "radd",
    "sub",
    "rsub",
    "mul",
    "rmul",
    "truediv",
    "rtruediv",
    "floordiv",
    "mod",
    "neg",
    "pos",
]
ORDER = ["eq", "ne", "lt", "le", "gt", "ge"]
TURNED = [
    "int",
    "index",
    "float",
    "bool",
    "complex",
    "round",
    "trunc",
    "str",
    "repr",
    "format",
    "hash",
    "len",
]


def _dunders(names: list[str], method: Callable[..., Any]) -> dict[str, Any]:
    return {f"__{name}__": method for name in names}


def subclass(base: type, value: Any, **methods: Any) -> Any:
    """*value* as a subclass of *base* with these methods."""
    return type(f"{base.__name__.title()}Liar", (base,), methods)(value)


def liars_of(value: Any) -> Iterator[tuple[str, Any]]:
    """*value*, a plain one, as subclasses that say something else, or raise, when they are asked."""
    base = type(value)
    yield "subclass", subclass(base, value)
    yield "raises", subclass(base, value, **_dunders([*NUMERIC, *ORDER, *TURNED], _boom))
    yield (
        "equals all",
        subclass(base, value, __eq__=_always(True), __hash__=_always(0), __ne__=_always(False)),
    )
    yield "equals none", subclass(base, value, __eq__=_always(False), __hash__=_always(7))
    lies = {
        int: _dunders(["int", "index"], _shifty(2**70, -5)) | _dunders(NUMERIC, _always("a lie")),
        float: _dunders(["float"], _shifty(math.nan, 1e300)) | _dunders(NUMERIC, _always(math.nan)),
        str: {"encode": _always(b"\xff"), "split": _lie, "isprintable": _always(True), "strip": _lie,
              "__str__": _lie, "__format__": _lie, "__repr__": _always("a\nlie"), "__len__": _always(1),
              "__iter__": _always(iter(["a", "\ud800"])), "__add__": _lie, "__contains__": _always(False)},
        bytes: {"__bytes__": _lie, "__len__": _always(1), "__buffer__": _boom, "decode": _lie},
        bytearray: {"__bytes__": _lie, "__len__": _always(1), "__buffer__": _boom},
    }.get(base, {})  # fmt: skip
    yield "lies", subclass(base, value, **lies)
    if base in (int, float):
        orders = {f"__{name}__": _always(True) for name in ORDER} | {"__hash__": _always(1)}
        yield "in any order", subclass(base, value, **orders)
    if base in (int, str):
        yield "Enum", enum.Enum("E", {"NAME": value}, type=base).NAME
        yield "Enum of another value", _odd_enum(base, value)


def _odd_enum(base: type, value: Any) -> Any:
    """Its `_value_` is of another type, and its name is another one too."""

    class Odd(base, enum.Enum):  # type: ignore[misc]
        def __new__(cls, said: Any) -> Any:
            new = base.__new__(cls, said)
            new._value_ = ("another", "type")
            return new

        def __str__(self) -> str:
            return "an odd one"

        NAME = value

    return Odd.NAME


class Posing:
    """No more than its `__class__` says that it is something."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    @property
    def __class__(self) -> type:  # type: ignore[override]
        return self._kind


class Pairs(Mapping[str, str]):
    """Its items() are not its keys and values, and are others the next time."""

    def __init__(self, *answers: Any) -> None:
        self._turn, self._answers = count(), answers

    def items(self) -> Any:
        answer = self._answers[next(self._turn) % len(self._answers)]
        return answer() if callable(answer) else answer

    def __getitem__(self, key: str) -> Any:
        return 5

    def __iter__(self) -> Iterator[Any]:
        return iter([1, 2])

    def __len__(self) -> int:
        return 1


class Several(list[Any]):
    """Goes through other things each time, and does not know how many they are."""

    def __init__(self, *answers: list[Any]) -> None:
        super().__init__([b"never looked at"])
        self._turn, self._answers = count(), answers

    def __iter__(self) -> Iterator[Any]:
        return iter(self._answers[next(self._turn) % len(self._answers)])

    __len__ = __length_hint__ = __bool__ = _boom


def breaking(*values: Any) -> Iterator[Any]:
    yield from values
    raise Boom


class Zone(tzinfo):
    def __init__(self, *offsets: Any) -> None:
        self._next = _shifty(*offsets)

    def utcoffset(self, at: datetime | None) -> Any:
        answer = self._next()
        return answer() if callable(answer) else answer


class Moody(datetime):
    utcoffset = timestamp = replace = astimezone = date = time = __sub__ = _boom  # type: ignore[assignment]
    year = month = day = tzinfo = property(_boom)  # type: ignore[assignment]


class Path:
    """Is another one each time that it is asked."""

    def __init__(self, *names: Any) -> None:
        self._next = _shifty(*names)

    def __fspath__(self) -> Any:
        answer = self._next()
        return answer() if callable(answer) else answer


class Slack(mq.Backoff):
    """Its fields say something else than it holds."""

    initial = property(_always("soon"))  # type: ignore[assignment]
    factor = property(_boom)  # type: ignore[assignment]
    __iter__ = _always(iter([1, 2]))  # type: ignore[assignment]
    __len__ = _always(7)  # type: ignore[assignment]


# Of any kind: for every argument.
STRANGE: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "-inf": lambda: -math.inf,
    "-1": lambda: -1,
    "1e300": lambda: 1e300,
    "5e-324": lambda: 5e-324,
    "2**64": lambda: 2**64,
    "-2**63": lambda: -(2**63),
    "10**5000": lambda: 10**5000,
    "-10**5000": lambda: -(10**5000),
    "empty text": lambda: "",
    "half a character": lambda: "\ud800",
    "NUL": lambda: "\0",
    "long text": lambda: "x" * 70_000,
    "bytes": lambda: b"x",
    "object": object,
    "type": lambda: int,
    "tuple": lambda: (1, 2),
    "list": lambda: [1],
    "dict": lambda: {"a": 1},
    "complex": lambda: 1j,
    "a class with a strange name": lambda: type("a\nname", (), {})(),
    "raises whatever it is asked": lambda: type("Raising", (), _dunders([*ORDER, *TURNED], _boom))(),
    **{f"poses as {kind.__name__}": lambda kind=kind: Posing(kind) for kind in (
        str, int, float, bytes, datetime, dict, list, mq.Queue, mq.Delivery, mq.Backoff, memoryview)},
}  # fmt: skip


def numbers(value: Any) -> dict[str, Callable[[], Any]]:
    return _each(float(value)) | _each(int(value))


def texts(value: str) -> dict[str, Callable[[], Any]]:
    return _each(value)


def _each(value: Any) -> dict[str, Callable[[], Any]]:
    names = [name for name, _ in liars_of(value)]
    return {f"{type(value).__name__} {name}": lambda name=name: dict(liars_of(value))[name] for name in names}


def released() -> memoryview:
    view = memoryview(b"gone")
    view.release()
    return view


BODIES: dict[str, Callable[[], Any]] = {
    **_each("text"), **_each(b"bytes"), **_each(bytearray(b"bytes")), **_each(5), **_each(0.5),
    "every other byte": lambda: memoryview(b"abcdef")[::2],
    "released": released,
    "list of liars": lambda: [liar for _, liar in liars_of("text")],
    "dict of liars": lambda: {"key": subclass(str, "text", __str__=_lie, encode=_boom)},
    "breaks": lambda: breaking(1, 2),
}  # fmt: skip

LABELS = texts("label")
INSTANTS: dict[str, Callable[[], Any]] = {
    "moody": lambda: Moody(2030, 1, 1, tzinfo=UTC),
    "naive": lambda: datetime(2030, 1, 1),
    "year 1": lambda: datetime.min.replace(tzinfo=UTC),
    "year 10000": lambda: datetime.max.replace(tzinfo=timezone(timedelta(hours=-23))),
    "zone breaks": lambda: datetime(2030, 1, 1, tzinfo=Zone(_boom)),
    "zone lies": lambda: datetime(2030, 1, 1, tzinfo=Zone(5)),
    "zone of 400 days": lambda: datetime(2030, 1, 1, tzinfo=Zone(timedelta(days=400))),
    "zone shifts": lambda: datetime(2030, 1, 1, tzinfo=Zone(None, timedelta(0), 5)),
    "zone shifts back": lambda: datetime(2030, 1, 1, tzinfo=Zone(timedelta(0), None, 5)),
}
HEADERS: dict[str, Callable[[], Any]] = {
    "items change": lambda: Pairs([("a", "b")], [(1, 2)]),
    "items are no pairs": lambda: Pairs([1, 2]),
    "items are triples": lambda: Pairs([("a", "b", "c")]),
    "items are nothing": lambda: Pairs(5),
    "items break": lambda: Pairs(lambda: breaking(("a", "b"))),
    "items are bytes": lambda: Pairs([(b"a", b"b")]),
    "items are text": lambda: Pairs(["ab"]),
    "a dict with other items": lambda: type("D", (dict,), {"items": lambda self: [("a", "b")]})({"a": 5}),
    **{f"keys and values: {name}": lambda make=make: {make(): make()} for name, make in LABELS.items()
       if name != "str raises"},
    **{f"values: {name}": lambda make=make: {"a": make()} for name, make in LABELS.items()},
}  # fmt: skip
BACKOFFS: dict[str, Callable[[], Any]] = {
    "fields lie": lambda: Slack(1, 2, 60, 0.1),
    "too short": lambda: tuple.__new__(mq.Backoff, (1, 2)),
    "too long": lambda: tuple.__new__(mq.Backoff, (1, 2, 3, 0.1, 5)),
    "a tuple": lambda: (1, 2, 60, 0.1),
    **{f"{field} {name}": lambda field=field, make=make: mq.Backoff()._replace(**{field: make()})
       for field in mq.Backoff._fields for name, make in numbers(1).items()},
    **{f"{name} for all": lambda make=make: mq.Backoff(*[make()] * 4) for name, make in STRANGE.items()},
}  # fmt: skip
