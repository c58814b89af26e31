"""How late the event loop is: wake-ups at a steady pace tell what everybody waits for.

Owns the measuring and its window. A loop that is late answers late, and others then take this peer
for silent. Work that keeps the loop between two wake-ups shows by at most the pace too short. Must
not know what keeps it busy.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

INTERVAL_S = 0.05
"""Twenty wake-ups a second cost about a thousandth of a processor."""
SECONDS_MAX = 60
"""The window: the worst of each of the last so many seconds."""
STALL_S = 0.05
"""The promise: the loop is never late by more."""


class LoopLag:
    """Measures by how much the loop wakes too late; `run` is a task of the peer."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._worst_s: deque[float] = deque(maxlen=SECONDS_MAX)
        self._second = 0
        self.stalls = 0
        """How often it was late by more than STALL_S since the start."""

    @property
    def max_s(self) -> float:
        """The longest that the loop was late in the last minute; 0 before the first look."""
        return max(self._worst_s, default=0.0)

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            due = time.monotonic() + self._interval_s
            await asyncio.sleep(self._interval_s)
            self._late(time.monotonic(), due)

    def _late(self, now: float, due: float) -> None:
        late_s = max(0.0, now - due)
        self.stalls += late_s > STALL_S
        if int(now) != self._second or not self._worst_s:
            self._second = int(now)
            self._worst_s.append(late_s)
        else:
            self._worst_s[-1] = max(self._worst_s[-1], late_s)
