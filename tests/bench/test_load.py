import asyncio
import time

import pytest

from bench import load
from bench.report import Figure, medians, table
from bench.systems.base import Got, Item

ITEMS = [Item(number, "t") for number in range(10)]


async def test_a_slow_get_does_not_hold_up_the_next() -> None:
    open_gets = most_open = 0

    async def get(item: Item) -> Got:
        nonlocal open_gets, most_open
        open_gets += 1
        most_open = max(most_open, open_gets)
        await asyncio.sleep(0.1)
        open_gets -= 1
        return Got(0.1, 0.1)

    began = time.monotonic()
    times = await load.get_paced(get, ITEMS, rate_hz=1000.0)
    assert most_open > 1
    assert time.monotonic() - began < 10 * 0.1
    assert (times.done, times.asked) == (10, 10)


async def test_a_miss_counts_as_missing_and_with_its_time() -> None:
    async def get(item: Item) -> Got:
        return Got(None, 2.0) if item.number == 9 else Got(0.001, 0.002)

    times = await load.get_paced(get, ITEMS, rate_hz=10_000.0)
    assert (times.done, times.asked) == (9, 10)
    assert times.first_ms == pytest.approx((1.0, 2000.0, 2000.0))
    assert times.complete_ms == pytest.approx((2.0, 2000.0, 2000.0))


async def test_a_get_without_end_becomes_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "GET_TIMEOUT_S", 0.05)

    async def get(item: Item) -> Got:
        await asyncio.Event().wait()
        raise AssertionError("the event is never set")

    times = await load.get_paced(get, ITEMS[:2], rate_hz=1000.0)
    assert (times.done, times.asked) == (0, 2)


async def test_misses_do_not_count_as_lookups() -> None:
    async def get(item: Item) -> Got:
        await asyncio.sleep(0.001)
        return Got(None if item.number % 2 else 0.001, 0.001)

    rate_hz, found, missed = await load.lookups_hz(get, ITEMS, concurrency=2, seconds=0.2)
    assert abs(found - missed) <= 2
    assert rate_hz <= found / 0.2


async def test_stores_that_nobody_took_are_counted() -> None:
    async def store(item: Item) -> bool:
        return item.number > 2

    times = await load.store_paced(store, ITEMS, rate_hz=10_000.0)
    assert (times.done, times.asked) == (7, 10)


def test_ratios_say_how_many_times_better_ours_is() -> None:
    figures = [Figure("wait", "ms"), Figure("rate", "1/s", less_is_better=False)]
    columns = {"ours": {"wait": 2.0, "rate": 300.0}, "theirs": {"wait": 1.0, "rate": 100.0}}
    rows = table(figures, columns, ours="ours", against=["theirs", "absent"]).splitlines()
    assert rows[0].split() == ["ours", "theirs", "ours/theirs"]
    assert rows[2].split() == ["wait,", "ms", "2.00", "1.00", "0.50x"]
    assert rows[3].split() == ["rate,", "1/s", "300", "100", "3.00x"]


def test_the_median_is_taken_of_each_figure() -> None:
    assert medians([{"a": 1.0}, {"a": 9.0}, {"a": 2.0}]) == {"a": 2.0}
