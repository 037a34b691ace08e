"""How long a failed message waits before it is tried again."""

from __future__ import annotations

from typing import NamedTuple


class Backoff(NamedTuple):
    """How long a failed message waits: after attempt n, min(maximum, initial * factor ** (n - 1)) seconds.

    initial    seconds after the first failed attempt (1)
    factor     how many times longer after each one more (2)
    maximum    seconds at most (60)
    jitter     the part by which each delay is spread at random, up and down (0.1: ± 10 %)
    """

    initial: float = 1
    factor: float = 2
    maximum: float = 60
    jitter: float = 0.1

    def delay(self, attempt: int, chance: float) -> float:
        """Seconds after failed attempt number *attempt*; *chance* in [0, 1) chooses inside the spread."""
        # Beyond the exponent that reaches the maximum a float would overflow.
        steps = min(attempt - 1, 1000)
        try:
            plain = min(self.maximum, self.initial * self.factor**steps)
        except OverflowError:
            plain = self.maximum if self.initial else 0.0
        return plain * (1 + self.jitter * (2 * chance - 1))
