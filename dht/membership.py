"""Who is in the network as far as this node knows: proofs, silences, greetings, joining.

Owns what an answer or a silence does to the routing table, the greeting of newcomers, and
bootstrap. Must not know records or the publish schedule. Nobody enters the table without having
answered a hello of ours.
"""

import asyncio
import math
import random
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from dht.absent import Absent, Absentee
from dht.calling import Caller, Proven
from dht.clock import ClockWatch
from dht.config import DhtConfig
from dht.contacts import Contact
from dht.destinations import Destinations
from dht.errors import DhtError
from dht.hints import Scope, scope_of
from dht.lookup import Candidate, Goal
from dht.patience import Patience
from dht.pulse import Pulse
from dht.reachability import Witness
from dht.reads import Reader
from dht.routing import Admission, Table
from dht.running import candidate_of
from dht.self_view import SelfView
from dht.sharing import Spawn
from dht.views import ContactView, contact_view
from identity.address import Address
from identity.network import BootstrapNode

STRANGERS_MAX = 256
"""Peers remembered that proved themselves and are not in the table: clients, and those for whom
its buckets have no room."""
GREETED_MAX = 4_096
OBSERVED_MAX = 64
DEPARTED_MAX = 256
"""Departed contacts whose records are handed on; a network that loses more at once republishes."""
NEWCOMERS_MAX = 1_024
"""Newcomers that wait for records to be handed to them."""
CHECKS_MAX = 128
CHECKED_DEPARTED_MAX = 32
"""Departed contacts that a check of all pings again."""
FAREWELLS_MAX = 256
FAREWELL_S = 10.0
"""How long the last requests of a peer that said farewell do not count as its return."""


