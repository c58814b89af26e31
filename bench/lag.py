"""How long the event loop kept everybody waiting: a monitor for tests and benchmarks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator


class LoopLag:
    """The longest turn of the loop: time of this thread that passed between two of our ticks.

    Measured in the thread's CPU time, so that a busy machine, which takes the processor away
    from us, is not mistaken for work of ours; what blocks without using the processor shows in
    `longest_wall_s` only. A tick in every turn of the loop keeps a processor busy; with a pause
    between ticks, up to that much more than the longest turn may be measured.
    """

    def __init__(self, pause_s: float = 0.0) -> None:
        self._pause_s = pause_s
        self.longest_s = 0.0
        self.longest_wall_s = 0.0
        self.ticks = 0
        self._ended = False
        self._cpu_s = time.thread_time()
        self._wall_s = time.monotonic()

    async def run(self) -> None:
        """Tick until ended."""
        self._cpu_s, self._wall_s = time.thread_time(), time.monotonic()
        while not self._ended:
            await asyncio.sleep(self._pause_s)
            cpu_s, wall_s = time.thread_time(), time.monotonic()
            self.longest_s = max(self.longest_s, cpu_s - self._cpu_s)
            self.longest_wall_s = max(self.longest_wall_s, wall_s - self._wall_s)
            self._cpu_s, self._wall_s = cpu_s, wall_s
            self.ticks += 1

    def end(self) -> None:
        """Let `run` return at its next tick."""
        self._ended = True


@contextlib.asynccontextmanager
async def loop_lag(pause_s: float = 0.0) -> AsyncIterator[LoopLag]:
    """Watch the loop while the block runs.

    What the process held before is kept from the garbage collector meanwhile: going through the
    heap of a whole test run takes far longer than through that of a peer.
    """
    gc.collect()
    gc.freeze()
    lag = LoopLag(pause_s)
    task = asyncio.create_task(lag.run())
    try:
        yield lag
    finally:
        lag.end()
        await task
        gc.unfreeze()
