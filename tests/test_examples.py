"""The programs in examples/ print what their first lines say, and leave their stores in order."""

from __future__ import annotations

import ast
import asyncio
import importlib
import os
import re
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import httpx
import pytest
from documents import EXAMPLES, ROOT

import mq

NAMES = [path.stem for path in EXAMPLES]

# Behind the first lines, which say what it is about.
LINES_MAX = 66
LINES_MAX_OF = {"textbook_queues": 77, "web": 96}

# Of each queue: published (or moved there), acked, failed, dead, and what is left in it.
LEAVES: dict[str, dict[str, tuple[int, ...]]] = {
    "batches_into_sqlite": {"measurements": (1000, 1000, 0, 0, 0)},
    "cron_report": {"reports": (ANY, 3, 0, 0, 0)},  # another tick may have come by the end
    "dead_letters": {"payments": (4, 3, 3, 1, 0), "payments.dead": (1, 0, 0, 0, 0)},
    "event_sourcing": {},
    "exactly_once": {"words": (8, 8, 1, 0, 0), "capitals": (8, 0, 0, 0, 8)},
    "fan_out": {
        "warehouse": (1, 1, 0, 0, 0), "billing": (1, 1, 0, 0, 0), "shipping": (1, 1, 1, 0, 0),
        "reports": (3, 3, 0, 0, 0),
    },
    "idempotent_consumer": {"transfers": (1, 1, 1, 0, 0)},
    "monitoring": {"orders": (3, 2, 1, 1, 0), "orders.dead": (1, 0, 0, 0, 1)},
    "orders": {"orders": (5, 5, 0, 0, 0)},
    "priorities": {"tasks": (5, 5, 1, 0, 0)},
    "read_model": {"commands": (4, 4, 0, 0, 0), "table": (3, 3, 0, 0, 0)},
    "reminders": {"reminders": (3, 2, 0, 0, 0)},  # one was cancelled
    "saga": {"steps": (5, 5, 0, 0, 0), "ended": (1, 1, 0, 0, 0)},
    "sign_up": {
        "newsletter": (1, 1, 0, 0, 0), "statistics": (2, 2, 0, 0, 0), "welcome-mail": (2, 2, 0, 0, 0),
    },
    "textbook_delivery": {
        "mailer": (2, 2, 0, 0, 0), "auditor": (2, 2, 0, 0, 0),
        "numbers": (3, 2, 3, 1, 0), "numbers.dead": (1, 0, 0, 0, 0),
    },
    "textbook_queues": {"simple": (2, 2, 0, 0, 0), "tasks": (2, 2, 0, 0, 0), "scheduled": (3, 3, 0, 0, 0)},
    "thumbnails": {"thumbnails": (4, 3, 1, 1, 0), "thumbnails.dead": (1, 0, 0, 0, 1)},
    "web": {"mails": (1, 1, 0, 0, 0)},
}  # fmt: skip


def about(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def run(path: Path, *arguments: object) -> list[str]:
    """The lines that it prints; warnings are errors, and there is nothing on stderr."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", str(path), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("path", EXAMPLES, ids=NAMES)
def test_an_example_prints_what_it_says_and_leaves_its_store_in_order(path: Path, tmp_path: Path) -> None:
    shown = re.search(r"^Prints(, in any order)?:\n\n((?: {4}.*\n?)+)$", about(path), re.MULTILINE)
    assert shown
    expected, printed = textwrap.dedent(shown[2]).splitlines(), run(path, tmp_path)
    assert (sorted(printed) if shown[1] else printed) == (sorted(expected) if shown[1] else expected)
    with mq.open(tmp_path / "mq", read_only=True) as broker:
        stats = broker.stats()
        assert stats.processes == []
        assert LEAVES[path.stem] == {
            name: (
                each.published, each.acked, each.failed, each.dead_lettered,
                each.ready + each.in_flight + each.delayed,
            )
            for name, each in stats.queues.items()
        }  # fmt: skip


def test_an_example_leaves_nothing_behind_when_it_is_given_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    endings = {path.read_text().partition("\nif __name__")[2] for path in EXAMPLES}
    assert len(endings) == 1
    assert run(ROOT / "examples" / "priorities.py")
    assert list(tmp_path.iterdir()) == []


def test_the_table_of_the_examples_is_complete() -> None:
    """File, first line, length.  What is missing or has changed is printed, to be copied."""
    rows = []
    for path in EXAMPLES:
        first, lines = about(path).splitlines()[0].rstrip("."), len(path.read_text().splitlines())
        rows.append(f"| [{path.name}]({path.name}) | {first} | {lines} |\n")
    table = "| file | what it shows | lines |\n|---|---|---|\n" + "".join(rows)
    assert table in (ROOT / "examples/README.md").read_text(), f"examples/README.md should have\n\n{table}"


def test_the_web_process_says_what_a_client_did_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.setenv("MQ_STORE", str(tmp_path))
    web, right = importlib.import_module("web"), {"to": "ada@example.org", "text": "welcome"}

    async def main() -> None:
        async with web.lifespan(web.app) as state:

            async def app(scope: Any, receive: Any, send: Any) -> None:
                await web.app({**scope, "state": dict(state)}, receive, send)

            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://example.org") as client:
                for body in (b"{", b'{"to": "\xff", "text": ""}', b'{"to": 7}'):
                    assert (await client.post("/mails", content=body)).status_code == 422
                too_long = {"idempotency-key": "k" * 70_000}
                assert (await client.post("/mails", json=right, headers=too_long)).status_code == 422
                found = await client.get(f"/mails/{(await client.post('/mails', json=right)).json()['id']}")
                assert (found.status_code, found.json()) == (200, {"state": "ready"})
                assert (await client.get("/mails/424242")).status_code == 404
                assert (await client.get(f"/mails/{10**30}")).status_code == 422

    asyncio.run(main())


def test_what_comes_twice_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message of another store with the same id is another one."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    batches, consumer, orders = map(
        importlib.import_module, ("batches_into_sqlite", "idempotent_consumer", "orders")
    )
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE measurement (store, id, sensor, degrees, PRIMARY KEY (store, id))")
        database.execute("CREATE TABLE done (store, id, PRIMARY KEY (store, id))")
        database.execute("CREATE TABLE account (name, balance)")
        database.execute("INSERT INTO account VALUES ('bob', 0)")
        for store in ("one", "one", "other"):
            batches.save(database, store, [(7, batches.Measurement("s", 1.5))])
            consumer.move(database, (store, 7), consumer.Transfer("bob", 30))
        assert database.execute("SELECT count(*) FROM measurement").fetchone() == (2,)
        assert database.execute("SELECT balance FROM account").fetchone() == (60,)
    with mq.open(":memory:") as broker:
        queue, bills = broker.queue("orders", type=orders.Order), defaultdict[str, list[int]](list)
        queue.publish_many([orders.Order(1, "ada")] * 2)
        cashier = threading.Thread(target=orders.cashier, args=(queue, bills))
        cashier.start()
        assert queue.join(timeout=30)
    cashier.join()
    assert bills == {"ada": [1]}


def test_an_example_is_a_page() -> None:
    for path in EXAMPLES:
        lines = path.read_text().count("\n") - path.read_text().partition('"""\n\n')[0].count("\n")
        assert lines <= LINES_MAX_OF.get(path.stem, LINES_MAX), path.stem
