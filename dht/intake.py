"""Long batches of records, judged in turns and within the budget of signature checks.

Owns the queue of batches that wait: one a caller takes part at a time, and those take turns, so
that nobody's thousand records hold up somebody's ten. Must not know gRPC or how a batch came.
"""

import asyncio
from collections.abc import Callable, Sequence

from dht.budget import VerifyBudget
from dht.desk import RecordDesk
from dht.errors import BusyStorer
from dht.storage import Stored
from dht.turns import SIGN_TURN, turns

WAITING_MAX = 256
"""Batches that wait or are judged; more are refused."""
CALLER_WAITING_MAX = 4
"""The same of one caller."""


class Intake:
    """Judge long batches for many callers at once."""

    def __init__(
        self, desk: RecordDesk, budget: VerifyBudget, *, clock: Callable[[], float]
    ) -> None:
        self._desk = desk
        self._budget = budget
        self._clock = clock
        self._turn = asyncio.Lock()  # serves in the order of asking: that makes it fair
        self._callers: dict[bytes, tuple[asyncio.Lock, int]] = {}
        self._waiting = 0

    async def store(
        self, encoded: Sequence[bytes], source_block: str, caller_id: bytes
    ) -> list[Stored]:
        """Judge a batch as soon as its turns come; BusyStorer when too many wait already."""
        lock, waiting = self._callers.get(caller_id, (asyncio.Lock(), 0))
        if self._waiting >= WAITING_MAX or waiting >= CALLER_WAITING_MAX:
            raise BusyStorer
        self._callers[caller_id] = (lock, waiting + 1)
        self._waiting += 1
        try:
            async with lock:
                return await self._judge(encoded, source_block, caller_id)
        finally:
            self._waiting -= 1
            _, waiting = self._callers[caller_id]
            if waiting == 1:
                del self._callers[caller_id]
            else:
                self._callers[caller_id] = (lock, waiting - 1)

    async def _judge(
        self, encoded: Sequence[bytes], source_block: str, caller_id: bytes
    ) -> list[Stored]:
        stored: list[Stored] = []
        async for some in turns(encoded, SIGN_TURN):
            async with self._turn:
                await asyncio.sleep(self._budget.wait_s(len(some), now=self._clock()))
                stored += self._desk.store_waited(some, source_block, caller_id)
        return stored
