"""The house stands: imports point down only, and the two lower floors know nothing of each other.

The source is parsed, not imported.  Each rule is also shown a tree that breaks it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "mq"

# From the ground up.  A package stands for all that is in it; inside one the only rule is
# that nothing goes in a circle.  A new package, or a module beside them, gets its place here.
FLOORS = [
    ["mq.errors", "mq.forks", "mq.hold", "mq.notes", "mq.vendored", "mq.weakly"],
    ["mq.exact"],
    ["mq.instants"],
    ["mq.storage", "mq.delivery"],
    ["mq.engine", "mq.workers"],
    ["mq.nats"],
    ["mq.api"],
    ["mq.aio"],
    ["mq"],
    ["mq.contrib", "mq.metrics", "mq.otel", "mq.values"],
    ["mq.serve"],
    ["mq.cli"],
    ["mq.__main__"],
]

# Pure: what takes a file, a clock, a thread, a lock or chance is not in this list.
DELIVERY_MAY_IMPORT = {
    "__future__", "array", "bisect", "collections", "dataclasses", "datetime", "enum", "functools", "heapq",
    "itertools", "math", "msgspec", "operator", "struct", "typing", "mq.errors", "mq.vendored", "mq.delivery",
}  # fmt: skip
DOES_IO = {"open", "print", "input", "exec", "eval", "__import__"}
READS_A_CLOCK = {"now", "today", "utcnow"}  # of datetime and date

STORAGE_DOES_NOT_SAY = re.compile(r"queue|topic|consumer", re.IGNORECASE)

# A turn is written out there; all other operations are functions that a turn runs.  A store is opened and
# closed between turns, and the replica comes in again when it was forked.
TURNS_BY_HAND = {
    "mq.engine.hot",
    "mq.engine.turn",
    "mq.engine.store",
    "mq.engine.opening",
    "mq.engine.closing",
    "mq.engine.child",
    "mq.engine.replica",
}
STEPS_OF_A_TURN = {"enter", "enter_to_look", "enter_with_lock", "leave"}

# What is written and applied is the engine's: what users hold asks it.
API_DOES_NOT_TOUCH = {"applied", "committer", "log", "mark", "mutex", "page", "replica", "state", "turn"}
API_MAY_HAVE_STATE = {"self"}  # a message's is "ready", "delayed" or "in_flight"
API_DOES_NOT_IMPORT = (
    "mq.storage", "mq.delivery.fold", "mq.delivery.plan", "mq.delivery.records", "mq.delivery.state"
)  # fmt: skip

# What a page is called: a word of it is asked for by its name, from mq/storage/shared.py.
PAGES = {"mark", "_mark", "page", "_page", "words"}

Sources = dict[str, str]  # text by module name
Rule = Callable[[Sources], Iterator[str]]


@cache
def nodes(text: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(text)))


def read_sources() -> Sources:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = ["mq", *path.relative_to(ROOT).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


# ── what a module imports ──────────────────────────────────────────────────────────


def imports(name: str, sources: Sources, *, for_types: bool = False) -> Iterator[str]:
    """The modules that *name* imports, at its head or inside a function.

    Those under `if TYPE_CHECKING` count only if asked for.
    """
    package = name if any(other.startswith(name + ".") for other in sources) else name.rpartition(".")[0]
    skipped: set[ast.AST] = set()
    for node in nodes(sources[name]):
        if not for_types and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(each for child in node.body for each in ast.walk(child))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                home = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*home, base] if base else home)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in sources else base


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def floor(name: str) -> tuple[int, str] | None:
    """The number of the floor, and the module or package on it that *name* belongs to."""
    places = [(number, each) for number, floor in enumerate(FLOORS) for each in floor if is_in(name, each)]
    best = max(places, key=lambda place: len(place[1]), default=None)
    return best if best and (best[1] != "mq" or name == "mq") else None


# ── the rules ──────────────────────────────────────────────────────────────────────


def pointing_up(sources: Sources) -> Iterator[str]:
    for name in sources:
        mine = floor(name)
        if mine is None:
            yield f"{name} has no floor: give it its place in FLOORS"
            continue
        for target in imports(name, sources, for_types=True):
            theirs = floor(target) if is_in(target, "mq") else None
            if theirs and theirs[1] != mine[1] and theirs[0] >= mine[0]:
                yield f"{name} imports {target}, which is not below it"


def circles(sources: Sources) -> Iterator[str]:
    below = {name: set(imports(name, sources, for_types=True)) & sources.keys() - {name} for name in sources}
    while leaves := [name for name, targets in below.items() if not targets & below.keys()]:
        for name in leaves:
            del below[name]
    if below:
        yield f"a circle of imports goes through some of {sorted(below)}"


def lower_floors_meeting(sources: Sources) -> Iterator[str]:
    for one, other in (("mq.storage", "mq.delivery"), ("mq.delivery", "mq.storage")):
        for name in sources:
            if is_in(name, one):
                for target in imports(name, sources, for_types=True):
                    if is_in(target, other):
                        yield f"{name} imports {target}: they must not know each other"


def impure_delivery(sources: Sources) -> Iterator[str]:
    for name in sources:
        if not is_in(name, "mq.delivery"):
            continue
        for target in imports(name, sources, for_types=True):
            if not any(is_in(target, allowed) for allowed in DELIVERY_MAY_IMPORT):
                yield f"{name} imports {target}: delivery is pure, time and chance are arguments"
        for node in nodes(sources[name]):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in DOES_IO:
                yield f"{name} calls {node.func.id}: delivery is pure"
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in READS_A_CLOCK:
                yield f"{name} calls {ast.unparse(node.func)}: delivery is pure"


def words_of(text: str) -> Iterator[tuple[str, ast.AST]]:
    """Every name and every text in the code, docstrings aside."""
    docstrings = set()
    for node in nodes(text):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            # A text that stands alone is a comment, wherever it stands.
            docstrings.update(id(each.value) for each in body if isinstance(each, ast.Expr))
        for field in ("id", "attr", "arg", "name", "asname", "module"):
            if isinstance(word := getattr(node, field, None), str):
                yield word, node
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value, node


def storage_speaking_of_queues(sources: Sources) -> Iterator[str]:
    """All but the record's number of that name: a plain `queue`, declared as an int."""
    for name in sources:
        if not is_in(name, "mq.storage"):
            continue
        for word, node in words_of(sources[name]):
            is_number = word in ("queue", "_queue") and isinstance(
                node, ast.Name | ast.Attribute | ast.keyword
            )
            if isinstance(node, ast.arg) and word == "queue":
                is_number = node.annotation is not None and ast.unparse(node.annotation) == "int"
            if STORAGE_DOES_NOT_SAY.search(word) and not is_number:
                yield f"{name}, line {getattr(node, 'lineno', 0)}, says {word!r}: storage knows records only"


