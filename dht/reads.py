"""Lookups that run, and reads of records from the closest storers.

Owns driving the lookup machine, following pages, and handing out early hits. Must not know
sockets, the publish schedule or what records are for.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, assert_never

import msgspec

from dht import wire
from dht.calling import Caller
from dht.collecting import Collector, Hit
from dht.config import DhtConfig
from dht.contacts import Contact
from dht.errors import BadAnswer, BadMessage, DhtError, NoAnswer, NotListening
from dht.figures import Durations
from dht.heat import Heat, heat_of_number
from dht.hints import unpack_contact
from dht.lookup import Ask, Candidate, Done, Goal, Lookup, Wait
from dht.patience import Patience
from dht.records import Kind, encode_record
from dht.routing import Table
from dht.self_view import SelfView
from dht.storage import RecordStore
from dht.tracing import Answered, Asked, Began, Ended, Failed, Outcome, Refused, Trace
from identity.address import Address

AskCandidate = Callable[[Candidate], Awaitable[Sequence[Candidate]]]
OnLate = Callable[[Candidate], Awaitable[None]]
Spawn = Callable[[Coroutine[None, None, None]], asyncio.Task[None]]
FULL_READS_MIN = 3
"""Storers whose pages are read to the end even when they bring no news."""
READ_LINGER_S = 0.15
"""How long a read that found nothing waits for the last closest storers past their soft timeout."""
FOUND_LINGER_S = 0.05
"""The same when it has something to show: the others most likely hold the same."""
WRITE_LINGER_S = 0.25
"""The same for a lookup of storers; later ones are heard by `on_late`."""


@dataclass(frozen=True, slots=True)
class WordRead:
    """What was found under one key of a word, and how hot its storers agree it to be."""

    hits: list[Hit]
    heat: Heat


class BulkReader(Protocol):
    """Reads long sets over gRPC; yields encoded records."""

    def find(
        self, candidate: Candidate, body: wire.FindRecords, records_max: int
    ) -> AsyncIterator[bytes]: ...


class Reader:
    """Run lookups and reads for one node."""

    def __init__(
        self,
        caller: Caller,
        table: Table,
        store: RecordStore,
        own: SelfView,
        config: DhtConfig,
        patience: Patience,
        *,
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
        spawn: Spawn,
        believe: Callable[[Address, str], bool],
        drops: Counter[str],
    ) -> None:
        self._caller = caller
        self._table = table
        self._store = store
        self._own = own
        self._config = config
        self._patience = patience
        self._clock = clock
        self._wall_ms = wall_ms
        self._spawn = spawn
        self._believe = believe
        self._drops = drops
        self.bulk: BulkReader | None = None
        self.durations = Durations()

    async def closest(
        self,
        target: bytes,
        goal: Goal,
        seeds: Sequence[Candidate] = (),
        on_late: OnLate | None = None,
    ) -> list[Candidate]:
        """Look up the k closest that answer, ourselves not among them.

        `on_late` is told of those that answer when the lookup has ended, close enough or not.
        """
        body = wire.FindRecords(target)
        heard: dict[bytes, Candidate] = {}

        async def ask(candidate: Candidate) -> Sequence[Candidate]:
            found = await self._caller.find(candidate, body)
            return self._candidates(found, candidate, heard)

        linger_s = WRITE_LINGER_S if goal is Goal.WRITE else 0.0
        lookup = self._lookup(target, goal, linger_s, seeds)
        await self._run(lookup, ask, on_late)
        return lookup.closest()

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

        `trace` hears of each step, of requests that end when the read is over too.
        """
        collector = self._collector(key, kinds, limit, lambda _: None, trace)
        await self._read(collector, key, kinds, words)
        return collector.hits()[:limit]

    async def read_word(
        self, key: bytes, *, words: Sequence[str] = (), prefix: str = ""
    ) -> WordRead:
        """Read `word` records from all closest storers, and whether more are in shards."""
        kinds, records_max = (Kind.WORD,), self._config.records_wanted_max
        collector = self._collector(key, kinds, records_max, lambda _: None)
        await self._read(collector, key, kinds, words, prefix)
        return WordRead(collector.hits(), collector.heat(self._config.lookup.k))

    async def read_stream(
        self, key: bytes, kinds: Sequence[Kind], *, words: Sequence[str] = (), limit: int = 300
    ) -> AsyncGenerator[Hit, None]:
        """Yield verified records as they come in; a record may come again when a newer one does.

        A hit that another storer knows to be withdrawn may be among them.
        """
        hits: asyncio.Queue[Hit | None] = asyncio.Queue()  # bounded by limit: see Collector
        collector = self._collector(key, kinds, limit, hits.put_nowait)

        async def run() -> None:
            try:
                await self._read(collector, key, kinds, words)
            except NotListening:
                self._drops["read-closed"] += 1
            finally:
                hits.put_nowait(None)

        task = self._spawn(run())
        try:
            while (hit := await hits.get()) is not None:
                yield hit
        finally:
            task.cancel()

    def seeds(self, target: bytes) -> list[Candidate]:
        """Return the closest contacts to start a lookup with; doubtful ones where others lack."""
        k = self._config.lookup.k
        sound = self._table.closest(target, k, failures_max=1)
        return [candidate_of(each) for each in sound or self._table.closest(target, k)]

    async def _read(
        self,
        collector: Collector,
        key: bytes,
        kinds: Sequence[Kind],
        words: Sequence[str],
        prefix: str = "",
    ) -> None:
        self._read_own(collector, key, kinds, words, prefix)
        numbers = tuple(int(kind) for kind in kinds)
        some = tuple(words)[: wire.WORDS_MAX]
        body = wire.FindRecords(key, numbers, some, withdrawn=True, prefix=prefix)
        pulls = _Pulls()
        heard: dict[bytes, Candidate] = {}
        if collector.trace is not None:
            collector.trace(Began(tuple(self.seeds(key)), self._clock()))
        lookup = self._lookup(key, Goal.READ, READ_LINGER_S)

        async def ask(candidate: Candidate) -> Sequence[Candidate]:
            found = await self._caller.find(candidate, body)
            news = self._collect(collector, found, candidate)
            if collector.has_hits:
                lookup.hurry(FOUND_LINGER_S)
            if found.cursor:
                pulls.begin()
                self._spawn(self._pull(collector, candidate, body, found.cursor, news, pulls))
            return self._candidates(found, candidate, heard, collector.trace)

        await self._run(lookup, ask, trace=collector.trace)
        await pulls.wait(self._config.call_timeout_s * 2)

    async def _pull(
        self,
        collector: Collector,
        candidate: Candidate,
        body: wire.FindRecords,
        cursor: bytes,
        news: bool,
        pulls: "_Pulls",
    ) -> None:
        """Follow a storer's pages: over UDP first, over gRPC when the set is long."""
        rest = msgspec.structs.replace(body, contacts_wanted=0)
        try:
            for _ in range(self._config.pages_max):
                # Whoever watches wants to know what each of them has.
                reads_on = news or pulls.read_to_end < FULL_READS_MIN or collector.trace is not None
                if collector.is_full or not reads_on:
                    return
                page = msgspec.structs.replace(rest, cursor=cursor)
                found = await self._caller.find(candidate, page)
                news = self._collect(collector, found, candidate)
                if not found.cursor or found.cursor == cursor:
                    pulls.read_to_end += 1
                    return
                cursor = found.cursor
            await self._pull_bulk(collector, candidate, rest, cursor)
        except DhtError:
            self._drops["page-lost"] += 1
        finally:
            pulls.end()

    async def _pull_bulk(
        self, collector: Collector, candidate: Candidate, rest: wire.FindRecords, cursor: bytes
    ) -> None:
        if self.bulk is None or collector.is_full:
            return
        body = msgspec.structs.replace(rest, cursor=cursor)
        async for data in self.bulk.find(candidate, body, self._config.records_wanted_max):
            collector.add(data, now_ms=self._wall_ms(), teller=candidate.peer_id)

    def _read_own(
        self,
        collector: Collector,
        key: bytes,
        kinds: Sequence[Kind],
        words: Sequence[str],
        prefix: str,
    ) -> None:
        now_ms = self._wall_ms()
        page = self._store.find(
            key, kinds, now_ms=now_ms, words=words, withdrawn=True, prefix=prefix
        )
        if not self._own.client:
            collector.heard(self._own.peer_id, self._store.heat_of(key, now_ms=now_ms))
        for record in page.records:
            collector.add(encode_record(record), now_ms=now_ms)

    def _collect(self, collector: Collector, found: wire.FoundRecords, teller: Candidate) -> bool:
        now_ms, peer_id = self._wall_ms(), teller.peer_id
        collector.heard(peer_id, heat_of_number(found.heat))
        news = [collector.add(data, now_ms=now_ms, teller=peer_id) for data in found.records]
        return any(news)

    def _collector(
        self,
        key: bytes,
        kinds: Sequence[Kind],
        limit: int,
        on_hit: Callable[[Hit], None],
        trace: Trace | None = None,
    ) -> Collector:
        records_max = min(limit, self._config.records_wanted_max)
        return Collector(
            self._own.network.network_id,
            key,
            frozenset(kinds),
            records_max=records_max,
            drops=self._drops,
            on_hit=on_hit,
            trace=trace,
        )

    def _candidates(
        self,
        found: wire.FoundRecords,
        teller: Candidate,
        heard: dict[bytes, Candidate],
        trace: Trace | None = None,
    ) -> list[Candidate]:
        """Unpack the contacts that are worth a try; a malformed one spoils only itself.

        `heard` keeps those of one lookup: most contacts are named by most who answer.
        """
        candidates: list[Candidate] = []
        for compact in found.contacts:
            known = heard.get(compact)
            if known is not None:
                candidates.append(known)
                continue
            try:
                candidate = unpack_contact(compact)
            except BadMessage:
                self._refuse("contact-malformed", teller, trace)
                continue
            if self._believe(candidate.address, teller.address.host):
                heard[compact] = self._patience.annotate(candidate, now=self._clock())
                candidates.append(heard[compact])
            else:
                self._refuse("contact-unbelievable", teller, trace)
        return candidates

    def _refuse(self, reason: str, teller: Candidate, trace: Trace | None) -> None:
        self._drops[reason] += 1
        if trace is not None:
            trace(Refused(teller.peer_id, reason))

    def _lookup(
        self, target: bytes, goal: Goal, linger_s: float, seeds: Sequence[Candidate] = ()
    ) -> Lookup:
        now = self._clock()
        self._table.looked_up(target, now)
        known = [*self.seeds(target), *seeds]
        return Lookup(
            target,
            [self._patience.annotate(each, now=now) for each in known],
            own_id=self._own.peer_id,
            goal=goal,
            config=replace(self._config.lookup, linger_s=linger_s),
            now=now,
        )

    async def _run(
        self,
        lookup: Lookup,
        ask: AskCandidate,
        on_late: OnLate | None = None,
        trace: Trace | None = None,
    ) -> None:
        """Drive a lookup to its end.

        Requests are tasks of the node, not of the lookup: one that is still unanswered at the end
        runs on until its own timeout, so that a dead contact is found out, and nobody waits.
        """
        wake = asyncio.Event()
        if trace is not None:
            ask = _traced(ask, trace, self._clock)

        async def run(candidate: Candidate) -> None:
            try:
                found = await ask(candidate)
                if lookup.is_done and on_late is not None:
                    await on_late(candidate)
                lookup.on_reply(candidate.peer_id, found, self._clock())
            except BadAnswer:
                lookup.on_bad(candidate.peer_id, self._clock())
            except (NoAnswer, DhtError):
                lookup.on_failure(candidate.peer_id, self._clock())
            finally:
                wake.set()

        while True:
            wake.clear()
            step = lookup.next(self._clock())
            match step:
                case Ask(candidate):
                    self._spawn(run(candidate))
                case Wait(until_s):
                    await _wait_until(wake, until_s - self._clock())
                case Done():
                    for late in lookup.late():  # the next lookup does not wait for them again
                        self._patience.silent(late.address, now=self._clock())
                    if lookup.goal is not Goal.REFRESH:  # nobody waits for those
                        self.durations.add(self._clock() - lookup.started)
                    if trace is not None:
                        closest = tuple(each.peer_id for each in lookup.closest())
                        trace(Ended(self._clock(), closest))
                    return
                case _:
                    assert_never(step)


