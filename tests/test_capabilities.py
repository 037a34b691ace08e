"""The table of what each kind of log can do is that of the engines: scripts/capabilities writes it."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_table_is_current() -> None:
    loader = SourceFileLoader("capabilities", str(ROOT / "scripts/capabilities"))
    spec = spec_from_loader(loader.name, loader)
    assert spec
    script = module_from_spec(spec)
    loader.exec_module(script)
    _, _, written = (ROOT / "docs/nats.md").read_text().partition(script.BEGIN)
    written, end, _ = written.partition(script.END)
    assert end
    assert written.startswith(script.table(["memory", "file", "nats"], {}))
