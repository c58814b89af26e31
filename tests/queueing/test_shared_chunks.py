"""Chunks for several hosts are read once, and a failed read is tried again."""

from __future__ import annotations

import asyncio

import pytest

from queueing.errors import StorageFailed
from queueing.shared_chunks import KEPT_MAX, SharedChunks, in_turn, one_ahead


class Disk:
    """A source that counts its reads, and waits until it may answer."""

    def __init__(self) -> None:
        self.reads: list[int] = []
        self.may_answer = asyncio.Event()
        self.is_broken = False

    async def read(self, index: int) -> bytes:
        self.reads.append(index)
        await self.may_answer.wait()
        if self.is_broken:
            raise StorageFailed
        return bytes([index])


async def test_readers_at_one_time_share_a_read_even_when_the_first_is_given_up() -> None:
    disk = Disk()
    shared = SharedChunks(disk)
    first, second = (asyncio.create_task(shared.read(7)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    disk.may_answer.set()
    assert await second == b"\x07"
    assert await shared.read(7) == b"\x07"
    assert disk.reads == [7]


async def test_chunks_long_ago_are_read_again_and_no_more_are_kept() -> None:
    disk = Disk()
    disk.may_answer.set()
    shared = SharedChunks(disk)
    for index in range(KEPT_MAX + 1):
        await shared.read(index)
    await shared.read(1)
    await shared.read(0)
    assert disk.reads == [*range(KEPT_MAX + 1), 0]


async def test_failed_read_is_tried_again_by_the_next_reader() -> None:
    disk = Disk()
    disk.is_broken = True
    disk.may_answer.set()
    shared = SharedChunks(disk)
    with pytest.raises(StorageFailed):
        await shared.read(0)
    disk.is_broken = False
    assert await shared.read(0) == b"\x00"
    assert disk.reads == [0, 0]


async def test_chunks_come_in_the_order_wanted_while_the_next_one_is_read() -> None:
    disk = Disk()
    disk.may_answer.set()
    indexes = [3, 1, 4, 0, 5, 9]
    chunks = one_ahead(in_turn(disk, indexes))
    got = [await anext(chunks)]
    await asyncio.sleep(0)
    assert disk.reads == indexes[:2]
    got += [each async for each in chunks]
    assert got == [(index, bytes([index])) for index in indexes]


async def test_one_ahead_yields_all_in_order_and_is_at_most_one_ahead() -> None:
    given: list[int] = []

    async def items():
        for number in range(4):
            given.append(number)
            yield number
        raise StorageFailed

    ahead = one_ahead(items())
    assert await anext(ahead) == 0
    await asyncio.sleep(0)
    assert given == [0, 1]
    assert [await anext(ahead) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(StorageFailed):
        await anext(ahead)


async def test_one_ahead_that_is_closed_early_lets_its_source_be_closed() -> None:
    never = asyncio.Event()
    ended: list[bool] = []

    async def items():
        try:
            yield 0
            await never.wait()
        finally:
            ended.append(True)

    source = items()
    ahead = one_ahead(source)
    assert await anext(ahead) == 0
    await asyncio.sleep(0)
    await ahead.aclose()
    await source.aclose()
    assert ended == [True]
