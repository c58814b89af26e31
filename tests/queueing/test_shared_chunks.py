"""Chunks for several hosts are read once, and a failed read is tried again."""

from __future__ import annotations

import asyncio

import pytest

from queueing.errors import StorageFailed
from queueing.shared_chunks import KEPT_MAX, SharedChunks


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