class Membership:
    """The contacts of one node; told about proofs and silences by the caller."""

    def __init__(
        self,
        table: Table,
        own: SelfView,
        config: DhtConfig,
        clock_watch: ClockWatch,
        *,
        clock: Callable[[], float],
        raw_wall_ms: Callable[[], int],
        spawn: Spawn,
        rng: random.Random,
        drops: Counter[str],
    ) -> None:
        self._table = table
        self._own = own
        self._config = config
        self._clock_watch = clock_watch
        self._clock = clock
        self._raw_wall_ms = raw_wall_ms
        self._spawn = spawn
        self._rng = rng
        self._drops = drops
        self.patience = Patience(self._round_trip_bound_s)
        self._strangers: OrderedDict[bytes, Contact] = OrderedDict()
        self.absent = Absent(
            rng,
            absent_max=config.absent_max,
            retry_min_s=config.absent_retry_min_s,
            retry_max_s=config.absent_retry_max_s,
        )
        self._greeted: OrderedDict[tuple[bytes, Address], float] = OrderedDict()
        self._observed: OrderedDict[bytes, Address] = OrderedDict()
        self._observed_address: Address | None = None
        self._farewells: OrderedDict[bytes, float] = OrderedDict()
        self._greetings = 0
        self.destinations = Destinations(own, drops)
        self.newcomers: dict[bytes, Candidate] = {}
        self.pulse = Pulse(config.pulse)
        self.departed: deque[Contact] = deque(maxlen=DEPARTED_MAX)
        """Contacts that have gone since somebody looked."""
        self.on_contact: Callable[[bytes, Address], None] | None = None
        self.on_first_contact: Callable[[], None] = lambda: None
        self.on_newcomer: Callable[[], None] = lambda: None
        self.on_departed: Callable[[], None] = lambda: None
        self.on_lonely: Callable[[], None] = lambda: None
        """Called when the last contact has gone."""
        self.on_missed: Callable[[], None] = lambda: None
        self.on_clock_sample: Callable[[], None] = lambda: None
        self.on_moved: Callable[[], None] = lambda: None
        """Called when others agree that we are at another address than before."""

    def wire_up(self, caller: Caller, reader: Reader, bound: Address) -> None:
        """Take what exists only once the node listens."""
        self._caller = caller
        self._reader = reader
        self.destinations.bound = bound

    # Told by the caller

    def on_proven(self, proven: Proven) -> None:
        """Admit a peer that answered a hello of ours."""
        now = self._clock()
        self._clock_watch.heard(proven.peer_id, proven.wall_ms - self._raw_wall_ms())
        self.on_clock_sample()
        self._observe(proven)
        known = self._table.contact(proven.peer_id)
        was_silent = self.patience.is_silent(proven.address, now=now)
        self.patience.answered(proven.address, proven.rtt_s)
        self.absent.back(proven.address)
        self.absent.left(proven.peer_id)
        was_quiet = known is None or known.failures > 0 or was_silent
        was_alone = len(self._table) == 0
        contact = _contact_of(proven)
        admission = self._table.proven(contact, now)
        if self._table.contact(proven.peer_id) is not None:
            self._strangers.pop(proven.peer_id, None)
        else:
            self._remember_stranger(contact, now)
        moved = admission is Admission.MOVED
        if admission is Admission.ADMITTED or (known is not None and (was_quiet or moved)):
            if len(self.newcomers) < NEWCOMERS_MAX:  # more come again: they are in the table
                self.newcomers[proven.peer_id] = candidate_of(contact)
            self.on_newcomer()
        is_alone = len(self._table) == 0
        if was_alone and not is_alone:
            self.on_first_contact()
        elif is_alone and not was_alone:  # our only contact says that it is a client now
            self.on_lonely()
        greeted = (proven.peer_id, proven.address) in self._greeted
        if self.on_contact is not None and (was_quiet or moved or greeted):
            self.on_contact(proven.peer_id, proven.address)

    def on_answered(self, peer_id: bytes, address: Address, rtt_s: float | None) -> None:
        """Note an answer from a peer that proved itself earlier; an evicted one is greeted anew."""
        self.patience.answered(address, rtt_s)
        known = self._table.contact(peer_id)
        was_quiet = known is not None and known.failures > 0
        good = self._table.answered(peer_id, address, self._clock(), rtt_s)
        if good:
            self.absent.back(address)
        elif known is None and self._table.remembered(peer_id) is not None:
            self.greet(peer_id, address, said_hello=False)
        if good and was_quiet and self.on_contact is not None:
            self.on_contact(peer_id, address)

    def on_silent(self, peer_id: bytes, address: Address) -> None:
        """Count a request without an answer against a contact at its address."""
        known = self._table.contact(peer_id)
        if known is not None and known.address != address:
            return
        self._strangers.pop(peer_id, None)
        if known is not None:
            self._miss(address, peer_id)
        gone = self._table.failed(peer_id, self._clock())
        if gone is not None:
            self.pulse.gone()
        self._depart(gone)

    def on_farewell(self, peer_id: bytes) -> None:
        """Note that a peer has said that it leaves."""
        self._depart(self._table.left(peer_id))
        self.absent.left(peer_id)
        self._farewells[peer_id] = self._clock()
        self._farewells.move_to_end(peer_id)
        while len(self._farewells) > FAREWELLS_MAX:
            self._farewells.popitem(last=False)
        self._strangers.pop(peer_id, None)
        for key in [key for key in self._greeted if key[0] == peer_id]:
            del self._greeted[key]

    def _depart(self, contact: Contact | None) -> None:
        if contact is not None:
            self.departed.append(contact)
            self.on_departed()
            if len(self._table) == 0:
                self.on_lonely()

    def greet(self, peer_id: bytes, address: Address, said_hello: bool) -> None:
        """Send our hello to a newcomer whose address token was valid.

        One that has just said farewell still finishes what it is about: it is let go.
        """
        now = self._clock()
        if said_hello:
            self._farewells.pop(peer_id, None)
            self._greeted.pop((peer_id, address), None)
        elif now - self._farewells.get(peer_id, -math.inf) < FAREWELL_S:
            return
        last = self._greeted.get((peer_id, address))
        if last is not None and now - last < self._config.greeting_again_s:
            return
        if self._greetings >= self._config.greetings_max:
            self._drops["greeting-skipped"] += 1
            return
        self._greeted[peer_id, address] = now
        self._greeted.move_to_end((peer_id, address))
        while len(self._greeted) > GREETED_MAX:
            self._greeted.popitem(last=False)
        self._greetings += 1
        self._spawn(self._greet(peer_id, address))

    async def _greet(self, peer_id: bytes, address: Address) -> None:
        try:
            await self._caller.hello(address, peer_id, in_return=True)
        except DhtError:
            self._drops["greeting-lost"] += 1
        finally:
            self._greetings -= 1

    # Joining

    async def bootstrap(self, nodes: Sequence[BootstrapNode], remembered: Sequence[Contact]) -> int:
        """Greet bootstrap nodes and remembered contacts at once; return the contacts gained.

        Goes on to our own neighbourhood as soon as one of them answered, and returns when that
        is known; the silent ones hold up nobody. It goes on when the caller no longer waits.
        """
        before = len(self._table)
        targets = await self.destinations.of_bootstrap(nodes)
        departed = self._table.departed()[-self._config.remembered_max :]
        for contact in (*remembered[: self._config.remembered_max], *departed):
            targets.setdefault(contact.address, contact.peer_id)
        await asyncio.wait([self._spawn(self._join(targets))])
        return len(self._table) - before

    async def _join(self, targets: Mapping[Address, bytes | None]) -> None:
        open_count = len(targets)
        progress = asyncio.Event()

        async def greet(address: Address, peer_id: bytes | None) -> None:
            nonlocal open_count
            try:
                await self._caller.hello(address, peer_id)
            except DhtError:
                self._drops["bootstrap-silent"] += 1
                self._miss(address, peer_id)
            finally:
                open_count -= 1
                progress.set()

        for address, peer_id in targets.items():
            self._spawn(greet(address, peer_id))
        while open_count and len(self._table) == 0:
            progress.clear()
            await progress.wait()
        if len(self._table):
            await self.join_neighbourhood()
            if not self._own.client:
                self._spawn(self._look_around())

    async def _look_around(self) -> None:
        """Look up somebody in each part of the id space in which we know few: nobody waits for it.

        Whoever has joined knows its neighbours and the way to them. Where a whole neighbourhood
        joined like that of late, nobody in it knows anybody elsewhere, and lookups for a key
        elsewhere end there, with the wrong k (section 2.3 of the paper: a node that joins refreshes
        all buckets farther away than its closest neighbour; here, those with hardly a contact).
        """
        for target in self._table.sparse_ids(self._rng):
            await self._reader.closest(target, Goal.REFRESH)

    async def join_neighbourhood(self) -> None:
        """Look up our own id, and let the closest peers know us: they greet who pings them."""
        closest = await self._reader.closest(self._own.peer_id, Goal.WRITE)
        if not self._own.client:
            await self._ping_all(closest, self._config.call_timeout_s)

    async def introduce(self) -> None:
        """Say hello anew to all contacts: each greets in return, and sees what we are now."""
        slots = asyncio.Semaphore(CHECKS_MAX)

        async def introduce_to(candidate: Candidate) -> None:
            async with slots:
                try:
                    await self._caller.hello(candidate.address, candidate.peer_id)
                    await self._caller.ping(candidate)  # with the token: now it may greet
                except DhtError:
                    self._drops["ping-lost"] += 1

        async with asyncio.TaskGroup() as group:
            for contact in self._table.contacts():
                group.create_task(introduce_to(candidate_of(contact)))
        if not self._own.client:
            await self.join_neighbourhood()

    def usable(self, addresses: Sequence[Address]) -> list[Address]:
        """Keep the addresses of a record that are worth a dial from here."""
        knows_local = any(each.address.is_loopback for each in self._table.contacts())
        return self.destinations.usable(addresses, knows_local=knows_local)

    # Liveness

    async def hello_address(
        self, address: Address, timeout_s: float, *, is_hint: bool = False
    ) -> ContactView | None:
        """Find out who is at an address; None when nobody of this network answers in time.

        An address that is silent already has less time than timeout_s; a hint that was silent of
        late is not dialled at all.
        """
        met: list[bytes] = []

        async def greet(each: Address) -> None:
            try:
                met.append(await self._caller.hello(each, is_hint=is_hint))
            except DhtError:
                self._drops["hello-lost"] += 1

        for each in await self.destinations.resolve(address):
            task = self._spawn(greet(each))
            await self._caller.wait_for(task, None, each, at_most_s=timeout_s)
            if met:
                return self.view(met[0])
        return None

    async def check(self, peer_ids: Sequence[bytes] | None, timeout_s: float) -> None:
        """Ping contacts at once, so that what `contacts` says of them is current."""
        known = {each.peer_id: each for each in self._everybody()}
        wanted = list(known) if peer_ids is None else [each for each in peer_ids if each in known]
        candidates = [candidate_of(known[peer_id]) for peer_id in wanted]
        await self._ping_all(candidates, timeout_s)

    async def _ping_all(self, candidates: Sequence[Candidate], timeout_s: float) -> None:
        slots = asyncio.Semaphore(CHECKS_MAX)

        async def wait_for(candidate: Candidate) -> None:
            async with slots:
                task = self._spawn(self._ping(candidate))
                await self._caller.wait_for(
                    task, candidate.peer_id, candidate.address, at_most_s=timeout_s
                )

        async with asyncio.TaskGroup() as group:
            for candidate in candidates:
                group.create_task(wait_for(candidate))

    async def _ping(self, candidate: Candidate) -> None:
        try:
            if self._table.contact(candidate.peer_id) is None:
                await self._caller.hello(candidate.address, candidate.peer_id)
            else:
                await self._caller.ping(candidate)
        except DhtError:
            self._drops["ping-lost"] += 1

    async def seek_absent(self, limit: int) -> int:
        """Ask for those who are missed and due; return the contacts gained."""
        before = len(self._table)
        sought = self.absent.due(self._clock(), limit)
        if sought:
            await asyncio.wait([self._spawn(self._seek(each)) for each in sought])
        return len(self._table) - before

    async def _seek(self, absentee: Absentee) -> None:
        try:
            await self._caller.hello(absentee.address, absentee.peer_id)
        except DhtError:
            self._drops["absent-silent"] += 1

    def _miss(self, address: Address, peer_id: bytes | None) -> None:
        if self.absent.missed(Absentee(address, peer_id), self._clock()):
            self.on_missed()

    async def ping_quiet(self, limit: int) -> None:
        """Ping the contacts unheard of for long."""
        began = self._clock()
        quiet = self.pulse.due(self._table.contacts(), began, limit)
        await self._ping_all([candidate_of(each) for each in quiet], self._config.call_timeout_s)
        for each in quiet:
            if each.last_seen is not None and each.last_seen >= began:
                self.pulse.answered()

    # Reachability

    def witnesses(self) -> list[Witness]:
        """List the contacts that may judge whether we can be reached."""
        contacts = self._table.contacts()
        return [Witness(each.peer_id, each.address) for each in contacts if not each.failures]

    def own_hosts(self) -> set[str]:
        """Name all hosts at which we may be: whoever is there too is no judge."""
        observed = self.observed_address()
        own = [self.destinations.bound, observed, *self._own.advertised]
        return {each.host for each in own if each is not None}

    # Views

    def contacts(self) -> list[ContactView]:
        """Show all known peers: the table's, others that proved themselves, departed ones."""
        here = {each.peer_id: each for each in (*self._table.contacts(), *self._strangers.values())}
        gone = [each for each in self._table.departed() if each.peer_id not in here]
        return [
            *(self._view(each, is_here=True) for each in here.values()),
            *(self._view(each, is_here=False) for each in gone),
        ]

    def view(self, peer_id: bytes) -> ContactView | None:
        """Show one known peer."""
        here = self._strangers.get(peer_id) or self._table.contact(peer_id)
        known = here or self._table.remembered(peer_id)
        return None if known is None else self._view(known, is_here=here is not None)

    def _view(self, contact: Contact, *, is_here: bool) -> ContactView:
        now = self._clock()
        alive = is_here and not self.patience.is_silent(contact.address, now=now)
        return contact_view(contact, alive=alive, now=now)

    def _round_trip_bound_s(self, peer_id: bytes | None, address: Address) -> float | None:
        if peer_id is None:
            return None
        known = self._strangers.get(peer_id) or self._table.remembered(peer_id)
        return None if known is None or known.address != address else known.rtt_bound_s

    def observed_address(self) -> Address | None:
        """How others see us, when at least two say the same."""
        return self._observed_address

    def _everybody(self) -> Iterable[Contact]:
        departed = self._table.departed()[-CHECKED_DEPARTED_MAX:]
        return (*self._table.contacts(), *self._strangers.values(), *departed)

    def _remember_stranger(self, contact: Contact, now: float) -> None:
        contact.answered(now)
        self._strangers[contact.peer_id] = contact
        self._strangers.move_to_end(contact.peer_id)
        while len(self._strangers) > STRANGERS_MAX:
            self._strangers.popitem(last=False)

    def _observe(self, proven: Proven) -> None:
        said = self._observed.get(proven.peer_id)
        self._observed[proven.peer_id] = proven.answer.observed
        self._observed.move_to_end(proven.peer_id)
        while len(self._observed) > OBSERVED_MAX:
            self._observed.popitem(last=False)
        before = after = self._observed_address
        # One more voice for what most say already changes nothing.
        if proven.answer.observed not in (said, before):
            common = Counter(self._observed.values()).most_common(1)
            after = common[0][0] if common[0][1] >= 2 else None
            self._observed_address = after
        if before is not None and after is not None and before != after:
            self.on_moved()


def _contact_of(proven: Proven) -> Contact:
    answer = proven.answer
    told = [each for each in answer.advertised if scope_of(each.host) > Scope.LOOPBACK]
    return Contact(
        proven.peer_id,
        proven.address,
        public_key=answer.public_key,
        advertised=told[0] if told else None,
        nickname=answer.nickname,
        client=answer.client,
        rtt_s=proven.rtt_s,
    )
