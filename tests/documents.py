"""The pages that are tested, and what they show."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md"))
EXTRAS = {"celery", "huey", "prometheus_client", "opentelemetry"}  # of `pip install ".[dev]"`
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def blocks(language: str, text: str) -> list[str]:
    """The code blocks of a page in that language, without their fences."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def programs(page: str) -> list[str]:
    """The Python blocks of a page, without those that import an extra which is not installed here."""
    missing = {name for name in EXTRAS if importlib.util.find_spec(name) is None}
    found = blocks("python", (ROOT / page).read_text())
    return [each for each in found if missing.isdisjoint(re.findall(r"^(?:from|import) (\w+)", each, re.M))]
