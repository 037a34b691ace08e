"""Where a result goes: a report in a directory, and the block of docs/performance.md that is kept by this."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bench import plots
from benchmarks.bench.link import ROOT
from benchmarks.bench.results import Results
from benchmarks.bench.tables import report

PAGE = ROOT / "docs" / "performance.md"
IMAGES = "images"
BEGIN, END = "<!-- scripts/bench writes from here -->", "<!-- to here -->"


class NoPlace(Exception):
    """The page has no place for the report."""


def write_report(results: Results, directory: Path) -> list[str]:
    """bench.json, bench.md, and the plots if they can be drawn; the names of the plots."""
    directory.mkdir(parents=True, exist_ok=True)
    results.write(directory / "bench.json")
    names = [] if plots.missing() else plots.draw(results, directory)
    text = report(results, lambda name: shown(name, names, ""))
    (directory / "bench.md").write_text(f"# mq beside others\n\n{text}")
    return names


def shown(name: str, names: Sequence[str], before: str) -> str:
    return f"![{name}]({before}{name}.png)\n" if name in names else ""


def write_page(results: Results, directory: Path, names: Sequence[str], page: Path = PAGE) -> None:
    """Put the report that is in *directory* into the page, and its plots beside it."""
    images = page.parent / IMAGES
    images.mkdir(exist_ok=True)
    for name in names:
        shutil.copyfile(directory / f"{name}.png", images / f"{name}.png")
    text = report(results, lambda name: shown(name, names, f"{IMAGES}/"))
    page.write_text(with_block(page.read_text(), text))


def with_block(page: str, text: str) -> str:
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise NoPlace(f"the page has no lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{text}\n{END}{after}"
