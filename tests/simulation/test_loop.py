import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation import loop


def test_a_virtual_day_takes_no_time() -> None:
    async def main() -> float:
        before = asyncio.get_running_loop().time()
        await asyncio.sleep(86_400)
        return asyncio.get_running_loop().time() - before

    began = time.monotonic()
    assert loop.run(main()) == 86_400
    assert time.monotonic() - began < 5


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30))
def test_events_run_in_order_of_time_and_then_of_asking(plan: list[tuple[int, bool]]) -> None:
    async def main() -> list[tuple[float, int]]:
        running = loop.running_loop()
        seen: list[tuple[float, int]] = []
        start = running.time()
        for number, (delay_s, is_timer) in enumerate(plan):
            note = (lambda n: lambda: seen.append((running.time() - start, n)))(number)
            if is_timer:
                running.call_later(delay_s, note)
            else:
                running.post_at(start + delay_s, note)
        await asyncio.sleep(10)
        return seen

    expected = sorted((float(delay_s), number) for number, (delay_s, _) in enumerate(plan))
    assert loop.run(main()) == expected


def test_time_stands_still_while_anything_is_ready() -> None:
    async def main() -> None:
        running = loop.running_loop()
        before = running.time()
        running.post_at(before + 1e-6, lambda: None)
        for _ in range(1_000):
            await asyncio.sleep(0)
        assert running.time() == before

    loop.run(main())


def test_cancelled_timers_neither_run_nor_pile_up() -> None:
    async def main() -> int:
        running = loop.running_loop()
        for _ in range(20 * loop.CANCELLED_MIN):
            running.call_later(3_600, pytest.fail).cancel()
            await asyncio.sleep(1e-3)
        return len(running._events)

    assert loop.run(main()) <= 3 * loop.CANCELLED_MIN


def test_timeouts_are_virtual() -> None:
    async def main() -> float:
        before = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(7):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time() - before

    assert loop.run(main()) == 7


def test_waiting_for_nothing_is_an_error_and_not_an_endless_wait() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(loop.Stuck):
        loop.run(main())


def test_what_a_datagram_raises_ends_the_run() -> None:
    async def main() -> None:
        running = loop.running_loop()
        running.post_at(running.time() + 1, int, "no number")
        await asyncio.sleep(2)

    with pytest.raises(ValueError, match="no number"):
        loop.run(main())


def test_an_exception_that_nobody_caught_fails_the_run() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_later(1, int, "no number")
        await asyncio.sleep(2)

    with pytest.raises(AssertionError, match="uncaught"):
        loop.run(main())
