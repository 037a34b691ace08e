"""What was asked of a store, what returned, and so what must and what may be found there.

The store's contents are followed in a model of a few lines that knows nothing of logs.
Because everything is one sequence of operations, each there whole or not at all, a
store that is opened after a crash must hold what it held after some operation:

    ── o ── o ── o ── o ── o ── o ··· o
            ▲                   ▲     ▲
            the last one that   │     in progress, or raised: whole or not (P6)
            is on the disk      the last that returned

    power cut: any from the first mark on (P1, P2, P4, P5)
    process killed: the last that returned, or the one in progress

If it holds none of those, `blame` says which promise that breaks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

# Whether an id that was given out is never given again, even if the power cut took the
# message with it, because no process had waited for the disk.
IDS_OUTLIVE_POWER = True

Messages = tuple[tuple[bytes, int], ...]  # body and attempts, in delivery order
# Visibility timeout, meta, and patterns of topics.
Declared = tuple[float, tuple[tuple[str, str], ...], tuple[str, ...]]
Queues = dict[str, tuple[Declared, Messages]]  # by name
Key = tuple[tuple[str, tuple[Declared, Messages]], ...]
Step = Callable[[Queues], Queues]


class Found(NamedTuple):
    """What a store holds that was opened after a crash."""

    verdict: str
    store_id: str
    contents: Key
    ids: tuple[tuple[str, int, bytes], ...]  # queue, id, body
    said: tuple[
        tuple[str, bytes, int, str | None, str | None], ...
    ] = ()  # queue, body, priority, group, origin


def key(queues: Queues) -> Key:
    return tuple(sorted(queues.items()))


NEW: tuple[Declared, Messages] = (30.0, (), ()), ()


# ── the model: one function an operation ───────────────────────────────────────────


def declare(name: str, visibility_timeout: float) -> Step:
    def step(queues: Queues) -> Queues:
        (_, *others), messages = queues.get(name, NEW)
        return {**queues, name: ((visibility_timeout, *others), messages)}

    return step


def update_meta(name: str, key: str, text: str, expect: str | None) -> Step:
    """*key* is *text* from now on, if it was *expect*."""

    def step(queues: Queues) -> Queues:
        (timeout, meta, patterns), messages = queues.get(name, NEW)
        if dict(meta).get(key) != expect:
            return queues
        meta = tuple(sorted({**dict(meta), key: text}.items()))
        return {**queues, name: ((timeout, meta, patterns), messages)}

    return step


def subscribe(name: str, pattern: str, *, gets: bool) -> Step:
    """The queue has *pattern* from now on, or not any more."""

    def step(queues: Queues) -> Queues:
        if not gets and name not in queues:
            return queues
        (timeout, meta, patterns), messages = queues.get(name, NEW)
        there = {*patterns, pattern} if gets else {*patterns} - {pattern}
        return {**queues, name: ((timeout, meta, tuple(sorted(there))), messages)}

    return step


def rename(name: str, new: str) -> Step:
    """The queue is called *new*, and that of its dead letters as well."""
    names = {name: new, f"{name}.dead": f"{new}.dead"}

    def step(queues: Queues) -> Queues:
        return {names.get(each, each): held for each, held in queues.items()}

    return step


def fan_out(body: bytes) -> Step:
    """To every queue that has a pattern, for the topic fits all of them; and to what it retains."""

    def step(queues: Queues) -> Queues:
        for name, (declared, _) in queues.items():
            if declared[2]:
                queues = publish(name, [body])(queues)
        if RETAINED in queues:
            queues = retain(int(queues[RETAINED][0][0]))(publish(RETAINED, [body])(queues))
        return queues

    return step


RETAINED = "#t"  # stands among the queues for what the topic retains; how many, for a visibility timeout


def retain(count: int | None) -> Step:
    """The topic retains so many of its newest messages; None: nothing."""

    def step(queues: Queues) -> Queues:
        others = {name: each for name, each in queues.items() if name != RETAINED}
        if count is None:
            return others
        _, messages = queues.get(RETAINED, NEW)
        return {**others, RETAINED: ((float(count), (), ()), messages[-count:])}

    return step


def start_in_the_past(name: str, pattern: str) -> Step:
    """`subscribe`, with all that is retained; nothing of it if the queue has a pattern already."""

    def step(queues: Queues) -> Queues:
        declared, messages = queues.get(name, NEW)
        if not declared[2] and RETAINED in queues:
            here = {body for body, _ in messages}
            messages += tuple((body, 0) for body, _ in queues[RETAINED][1] if body not in here)
            messages = tuple(sorted(messages, key=lambda each: number(each[0])))
        return subscribe(name, pattern, gets=True)({**queues, name: (declared, messages)})

    return step


def publish(name: str, bodies: Iterable[bytes]) -> Step:
    new = tuple((body, 0) for body in bodies)

    def step(queues: Queues) -> Queues:
        declared, messages = queues.get(name, NEW)
        return {**queues, name: (declared, messages + new)}

    return step


def tried(name: str, bodies: Iterable[bytes], by: int) -> Step:
    """Delivered, or released again."""
    which = set(bodies)

    def step(queues: Queues) -> Queues:
        if name not in queues:
            return queues
        declared, messages = queues[name]
        return {**queues, name: (declared, tuple((b, n + by if b in which else n) for b, n in messages))}

    return step


def gone(name: str, keep: Callable[[bytes], bool]) -> Step:
    """Acked or purged."""

    def step(queues: Queues) -> Queues:
        if name not in queues:
            return queues
        declared, messages = queues[name]
        return {**queues, name: (declared, tuple(each for each in messages if keep(each[0])))}

    return step


def number(body: bytes) -> int:
    """The number that a body begins with: bodies are numbered as they are published."""
    digits = re.match(rb"[0-9]+", body)
    return int(digits[0]) if digits else -1


def moved(name: str, bodies: Iterable[bytes], to: str) -> Step:
    """To the dead letters, or back: in its place, and as if it had never been tried there."""
    which = set(bodies)

    def step(queues: Queues) -> Queues:
        going = [body for body, _ in queues.get(name, NEW)[1] if body in which]
        if not going:
            return queues
        queues = gone(name, lambda body: body not in which)(queues)
        declared, messages = queues.get(to, NEW)
        messages = (*messages, *((body, 0) for body in going))
        return {**queues, to: (declared, tuple(sorted(messages, key=lambda each: number(each[0]))))}

    return step


def once(name: str, body: bytes) -> Step:
    """Published, if it was not there already."""

    def step(queues: Queues) -> Queues:
        here = any(each == body for each, _ in queues.get(name, NEW)[1])
        return queues if here else publish(name, [body])(queues)

    return step


def scheduled(name: str, to: str, body: bytes, first: int) -> Step:
    """*body* is published to *to* at each tick of the schedule *name*; one that is there goes on."""

    def step(queues: Queues) -> Queues:
        ((next, *_), _) = queues.get(name, ((first, (), ()), ()))
        return {**queues, name: ((next, ((to, body.hex()),), ()), ())}

    return step


def ticked(name: str, every: int) -> Step:
    """The message of the schedule is published, and its next tick is due later."""

    def step(queues: Queues) -> Queues:
        if name not in queues:
            return queues
        ((next, ((to, body),), _), _) = queues[name]
        return {**publish(to, [bytes.fromhex(body)])(queues), name: ((next + every, ((to, body),), ()), ())}

    return step


def unscheduled(name: str) -> Step:
    return lambda queues: {key: each for key, each in queues.items() if key != name}


def both(first: Step, second: Step) -> Step:
    return lambda queues: second(first(queues))


def unchanged(queues: Queues) -> Queues:
    return queues


class History:
    def __init__(self) -> None:
        self.lines: list[str] = []  # for people
        self.now: list[Queues] = [{}]  # what the store may hold: more than one after an outcome unknown
        self._next: list[Queues] = []  # and after the operation in progress
        self._window: set[Key] = {()}  # all it held since it was last on the disk
        self.published: dict[bytes, str] = {}  # every body that was ever tried, and its queue; "": a topic
        self.groups: dict[bytes, tuple[bytes, ...]] = {}
        self.safe: set[bytes] = set()  # published and on the disk
        self.returned: set[bytes] = set()
        self.ended: dict[bytes, bool] = {}  # tried to ack or purge; whether that is on the disk
        self.ids: dict[bytes, int] = {}
        self.bodies: dict[int, bytes] = {}
        self.said: dict[bytes, tuple[int, str | None]] = {}  # priority and group, where there is one
        self.store_id = ""
        self.closed: set[Key] = set()  # what it held when it was closed, or when it was opened

    def fork(self) -> History:
        new = History.__new__(History)
        new.__dict__.update(
            (name, value.copy() if isinstance(value, (list, dict, set)) else value)
            for name, value in self.__dict__.items()
        )
        return new

    # ── while it goes ──────────────────────────────────────────────────────────────

    def begin(self, line: str, *steps: Step) -> None:
        self.lines.append(line)
        self._next = [step(each) for step in steps for each in self.now]

    def returns(self, *, certain: bool = True) -> None:
        """*certain*: it has done the first of what it was begun to do."""
        self.now, self._next = self._next[: len(self.now)] if certain else self._next, []
        self._window.update(map(key, self.now))
        self.lines[-1] += " ✓"

    def raised(self, why: str, *, nothing_done: bool = False) -> None:
        """Whole, once, or not at all."""
        if not nothing_done:
            self.now = list({key(each): each for each in self.now + self._next}.values())
            self._window.update(map(key, self.now))
        self._next = []
        self.lines[-1] += f" ✗ {why}"

    def on_disk(self) -> None:
        """All that returned so far is on the disk."""
        self._window = set(map(key, self.now))
        self.safe |= self.returned
        self.ended.update((body, True) for body in self.ended)
        self.lines[-1] += " ▼"

    def learn(self, id: int, body: bytes) -> str:
        """An id that was given out; what is wrong with that, if anything."""
        if self.bodies.get(id, body) != body:
            return f"P3: id {id} of {self.bodies[id]!r} was given again, to {body!r}"
        if self.ids.get(body, id) != id:
            return f"P3: {body!r} had id {self.ids[body]} and has {id} now"
        self.ids[body], self.bodies[id] = id, body
        return ""

    def reborn(self, found: Found, *, platter: bool) -> None:
        """Go on with what was found.  If all of it is not on the platter, a power cut may yet take some,
        until it is opened for good."""
        self.now = [dict(found.contents)]
        self._next = []
        self._window = {found.contents} if platter else self._window | {found.contents}
        here = {body for _, _, body in found.ids}
        if not IDS_OUTLIVE_POWER:
            known = here | self.safe | set(self.ended)
            self.bodies = {id: body for id, body in self.bodies.items() if body in known}
        self.safe &= here
        self.returned &= here
        for _, id, body in found.ids:
            self.learn(id, body)
        self.lines.append("— power cut —" if platter else "— killed —")

    # ── what may be found ──────────────────────────────────────────────────────────

    def allowed(self, *, power: bool) -> set[Key]:
        keys = {key(each) for each in self.now + self._next}
        return keys | self._window if power else keys

    def narrow(self, contents: Key) -> bool:
        """After an outcome unknown: it was this one.  False if it cannot be."""
        self.now = [each for each in self.now if key(each) == contents]
        return bool(self.now)

    def complaint(self, found: Found, *, power: bool, allowed: set[Key] | None = None) -> str:
        """The promise that *found* breaks; "" if none.  *allowed*: what `allowed` said."""
        if found.verdict == "clean" and found.contents not in self.closed:
            return "P7: a store that was not closed like this is called clean"
        if self.store_id and found.store_id != self.store_id:
            return f"P9: the store was {self.store_id} and is {found.store_id} now"
        if found.contents not in (allowed or self.allowed(power=power)):
            return self.blame(found, power=power)
        for _, id, body in found.ids:
            known = self.ids.get(body)
            if known is not None and known != id:
                return f"P3: {body!r} had id {known} and has {id} now"
        return self._altered(found)

    def _altered(self, found: Found) -> str:
        """What is not as it was said when it was published, or where it died."""
        for name, body, *said in found.said:
            origin = name.removesuffix(".dead") if name.endswith(".dead") else None
            expected = [*self.said.get(body, (0, None)), origin]
            if said != expected:
                return f"P3: priority, group and origin of {body!r} were {expected} and are {said} now"
        return ""

    def blame(self, found: Found, *, power: bool) -> str:
        bodies = [body for _, _, body in found.ids]
        here = set(bodies)
        for queue, id, body in found.ids:
            if self.published.get(body, None) not in (queue, ""):
                return f"P3: {body!r} (id {id}) in {queue!r} was never published there"
        if len({(queue, body) for queue, _, body in found.ids}) != len(bodies):
            return "P6: a message is there twice"
        for body in here:
            if self.published[body] == "" and body not in self.ended:
                missing = self._subscribed(body) - {queue for queue, _, each in found.ids if each == body}
                if missing:
                    return f"P4: {body!r} is not in {missing}, which subscribed, and is in others"
        for body in self.safe if power else self.returned:
            if body not in here and body not in self.ended:
                return f"P1: {body!r} returned from publish and is gone"
        for body, synced in self.ended.items():
            settled = synced if power else self._is_gone(body)
            if body in here and settled:
                return f"P2: {body!r} was acked or purged and is back"
        for body, group in self.groups.items():
            if body in here and any(each not in here and each not in self.ended for each in group):
                return f"P4: of {group!r} only a part is there"
        order = {body: index for index, body in enumerate(self.published)}
        for name, (_, messages) in found.contents:
            places = [order[body] for body, _ in messages]
            if places != sorted(places):
                return f"P5: {name!r} is out of order: {[body for body, _ in messages]!r}"
        return f"fold: the store never held this: {found.contents!r}"

    def _subscribed(self, body: bytes) -> set[str]:
        """The queues that hold *body*, as far as all that is possible says so."""
        held = [
            {name for name, (_, messages) in each.items() if body in dict(messages)}
            for each in self.now + self._next
        ]
        return set.intersection(*[each for each in held if each]) if any(held) else set()

    def _is_gone(self, body: bytes) -> bool:
        """Whether every state that is possible now is without *body*."""
        return not any(body in dict(messages) for each in self.now for _, messages in each.values()) and (
            body in self.ended
        )
