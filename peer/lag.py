"""How late the event loop is: one wake-up a second tells what everybody waits for.

Owns the measuring and its window. A loop that is late answers late, and others then take this peer
for silent. Must not know what keeps it busy.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

INTERVAL_S = 1.0
WINDOW_MAX = 60
"""Measurements that count: those of the last minute."""


class LoopLag:
    """Measures by how much the loop wakes too late; `run` is a task of the peer."""

    def __init__(self) -> None:
        self._late_s: deque[float] = deque(maxlen=WINDOW_MAX)

    @property
    def max_s(self) -> float:
        """The longest that the loop was late in the last minute; 0 before the first second."""
        return max(self._late_s, default=0.0)

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            due = time.monotonic() + INTERVAL_S
            await asyncio.sleep(INTERVAL_S)
            self._late_s.append(max(0.0, time.monotonic() - due))
