"""One Kademlia lookup as a pure state machine: whom to ask next, and when it is done.

Owns the choice of candidates, the soft and hard timeouts and the stop rule. Knows no message, no
socket, no record and no routing table: it is given seeds, replies, failures and the time.
Source: Maymounkov & Mazières, "Kademlia", section 2.3; the shape of rust-libp2p's
`query/peers/closest.rs`; the soft timeout that opens a slot as in libtorrent.
"""

from __future__ import annotations

import bisect
import enum
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import assert_never

import msgspec

from identity.address import Address
from identity.keys import PEER_ID_BYTES


class Goal(enum.Enum):
    """What the k closest are wanted for; it decides when the lookup may stop."""

    READ = "read"
    """Ask all k closest that can answer: each may hold records that the others lack."""
    WRITE = "write"
    """The k closest must have answered: records are stored there."""
    REFRESH = "refresh"
    """Stop once the beta closest known have answered."""


class Candidate(msgspec.Struct, frozen=True):
    """Somebody to ask; both times are our own opinion, never taken from a reply."""

    peer_id: bytes
    address: Address
    public_key: bytes | None = None
    soft_timeout_s: float | None = None
    """SRTT + 4·RTTVAR; None: the lookup's."""
    linger_s: float | None = None
    """At most this instead of the lookup's; 0 for one that is silent already."""


@dataclass(frozen=True, slots=True)
class LookupConfig:
    """The limits of one lookup."""

    k: int = 20
    """How many of the closest are wanted; also how many candidates one reply may add."""
    alpha: int = 8
    """Requests in flight. Kademlia says 3, go-libp2p 10; on Mainline 4 and more give sub-second
    lookups, and k = 20 closest are asked in three waves instead of seven."""
    beta: int = 3
    """How many of the closest must have answered for a refresh."""
    soft_timeout_s: float = 0.5
    """After it a request no longer takes a slot; its reply still counts."""
    hard_timeout_s: float = 2.0
    """After it a request has failed."""
    linger_s: float = 0.0
    """How long past its soft timeout a closer silent contact still holds up the end."""
    candidates_max: int = 500
    """The farthest unasked ones are forgotten beyond it."""
    requests_max: int = 200
    """Requests in all: a lookup ends whatever liars say."""
    addresses_max: int = 3
    """Addresses tried for one id: a liar's wrong one must not hide the right one."""

    def __post_init__(self) -> None:
        assert min(self.k, self.alpha, self.beta, self.requests_max, self.addresses_max) >= 1
        assert 0 < self.soft_timeout_s <= self.hard_timeout_s
        assert self.linger_s >= 0
        assert self.candidates_max >= self.k


