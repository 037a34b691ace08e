"""help(mq) tells what a caller needs: arguments, units, defaults, and what is raised."""

from __future__ import annotations

import inspect
import pickle
import pydoc
import re
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

import pytest

import mq

NEEDS_NO_ERRORS = {"Backoff.delay"}
KINDS = {name: each for name in mq.__all__ if isinstance(each := getattr(mq, name), type)}


def help_on(thing: object) -> str:
    return pydoc.plain(pydoc.render_doc(thing))


def test_help_on_the_package_has_all_names() -> None:
    """But for the errors, and the asyncio face, which has the same ones."""
    told = set(re.findall(r"\w+", mq.__doc__ or ""))
    errors = {name for name, kind in KINDS.items() if issubclass(kind, mq.MqError)}
    assert set(mq.__all__) - told - errors == {name for name in KINDS if name.startswith("Async")} - told


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """All that a program calls, by name."""
    for name in mq.__all__:
        each = getattr(mq, name)
        if inspect.isfunction(each):
            yield name, each
        elif isinstance(each, type) and each.__module__ == "mq":
            for method, work in vars(each).items():
                if not inspect.isfunction(work) or method.startswith("_"):
                    continue
                if not says_where_it_is_told(name, method, work):
                    yield f"{name}.{method}", work


def says_where_it_is_told(name: str, method: str, work: Callable[..., Any]) -> bool:
    """Whether it is a method of the asyncio face, and its docstring names the one that it awaits."""
    told = name.removeprefix("Async")
    return told != name and f"see `mq.{told}.{method}`" in " ".join((inspect.getdoc(work) or "").split())


def properties() -> Iterator[tuple[str, property]]:
    for name, kind in KINDS.items():
        for attribute, found in inspect.getmembers_static(kind):
            if isinstance(found, property) and not attribute.startswith("_"):
                yield f"{name}.{attribute}", found


def fields_of(kind: type) -> tuple[str, ...]:
    """What a class holds that is no method: the keys of options, the fields of a tuple or a message."""
    named = getattr(kind, "_fields", None) or getattr(kind, "__struct_fields__", ())
    keys = kind.__annotations__ if hasattr(kind, "__total__") else ()
    return tuple(name for name in [*named, *keys] if not name.startswith("_"))


def lacking(name: str, work: Callable[..., Any]) -> Iterator[str]:
    """What the docstring of *work* does not tell."""
    said = inspect.getdoc(work) or ""
    if not said:
        yield f"{name} has no docstring"
    for argument in inspect.signature(work).parameters:
        if argument != "self" and f"*{argument}*" not in said:
            yield f"{name} does not tell of its argument {argument}"
    raised = re.findall(r"\b[A-Z]\w+", said.partition("Raises")[2])
    errors = [each for each in raised if issubclass(KINDS.get(each, object), mq.MqError)]
    if not errors and name not in NEEDS_NO_ERRORS:
        yield f"{name} does not tell what it raises"


def test_every_function_tells_of_its_arguments_and_errors():
    found = [missing for name, work in functions() for missing in lacking(name, work)]
    assert not found, "\n".join(found)


def test_what_is_not_told_is_found():
    def work(limit: int) -> None:
        """Take some."""

    assert list(lacking("work", work)) == [
        "work does not tell of its argument limit",
        "work does not tell what it raises",
    ]


def test_every_property_tells_what_it_is():
    names = [name for name, _ in properties()]
    assert {"Broker.store_id", "Queue.name", "Message.failures", "Delivery.receipt"} <= set(names)
    assert not [name for name, found in properties() if not inspect.getdoc(found)]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_class_tells_what_it_is_and_of_each_of_its_fields(kind):
    said = kind.__doc__ or ""
    assert said
    assert not said.startswith(f"{kind.__name__}("), "what namedtuple writes, if nothing is written"
    if kind not in (mq.Delivery, mq.AsyncDelivery):  # its fields are a message's
        lines = [line.split()[0] for line in said.splitlines() if line.strip()]
        assert not [field for field in fields_of(kind) if field not in lines]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_class_is_called_as_it_is_imported(kind):
    assert help_on(kind).splitlines()[0].endswith(f"class {kind.__name__} in module mq")
    assert pickle.loads(pickle.dumps(kind)) is kind
    get_type_hints(kind)


def test_the_package_names_what_to_begin_with():
    said = help_on(mq)
    assert all(
        word in said for word in ("mq.open(", "Durations are float seconds", "store_id", "dedup_window")
    )
