"""Publishing: our records go to the closest peers, and the schedule learns what became of them.

Owns the sweep over due drafts: finding storers, batching by storer, counting signed
acknowledgements. Must not know sockets or files. `stored_on` counts distinct other peers whose
signed acknowledgement says OK; our own copy never counts.

Nobody waits for the silent: a publish ends when every storer has acknowledged or is silent. One
that answers later is sent the records all the same, and its acknowledgement reaches the schedule.
"""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, assert_never

from dht.acks import Receipt
from dht.calling import Caller
from dht.config import DhtConfig
from dht.errors import BusyStorer, DhtError, ScheduleFull
from dht.heat import needs_shard
from dht.lookup import Candidate
from dht.placing import Placer
from dht.reads import Reader
from dht.records import Payload, Record, encode_record
from dht.schedule import Draft, PublishSchedule, sign_draft
from dht.self_view import SelfView
from dht.sharing import Spawn
from dht.storage import RecordStore, Stored, Verdict
from dht.turns import NOTE_TURN, PLAN_TURN, SIGN_TURN, turns

RECORD_HEAD_BYTES = 3
"""What msgpack writes before a record, at most."""
BATCH_RECORDS_MAX = 32
BULK_BATCH_RECORDS_MAX = 500
SWEEP_DRAFTS_MAX = 2_048
"""Drafts signed and on their way at once: it bounds what a long sweep holds in memory."""


class BulkStorer(Protocol):
    """Stores long batches over gRPC."""

    async def store(self, candidate: Candidate, records: Sequence[Record]) -> Receipt: ...


@dataclass(frozen=True, slots=True)
class PublishReport:
    """What became of published payloads, in the order they were given."""

    stored_on: tuple[int, ...]
    """Distinct other peers that acknowledged each payload's record with a signature."""
    stored_here: tuple[bool, ...]
    """Whether we keep the record ourselves, being among the closest."""
    storers: tuple[frozenset[bytes], ...] = ()
    """Who acknowledged each; left out of the report on more than SWEEP_DRAFTS_MAX payloads."""

    @property
    def stored_on_min(self) -> int:
        """The fewest other peers that hold any one of the records; 0 when nothing was published."""
        return min(self.stored_on, default=0)

    @property
    def is_alone(self) -> bool:
        """Whether some record is on no other peer yet; it is published on the first contact."""
        return self.stored_on_min == 0


@dataclass(slots=True)
class _Outcome:
    """One draft on its way: who acknowledged it."""

    draft: Draft
    record: Record
    closest: list[Candidate] = field(default_factory=list)
    storers: set[bytes] = field(default_factory=set)
    refused: set[bytes] = field(default_factory=set)
    """Who has no room for it under its own key, ourselves perhaps among them."""
    here: bool = False
    is_busy: bool = False
    """Some storer was too busy for it: it is sent again soon."""
    is_sent: bool = False
    """The closest were sent it; one that answers later is sent it then."""
    is_reported: bool = False
    """The schedule was told; it is told again of each later acknowledgement."""

    def is_close(self, candidate: Candidate, k: int) -> bool:
        """Tell whether a peer that answered late is among the k closest that answered."""
        closest = self.closest
        if len(closest) >= k and self._distance(candidate) >= self._distance(closest[k - 1]):
            return False
        return all(each.peer_id != candidate.peer_id for each in closest)

    def needs_shard(self) -> bool:
        """Tell whether so many of its storers have no room that it belongs in its shard."""
        return needs_shard(len(self.refused), len(self.storers) + self.here)

    def _distance(self, candidate: Candidate) -> int:
        return int.from_bytes(candidate.peer_id, "big") ^ int.from_bytes(self.draft.key, "big")


