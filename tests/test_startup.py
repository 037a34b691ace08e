"""What a program loads that says `import mq`, and each command of `mq`: nothing heavy that it does not use.

No time is measured.  What mq's dependencies import for themselves is loaded first, and not counted.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import crc32c
import pytest

import mq
from mq.storage import crc

HEAVY = frozenset({
    "argparse", "asyncio", "concurrent.futures", "dataclasses", "email", "http", "importlib.metadata",
    "importlib.resources", "inspect", "multiprocessing", "pathlib", "platform", "pydoc", "socket",
    "sqlite3", "ssl", "subprocess", "sysconfig", "tempfile", "unittest", "urllib.request", "uuid", "xml",
    "zipfile", "zoneinfo",
    "celery", "crc32c", "jinja2", "kombu", "matplotlib", "nats", "opentelemetry", "prometheus_client", "rich",
    "starlette", "uvicorn", "uvloop",
    "mq.aio", "mq.contrib", "mq.engine.backup", "mq.metrics", "mq.nats", "mq.otel", "mq.serve",
    "mq.storage.repair", "mq.storage.walk", "mq.workers.registry",
})  # fmt: skip
COMMAND = "from mq.cli import main\ntry: main()\nexcept SystemExit as end: assert not end.code, end.code"


def loaded(code: str, *args: str, libraries: str = "click, msgspec") -> set[str]:
    """The modules that *code* loads in a process of its own, beside those that *libraries* load."""
    code = "\n".join([
        "import sys",
        "sys.modules['typing_extensions'] = None",  # msgspec does without it where it is not installed
        f"import {libraries}",
        "before = set(sys.modules)",
        code,
        "print('', *sorted(set(sys.modules) - before), sep='\\n', file=sys.stderr)",
    ])  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_importing_mq_loads_nothing_heavy() -> None:
    found = loaded("import mq", libraries="msgspec")
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
    "name",
    ["asyncio", "inspect", "zoneinfo", "crc32c", "mq.aio.broker", "mq.serve.alerts", "mq.storage.repair"],
)
def test_what_is_heavy_is_found(name: str) -> None:
    assert loaded(f"import mq, {name}", libraries="msgspec") & HEAVY


def test_what_calls_functions_is_loaded_when_one_is_registered() -> None:
    code = "import mq\nmq.open(':memory:').consumer('mail')(print)"
    assert "mq.workers.registry" in loaded(code, libraries="msgspec")


@pytest.mark.parametrize("there", [True, False])
def test_the_checksum_is_that_of_crc32c_wherever_it_keeps_it(
    monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    if not there:  # as in a version with other modules
        monkeypatch.setattr(PathFinder, "find_spec", lambda *_: None)
    names: dict[str, Any] = {}
    exec(Path(crc.__file__).read_text(), names)
    function = names["crc32c"]
    assert function(b"123456789") == crc32c.crc32c(b"123456789") == 0xE3069283
    assert (function is crc32c.crc32c) != there


def test_ctrl_c_while_the_command_line_is_loaded_ends_it_and_says_nothing() -> None:
    code = "\n".join([
        "import sys, mq_command",
        "class Interrupted:",
        "    def find_spec(self, name, path=None, target=None):",
        "        if name == 'mq.engine': raise KeyboardInterrupt",
        "sys.meta_path.insert(0, Interrupted())",
        "mq_command.main()",
    ])  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_a_command_does_not_look_for_garbage_in_what_is_loaded() -> None:
    code = f"import gc\nfrozen = gc.get_freeze_count()\n{COMMAND}\nassert gc.get_freeze_count() > frozen"
    code = code.replace("mq.cli import", "mq_command import") + "\nassert gc.isenabled()"
    assert "mq.cli.root" in loaded(code, "--help")
