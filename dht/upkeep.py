"""What a node does unasked: sweeps, hand-over to new neighbours, refreshes, retries, saving.

Owns the few timers of a node and its persistence. Must not know sockets or message formats.
An idle node sends almost nothing: now and then a ping to a contact that was quiet for long, and a
lookup for a stale bucket (`dht.pulse`).
"""

import asyncio
import random
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Sequence,
)
from typing import Protocol

from dht.config import DhtConfig
from dht.contacts import Contact, ContactRow
from dht.handing import hands_over, heirs, may_be_close
from dht.lookup import Candidate, Goal
from dht.membership import Membership
from dht.publishing import Publisher
from dht.reads import Reader
from dht.records import Record
from dht.routing import Table
from dht.running import candidate_of
from dht.schedule import PublishSchedule, ScheduleChanges, ScheduleRow
from dht.storage import Changes, RecordStore, SavedRecord
from dht.turns import LOAD_TURN, SAVE_TURN, turns
from identity.address import Address

NO_CHANGES = Changes((), ())
NO_SCHEDULE_CHANGES = ScheduleChanges((), ())
SWEEP_WAIT_MAX_S = 600.0
HANDOFF_KEYS_MAX = 20_000
HANDOFF_RECORDS_MAX = 2_000
HANDOFF_TURN = 200
"""Keys judged before other tasks have their turn."""
KNOWN_MAX = 2_048
"""Keys of which one round remembers the closest contacts."""
CROWD = 4
"""Behind so many times k contacts nobody counts as one of the k closest to a key: the block rule
passes over some contacts, but few of a table."""


class DhtPersistence(Protocol):
    """Where a node keeps what must survive a restart; synchronous, called in batches."""

    def load_records(self) -> Iterable[SavedRecord]: ...
    def save_records(self, saved: Sequence[SavedRecord], deleted: Sequence[bytes]) -> None: ...
    def load_contacts(self) -> Iterable[ContactRow]: ...
    def save_contacts(self, rows: Sequence[ContactRow]) -> None: ...
    def load_schedule(self) -> Iterable[ScheduleRow]: ...
    def save_schedule(self, saved: Sequence[ScheduleRow], deleted: Sequence[bytes]) -> None: ...