def api_touching_the_store(sources: Sources) -> Iterator[str]:
    for name in sources:
        if not is_in(name, "mq.api"):
            continue
        for target in imports(name, sources, for_types=True):
            if any(is_in(target, banned) for banned in API_DOES_NOT_IMPORT):
                yield f"{name} imports {target}: what users hold sees no log, page or state"
        for node in nodes(sources[name]):
            if not isinstance(node, ast.Attribute) or node.attr not in API_DOES_NOT_TOUCH:
                continue
            if node.attr != "state" or getattr(node.value, "id", "") not in API_MAY_HAVE_STATE:
                yield f"{name}, line {node.lineno}: {ast.unparse(node)} is the engine's"


def turns_by_hand(sources: Sources) -> Iterator[str]:
    for name in sources:
        if name in TURNS_BY_HAND or not any(is_in(name, each) for each in ("mq.engine", "mq.api", "mq.cli")):
            continue
        for node in nodes(sources[name]):
            if isinstance(node, ast.Attribute) and node.attr in STEPS_OF_A_TURN:
                yield f"{name}, line {node.lineno}: {ast.unparse(node)}: let a turn run a function"


def is_number(node: ast.AST, least: int = 0) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int and node.value >= least


def numbers_with_names(sources: Sources) -> Iterator[str]:
    """Words of the page, and kinds of records, written as numbers: each has a name."""
    for name in sources:
        for node in nodes(sources[name]):
            if isinstance(node, ast.Subscript) and is_number(node.slice):
                value = node.value
                word = value.id if isinstance(value, ast.Name) else getattr(value, "attr", "")
                if word in PAGES:
                    yield f"{name}, line {node.lineno}, numbers a word of the page: {ast.unparse(node)}"
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "append":
                if len(node.args) == 5 and is_number(node.args[1]):
                    yield f"{name}, line {node.lineno}, numbers the kind of a record: {ast.unparse(node)}"
            elif isinstance(node, ast.Compare):
                word = getattr(node.left, "id", getattr(node.left, "attr", ""))
                if word == "kind" and any(is_number(each, 1) for each in node.comparators):
                    yield f"{name}, line {node.lineno}, numbers the kind of a record: {ast.unparse(node)}"


RULES: list[Rule] = [
    pointing_up,
    circles,
    lower_floors_meeting,
    impure_delivery,
    storage_speaking_of_queues,
    numbers_with_names,
    api_touching_the_store,
    turns_by_hand,
]


