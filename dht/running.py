"""Lookups that run: the machine asks, peers answer, the clock goes on.

Owns driving one lookup to its end, its seeds from the table, and what is believed of the contacts
in a reply. Must not know records, the publish schedule, or what the lookup is for.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import assert_never

from dht import wire
from dht.config import DhtConfig
from dht.contacts import Contact
from dht.errors import BadAnswer, BadMessage, DhtError, NotListening
from dht.figures import Durations
from dht.hints import unpack_contact
from dht.lookup import Ask, Candidate, Done, Goal, Lookup, Wait
from dht.patience import Patience
from dht.routing import Table
from dht.sharing import Spawn
from dht.tracing import Answered, Asked, Began, Ended, Failed, Outcome, Refused, Trace
from identity.address import Address

AskCandidate = Callable[[Candidate], Awaitable[Sequence[Candidate]]]
OnLate = Callable[[Candidate], Awaitable[None]]


class LookupRunner:
    """Run lookups for one node."""

    def __init__(
        self,
        table: Table,
        config: DhtConfig,
        patience: Patience,
        *,
        clock: Callable[[], float],
        spawn: Spawn,
        believe: Callable[[Address, str], bool],
        drops: Counter[str],
    ) -> None:
        self._table = table
        self._config = config
        self._patience = patience
        self._clock = clock
        self._spawn = spawn
        self._believe = believe
        self._drops = drops
        self.durations = Durations()

    def begin(
        self,
        target: bytes,
        goal: Goal,
        linger_s: float,
        trace: Trace | None = None,
        *,
        seeds: Sequence[Candidate] = (),
    ) -> Lookup:
        """Make a lookup that starts from these, else from the closest contacts of the table."""
        now = self._clock()
        self._table.looked_up(target, now)
        limits = self._config.lookup
        soft_s = self.expected_s()
        seeds = seeds or self.seeds(target)
        if trace is not None:
            trace(Began(tuple(seeds), now))
        return Lookup(
            target,
            [self._patience.annotate(each, now=now) for each in seeds],
            own_id=self._table.node.id,
            goal=goal,
            config=replace(limits, linger_s=linger_s, soft_timeout_s=soft_s),
            now=now,
        )

    def expected_s(self) -> float:
        """Return within which time nearly everybody answers who lives."""
        return self._patience.expected_s(at_most_s=self._config.lookup.soft_timeout_s)

    def seeds(self, target: bytes) -> list[Candidate]:
        """Return the closest contacts to start a lookup with; doubtful ones where others lack."""
        k = self._config.lookup.k
        sound = self._table.closest_spread(target, k, failures_max=1)
        return [candidate_of(each) for each in sound or self._table.closest_spread(target, k)]

    def candidates(
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

    async def run(
        self,
        lookup: Lookup,
        ask: AskCandidate,
        *,
        on_late: OnLate | None = None,
        trace: Trace | None = None,
    ) -> None:
        """Drive a lookup to its end.

        Requests are tasks of the node, not of the lookup: one that is still unanswered at the end
        runs on until its own timeout, so that a dead contact is found out, and nobody waits.
        """
        if trace is not None:
            ask = _traced(ask, trace, self._clock)
        await _Drive(lookup, ask, on_late, self._clock, self._spawn).to_the_end()
        self._end(lookup, trace)

    def _end(self, lookup: Lookup, trace: Trace | None) -> None:
        """Note what a lookup that is done leaves behind."""
        now = self._clock()
        for late in lookup.late():  # the next lookup does not wait for them again
            self._patience.silent(late.address, now=now)
        if lookup.goal is not Goal.REFRESH:  # nobody waits for those
            self.durations.add(now - lookup.started)
        if trace is not None:
            closest = tuple(each.peer_id for each in lookup.closest())
            trace(Ended(now, closest, tuple(lookup.passed_over())))


class _Drive:
    """One lookup under way. Each answer takes it on at once: no task is woken up for it."""

    def __init__(
        self,
        lookup: Lookup,
        ask: AskCandidate,
        on_late: OnLate | None,
        clock: Callable[[], float],
        spawn: Spawn,
    ) -> None:
        self._lookup = lookup
        self._ask = ask
        self._on_late = on_late
        self._clock = clock
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None

    async def to_the_end(self) -> None:
        """Return when the lookup is done; NotListening when the node closes first."""
        self._advance()
        try:
            await self._ended
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self._ended.done() and not self._ended.cancelled():
                self._ended.exception()  # read, should we be cancelled just as the node closes

    def _advance(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        while not self._ended.done():
            match self._lookup.next(self._clock()):
                case Ask(candidate):
                    try:
                        self._spawn(self._call(candidate))
                    except NotListening as error:
                        self._ended.set_exception(error)
                case Wait(until_s):
                    if until_s < math.inf:
                        wait_s = max(0.0, until_s - self._clock())
                        self._timer = self._loop.call_later(wait_s, self._advance)
                    return
                case Done():
                    self._ended.set_result(None)
                case step:
                    assert_never(step)

    async def _call(self, candidate: Candidate) -> None:
        lookup, peer_id, address = self._lookup, candidate.peer_id, candidate.address
        try:
            found = await self._ask(candidate)
            if lookup.is_done and self._on_late is not None:
                await self._on_late(candidate)
            lookup.on_reply(peer_id, found, self._clock(), address)
        except BadAnswer:
            lookup.on_bad(peer_id, self._clock())
        except DhtError:
            lookup.on_failure(peer_id, self._clock(), address)
        finally:
            self._advance()


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


async def wait_until(event: asyncio.Event, timeout_s: float) -> None:
    """Return when the event is set or the time is over."""
    try:
        async with asyncio.timeout(max(0.0, timeout_s)):
            await event.wait()
    except TimeoutError:
        return