class Upkeep:
    """The background work of one node."""

    def __init__(
        self,
        table: Table,
        store: RecordStore,
        schedule: PublishSchedule,
        membership: Membership,
        reader: Reader,
        publisher: Publisher,
        config: DhtConfig,
        *,
        own_id: bytes,
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
        persistence: DhtPersistence | None,
        bootstrap: Callable[[], Awaitable[int]],
        rng: random.Random,
    ) -> None:
        self._table = table
        self._store = store
        self._schedule = schedule
        self._membership = membership
        self._reader = reader
        self._publisher = publisher
        self._config = config
        self._own_number = int.from_bytes(own_id, "big")
        self._clock = clock
        self._wall_ms = wall_ms
        self._persistence = persistence
        self._bootstrap = bootstrap
        self._rng = rng
        self._due = asyncio.Event()
        self._neighbours = asyncio.Event()
        self._missed = asyncio.Event()
        self._contacts_saved: tuple[tuple[bytes, Address], ...] = ()
        self._lonely = asyncio.Event()
        self._may_retry_bootstrap = False

    def loops(self) -> list[Callable[[], Coroutine[None, None, None]]]:
        """Return the loops to run as tasks, each without end."""
        return [
            self._sweep_loop,
            self._handoff_loop,
            self._care_loop,
            self._seek_loop,
            self._retry_loop,
            *([self._flush_loop] if self._persistence is not None else []),
        ]

    def retry_failed(self) -> None:
        """Publish now what nobody took: there is a first contact, or the right time."""
        self._schedule.reachable(now_ms=self._wall_ms())
        self._due.set()

    def neighbours_changed(self) -> None:
        """Hand records over soon: to newcomers, and to who moves up for those that have gone."""
        self._neighbours.set()

    def missed(self) -> None:
        """Look at the absent again: somebody is missed."""
        self._missed.set()

    def keep_company(self) -> None:
        """From now on ask the bootstrap nodes again whenever the table is empty."""
        self._may_retry_bootstrap = True
        self._lonely.set()

    def lonely(self) -> None:
        """Look for somebody: the last contact has gone."""
        self._lonely.set()

    def planned(self) -> None:
        """Look at the schedule again: something was planned."""
        self._due.set()

    async def load(self) -> list[ContactRow]:
        """Load records and schedule, a few rows at a time, and return the remembered contacts."""
        if self._persistence is None:
            return []
        async for records in turns([*self._persistence.load_records()], LOAD_TURN):
            self._store.load(records, now_ms=self._wall_ms(), more=True)
        self._store.load((), now_ms=self._wall_ms())
        async for drafts in turns([*self._persistence.load_schedule()], LOAD_TURN):
            self._schedule.load(drafts)
        return list(self._persistence.load_contacts())

    async def flush(self) -> None:
        """Give what changed to the persistence, a few rows at a time: each save blocks the loop."""
        if self._persistence is None:
            return
        while (records := self._store.take_changes(SAVE_TURN)) != NO_CHANGES:
            self._persistence.save_records(records.saved, records.deleted)
            await asyncio.sleep(0)
        while (drafts := self._schedule.take_changes(SAVE_TURN)) != NO_SCHEDULE_CHANGES:
            self._persistence.save_schedule(drafts.saved, drafts.deleted)
            await asyncio.sleep(0)
        shape = self._table.shape()
        # Times alone are not worth a write; an empty table must not erase what a rejoin needs.
        if shape and shape != self._contacts_saved:
            self._persistence.save_contacts(self._table.rows(self._clock(), self._wall_ms()))
            self._contacts_saved = shape

    async def _sweep_loop(self) -> None:
        while True:
            self._due.clear()
            while len(self._table) and await self._publisher.sweep():
                pass
            due_ms = self._schedule.next_due_ms()
            wait_s = SWEEP_WAIT_MAX_S
            if due_ms is not None and len(self._table):
                wait_s = min(max(0.1, (due_ms - self._wall_ms()) / 1000), SWEEP_WAIT_MAX_S)
            await _wait(self._due, wait_s)

    async def _handoff_loop(self) -> None:
        while True:
            await self._neighbours.wait()
            await asyncio.sleep(self._config.handoff_s)
            self._neighbours.clear()
            newcomers = list(self._membership.newcomers.values())
            self._membership.newcomers.clear()
            departed = list(self._membership.departed)
            self._membership.departed.clear()
            known: dict[bytes, list[Contact]] = {}
            plans = [(each, await self._keys_for(each, known)) for each in newcomers]
            for newcomer, keys in plans:
                await self._hand_over(newcomer, keys)
            if departed:
                for heir, keys in (await self._heirs_of(departed)).values():
                    await self._hand_over(heir, keys)

    async def _hand_over(self, candidate: Candidate, keys: Iterable[bytes]) -> None:
        records: list[Record] = []
        for key in keys:
            page = self._store.find(key, now_ms=self._wall_ms(), withdrawn=True)
            records.extend(page.records)
            if len(records) >= HANDOFF_RECORDS_MAX:
                break
        if records:
            await self._publisher.hand_over(candidate, records[:HANDOFF_RECORDS_MAX])

    async def _keys_for(
        self, newcomer: Candidate, known: dict[bytes, list[Contact]]
    ) -> list[bytes]:
        """Choose the keys that a newcomer should hold: where it is among the k closest."""
        newcomer_id = int.from_bytes(newcomer.peer_id, "big")
        wanted: list[bytes] = []
        async for key, number, closest in self._near(newcomer.peer_id, [newcomer_id], known):
            if any(each.long_id == newcomer_id for each in closest) and self._is_giver(
                number, closest, {newcomer_id}
            ):
                wanted.append(key)
        return wanted

    async def _heirs_of(
        self, departed: Sequence[Contact]
    ) -> dict[bytes, tuple[Candidate, list[bytes]]]:
        """Choose who moved up for those that have gone, and the keys that each should hold now."""
        gone = [each.long_id for each in departed]
        k = self._config.lookup.k
        found: dict[bytes, tuple[Candidate, list[bytes]]] = {}
        async for key, number, closest in self._near(self._table.node.id, gone, {}):
            by_id = {each.long_id: each for each in closest}
            # We count among the k closest ourselves, having the records.
            ids = sorted((*by_id, self._own_number), key=number.__xor__)[:k]
            moved_up = [each for each in heirs(number, ids, gone, k=k) if each in by_id]
            if moved_up and self._is_giver(number, closest, moved_up):
                for heir in moved_up:
                    candidate = candidate_of(by_id[heir])
                    found.setdefault(candidate.peer_id, (candidate, []))[1].append(key)
        return found

    async def _near(
        self, target: bytes, changed: Sequence[int], known: dict[bytes, list[Contact]]
    ) -> AsyncIterator[tuple[bytes, int, list[Contact]]]:
        """Go through the stored keys that a change may concern, with the contacts closest to each.

        Those near an id first, in turns; what is far from all that changed costs next to nothing.
        `known` are the contacts closest to keys gone through before: many come at once, and most
        keys that concern one of them concern them all.
        """
        k = self._config.lookup.k
        keys = self._store.near_keys(target, HANDOFF_KEYS_MAX)
        if not keys:  # as with most peers of a network in which little is shared
            return
        ids = sorted(contact.long_id for contact in self._table.contacts())
        closer_max = CROWD * k
        for place, key in enumerate(keys):
            if place % HANDOFF_TURN == HANDOFF_TURN - 1:
                await asyncio.sleep(0)
            number = int.from_bytes(key, "big")
            if any(may_be_close(number, each, ids, closer_max=closer_max) for each in changed):
                closest = known.get(key)
                if closest is None:
                    closest = self._table.closest_spread(key, k)
                    if len(known) < KNOWN_MAX:
                        known[key] = closest
                yield key, number, closest

    def _is_giver(
        self, number: int, closest: Sequence[Contact], receivers: Collection[int]
    ) -> bool:
        ids = [each.long_id for each in closest]
        holders = self._config.handoff_holders
        return hands_over(number, self._own_number, ids, receivers, holders=holders)

    async def _care_loop(self) -> None:
        while True:
            await asyncio.sleep(self._config.upkeep_s * self._rng.uniform(0.9, 1.1))
            self._store.expire(self._wall_ms())
            await self._membership.ping_quiet(self._config.pings_max)
            refresh_s = self._membership.pulse.refresh_s
            stale = self._table.refresh_ids(self._clock(), self._rng, refresh_s)
            if len(self._table):
                for target in stale[: self._config.refreshes_max]:
                    await self._reader.closest(target, Goal.REFRESH)

    async def _seek_loop(self) -> None:
        """Ask for whoever is missed; who is back may be from beyond a cut, with new neighbours."""
        while True:
            self._missed.clear()
            due = self._membership.absent.next_due()
            await _wait(self._missed, None if due is None else max(0.0, due - self._clock()))
            if await self._membership.seek_absent(self._config.seeks_max) > 0:
                await self._membership.join_neighbourhood()

    async def _retry_loop(self) -> None:
        """Ask the bootstrap nodes ever more rarely while we are alone; sleep while we are not."""
        while True:
            await self._lonely.wait()
            self._lonely.clear()
            wait_s = self._config.bootstrap_retry_min_s
            while self._may_retry_bootstrap and not len(self._table):
                await asyncio.sleep(wait_s * self._rng.uniform(0.8, 1.2))
                if not len(self._table):
                    await self._bootstrap()
                wait_s = min(2 * wait_s, self._config.bootstrap_retry_max_s)

    async def _flush_loop(self) -> None:
        while True:
            await asyncio.sleep(self._config.flush_s)
            await self.flush()


async def _wait(event: asyncio.Event, timeout_s: float | None) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