@dataclass(frozen=True, slots=True)
class Ask:
    """Send a request to this candidate now, then call next() again."""

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to ask: call next() after a reply or a failure, or at this monotonic time."""

    until_s: float


@dataclass(frozen=True, slots=True)
class Done:
    """The lookup is over."""


Step = Ask | Wait | Done


class Standing(enum.Enum):
    """Where one candidate stands in the lookup."""

    HEARD = "heard"
    ASKED = "asked"
    LATE = "late"
    ANSWERED = "answered"
    DEAD = "dead"


@dataclass(slots=True)
class _Entry:
    peer_id: bytes
    untried: deque[Candidate]
    addresses: list[Address]
    candidate: Candidate
    standing: Standing = Standing.HEARD
    outstanding: deque[tuple[float, Address]] = field(default_factory=deque)
    """When and where the requests without reply or failure were sent, oldest first."""
    soft_deadline: float = math.inf

    def linger_end(self, linger_s: float) -> float:
        """Return until when a silent one still holds up a lookup that lingers this long."""
        own_s = self.candidate.linger_s
        return self.soft_deadline + (linger_s if own_s is None else min(own_s, linger_s))


class Lookup:
    """Find the k peers closest to a target that answer.

    Inputs: `next(now)`, `on_reply`, `on_failure`, `on_bad`, `hurry`. Outputs: Ask, Wait, Done;
    `closest()`, `late()`.
    Candidate states: HEARD -> ASKED -> ANSWERED; ASKED -> LATE (soft timeout) -> ANSWERED or DEAD;
    ASKED -> DEAD (failure, hard timeout, bad reply). A LATE or failed one with an address not yet
    tried is HEARD again. DEAD is final: quarantined until the lookup ends.
    Done is final: afterwards every input is ignored.

    Invariants: at most alpha candidates are ASKED; no peer is asked twice at one address; at most
    `requests_max` requests; HEARD candidates are bounded; one peer adds at most k, never itself
    and never us; whoever is silent delays no request to anybody else.
    The window is the k closest that are neither DEAD nor LATE beyond `linger_s`: only they are
    asked. It ends when the first k (REFRESH: beta) of the window have answered; with fewer, when
    all that are left are DEAD or LATE and somebody has answered; with no answer, when all are DEAD.
    """

    def __init__(
        self,
        target: bytes,
        seeds: Sequence[Candidate],
        *,
        own_id: bytes,
        goal: Goal,
        config: LookupConfig | None = None,
        now: float,
    ) -> None:
        self.target = target
        self.goal = goal
        self.started = now
        self.requests = 0
        self._own_id = own_id
        self._config = config or LookupConfig()
        self._target_number = int.from_bytes(target, "big")
        self._linger_s = self._config.linger_s
        self._entries: dict[bytes, _Entry] = {}
        self._open: dict[bytes, _Entry] = {}
        self._has_answer = False
        self._order: list[tuple[int, bytes]] = []
        self._done = False
        for seed in seeds[: self._config.candidates_max]:
            self._hear(seed)

    @property
    def is_done(self) -> bool:
        return self._done

    @property
    def in_flight(self) -> int:
        """Return how many candidates hold one of the alpha slots."""
        return sum(1 for entry in self._open.values() if entry.standing is Standing.ASKED)

    def next(self, now: float) -> Step:
        """Return what to do now; call again until it says Wait or Done."""
        if self._done:
            return Done()
        self._expire(now)
        window = list(self._window(now))
        if self._has_ended(window):
            self._done = True
            return Done()
        if self.in_flight < self._config.alpha and self.requests < self._config.requests_max:
            for entry in window:
                if entry.standing is Standing.HEARD:
                    return self._ask(entry, now)
        return Wait(self._next_deadline(now))

    def on_reply(self, peer_id: bytes, candidates: Sequence[Candidate], now: float) -> None:
        """Take a good reply and the candidates in it; one that was asked counts even if late."""
        entry = self._entries.get(peer_id)
        if self._done or entry is None or not entry.outstanding:
            return
        self._expire(now)
        if entry.standing is Standing.DEAD:
            return
        self._close(entry, Standing.ANSWERED)
        self._has_answer = True
        added = 0
        for candidate in candidates:
            if added >= self._config.k:
                break
            if candidate.peer_id != peer_id:
                added += 1
                self._hear(candidate)
        self._forget_farthest()

    def on_failure(self, peer_id: bytes, now: float, address: Address | None = None) -> None:
        """Take a request as failed: unreachable, refused, or timed out in the caller's eyes.

        Where a peer was asked at several addresses, `address` says which request it was; without
        it, the oldest.
        """
        entry = self._open.get(peer_id)
        if self._done or entry is None:
            return
        self._expire(now)
        for request in entry.outstanding:
            if address is None or request[1] == address:
                entry.outstanding.remove(request)
                self._settle(entry)
                return

    def on_bad(self, peer_id: bytes, now: float) -> None:
        """Quarantine a peer whose reply was malformed or a lie; the lookup goes on without it."""
        entry = self._entries.get(peer_id)
        if self._done or entry is None:
            return
        self._expire(now)
        self._close(entry, Standing.DEAD)

    def hurry(self, linger_s: float) -> None:
        """Let the silent hold up the end for no longer than this: there is something to show."""
        self._linger_s = min(self._linger_s, linger_s)

    def late(self) -> list[Candidate]:
        """Return those who were asked and are silent past their soft timeout, closest first."""
        return [each.candidate for each in self._ordered() if each.standing is Standing.LATE]

    def closest(self) -> list[Candidate]:
        """Return the k closest that answered, closest first."""
        answered = (
            entry.candidate for entry in self._ordered() if entry.standing is Standing.ANSWERED
        )
        return [candidate for candidate, _ in zip(answered, range(self._config.k), strict=False)]

    def standing_of(self, peer_id: bytes) -> Standing | None:
        """Return where a peer stands, None when the lookup never heard of it (or forgot it)."""
        entry = self._entries.get(peer_id)
        return None if entry is None else entry.standing

    def validate_state(self) -> None:
        """Assert the invariants of the class docstring that can be seen in one moment."""
        config = self._config
        assert self.in_flight <= config.alpha
        assert self.requests <= config.requests_max
        assert self._own_id not in self._entries
        assert len(self._order) == len(self._entries) <= config.candidates_max + config.requests_max
        for peer_id, entry in self._entries.items():
            assert (peer_id in self._open) == bool(entry.outstanding)
            assert len(entry.addresses) <= config.addresses_max
            if entry.standing in (Standing.ASKED, Standing.LATE):
                assert entry.outstanding
            if entry.standing in (Standing.ANSWERED, Standing.DEAD):
                assert not entry.outstanding

    # The window and the stop rule

    def _ordered(self) -> Iterator[_Entry]:
        return (self._entries[peer_id] for _, peer_id in self._order)

    def _window(self, now: float) -> Iterator[_Entry]:
        """Yield the k closest that have answered, may be asked, or still hold up the end."""
        size = 0
        for entry in self._ordered():
            match entry.standing:
                case Standing.DEAD:
                    continue
                case Standing.LATE:
                    if now >= entry.linger_end(self._linger_s):
                        continue
                case Standing.HEARD | Standing.ASKED | Standing.ANSWERED:
                    pass
                case _:
                    assert_never(entry.standing)
            yield entry
            size += 1
            if size >= self._config.k:
                return

    def _has_ended(self, window: list[_Entry]) -> bool:
        wanted = self._config.beta if self.goal is Goal.REFRESH else self._config.k
        first = window[:wanted]
        if len(first) == wanted and all(entry.standing is Standing.ANSWERED for entry in first):
            return True
        exhausted = self.requests >= self._config.requests_max
        for entry in window:
            if entry.standing in (Standing.ASKED, Standing.LATE):
                return False
            if entry.standing is Standing.HEARD and not exhausted:
                return False
        # Late ones hold up a lookup that has nothing to show; otherwise nobody waits for them.
        return self._has_answer or not self._open

    # Requests

    def _ask(self, entry: _Entry, now: float) -> Ask:
        entry.candidate = entry.untried.popleft()
        entry.standing = Standing.ASKED
        entry.outstanding.append((now, entry.candidate.address))
        self._open[entry.peer_id] = entry
        soft_s = entry.candidate.soft_timeout_s
        if soft_s is None:
            soft_s = self._config.soft_timeout_s
        entry.soft_deadline = now + min(soft_s, self._config.hard_timeout_s)
        self.requests += 1
        return Ask(entry.candidate)

    def _expire(self, now: float) -> None:
        """Move the silent on: past the soft deadline LATE, past the hard one failed."""
        hard_s = self._config.hard_timeout_s
        for entry in list(self._open.values()):
            while entry.outstanding and now >= entry.outstanding[0][0] + hard_s:
                entry.outstanding.popleft()
            if not entry.outstanding:
                self._settle(entry)
            elif entry.standing is Standing.ASKED and now >= entry.soft_deadline:
                entry.standing = Standing.HEARD if entry.untried else Standing.LATE

    def _settle(self, entry: _Entry) -> None:
        """Decide where a candidate stands after a request to it has failed."""
        if not entry.outstanding:
            self._open.pop(entry.peer_id, None)
        if entry.untried:
            entry.standing = Standing.HEARD
        elif not entry.outstanding:
            entry.standing = Standing.DEAD

    def _close(self, entry: _Entry, standing: Standing) -> None:
        entry.standing = standing
        entry.outstanding.clear()
        entry.untried.clear()
        self._open.pop(entry.peer_id, None)

    def _next_deadline(self, now: float) -> float:
        deadlines = [math.inf]
        for entry in self._open.values():
            deadlines.append(entry.outstanding[0][0] + self._config.hard_timeout_s)
            if entry.standing is Standing.ASKED:
                deadlines.append(entry.soft_deadline)
            elif entry.standing is Standing.LATE:
                linger_end = entry.linger_end(self._linger_s)
                if now < linger_end:
                    deadlines.append(linger_end)
        return min(deadlines)

    # Candidates

    def _hear(self, candidate: Candidate) -> None:
        peer_id = candidate.peer_id
        if len(peer_id) != PEER_ID_BYTES or peer_id == self._own_id:
            return
        entry = self._entries.get(peer_id)
        if entry is None:
            entry = _Entry(peer_id, deque([candidate]), [candidate.address], candidate)
            self._entries[peer_id] = entry
            bisect.insort(self._order, (self._distance(peer_id), peer_id))
            return
        if candidate.address in entry.addresses or entry.standing in (
            Standing.ANSWERED,
            Standing.DEAD,
        ):
            return
        if len(entry.addresses) < self._config.addresses_max:
            entry.addresses.append(candidate.address)
            entry.untried.append(candidate)
            if entry.standing is Standing.LATE:
                entry.standing = Standing.HEARD

    def _forget_farthest(self) -> None:
        """Keep the candidates bounded: the farthest that were never asked go first."""
        excess = len(self._order) - self._config.candidates_max
        for position in range(len(self._order) - 1, -1, -1):
            if excess <= 0:
                return
            peer_id = self._order[position][1]
            entry = self._entries[peer_id]
            if entry.standing is Standing.HEARD and not entry.outstanding:
                del self._order[position]
                del self._entries[peer_id]
                excess -= 1

    def _distance(self, peer_id: bytes) -> int:
        return int.from_bytes(peer_id, "big") ^ self._target_number
