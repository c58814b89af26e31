"""Whether what was published is really there: read back over another way than it went.

Owns the choice of where such a lookup starts, and who has a record. Must not know files or the
schedule. A storer signs that it keeps a record; whether a reader would get it is another matter.
So the lookup starts far from the key, at contacts that did not just acknowledge the record where
there are others, and asks each peer for this one record.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from dht import wire
from dht.config import DhtConfig
from dht.errors import BadRecord
from dht.lookup import Candidate, Goal
from dht.records import Kind, check_record, decode_record
from dht.routing import Table
from dht.running import LookupRunner, candidate_of
from dht.storage import ENTRY_ID_BYTES, entry_id_of

READ_BACK_LINGER_S = 0.15
"""How long the last closest peers are waited for past their soft timeout."""


@dataclass(frozen=True, slots=True)
class Sought:
    """One of our records, and who acknowledged it."""

    key: bytes
    kind: Kind
    entry_id: bytes
    sequence: int
    storers: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Seen:
    """Who of the closest peers has a record, and who of them was asked."""

    holders: frozenset[bytes]
    asked: frozenset[bytes]

    def missing_from(self, storers: frozenset[bytes]) -> frozenset[bytes]:
        """Those who acknowledged the record, were asked, and do not have it."""
        return (storers & self.asked) - self.holders


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What reading one record back showed."""

    found_on: int
    """How many of the closest peers have it."""
    closest: int
    """How many of them were asked."""
    missing: int
    """How many acknowledged it, and do not have it."""


class ReadBack:
    """Look for records of our own; several at once, as many as one read or publish may."""

    def __init__(
        self,
        runner: LookupRunner,
        table: Table,
        network_id: bytes,
        config: DhtConfig,
        *,
        wall_ms: Callable[[], int],
    ) -> None:
        self._runner = runner
        self._table = table
        self._network_id = network_id
        self._slots = asyncio.Semaphore(config.lookups_max)
        self._k = config.lookup.k
        self._wall_ms = wall_ms

    async def look(self, sought: Sequence[Sought]) -> list[Seen]:
        """Find out who of the closest peers has each record."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._look(each)) for each in sought]
        return [task.result() for task in tasks]

    async def _look(self, sought: Sought) -> Seen:
        before = int.from_bytes(sought.entry_id, "big") - 1
        cursor = max(0, before).to_bytes(ENTRY_ID_BYTES, "big")  # the page begins with our record
        body = wire.FindRecords(sought.key, (int(sought.kind),), cursor=cursor, withdrawn=True)
        heard: dict[bytes, Candidate] = {}
        answers: dict[bytes, bool] = {}
        good: set[bytes] = set()

        def take(candidate: Candidate, found: wire.FoundRecords) -> Sequence[Candidate]:
            if found.records or not found.cursor:  # else there was no room for a record
                first = found.records[0] if found.records else b""
                answers[candidate.peer_id] = first in good or self._is_it(first, sought)
                if answers[candidate.peer_id]:
                    good.add(first)
            return self._runner.candidates(found, candidate, heard)

        async with self._slots:
            seeds = self._seeds(sought.key, sought.storers)
            lookup = self._runner.begin(sought.key, Goal.READ, READ_BACK_LINGER_S, seeds=seeds)
            await self._runner.run(lookup, body, take)
        asked = [each.peer_id for each in lookup.closest() if each.peer_id in answers]
        return Seen(frozenset(each for each in asked if answers[each]), frozenset(asked))

    def _is_it(self, data: bytes, sought: Sought) -> bool:
        try:
            record = decode_record(data)
            if entry_id_of(record) != sought.entry_id or record.sequence < sought.sequence:
                return False
            check_record(record, self._network_id, now_ms=self._wall_ms())
        except BadRecord:
            return False
        return True

    def _seeds(self, key: bytes, storers: Collection[bytes]) -> list[Candidate]:
        """The contacts farthest from a key that did not just acknowledge it; all, if all did."""
        target = int.from_bytes(key, "big")
        sound = [each for each in self._table.contacts() if each.failures == 0]
        others = [each for each in sound if each.peer_id not in storers] or sound
        others.sort(key=lambda each: each.long_id ^ target, reverse=True)
        return [candidate_of(each) for each in others[: self._k]]