class _Pulls:
    """How many page reads of one read are under way, and how many ended at the last page."""

    def __init__(self) -> None:
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.read_to_end = 0

    def begin(self) -> None:
        self._open += 1
        self._idle.clear()

    def end(self) -> None:
        self._open -= 1
        if self._open == 0:
            self._idle.set()

    async def wait(self, timeout_s: float) -> None:
        await _wait_until(self._idle, timeout_s)


def _traced(ask: AskCandidate, trace: Trace, clock: Callable[[], float]) -> AskCandidate:
    """Tell of each request and of what becomes of it."""

    async def run(candidate: Candidate) -> Sequence[Candidate]:
        trace(Asked(candidate, clock()))
        try:
            found = await ask(candidate)
        except DhtError as error:
            outcome = Outcome.BAD if isinstance(error, BadAnswer) else Outcome.SILENT
            trace(Failed(candidate, clock(), outcome, str(error)))
            raise
        trace(Answered(candidate, clock(), tuple(found)))
        return found

    return run


def candidate_of(contact: Contact) -> Candidate:
    """Turn a contact of the table into somebody to ask."""
    return Candidate(contact.peer_id, contact.address, contact.public_key, contact.soft_timeout_s())


async def _wait_until(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(max(0.0, timeout_s)):
            await event.wait()
    except TimeoutError:
        return
