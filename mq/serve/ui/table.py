"""The list of queues: which of them, in which order, on which page; and one row of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlencode

from mq import Stats
from mq.delivery.options import DEAD_SUFFIX
from mq.serve.ui.samples import TOP, Rates, Sample, depth

ROWS: Final = TOP  # on a page
KINDS: Final = ("all", "dead", "paused", "busy", "waiting")
FILTER_CHARS_MAX: Final = 255


class Row(NamedTuple):
    """One queue."""

    name: str
    stats: Stats
    rates: Rates
    past: list[Rates]
    dead_queue: str  # where its dead letters go
    dead: int  # how many are there
    is_dead_letters: bool  # it holds dead letters of others

    @property
    def id(self) -> str:
        """What tells its row in a document, whatever characters the name has."""
        return "q" + hashlib.blake2s(self.name.encode(), digest_size=8).hexdigest()

    @property
    def depth(self) -> int:
        return depth(self.stats)


COLUMNS: Final[Mapping[str, tuple[str, Callable[[Row], Any]]]] = {
    # What a column is called in an address: its head, and what it is sorted by; numbers from the largest on.
    "name": ("Queue", lambda row: row.name),
    "ready": ("Ready", lambda row: row.stats.ready),
    "in_flight": ("In flight", lambda row: row.stats.in_flight),
    "delayed": ("Delayed", lambda row: row.stats.delayed),
    "dead": ("Dead", lambda row: row.depth if row.is_dead_letters else row.dead),
    "in": ("In/s", lambda row: row.rates.came),
    "out": ("Out/s", lambda row: row.rates.went),
    "failed": ("Failed/s", lambda row: row.rates.failed),
    "oldest": ("Oldest", lambda row: row.stats.oldest_age),
}
FILTERS: Final[Mapping[str, Callable[[Row], bool]]] = {
    "all": lambda row: True,
    "dead": lambda row: row.depth > 0 if row.is_dead_letters else row.dead > 0,
    "paused": lambda row: row.stats.paused,
    "busy": lambda row: any(row.rates) or row.stats.in_flight > 0,
    "waiting": lambda row: row.stats.ready > 0,
}


class View(NamedTuple):
    """What an address asks of the list; whatever is not understood is the default."""

    text: str = ""
    kind: str = "all"
    sort: str = "name"
    turned: bool = False
    page: int = 1

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Self:
        kind, sort, page = query.get("kind", ""), query.get("sort", ""), query.get("page", "")
        return cls(
            query.get("text", "")[:FILTER_CHARS_MAX],
            kind if kind in FILTERS else "all",
            sort if sort in COLUMNS else "name",
            query.get("turned") == "1",
            max(1, int(page)) if page.isascii() and page.isdigit() and len(page) < 7 else 1,
        )

    def query(self, **changes: Any) -> str:
        """The address of the list with *changes*, which begins at its first page unless they say another."""
        view = self._replace(**{"page": 1} | changes)
        said = {name: value for name, value in view._asdict().items() if value != View._field_defaults[name]}
        if "turned" in said:
            said["turned"] = "1"
        return "?" + urlencode(said)

    def sorted_by(self, column: str) -> str:
        """The address of the list sorted by *column*; turned round, if it is sorted by that already."""
        return self.query(sort=column, turned=self.sort == column and not self.turned)


class Page(NamedTuple):
    """The rows that are shown, of how many."""

    view: View
    rows: list[Row]
    first: int  # the number of the first one, from 1 on; 0: there is none
    found: int
    queues: int  # in the store
    counts: dict[str, int | None]  # of rows, by kind, whatever is chosen; None: not known yet

    @property
    def pages(self) -> int:
        return max(1, -(-self.found // ROWS))


def page_of(sample: Sample, view: View) -> Page:
    dead_queues = {target for target in sample.targets.values() if target in sample.stats.queues}
    rows = [_row(sample, name, dead_queues) for name in sample.stats.queues]
    counts: dict[str, int | None] = {kind: sum(map(passes, rows)) for kind, passes in FILTERS.items()}
    text, passes, (_, key) = view.text.casefold(), FILTERS[view.kind], COLUMNS[view.sort]
    found = [row for row in rows if passes(row) and text in row.name.casefold()]
    found.sort(key=lambda row: row.name)
    found.sort(key=key, reverse=(view.sort != "name") != view.turned)
    if sample.more:  # which is asked for the first page, sorted by name, and nothing else
        counts = dict.fromkeys(FILTERS) | {"all": len(rows) + sample.more}
    page = min(view.page, max(1, -(-len(found) // ROWS)))
    begin = (page - 1) * ROWS
    shown = found[begin : begin + ROWS]
    return Page(
        view._replace(page=page), shown, begin + 1 if shown else 0, len(found) + sample.more,
        len(rows) + sample.more, counts,
    )  # fmt: skip


def _row(sample: Sample, name: str, dead_queues: set[str]) -> Row:
    target, dead = sample.dead(name)
    is_dead = name in dead_queues or name.endswith(DEAD_SUFFIX)
    return Row(
        name, sample.stats.queues[name], sample.rate(name), sample.histories.get(name, []), target, dead,
        is_dead,
    )  # fmt: skip


def row_of(sample: Sample, name: str) -> Row | None:
    """One queue by itself; None if it is not there."""
    if name not in sample.stats.queues:
        return None
    return _row(sample, name, set(sample.targets.values()))
