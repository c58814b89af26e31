"""Lookups that run: the machine asks, peers answer, the clock goes on.

Owns driving one lookup to its end, its seeds from the table, and what is believed of the contacts
in a reply. Must not know records, the publish schedule, or what the lookup is for.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Protocol, assert_never

from dht import wire
from dht.calling import OnFound
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

Take = Callable[[Candidate, wire.FoundRecords], Sequence[Candidate]]
"""Takes what a candidate answered, and returns whom it names that is worth a try."""
ASKS_MAX = 4
"""Requests that a lookup sends in one turn of the loop. The nearest are asked first: what they
answer is taken in while the others are asked."""
OnLate = Callable[[Candidate], Coroutine[None, None, None]]


class Finder(Protocol):
    """Asks one candidate; see `dht.calling.Caller`."""

    async def find(self, candidate: Candidate, body: wire.FindRecords) -> wire.FoundRecords: ...

    def find_soon(self, candidate: Candidate, body: bytes, on_found: OnFound) -> bool: ...

    def hold_back(self) -> None: ...


class LookupRunner:
    """Run lookups for one node."""

    def __init__(
        self,
        finder: Finder,
        table: Table,
        config: DhtConfig,
        patience: Patience,
        *,
        clock: Callable[[], float],
        spawn: Spawn,
        believe: Callable[[Address, str], bool],
        drops: Counter[str],
    ) -> None:
        self._finder = finder
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
        seeds = seeds or self.seeds(target)
        if trace is not None:
            trace(Began(tuple(seeds), now))
        return Lookup(
            target,
            [self._patience.annotate(each, now=now) for each in seeds],
            own_id=self._table.node.id,
            goal=goal,
            config=self._config.lookup,
            linger_s=linger_s,
            soft_timeout_s=self.expected_s(),
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
        try:
            return [heard[compact] for compact in found.contacts]
        except KeyError:  # not all are known yet
            pass
        candidates: list[Candidate] = []
        for compact in found.contacts:
            known = heard.get(compact)
            if known is None:
                known = self._candidate(compact, teller, trace)
                if known is None:
                    continue
                heard[compact] = known
            candidates.append(known)
        return candidates

    def _candidate(
        self, compact: bytes, teller: Candidate, trace: Trace | None
    ) -> Candidate | None:
        try:
            candidate = unpack_contact(compact)
        except BadMessage:
            self._refuse("contact-malformed", teller, trace)
            return None
        if not self._believe(candidate.address, teller.address.host):
            self._refuse("contact-unbelievable", teller, trace)
            return None
        return self._patience.annotate(candidate, now=self._clock())

    def _refuse(self, reason: str, teller: Candidate, trace: Trace | None) -> None:
        self._drops[reason] += 1
        if trace is not None:
            trace(Refused(teller.peer_id, reason))

    async def run(
        self,
        lookup: Lookup,
        body: wire.FindRecords,
        take: Take,
        *,
        on_late: OnLate | None = None,
        trace: Trace | None = None,
    ) -> None:
        """Drive a lookup to its end: all that it asks get this body, `take` what they answer.

        Requests are the node's, not the lookup's: one that is still unanswered at the end runs on
        until its own timeout, so that a dead contact is found out, and nobody waits.
        """
        drive = _Drive(lookup, self._finder, body, take, on_late, trace, self._clock, self._spawn)
        await drive.to_the_end()
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
        finder: Finder,
        body: wire.FindRecords,
        take: Take,
        on_late: OnLate | None,
        trace: Trace | None,
        clock: Callable[[], float],
        spawn: Spawn,
    ) -> None:
        self._lookup = lookup
        self._finder = finder
        self._body = body
        self._packed = wire.pack_body(body)
        self._take = take
        self._on_late = on_late
        self._trace = trace
        self._clock = clock
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = math.inf
        self._is_soon = False
        """We go on in the loop's next turn."""

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

    def _advance_soon(self) -> None:
        """Go on in the loop's next turn: what was woken, and what has come in, goes first."""
        if not self._is_soon:
            self._is_soon = True
            self._loop.call_soon(self._advance_now)

    def _advance_now(self) -> None:
        self._is_soon = False
        self._advance()

    def _advance(self) -> None:
        if self._is_soon:
            return
        asked = 0
        while not self._ended.done():
            match self._lookup.next(self._clock()):
                case Ask(candidate):
                    self._begin(candidate)
                    asked += 1
                    if asked == ASKS_MAX:
                        self._advance_soon()
                        return
                case Wait(until_s):
                    self._wake_at(until_s)
                    return
                case Done():
                    self._ended.set_result(None)
                case step:
                    assert_never(step)

    def _wake_at(self, until_s: float) -> None:
        """Go on by then. A timer that goes off earlier stays: most are overtaken by an answer."""
        if until_s >= self._timer_due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = until_s
        self._timer = self._loop.call_later(max(0.0, until_s - self._clock()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_due = None, math.inf
        self._advance()

    def _begin(self, candidate: Candidate) -> None:
        """Ask one, without a task where it proved itself to us before."""
        if self._trace is not None:
            self._trace(Asked(candidate, self._clock()))
        try:
            on_found = partial(self._on_found, candidate)
            if not self._finder.find_soon(candidate, self._packed, on_found):
                self._spawn(self._call(candidate))
        except NotListening as error:
            self._ended.set_exception(error)
        except DhtError as error:
            self._settle(candidate, error)

    async def _call(self, candidate: Candidate) -> None:
        try:
            found: wire.FoundRecords | DhtError = await self._finder.find(candidate, self._body)
        except DhtError as error:
            found = error
        except asyncio.CancelledError:
            self._advance()  # the node closes: whoever waits must hear of it
            raise
        self._on_found(candidate, found)

    def _on_found(self, candidate: Candidate, found: wire.FoundRecords | DhtError | None) -> None:
        try:
            if found is None:
                self._spawn(self._call(candidate))
                return
            was_hurried = self._lookup.is_hurried
            self._settle(candidate, found)
            if self._lookup.is_hurried and not was_hurried:
                self._advance_soon()  # whoever waits for the first hit hears of it before
                self._finder.hold_back()
            else:
                self._advance()
        except Exception as error:  # whoever waits for the lookup raises it
            if self._ended.done():
                raise
            self._ended.set_exception(error)

    def _settle(self, candidate: Candidate, found: wire.FoundRecords | DhtError) -> None:
        """Tell the lookup what became of a request."""
        lookup, peer_id, address = self._lookup, candidate.peer_id, candidate.address
        if not isinstance(found, DhtError):
            try:
                named = self._take(candidate, found)
                if lookup.is_done and self._on_late is not None:
                    self._spawn(self._on_late(candidate))
            except DhtError as error:
                found = error
            else:
                if self._trace is not None:
                    self._trace(Answered(candidate, self._clock(), tuple(named)))
                lookup.on_reply(peer_id, named, self._clock(), address)
                return
        is_bad = isinstance(found, BadAnswer)
        if self._trace is not None:
            outcome = Outcome.BAD if is_bad else Outcome.SILENT
            self._trace(Failed(candidate, self._clock(), outcome, str(found)))
        if is_bad:
            lookup.on_bad(peer_id, self._clock())
        else:
            lookup.on_failure(peer_id, self._clock(), address)


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
