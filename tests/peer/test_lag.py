import asyncio
import time

from peer.lag import SECONDS_MAX, STALL_S, LoopLag
from tests.dht.nodes import until


async def test_loop_that_is_kept_busy_is_seen_to_be_late() -> None:
    lag = LoopLag(0.01)
    assert (lag.max_s, lag.stalls) == (0.0, 0)
    task = asyncio.create_task(lag.run())
    try:
        await until(lambda: len(lag._worst_s) > 0)
        busy_until = time.monotonic() + 0.3
        while time.monotonic() < busy_until:
            pass
        await until(lambda: lag.max_s > 0.2)
        assert lag.stalls >= 1
    finally:
        task.cancel()


def test_worst_of_each_second_counts_for_a_minute() -> None:
    lag = LoopLag()
    lag._late(10.0, 9.0)
    for tenth in range(10 * (SECONDS_MAX - 1)):
        lag._late(10.1 + tenth / 10, 10.1 + tenth / 10)
        assert lag.max_s == 1.0
    lag._late(10.0 + SECONDS_MAX, 10.0 + SECONDS_MAX)
    assert lag.max_s == 0.0


def test_what_is_late_within_the_promise_is_no_stall() -> None:
    lag = LoopLag()
    lag._late(1.0 + STALL_S / 2, 1.0)
    lag._late(2.0 - STALL_S, 2.0)  # a clock cannot make it early
    assert lag.stalls == 0
    lag._late(3.0 + 2 * STALL_S, 3.0)
    assert lag.stalls == 1
