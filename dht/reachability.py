"""Whether others can reach us, by what contacts on other hosts find when they dial back.

Owns whom to ask and when, and the verdict. Pure: it is given the contacts and the time. Must not
know sockets, messages, or what a verdict changes.

Inputs: `reported` (a witness dialled back, and we heard it or not), `unanswered`, `moved` (our
address changed). Outputs: `next`, `state`. States:

    UNKNOWN ─ two witnesses agree ─► REACHABLE ◄─ two agree ─► UNREACHABLE
       ▲                                 │                         │
       └──── fewer than two witnesses when the next round is due ──┘

Invariants: a round asks at most `witnesses_max` contacts, each on a host and in a public address
block of its own, never on our own host; two that agree end it; without a verdict the state stays
what it was. A peer that nobody can judge counts as reachable: a first peer, two machines, a
classroom on one host must work.
Source: AutoNAT of libp2p, which dials back likewise, and whose version 2 sends a nonce as well.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import msgspec

from dht.hints import Scope, scope_of
from identity.address import Address


class Reach(enum.Enum):
    """Whether a peer that never heard of us could reach us; the value is what `status` shows."""

    UNKNOWN = "unknown"
    REACHABLE = "yes"
    UNREACHABLE = "no"


@dataclass(frozen=True, slots=True)
class ReachConfig:
    """How often and how many contacts are asked to dial back."""

    asks: bool = True
    """Whether anybody is asked; a node that does not ask counts as reachable."""
    agreeing_min: int = 2
    """Witnesses that must agree."""
    witnesses_max: int = 5
    """Witnesses asked in one round."""
    retry_min_s: float = 10.0
    """First pause after a round that found us unreachable, or nothing; it doubles. A person who
    has just let the port through, or answered a firewall's question, need not wait long."""
    retry_max_s: float = 900.0
    """Longest such pause."""
    recheck_s: float = 12 * 3600.0
    """Pause after a round that found us reachable."""

    def __post_init__(self) -> None:
        assert 1 <= self.agreeing_min <= self.witnesses_max
        assert 0 < self.retry_min_s <= self.retry_max_s


class Witness(msgspec.Struct, frozen=True, gc=False):
    """A proven contact that may be asked to dial back."""

    peer_id: bytes
    address: Address


@dataclass(frozen=True, slots=True)
class AskWitness:
    """Ask this contact now, then call next() again."""

    witness: Witness


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing to ask until this time, a report, or another contact."""

    until_s: float


ReachStep = AskWitness | Rest


class Reachability:
    """Judge our own reachability; see the module for inputs, outputs and states."""

    def __init__(self, config: ReachConfig | None = None) -> None:
        self._config = config or ReachConfig()
        self.state = Reach.UNKNOWN
        self._due_s = -math.inf
        self._pause_s = self._config.retry_min_s
        self._asked: dict[str, bool | None] = {}
        """The hosts asked in this round, with what they found; None: not known yet, or nothing."""
        self._open: set[str] = set()
        """Those of them that are still about to tell."""

    def is_due(self, now: float) -> bool:
        """Say whether next() would look at contacts at all."""
        return self._config.asks and now >= self._due_s and self._missing() > len(self._open)

    def next(
        self, contacts: Sequence[Witness], own_hosts: Collection[str], *, now: float
    ) -> ReachStep:
        """Tell whom to ask now; `own_hosts` are all the hosts at which we may be."""
        if not self._config.asks:
            return Rest(math.inf)
        if now < self._due_s:
            return Rest(self._due_s)
        if self._missing() <= len(self._open):
            return Rest(math.inf)
        witnesses = witnesses_of(contacts, own_hosts)
        if len(witnesses) < self._config.agreeing_min and not self._open:
            self._asked.clear()
            self.state = Reach.UNKNOWN
            return Rest(math.inf)
        fresh = [each for each in witnesses if place_of(each.address) not in self._asked]
        if fresh and len(self._asked) < self._config.witnesses_max:
            place = place_of(fresh[0].address)
            self._asked[place] = None
            self._open.add(place)
            return AskWitness(fresh[0])
        if not self._open:
            self._end_round(now)
            return Rest(self._due_s)
        return Rest(math.inf)

    def reported(self, witness: Witness, *, reached: bool, now: float) -> None:
        """Note what a witness of this round found."""
        place = place_of(witness.address)
        if place not in self._open:
            return
        self._open.remove(place)
        self._asked[place] = reached
        if self._count(reached) < self._config.agreeing_min:
            return
        verdict = Reach.REACHABLE if reached else Reach.UNREACHABLE
        if verdict is not self.state:
            self._pause_s = self._config.retry_min_s
        self.state = verdict
        self._end_round(now)

    def unanswered(self, witness: Witness) -> None:
        """Note that a witness did not say what it found, or had no time for us."""
        self._open.discard(place_of(witness.address))

    def moved(self) -> None:
        """Start a new round: our address is another one."""
        self._asked.clear()
        self._open.clear()
        self._due_s = -math.inf
        self._pause_s = self._config.retry_min_s

    def _missing(self) -> int:
        """How many more equal reports would decide."""
        best = max(self._count(reached=True), self._count(reached=False))
        return self._config.agreeing_min - best

    def _count(self, reached: bool) -> int:
        return sum(each is reached for each in self._asked.values())

    def _end_round(self, now: float) -> None:
        decided_reachable = self._count(reached=True) >= self._config.agreeing_min
        self._asked.clear()
        self._open.clear()
        if decided_reachable:
            self._due_s = now + self._config.recheck_s
            return
        self._due_s = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, self._config.retry_max_s)


def witnesses_of(contacts: Sequence[Witness], own_hosts: Collection[str]) -> list[Witness]:
    """Choose who can judge: one contact a host and public block, none on our own host.

    Where two public ones are, only they: a neighbour in the same house is no judge of the way in.
    """
    places: dict[str, Witness] = {}
    for contact in contacts:
        if contact.address.host not in own_hosts and scope_of(contact.address.host) in _JUDGES:
            places.setdefault(place_of(contact.address), contact)
    public = [each for each in places.values() if scope_of(each.address.host) is Scope.PUBLIC]
    return public if len(public) > 1 else list(places.values())


def place_of(address: Address) -> str:
    """Name the place that a witness speaks for: its public address block, or else its host."""
    return address.block or address.host


_JUDGES = frozenset({Scope.PRIVATE, Scope.PUBLIC})