class Publisher:
    """Publish due drafts for one node."""

    def __init__(
        self,
        caller: Caller,
        reader: Reader,
        placer: Placer,
        store: RecordStore,
        schedule: PublishSchedule,
        own: SelfView,
        config: DhtConfig,
        *,
        wall_ms: Callable[[], int],
        spawn: Spawn,
        drops: Counter[str],
    ) -> None:
        self._caller = caller
        self._reader = reader
        self._store = store
        self._schedule = schedule
        self._own = own
        self._config = config
        self._wall_ms = wall_ms
        self._spawn = spawn
        self._drops = drops
        self._placer = placer
        self._stores = asyncio.Semaphore(config.stores_max)
        self.bulk: BulkStorer | None = None
        self.on_clock: Callable[[bytes, int], None] = lambda _, __: None
        """Told a storer's wall time where that is why it refused a record."""

    async def publish(
        self, payloads: Sequence[Payload], *, expires_ms: int | None = None
    ) -> PublishReport:
        """Plan payloads and publish them now; BadRecord or ScheduleFull when they are not fit."""
        planned = await self.plan(payloads, expires_ms=expires_ms, hold=True)
        return await self.publish_planned(planned)

    async def plan(
        self,
        payloads: Sequence[Payload],
        *,
        expires_ms: int | None = None,
        urgent: bool = True,
        hold: bool = False,
    ) -> list[bytes]:
        """Plan payloads and return their drafts' ids; BadRecord or ScheduleFull.

        With `hold` no sweep takes them: they are about to be published.
        """
        planned: list[bytes] = []
        async for some in turns(payloads, PLAN_TURN):
            now_ms = self._wall_ms()
            new = [
                self._schedule.add(each, now_ms=now_ms, expires_ms=expires_ms, urgent=urgent)
                for each in some
            ]
            if hold:
                self._schedule.hold(new, now_ms=now_ms)
            planned += new
        return planned

    async def publish_planned(self, draft_ids: Sequence[bytes]) -> PublishReport:
        """Publish drafts of the schedule now and report on them in the order given."""
        acknowledged: dict[bytes, int] = {}
        here: set[bytes] = set()
        storers: dict[bytes, frozenset[bytes]] = {}
        async for some in self._windows(draft_ids):
            for outcome in await self._send(await self._taken(some), urgent=True):
                acknowledged[outcome.draft.draft_id] = len(outcome.storers)
                if len(draft_ids) <= SWEEP_DRAFTS_MAX:
                    storers[outcome.draft.draft_id] = frozenset(outcome.storers)
                if outcome.here:
                    here.add(outcome.draft.draft_id)
        return PublishReport(
            tuple(acknowledged.get(draft_id, 0) for draft_id in draft_ids),
            tuple(draft_id in here for draft_id in draft_ids),
            tuple(storers.get(draft_id, frozenset()) for draft_id in draft_ids) if storers else (),
        )

    async def _taken(self, draft_ids: Sequence[bytes]) -> list[Draft]:
        """Take drafts in the order of their keys, some in a turn, and none in that of others."""
        drafts: list[Draft] = []
        await asyncio.sleep(0)
        async for some in turns(self._schedule.in_order(draft_ids), NOTE_TURN):
            drafts += self._schedule.take(some, now_ms=self._wall_ms())
        await asyncio.sleep(0)
        return drafts

    async def _windows(self, draft_ids: Sequence[bytes]) -> AsyncIterator[Sequence[bytes]]:
        """Cut drafts into runs of neighbouring keys, each small enough to be on its way at once."""
        by_first_byte: dict[int, list[bytes]] = {}
        async for some in turns(draft_ids, NOTE_TURN):
            for draft_id in some:
                key = self._schedule.key_of(draft_id)
                if key is not None:
                    by_first_byte.setdefault(key[0], []).append(draft_id)
        window: list[bytes] = []
        for first_byte in sorted(by_first_byte):
            window += by_first_byte[first_byte]
            while len(window) > SWEEP_DRAFTS_MAX:
                yield window[:SWEEP_DRAFTS_MAX]
                del window[:SWEEP_DRAFTS_MAX]
        if window:
            yield window

    async def withdraw(self, draft_ids: Sequence[bytes]) -> PublishReport:
        """Publish tombstones of drafts of the schedule."""
        async for some in turns(draft_ids, NOTE_TURN):
            now_ms = self._wall_ms()
            self._schedule.withdraw_drafts(some, now_ms=now_ms)
            self._schedule.hold(some, now_ms=now_ms)
        return await self.publish_planned(draft_ids)

    async def tell(
        self, draft_id: bytes, candidates: Sequence[Candidate], *, at_most_s: float
    ) -> None:
        """Give one of our records to these peers, close to its key or not."""
        drafts = self._schedule.take([draft_id], now_ms=self._wall_ms())
        outcomes = await self._signed(drafts)
        if outcomes:
            sends = [(candidate, outcomes) for candidate in candidates]
            await self._send_all(sends, at_most_s=at_most_s)
            await self._report(outcomes)

    async def sweep(self) -> bool:
        """Publish a bounded part of what is due; False when nothing was."""
        now_ms = self._wall_ms()
        if not self._schedule.has_due(now_ms):
            return False
        await self._send(self._schedule.due(now_ms, SWEEP_DRAFTS_MAX))
        await asyncio.sleep(0)
        return True

    async def hand_over(self, candidate: Candidate, records: Sequence[Record]) -> Receipt | None:
        """Store records on one peer, long sets over gRPC where that works; None when it fails.

        The receipt may end early, where the peer stopped answering.
        """
        batches = self._batches(records, bulk=self._is_long(records))
        if self._is_long(records):
            receipts = await self._store_each(candidate, batches, bulk=True)
            if receipts:
                return _joined(receipts)
            batches = self._batches(records, bulk=False)
        return _joined(await self._store_each(candidate, batches, bulk=False))

    async def _send(self, drafts: Sequence[Draft], *, urgent: bool = False) -> list[_Outcome]:
        """Publish drafts, and their shards where need be: those not due either when `urgent`."""
        if not drafts:
            return []
        outcomes = await self._signed(drafts)
        await self._place(outcomes)
        batches: dict[bytes, tuple[Candidate, list[_Outcome]]] = {}
        async for some in turns(outcomes, SIGN_TURN):
            for outcome in some:
                outcome.is_sent = True
                outcome.here = self._keep_here(outcome)
                for candidate in outcome.closest:
                    batches.setdefault(candidate.peer_id, (candidate, []))[1].append(outcome)
        await self._send_all(batches.values())
        self._reader.stored({outcome.draft.key for outcome in outcomes})
        await self._report(outcomes)
        await asyncio.sleep(0)
        await self._send_shards([each for each in outcomes if each.needs_shard()], urgent)
        return outcomes

    async def _send_shards(self, outcomes: Sequence[_Outcome], urgent: bool) -> None:
        """Publish words under their shards, which count as if their own keys had taken them."""
        sharded: dict[bytes, _Outcome] = {}
        async for some in turns(outcomes, PLAN_TURN):
            now_ms = self._wall_ms()
            for outcome in some:
                draft_id = outcome.draft.draft_id
                try:
                    shard_id = self._schedule.add_shard(draft_id, now_ms=now_ms, urgent=urgent)
                except ScheduleFull:
                    self._drops["shard-unplanned"] += 1
                    continue
                if shard_id is not None:
                    sharded[shard_id] = outcome
        for sent in await self._send(self._schedule.take(sharded, now_ms=self._wall_ms())):
            outcome = sharded[sent.draft.draft_id]
            outcome.storers |= sent.storers
            outcome.here = outcome.here or sent.here

    async def _signed(self, drafts: Sequence[Draft]) -> list[_Outcome]:
        identity, network_id = self._own.identity, self._own.network.network_id
        outcomes: list[_Outcome] = []
        async for some in turns(drafts, SIGN_TURN):
            outcomes += [_Outcome(each, sign_draft(identity, network_id, each)) for each in some]
        return outcomes

    async def _place(self, outcomes: Sequence[_Outcome]) -> None:
        """Find the storers of outcomes in the order of their keys, those that answer later too."""
        late: list[Candidate] = []
        is_placed = False

        async def store_late(candidate: Candidate) -> None:
            late.append(candidate)
            if is_placed and (missed := await self._add_late(outcomes, candidate)):
                await self._send_to(candidate, missed)

        keys = list(dict.fromkeys(outcome.draft.key for outcome in outcomes))
        placed = await self._placer.place(keys, store_late)
        async for some in turns(outcomes, NOTE_TURN):
            for outcome in some:
                outcome.closest = list(placed.get(outcome.draft.key, ()))
        is_placed = True
        for candidate in late:
            await self._add_late(outcomes, candidate)

    async def _add_late(self, outcomes: Sequence[_Outcome], candidate: Candidate) -> list[_Outcome]:
        """Add one that answered late wherever it is close; return those that missed it.

        Their closest were sent to already; the others will be sent to it yet.
        """
        k = self._config.lookup.k
        missed: list[_Outcome] = []
        async for some in turns(outcomes, NOTE_TURN):
            for outcome in some:
                if outcome.is_close(candidate, k):
                    outcome.closest.append(candidate)
                    if outcome.is_sent:
                        missed.append(outcome)
        return missed

    async def _send_all(
        self, sends: Iterable[tuple[Candidate, Sequence[_Outcome]]], *, at_most_s: float = math.inf
    ) -> None:
        """Send to all storers at once; return when each has acknowledged or is silent."""
        async with asyncio.TaskGroup() as group:
            for candidate, outcomes in sends:
                task = self._spawn(self._send_to(candidate, outcomes))
                if self._caller.is_silent(candidate.address):
                    continue
                group.create_task(
                    self._caller.wait_for(
                        task, candidate.peer_id, candidate.address, at_most_s=at_most_s
                    )
                )

    def _keep_here(self, outcome: _Outcome) -> bool:
        """Keep our own copy when we are among the k closest, alone included."""
        if self._own.client:
            return False
        target = int.from_bytes(outcome.draft.key, "big")
        own_distance = int.from_bytes(self._own.peer_id, "big") ^ target
        k = self._config.lookup.k
        nearer = sum(
            int.from_bytes(each.peer_id, "big") ^ target < own_distance for each in outcome.closest
        )
        if nearer >= k:
            return False
        stored = self._store.store(outcome.record, now_ms=self._wall_ms())
        if stored.verdict is Verdict.HOT:
            outcome.refused.add(self._own.peer_id)
        return stored.verdict is Verdict.OK

    async def _send_to(self, candidate: Candidate, outcomes: Sequence[_Outcome]) -> None:
        receipt = await self.hand_over(candidate, [each.record for each in outcomes])
        if receipt is None:
            self._placer.vanished(candidate.peer_id)
            return
        for outcome, stored in zip(outcomes, receipt.stored, strict=False):
            self._drops[f"ack-{stored.verdict.name.lower()}"] += 1
            self._note(outcome, receipt.storer_id, stored)

    def _note(self, outcome: _Outcome, storer_id: bytes, stored: Stored) -> None:
        """Draw the consequences of one verdict."""
        match stored.verdict:
            case Verdict.OK:
                outcome.storers.add(storer_id)
                if outcome.is_reported:
                    self._report_one(outcome, self._wall_ms())
            case Verdict.STALE:
                if stored.sequence is not None:
                    self._schedule.stale(
                        outcome.draft.draft_id, stored.sequence, now_ms=self._wall_ms()
                    )
            case Verdict.CLOCK:
                if stored.our_ms is not None:
                    self.on_clock(storer_id, stored.our_ms)
            case Verdict.HOT:
                outcome.refused.add(storer_id)
            case Verdict.BUSY:
                outcome.is_busy = True
            case Verdict.FULL | Verdict.BAD:
                pass
            case _:
                assert_never(stored.verdict)

    async def _store_each(
        self, candidate: Candidate, batches: Sequence[Sequence[Record]], *, bulk: bool
    ) -> list[Receipt]:
        """Store batch after batch until one fails."""
        receipts: list[Receipt] = []
        for batch in batches:
            receipt = await self._store_batch(candidate, batch, bulk=bulk)
            if receipt is None:
                break
            receipts.append(receipt)
        return receipts

    async def _store_batch(
        self, candidate: Candidate, batch: Sequence[Record], *, bulk: bool = False
    ) -> Receipt | None:
        async with self._stores:
            self._drops["store-calls"] += 1
            try:
                if bulk and self.bulk is not None:
                    return await self.bulk.store(candidate, batch)
                return await self._caller.store(candidate, batch)
            except BusyStorer:
                return Receipt(candidate.peer_id, (Stored(Verdict.BUSY),) * len(batch))
            except DhtError:
                self._drops["store-lost"] += 1
                return None

    def _is_long(self, records: Sequence[Record]) -> bool:
        return self.bulk is not None and len(records) >= self._config.bulk_records_min

    def _batches(self, records: Sequence[Record], *, bulk: bool) -> list[list[Record]]:
        """Cut records into batches that fit a datagram, or into long ones for gRPC."""
        room_bytes = self._caller.store_room_bytes()
        count_max = BULK_BATCH_RECORDS_MAX if bulk else BATCH_RECORDS_MAX
        batches: list[list[Record]] = []
        left_bytes = 0
        for record in records:
            size_bytes = 0 if bulk else len(encode_record(record)) + RECORD_HEAD_BYTES
            fits = bulk or size_bytes <= left_bytes
            if not batches or not fits or len(batches[-1]) >= count_max:
                batches.append([])
                left_bytes = room_bytes
            batches[-1].append(record)
            left_bytes -= size_bytes
        return batches

    async def _report(self, outcomes: Sequence[_Outcome]) -> None:
        async for some in turns(outcomes, NOTE_TURN):
            now_ms = self._wall_ms()
            for each in some:
                self._report_one(each, now_ms)

    def _report_one(self, outcome: _Outcome, now_ms: int) -> None:
        outcome.is_reported = True
        self._schedule.stored(
            outcome.draft.draft_id,
            len(outcome.storers),
            sequence=outcome.draft.sequence,
            now_ms=now_ms,
            has_shard=outcome.needs_shard() and bool(outcome.refused - {self._own.peer_id}),
            busy=outcome.is_busy,
        )


def _joined(receipts: Sequence[Receipt]) -> Receipt | None:
    if not receipts:
        return None
    stored = tuple(each for receipt in receipts for each in receipt.stored)
    return Receipt(receipts[0].storer_id, stored)
