"""Handler: a function of the program, and what it wants to be given.

def bill(order: Order)                 the body, decoded and validated into Order
def bill(delivery: Delivery[Order])    the delivery: its body too, and the right to settle it
def bill(orders: list[Order])          with batch=: several of either
async def …                            the same, as a task of the event loop
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from mq import exact
from mq.errors import BadBody, UsageError

from .asked import Held, Source, Wrap


class Wanted(NamedTuple):
    """What a function wants to be given."""

    deliveries: bool  # and not their bodies
    body_type: Any  # None: whatever it is


class Handler:
    def __init__(
        self, function: Callable[..., object], wanted: Wanted, source: Source, *, concurrency: int,
        batch: int | None, linger: float, prefetch: int | None, extend: bool,
    ) -> None:  # fmt: skip
        self.function: Final = function
        self.name: Final = str(getattr(function, "__qualname__", None) or type(function).__qualname__)
        self.source: Final = source
        self.is_async: Final = is_async(function)
        self.concurrency, self.batch, self.linger, self.extend = concurrency, batch, linger, extend
        each = batch or 1
        # How many calls' worth of messages each slot may have, the one that it works on included.
        self.depth = max(1, (prefetch or 0) // (concurrency * each))
        self.waiting: list[Held] = []  # of a batch that is not full yet
        self.full_at = 0.0  # when it goes as it is, monotonic seconds
        self._wanted = wanted

    def call(self, held: Sequence[Held], wraps: Sequence[Wrap], unfit: dict[int, BadBody]) -> object:
        """Call the function, inside all of *wraps*, the first outermost.

        A body of a batch that does not fit is left out, and noted in *unfit* by its message's id: it would
        take all the others of each batch that it is in to the dead letters.
        """
        if self.batch is not None and not self._wanted.deliveries:
            held = [each for each in held if _fits(each, unfit)]
            if not held:
                return None
        given = held[0] if self.batch is None else list(held)
        call: Callable[[], object] = partial(self._call, held)
        for wrap in reversed(wraps):
            call = partial(wrap, given, call)
        return call()

    def _call(self, held: Sequence[Held]) -> object:
        arguments = held if self._wanted.deliveries else [each.body for each in held]
        return self.function(arguments[0] if self.batch is None else list(arguments))


def _fits(each: Held, unfit: dict[int, BadBody]) -> bool:
    try:
        each.body  # noqa: B018  # it is decoded when it is first read
    except BadBody as error:
        unfit[each.id] = error
        return False
    return True


def is_async(function: object) -> bool:
    """Whether calling it gives something to await."""
    while isinstance(function, partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  # an object with an `async def __call__`
    )


def wanted_by(
    function: Callable[..., object], batch: int | None, delivery_type: type, message_type: type
) -> Wanted:  # fmt: skip
    """What *function* wants, by the annotation of its first parameter; UsageError if it takes none.

    *delivery_type*: a *message_type*, the only one that it may be given.
    """
    name = getattr(function, "__qualname__", repr(function))
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise UsageError(f"a handler is a function that takes a message, not {name}") from None
    takes = [each for each in parameters if each.kind not in (each.KEYWORD_ONLY, each.VAR_KEYWORD)]
    required = [each for each in parameters if each.default is each.empty and each.kind not in (
        each.VAR_POSITIONAL, each.VAR_KEYWORD)]  # fmt: skip
    if not takes or len(required) > 1:
        raise UsageError(f"a handler is called with one argument, and {name} takes {len(required) or 'none'}")
    annotation = _annotation(function, takes[0])
    if batch is not None:
        annotation = _item(name, annotation)
    if annotation is delivery_type:
        return Wanted(True, None)
    if typing.get_origin(annotation) is delivery_type:
        (body_type,) = typing.get_args(annotation)
        return Wanted(True, None if body_type is Any else body_type)
    if any(_is_message(each, message_type) for each in (annotation, *typing.get_args(annotation))):
        # It would be taken for the type of a body, which no message fits: all would die.
        raise UsageError(
            f"{name} gets a body, or an mq.{delivery_type.__name__}, or with batch= a list of either: write"
            f" that as the type of its argument, and not {exact.shown(annotation)}"
        )
    return Wanted(False, None if annotation in (Any, object) else annotation)


def _is_message(annotation: Any, message_type: type) -> bool:
    kind = typing.get_origin(annotation) or annotation
    return isinstance(kind, type) and issubclass(kind, message_type)


def _annotation(function: Callable[..., object], parameter: inspect.Parameter) -> Any:
    """The annotation of *parameter*; Any if it has none, or one that names what is not there."""
    bare: Any = function
    while isinstance(bare, partial):
        bare = bare.func
    if not inspect.isroutine(bare):
        bare = type(bare).__call__ if not inspect.isclass(bare) else bare.__init__
    try:
        return typing.get_type_hints(bare).get(parameter.name, Any)
    except (NameError, TypeError, AttributeError):
        return Any if isinstance(parameter.annotation, str) or parameter.annotation is parameter.empty else (
            parameter.annotation)  # fmt: skip


def _item(name: str, annotation: Any) -> Any:
    """Of what an annotated batch is a list of."""
    if annotation is Any or annotation is list:
        return Any
    arguments = typing.get_args(annotation)
    if len(arguments) != 1:
        raise UsageError(f"{name} gets a batch, which is a list: annotate its argument as list[…]")
    return arguments[0]
