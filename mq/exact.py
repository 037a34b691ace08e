"""Exact builtins: what callers give, made plain before anything is checked.

A subclass may answer every question as it likes, and differently each time.  A `str` that
is an Enum prints as something else than it is; a number may lie about `<`; a list of pairs
may change while it is checked.  So no method of the value is asked what the value is.  Its
type is asked for with `type`, and its content is copied once, by the builtin's own method,
which a subclass cannot override.  What is checked is that copy, and it is what is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeGuard, TypeVar

from mq.errors import UsageError

T = TypeVar("T")
SHOWN_MAX: Final = 100  # characters of a value in an error
TOLD_MAX: Final = 300  # characters of an error in another one


def is_a(value: object, kind: type[T]) -> TypeGuard[T]:
    """Whether *value* is a *kind*, whatever its `__class__` says."""
    return issubclass(type(value), kind)


def kind(value: object) -> str:
    """The name of its type, to be told in an error."""
    name: str = type.__dict__["__name__"].__get__(type(value))
    return name if name.isprintable() else repr(name)


def shown(value: object) -> str:
    """A value, to be told in an error: on one line, and not all of it if it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write out numbers of more than some thousand digits
        return "a number of thousands of digits"
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= SHOWN_MAX else text[:SHOWN_MAX] + "…"


def told(error: BaseException) -> str:
    """What *error* says, on one line."""
    said = " ".join(str(error).split())
    said = said if said.isprintable() else repr(said)
    return said if len(said) <= TOLD_MAX else said[:TOLD_MAX] + "…"


def text(name: str, value: object) -> str:
    """The characters of *value*; UsageError if it is not text."""
    if type(value) is str:
        return value
    if not is_a(value, str):
        raise UsageError(f"{name} is text, not {kind(value)}")
    return str.__str__(value)


def one_of(name: str, value: object, known: tuple[str, ...]) -> str:
    """The one of *known* that *value* is; UsageError if it is none."""
    listed = " or ".join(map(repr, known))
    if not is_a(value, str):
        raise UsageError(f"{name} is {listed}, not {kind(value)}")
    word = text(name, value)
    if word not in known:
        raise UsageError(f"{name} is {listed}, not {shown(word)}")
    return word


def whole(name: str, value: object) -> int:
    """The whole number that *value* is; UsageError if it is none.  A bool is none."""
    if type(value) is int:
        return value
    if type(value) is bool or not is_a(value, int):
        raise UsageError(f"{name} is a whole number, not {kind(value)}")
    return int.__index__(value)


def number(name: str, value: object, what: str = "number") -> int | float:
    """The number that *value* is; UsageError if it is none.  It may still be NaN, or infinite."""
    if type(value) is float or type(value) is int:
        return value
    if is_a(value, float):
        return float.__float__(value)
    if type(value) is bool or not is_a(value, int):
        raise UsageError(f"{name} is a {what}, not {kind(value)}")
    return int.__index__(value)


def data(value: object) -> bytes | None:
    """The bytes of a bytes, bytearray or memoryview; None if it is none of them."""
    if type(value) is bytes:
        return value
    # A slice of all of it is made by the builtin itself: `bytes(value)` would call a subclass's __bytes__,
    # or its __buffer__.
    if is_a(value, bytes):
        return bytes.__getitem__(value, slice(None))
    if is_a(value, bytearray):
        return bytes(bytearray.__getitem__(value, slice(None)))
    if type(value) is memoryview:
        try:
            return bytes(value)
        except ValueError as error:  # it was released
            raise UsageError(f"the memoryview cannot be read: {error}") from None
    return None


def pairs(name: str, value: object) -> list[tuple[object, object]]:
    """What a mapping lists as its items, asked for once; UsageError if it is no mapping."""
    if type(value) is dict:
        return list(value.items())
    if not is_a(value, Mapping):  # type: ignore[type-abstract]
        raise UsageError(f"{name} are a mapping of text to text, not {kind(value)}")
    listed: list[tuple[object, object]] = []
    items = value.items()
    if not is_a(items, Iterable):  # type: ignore[type-abstract]
        raise UsageError(f"the items of {name} are pairs, not {kind(items)}")
    for each in items:
        if not is_a(each, tuple) or tuple.__len__(each) != 2:
            raise UsageError(f"the items of {name} are pairs, not {kind(each)}")
        listed.append((tuple.__getitem__(each, 0), tuple.__getitem__(each, 1)))
    return listed
