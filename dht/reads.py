"""Lookups of the closest peers, and reads of records from the closest storers.

Owns sharing what is wanted twice at a time, and handing out early hits. Must not know sockets, the
publish schedule or what records are for; `dht.running` drives the lookups, `dht.paging` follows
long sets.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import dataclass

from dht import wire
from dht.calling import Caller
from dht.collecting import Collector, Hit
from dht.config import DhtConfig
from dht.errors import NotListening
from dht.heat import Heat, heat_of_number
from dht.lookup import Candidate, Goal, Lookup
from dht.paging import BulkReader, Paging
from dht.records import Kind, encode_record
from dht.regions import Survey
from dht.running import LookupRunner, OnLate
from dht.self_view import SelfView
from dht.sharing import Flights, Spawn
from dht.storage import RecordStore
from dht.tracing import Trace

READ_LINGER_S = 0.15
"""How long a read that found nothing waits for the last closest storers past their soft timeout."""
FOUND_WAIT_SHARE = 0.6
"""A read that has something to show waits for each of the others this share of the time in which
nearly everybody answers: they most likely hold the same."""
FOUND_WAIT_MIN_S = 0.05
WRITE_WAIT_MIN_S = 0.3
"""How long a lookup of storers waits for each of the closest at least; who answers later is heard
by `on_late`."""
WRITE_LINGER_MIN_S = 0.1
"""How long past its soft timeout at least."""


@dataclass(frozen=True, slots=True)
class WordRead:
    """What was found under one key of a word, and how hot its storers agree it to be."""

    hits: list[Hit]
    heat: Heat


class Reader:
    """Run lookups and reads for one node."""

    def __init__(
        self,
        caller: Caller,
        runner: LookupRunner,
        store: RecordStore,
        own: SelfView,
        config: DhtConfig,
        *,
        wall_ms: Callable[[], int],
        spawn: Spawn,
        drops: Counter[str],
    ) -> None:
        self._caller = caller
        self._runner = runner
        self._store = store
        self._own = own
        self._config = config
        self._wall_ms = wall_ms
        self._spawn = spawn
        self._drops = drops
        self._findings: Flights[_Finding] = Flights(spawn)
        self._readings: Flights[_Reading] = Flights(spawn)
        self.bulk: BulkReader | None = None

    async def closest(self, target: bytes, goal: Goal) -> list[Candidate]:
        """Look up the k closest that answer, ourselves not among them.

        Shared with whoever looks up the same at this moment.
        """
        return (await self._find(target, goal, None)).closest()

    async def survey(self, target: bytes, on_late: OnLate) -> Survey:
        """Look up the storers of a key, and tell all that this says of its surroundings.

        `on_late` is told of those that answer when the lookup has ended, close enough or not.
        """
        lookup = await self._find(target, Goal.WRITE, on_late)
        closest, answered, crowded = lookup.closest(), lookup.answered(), lookup.crowded()
        return Survey(target, tuple(closest), tuple(answered), tuple(crowded))

    async def _find(self, target: bytes, goal: Goal, on_late: OnLate | None) -> Lookup:
        def make() -> _Finding:
            return _Finding(self._runner, target, goal)

        async with self._findings.join((target, goal), make) as flight:
            if on_late is not None:
                flight.work.on_late.append(on_late)
            await flight.wait()
            return flight.work.lookup

    async def read(
        self,
        key: bytes,
        kinds: Sequence[Kind],
        *,
        words: Sequence[str] = (),
        limit: int = 300,
        trace: Trace | None = None,
    ) -> list[Hit]:
        """Read records under a key from all closest storers; verified, newest of each kept.

        Shared with whoever reads the same at this moment. `trace` hears of each step, of requests
        that end when the read is over too; such a read is nobody else's.
        """
        wanted = _Wanted(key, tuple(kinds), tuple(words), limit)
        return (await self._collected(wanted, trace)).hits()[:limit]

    async def read_word(
        self,
        key: bytes,
        *,
        words: Sequence[str] = (),
        prefix: str = "",
        trace: Trace | None = None,
    ) -> WordRead:
        """Read `word` records from all closest storers, and whether more are in shards."""
        records_max = self._config.records_wanted_max
        wanted = _Wanted(key, (Kind.WORD,), tuple(words), records_max, prefix)
        collector = await self._collected(wanted, trace)
        return WordRead(collector.hits(), collector.heat(self._config.lookup.k))

    async def _collected(self, wanted: "_Wanted", trace: Trace | None) -> Collector:
        if trace is not None:
            reading = _Reading(self, wanted, trace)
            await reading.run()
            return reading.collector
        async with self._readings.join(wanted, lambda: _Reading(self, wanted)) as flight:
            await flight.wait()
            return flight.work.collector

    async def read_stream(
        self, key: bytes, kinds: Sequence[Kind], *, words: Sequence[str] = (), limit: int = 300
    ) -> AsyncGenerator[Hit, None]:
        """Yield verified records as they come in; a record may come again when a newer one does.

        A hit that another storer knows to be withdrawn may be among them.
        """
        wanted = _Wanted(key, tuple(kinds), tuple(words), limit)
        hits: asyncio.Queue[Hit | None] = asyncio.Queue()  # bounded by limit: see Collector
        async with self._readings.join(wanted, lambda: _Reading(self, wanted)) as flight:
            flight.work.listen(hits)
            flight.end.add_done_callback(lambda _: hits.put_nowait(None))
            while (hit := await hits.get()) is not None:
                yield hit
            try:
                await flight.wait()
            except NotListening:
                self._drops["read-closed"] += 1

    def stored(self, keys: Collection[bytes]) -> None:
        """Let later reads of these keys begin anew: we have just stored something there."""
        self._readings.retire(lambda reading: reading.wanted.key in keys)

    async def collect(self, reading: "_Reading") -> None:
        """Read what is wanted from all closest storers into the reading's collector."""
        wanted, collector = reading.wanted, reading.collector
        self._read_own(collector, wanted)
        numbers = tuple(int(kind) for kind in wanted.kinds)
        words = wanted.words[: wire.WORDS_MAX]
        body = wire.FindRecords(wanted.key, numbers, words, withdrawn=True, prefix=wanted.prefix)
        paging = Paging(
            self._caller,
            self.bulk,
            collector,
            self._config,
            wall_ms=self._wall_ms,
            drops=self._drops,
        )
        heard: dict[bytes, Candidate] = {}
        lookup = self._runner.begin(wanted.key, Goal.READ, READ_LINGER_S, collector.trace)
        found_wait_s = max(FOUND_WAIT_SHARE * self._runner.expected_s(), FOUND_WAIT_MIN_S)

        def take(candidate: Candidate, found: wire.FoundRecords) -> Sequence[Candidate]:
            collector.heard(candidate.peer_id, heat_of_number(found.heat))
            news = paging.take(found, candidate)
            if not lookup.is_hurried and collector.has_hits:
                lookup.hurry(found_wait_s)
            if found.cursor:
                paging.begin()
                self._spawn(paging.follow(candidate, body, found.cursor, news))
            return self._runner.candidates(found, candidate, heard, collector.trace)

        await self._runner.run(lookup, body, take, trace=collector.trace)
        await paging.wait(self._config.call_timeout_s * 2)

    def collector(
        self, wanted: "_Wanted", on_hit: Callable[[Hit], None], trace: Trace | None
    ) -> Collector:
        """Make what merges the records of one read."""
        return Collector(
            self._own.network.network_id,
            wanted.key,
            frozenset(wanted.kinds),
            records_max=min(wanted.limit, self._config.records_wanted_max),
            drops=self._drops,
            on_hit=on_hit,
            trace=trace,
        )

    def _read_own(self, collector: Collector, wanted: "_Wanted") -> None:
        now_ms = self._wall_ms()
        key, prefix = wanted.key, wanted.prefix
        page = self._store.find(
            key, wanted.kinds, now_ms=now_ms, words=wanted.words, withdrawn=True, prefix=prefix
        )
        if not self._own.client:
            collector.heard(self._own.peer_id, self._store.heat_of(key, now_ms=now_ms))
        for record in page.records:
            collector.add(encode_record(record), now_ms=now_ms)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What one read is for; reads for the same are shared."""

    key: bytes
    kinds: tuple[Kind, ...]
    words: tuple[str, ...]
    limit: int
    prefix: str = ""


class _Reading:
    """One read for all who want the same: its records, and who hears of them as they come."""

    def __init__(self, reader: Reader, wanted: _Wanted, trace: Trace | None = None) -> None:
        self.wanted = wanted
        self.collector = reader.collector(wanted, self._tell, trace)
        self._reader = reader
        self._listeners: list[asyncio.Queue[Hit | None]] = []

    def listen(self, hits: asyncio.Queue[Hit | None]) -> None:
        """Hear of what was found so far, and of all that follows."""
        for hit in self.collector.hits():
            hits.put_nowait(hit)
        self._listeners.append(hits)

    async def run(self) -> None:
        await self._reader.collect(self)

    def _tell(self, hit: Hit) -> None:
        for hits in self._listeners:
            hits.put_nowait(hit)


class _Finding:
    """One lookup of the closest peers for all who want the same."""

    def __init__(self, runner: LookupRunner, target: bytes, goal: Goal) -> None:
        linger_s = max(WRITE_WAIT_MIN_S - runner.expected_s(), WRITE_LINGER_MIN_S)
        self.lookup = runner.begin(target, goal, linger_s if goal is Goal.WRITE else 0.0)
        self.on_late: list[OnLate] = []
        self._runner = runner

    async def run(self) -> None:
        body = wire.FindRecords(self.lookup.target)
        heard: dict[bytes, Candidate] = {}

        def take(candidate: Candidate, found: wire.FoundRecords) -> Sequence[Candidate]:
            return self._runner.candidates(found, candidate, heard)

        async def tell_late(candidate: Candidate) -> None:
            for on_late in self.on_late:
                await on_late(candidate)

        await self._runner.run(self.lookup, body, take, on_late=tell_late)