@pytest.mark.parametrize("rule", RULES)
def test_the_house_keeps_the_rule(rule: Rule) -> None:
    assert list(rule(read_sources())) == []


def test_the_sources_are_found() -> None:
    assert {
        "mq",
        "mq.errors",
        "mq.storage.log",
        "mq.delivery.state",
        "mq.api.broker",
    } <= read_sources().keys()


@pytest.mark.parametrize(
    "rule, module, planted",
    [
        pytest.param(pointing_up, "mq.errors", "import mq.api.broker", id="up, at the head"),
        pytest.param(pointing_up, "mq.engine.clock", "def f():\n    from mq import api", id="in a function"),
        pytest.param(pointing_up, "mq.engine.store", "from ..api.message import Message", id="sideways"),
        pytest.param(pointing_up, "mq.api.broker", "from .. import open", id="up, to the package itself"),
        pytest.param(pointing_up, "mq.storage.log", "from mq.engine import store", id="up, out of a package"),
        pytest.param(pointing_up, "mq.novelty", "", id="a module without a floor"),
        pytest.param(
            pointing_up,
            "mq.engine.hot",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mq.api.queue import Queue",
            id="up, for types alone",
        ),
        pytest.param(
            circles,
            "mq.api.message",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mq.api.queue import Queue",
            id="a circle for types alone",
        ),
        pytest.param(circles, "mq.errors", "from mq.engine import store", id="a circle"),
        pytest.param(circles, "mq.delivery.records", "from .. import state", id="a circle inside a package"),
        pytest.param(lower_floors_meeting, "mq.storage.disk", "from mq.delivery import plan", id="storage"),
        pytest.param(
            lower_floors_meeting,
            "mq.delivery.state",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mq.storage.log import Log",
            id="delivery, for types alone",
        ),
        *(
            pytest.param(impure_delivery, "mq.delivery.retry", f"import {module}", id=f"delivery: {module}")
            for module in ("os", "os.path", "time", "threading", "random", "logging", "io", "mq.engine.clock")
        ),
        pytest.param(impure_delivery, "mq.delivery.queue", "from time import time", id="delivery: from time"),
        pytest.param(impure_delivery, "mq.delivery.queue", "open('x')", id="delivery: a file"),
        pytest.param(impure_delivery, "mq.delivery.schedules", "datetime.now(UTC)", id="delivery: a clock"),
        pytest.param(turns_by_hand, "mq.engine.commands", "store.turn.enter()", id="a turn by hand"),
        *(
            pytest.param(api_touching_the_store, "mq.api.queue", code, id=f"api: {code}")
            for code in (
                "self._store.replica.log",
                "store.turn.mark[END]",
                "self._channel.state",
                "from mq.storage import paths",
                "from mq.delivery.plan import Plan",
            )
        ),
        *(
            pytest.param(numbers_with_names, "mq.engine.store", code, id=f"a number: {code}")
            for code in (
                "self.mark[3]",
                "mark[2] = 1",
                "words[8] += 1",
                "log.append(ms, 17, 0, queue, payload)",
                "if kind == 19: pass",
                "x = record.kind != 17",
            )
        ),
        *(
            pytest.param(storage_speaking_of_queues, "mq.storage.log", code, id=f"storage: {code}")
            for code in (
                "queue_name = 1",
                "class Topic: pass",
                "def consumers(): pass",
                "def f(queue: str): pass",
                "def f(queue): pass",
                "raise ValueError('no such queue')",
                "import queue",
                "f(topic=1)",
            )
        ),
    ],
)  # fmt: skip
def test_a_planted_violation_is_found(rule: Rule, module: str, planted: str) -> None:
    sources = read_sources()
    sources[module] = sources.get(module, "") + f"\n{planted}\n"
    assert list(rule(sources))


@pytest.mark.parametrize(
    "module, planted",
    [
        pytest.param("mq.storage.log", "def f(queue: int): return queue", id="the queue's number"),
        pytest.param("mq.storage.log", '"""Knows no queue."""', id="a comment"),
        pytest.param("mq.delivery.queue", "from math import inf", id="arithmetic"),
        pytest.param("mq.engine.store", "mark[END], parts[0], page[:8]", id="words by name, other numbers"),
        pytest.param(
            "mq.engine.store", "if kind == 0 or kind == PUBLISH: pass", id="no kind, or one by name"
        ),
    ],
)
def test_what_is_allowed_is_not_reported(module: str, planted: str) -> None:
    sources = read_sources()
    before = [complaint for rule in RULES for complaint in rule(sources)]
    sources[module] += f"\n{planted}\n"
    assert [complaint for rule in RULES for complaint in rule(sources)] == before
