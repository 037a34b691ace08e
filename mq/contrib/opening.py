"""What is opened when it is first needed: results, and a store with its results.

An import of a program's tasks touches no file.
"""

from __future__ import annotations

from mq.contrib import stores
from mq.contrib.results import Results
from mq.contrib.stores import Settings


class ResultsOpener:
    """Results that are opened when they are first needed, and again after `close`."""

    # No cached_property: in Python 3.11 it has one lock for all, and a thread that is not in the child of a
    # fork may have it.
    def __init__(self, settings: Settings) -> None:
        self._path, self._sync = settings.path, settings.sync
        self._opened: dict[str, Results] = {}  # one of them, or none

    @property
    def results(self) -> Results:
        """Raises what `Results` raises."""
        found = self._opened.get(self._path)
        if found is None:
            made = Results(self._path, sync=self._sync)
            found = self._opened.setdefault(self._path, made)
            if found is not made:  # another thread was quicker
                made.close()
        return found

    def close(self) -> None:
        found = self._opened.pop(self._path, None)
        if found is not None:
            found.close()


class Opener(stores.Opener):
    """A store, and the results beside it."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._results = ResultsOpener(settings)

    @property
    def results(self) -> Results:
        """Raises what `Results` raises."""
        return self._results.results

    def close(self) -> None:
        super().close()
        self._results.close()
