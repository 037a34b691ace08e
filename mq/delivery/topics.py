"""Topics: which queues get what is published to one.

    topic     orders.eu.paid         words between dots
    pattern   orders.*.paid          `*` is exactly one word
              orders.#               `#` is any number of words, also none

A binding is a pattern, a queue and the headers that a message needs.  The patterns are a trie of
words.  A topic is looked up in it word by word, all ways through the trie side by side, as in a
finite automaton: a node is visited at most once for each word.  So no pattern makes the work
explode, however many `#` it has.  What was found for a topic is kept until a binding changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

ONE, ANY = "*", "#"
CACHED_TOPICS: Final = 16_384  # at most; some 200 bytes each
NO_HEADERS: Final[Mapping[str, str]] = {}


class Binding(NamedTuple):
    queue: int
    pattern: str
    match: Mapping[str, str]  # headers that a message needs; empty: none


class _Node:
    """One way to begin a pattern."""

    __slots__ = ("above", "below", "bound", "word")

    def __init__(self, above: _Node | None, word: str) -> None:
        self.above, self.word = above, word
        self.below: dict[str, _Node] = {}  # by the next word of the pattern
        self.bound: dict[int, Binding] = {}  # by queue: the bindings whose pattern ends here


class _Found(NamedTuple):
    """What was found for one topic."""

    plain: tuple[int, ...]  # the queues that get all of it, sorted
    choosy: tuple[Binding, ...]  # the bindings of other queues, which look at the headers


class Routes:
    """All bindings of a store."""

    __slots__ = ("_cache", "_queues", "_root")

    def __init__(self) -> None:
        self._root = _Node(None, "")
        self._queues: dict[int, dict[str, _Node]] = {}  # each queue's patterns, and where they end
        self._cache: dict[str, _Found] = {}  # by topic

    def __len__(self) -> int:
        """How many queues get anything."""
        return len(self._queues)

    # ── changes ────────────────────────────────────────────────────────────────────

    def bind(self, queue: int, pattern: str, match: Mapping[str, str] = NO_HEADERS) -> None:
        """Give *queue* what is published to topics that fit *pattern*, with these headers.

        One binding for a queue and a pattern: a second one takes the place of the first.
        """
        node = self._root
        for word in pattern.split("."):
            below = node.below.get(word)
            if below is None:
                below = node.below[word] = _Node(node, word)
            node = below
        node.bound[queue] = Binding(queue, pattern, dict(match))
        self._queues.setdefault(queue, {})[pattern] = node
        self._cache.clear()

    def unbind(self, queue: int, pattern: str) -> bool:
        """Take the binding away.  False: there was none."""
        patterns = self._queues.get(queue, {})
        node = patterns.pop(pattern, None)
        if node is None:
            return False
        if not patterns:
            del self._queues[queue]
        del node.bound[queue]
        while node.above is not None and not node.bound and not node.below:
            del node.above.below[node.word]
            node = node.above
        self._cache.clear()
        return True

    def forget(self, queue: int) -> None:
        """The queue is gone, and its bindings with it."""
        for pattern in list(self._queues.get(queue, ())):
            self.unbind(queue, pattern)

    # ── questions ──────────────────────────────────────────────────────────────────

    def route(self, topic: str, headers: Mapping[str, str] = NO_HEADERS) -> tuple[int, ...]:
        """The queues that get what is published to *topic* with *headers*: each once, sorted."""
        found = self._cache.get(topic)
        if found is None:
            found = self._find(topic)
        plain, choosy = found
        if not choosy:
            return plain
        fitting = {each.queue for each in choosy if each.match.items() <= headers.items()}
        return tuple(sorted(fitting.union(plain))) if fitting else plain

    def bindings(self, topic: str | None = None) -> Iterator[Binding]:
        """All of them, or those whose patterns fit *topic*, in no order."""
        if topic is not None:
            for node in self._walk(topic):
                yield from node.bound.values()
            return
        for queue, patterns in self._queues.items():
            for node in patterns.values():
                yield node.bound[queue]

    def of(self, queue: int) -> list[Binding]:
        """The bindings of one queue, the oldest first."""
        return [node.bound[queue] for node in self._queues.get(queue, {}).values()]

    def _find(self, topic: str) -> _Found:
        """Look *topic* up in the trie, and keep what was found."""
        fitting = list(self.bindings(topic))
        plain = {each.queue for each in fitting if not each.match}
        choosy = tuple(each for each in fitting if each.queue not in plain)
        if len(self._cache) >= CACHED_TOPICS:
            self._cache.clear()  # cheaper than to know which topics are in use
        found = self._cache[topic] = _Found(tuple(sorted(plain)), choosy)
        return found

    def _walk(self, topic: str) -> list[_Node]:
        """The nodes at which patterns that fit *topic* end."""
        here = _with_any([self._root])
        for word in topic.split("."):
            there: list[_Node] = []
            for node in here:
                below = node.below
                if node.word == ANY:
                    there.append(node)  # `#` takes this word too
                if below:
                    if (one := below.get(word)) is not None:
                        there.append(one)
                    if (one := below.get(ONE)) is not None:
                        there.append(one)
            here = _with_any(there)
        return here


def _with_any(nodes: list[_Node]) -> list[_Node]:
    """*nodes*, and those behind a `#` that takes no word; each once."""
    known = dict.fromkeys(nodes)
    for node in nodes:
        while (below := node.below.get(ANY)) is not None and below not in known:
            known[below] = None
            node = below
    return list(known)


def matches(pattern: str, topic: str) -> bool:
    """Whether *topic* fits *pattern*."""
    alone = Routes()
    alone.bind(0, pattern)
    return bool(alone.route(topic))
