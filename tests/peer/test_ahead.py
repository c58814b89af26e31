import asyncio
from contextlib import aclosing

import pytest

from peer.ahead import in_order
from tests.dht.nodes import until


async def test_results_come_in_order_while_a_bounded_number_runs_ahead() -> None:
    running, most = 0, 0

    async def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(10 - number % 10):  # later ones end sooner
            await asyncio.sleep(0)
        running -= 1
        return number

    works = [lambda number=number: work(number) for number in range(50)]
    assert [each async for each in in_order(works, ahead_max=4)] == list(range(50))
    assert 2 <= most <= 4


async def test_what_runs_ahead_is_cancelled_by_an_error_and_by_a_reader_who_leaves() -> None:
    ended: list[int] = []

    async def work(number: int) -> int:
        if number == 0:
            return 0
        if number == 1:
            await until(lambda: started >= 2)
            raise KeyError(number)
        begin()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)
        return number

    started = 0

    def begin() -> None:
        nonlocal started
        started += 1

    works = [lambda number=number: work(number) for number in range(9)]
    with pytest.raises(KeyError):
        [each async for each in in_order(works, ahead_max=4)]
    assert sorted(ended) == [2, 3, 4]
    ended.clear()
    async with aclosing(in_order(works[:1] + works[2:], ahead_max=3)) as results:
        async for first in results:
            assert first == 0
            await until(lambda: started == 5)
            break
    assert sorted(ended) == [2, 3]
