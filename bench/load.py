"""How load is put on a network, and what is counted. Owns pace, bounds and percentiles.

Gets and stores begin at fixed times, whether or not earlier ones have ended: a system that is slow
is not asked more gently. Must not know which system it is.
"""

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bench.systems.base import Got, Item

GET_TIMEOUT_S = 30.0
"""A get that takes longer is a miss of this length."""
QUANTILES = (0.5, 0.95, 0.99)

Result = TypeVar("Result")
Get = Callable[[Item], Awaitable[Got]]
Store = Callable[[Item], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Times:
    """Percentiles of one phase in milliseconds, in the order of QUANTILES."""

    first_ms: tuple[float, ...]
    complete_ms: tuple[float, ...]
    done: int
    """Operations that did what they should: stored, or got the value that was stored."""
    asked: int


async def get_paced(get: Get, items: Sequence[Item], rate_hz: float) -> Times:
    """Get each item once, rate_hz a second."""

    async def one(item: Item) -> Got:
        try:
            async with asyncio.timeout(GET_TIMEOUT_S):
                return await get(item)
        except TimeoutError:
            return Got(None, GET_TIMEOUT_S)

    gots = await _paced(one, items, rate_hz)
    return Times(
        _percentiles_ms([got.complete_s if got.first_s is None else got.first_s for got in gots]),
        _percentiles_ms([got.complete_s for got in gots]),
        sum(got.first_s is not None for got in gots),
        len(gots),
    )


async def store_paced(store: Store, items: Sequence[Item], rate_hz: float) -> Times:
    """Store each item once, rate_hz a second."""

    async def one(item: Item) -> tuple[float, bool]:
        began = time.perf_counter()
        async with asyncio.timeout(GET_TIMEOUT_S):
            is_stored = await store(item)
        return time.perf_counter() - began, is_stored

    stores = await _paced(one, items, rate_hz)
    taken_ms = _percentiles_ms([taken_s for taken_s, _ in stores])
    return Times(taken_ms, taken_ms, sum(is_stored for _, is_stored in stores), len(stores))


async def lookups_hz(
    get: Get, items: Sequence[Item], *, concurrency: int, seconds: float
) -> tuple[float, int, int]:
    """Return how many gets a second found the right value, then how many did, how many did not.

    `concurrency` askers each begin the next get when the last has ended.
    """
    supply = itertools.cycle(items)
    began = time.perf_counter()
    found = missed = 0

    async def ask_on() -> None:
        nonlocal found, missed
        while time.perf_counter() - began < seconds:
            got = await get(next(supply))
            if got.first_s is None:
                missed += 1
            else:
                found += 1

    async with asyncio.timeout(seconds + GET_TIMEOUT_S):
        await asyncio.gather(*(ask_on() for _ in range(concurrency)))
    return found / (time.perf_counter() - began), found, missed


async def _paced(
    one: Callable[[Item], Awaitable[Result]], items: Sequence[Item], rate_hz: float
) -> list[Result]:
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def begin(number: int, item: Item) -> Result:
        await asyncio.sleep(max(0.0, began + number / rate_hz - loop.time()))
        return await one(item)

    return await asyncio.gather(*(begin(number, item) for number, item in enumerate(items)))


def _percentiles_ms(seconds: Sequence[float]) -> tuple[float, ...]:
    """The QUANTILES by nearest rank."""
    ranked = sorted(seconds)
    return tuple(1000 * ranked[math.ceil(share * len(ranked)) - 1] for share in QUANTILES)
