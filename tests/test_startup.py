"""What a program loads that says `import mq`, and each command of `mq`: nothing heavy that it does not use.

No time is measured.  What mq's dependencies import for themselves is loaded first, and not counted.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mq

HEAVY = frozenset({
    "asyncio", "concurrent.futures", "http", "importlib.resources", "multiprocessing", "pydoc", "sqlite3",
    "ssl", "subprocess", "sysconfig", "unittest", "urllib.request", "xml", "zoneinfo",
    "celery", "jinja2", "kombu", "matplotlib", "nats", "opentelemetry", "prometheus_client", "rich",
    "starlette", "uvicorn", "uvloop",
    "mq.aio", "mq.contrib", "mq.metrics", "mq.nats", "mq.otel", "mq.serve", "mq.storage.repair",
    "mq.storage.walk",
})  # fmt: skip
COMMAND = "from mq.cli import main\ntry: main()\nexcept SystemExit as end: assert not end.code, end.code"


def loaded(code: str, *args: str) -> set[str]:
    """The modules that *code* loads in a process of its own, beside those of the dependencies."""
    code = "\n".join([
        "import sys, click, crc32c, msgspec",
        "before = set(sys.modules)",
        code,
        "print('', *sorted(set(sys.modules) - before), sep='\\n', file=sys.stderr)",
    ])  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_importing_mq_loads_nothing_heavy() -> None:
    found = loaded("import mq")
    assert "mq.engine.store" in found and "mq.cli" not in found
    assert found & HEAVY == set()


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "peek --help",
        "queues",
        "stats",
        "peek mail",
        "publish mail x",
        "receive mail",
        "dead",
        "tail --until-end",
        "queue pause mail",
    ],
)
def test_no_command_loads_what_it_does_not_use(tmp_path: Path, words: str) -> None:
    store = str(tmp_path / "data")
    with mq.open(store) as broker:
        broker.queue("mail").publish("hello")
    found = loaded(COMMAND, "--store", store, *words.split())
    assert "mq.cli.root" in found
    assert found & HEAVY == set()


@pytest.mark.parametrize(
    "name", ["asyncio", "zoneinfo", "mq.aio.broker", "mq.serve.alerts", "mq.storage.repair"]
)
def test_what_is_heavy_is_found(name: str) -> None:
    assert loaded(f"import mq, {name}") & HEAVY


def test_a_command_does_not_look_for_garbage_in_what_is_loaded() -> None:
    code = f"import gc\nfrozen = gc.get_freeze_count()\n{COMMAND}\nassert gc.get_freeze_count() > frozen"
    assert "mq.cli.root" in loaded(code, "--help")
