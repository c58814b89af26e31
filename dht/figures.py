"""How long lookups took, lately. Owns the window and its percentiles; must not know lookups.

Pure: it is given durations. Bounded: what a node did long ago says nothing of how it does now.
"""

import math
from collections import deque
from collections.abc import Iterable
from typing import Final

DURATIONS_MAX: Final = 256


class Durations:
    """The last durations of one kind of work.

    Input: `add(seconds)`. Outputs: `count` since the start, `percentile_s` of the window.
    Invariant: at most DURATIONS_MAX are kept.
    """

    def __init__(self) -> None:
        self.count = 0
        self._last: deque[float] = deque(maxlen=DURATIONS_MAX)

    def add(self, seconds: float) -> None:
        """Note one more."""
        self.count += 1
        self._last.append(seconds)

    def percentile_s(self, percent: float) -> float | None:
        """Return the duration that so many percent of the window do not exceed; None without any.

        By nearest rank: always one that was measured.
        """
        return percentile(self._last, percent)


def percentile(values: Iterable[float], percent: float) -> float | None:
    """Return the nearest-rank percentile of some values, None where there are none."""
    assert 0 < percent <= 100
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1] if ordered else None
