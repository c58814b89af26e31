"""The further pages of storers that have more to a read than fits one datagram.

Owns whose pages are followed, how far, and when over UDP or gRPC. Must not know lookups, checks of
records or who reads.

A few storers at a time are read to their end; once so many were, the others go on only while they
bring news: nobody reads the same long set twenty times, and those few cannot withhold what others
have. A set that is long goes on over gRPC; where that cannot be had, page by page after all.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import msgspec

from dht import wire
from dht.calling import Caller
from dht.collecting import Collector
from dht.config import DhtConfig
from dht.errors import DhtError
from dht.lookup import Candidate
from dht.running import wait_until

FULL_READS_MIN = 3
"""Storers whose pages are read to the end even when they bring no news."""


class BulkReader(Protocol):
    """Reads long sets over gRPC; yields encoded records."""

    def find(
        self, candidate: Candidate, body: wire.FindRecords, records_max: int
    ) -> AsyncIterator[bytes]: ...


class Paging:
    """Follow the pages of several storers for one read."""

    def __init__(
        self,
        caller: Caller,
        bulk: BulkReader | None,
        collector: Collector,
        config: DhtConfig,
        *,
        wall_ms: Callable[[], int],
        drops: Counter[str],
    ) -> None:
        self._caller = caller
        self._bulk = bulk
        self._collector = collector
        self._config = config
        self._wall_ms = wall_ms
        self._drops = drops
        self._slots = asyncio.Semaphore(FULL_READS_MIN)
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._read_to_end = 0
        self._is_over = False

    def take(self, found: wire.FoundRecords, teller: Candidate) -> bool:
        """Collect what one page holds; True when something of it is news."""
        now_ms = self._wall_ms()
        records = found.records
        news = [self._collector.add(each, now_ms=now_ms, teller=teller.peer_id) for each in records]
        return any(news)

    def begin(self) -> None:
        """Note that a storer will be followed, before `follow` has its first turn."""
        self._open += 1
        self._idle.clear()

    async def follow(
        self, candidate: Candidate, body: wire.FindRecords, cursor: bytes, news: bool
    ) -> None:
        """Follow a storer's pages after the one that ended at cursor."""
        rest = msgspec.structs.replace(body, contacts_wanted=0, cursor=cursor)
        pages_max = self._config.pages_max
        try:
            async with self._slots:
                unread = await self._follow_pages(candidate, rest, news, pages_max)
                if unread is None:
                    return
                if not await self._read_bulk(candidate, unread):
                    left_max = self._config.pages_alone_max - pages_max
                    await self._follow_pages(candidate, unread, True, left_max)
        except DhtError:
            self._drops["page-lost"] += 1
        finally:
            self._open -= 1
            if self._open == 0:
                self._idle.set()

    async def wait(self, timeout_s: float) -> None:
        """Wait until all are read; those that take longer are given up."""
        await wait_until(self._idle, timeout_s)
        self._is_over = True

    async def _follow_pages(
        self, candidate: Candidate, rest: wire.FindRecords, news: bool, pages_max: int
    ) -> wire.FindRecords | None:
        """Read page after page; return what to ask for next, None when there is no more to read."""
        for _ in range(pages_max):
            if not self._reads_on(news):
                return None
            found = await self._caller.find(candidate, rest)
            news = self.take(found, candidate)
            if not found.cursor or found.cursor == rest.cursor:
                self._read_to_end += 1
                return None
            rest = msgspec.structs.replace(rest, cursor=found.cursor)
        return rest

    async def _read_bulk(self, candidate: Candidate, rest: wire.FindRecords) -> bool:
        """Read on over gRPC; False when that is not to be had."""
        if not self._reads_on(True):
            return True
        if self._bulk is None:
            return False
        try:
            async for data in self._bulk.find(candidate, rest, self._config.records_wanted_max):
                self._collector.add(data, now_ms=self._wall_ms(), teller=candidate.peer_id)
        except DhtError:
            self._drops["page-lost"] += 1
            return False
        self._read_to_end += 1
        return True

    def _reads_on(self, news: bool) -> bool:
        if self._is_over or self._collector.is_full:
            return False
        # Whoever watches wants to know what each of them has.
        watched = self._collector.trace is not None
        return news or watched or self._read_to_end < FULL_READS_MIN
