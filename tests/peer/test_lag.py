import asyncio
import time

import pytest

from peer import lag as module
from peer.lag import WINDOW_MAX, LoopLag
from tests.dht.nodes import until


async def test_loop_that_is_kept_busy_is_seen_to_be_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL_S", 0.01)
    lag = LoopLag()
    assert lag.max_s == 0.0
    task = asyncio.create_task(lag.run())
    try:
        await until(lambda: len(lag._late_s) > 2)
        busy_until = time.monotonic() + 0.2
        while time.monotonic() < busy_until:
            pass
        await until(lambda: lag.max_s > 0.1)
        await until(lambda: len(lag._late_s) == WINDOW_MAX)
        await until(lambda: lag.max_s < 0.1)
    finally:
        task.cancel()
