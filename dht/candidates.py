"""What goes into a lookup and what comes out: candidates, goals, limits and steps.

Owns these types and nothing else; must not know how a lookup chooses (`dht.lookup`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import msgspec

from identity.address import Address


class Goal(enum.Enum):
    """What the k closest are wanted for; it decides when the lookup may stop."""

    READ = "read"
    """Ask all k closest that can answer: each may hold records that the others lack."""
    WRITE = "write"
    """The k closest must have answered: records are stored there."""
    REFRESH = "refresh"
    """Stop once the beta closest known have answered."""


class PassedOver(enum.StrEnum):
    """Why a candidate that was near enough was never asked."""

    CROWDED = "crowded"
    """Its public address block had its share of the places."""
    DOUBTED = "doubted"
    """Too many others failed that its tellers named, or that are in its block."""
    SILENT_BEFORE = "silent-before"
    """It answered nothing lately, and there were enough others."""
    LIMIT = "limit"
    """The lookup had made as many requests as it may."""


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """Somebody to ask; what is beside id, address and key is our own opinion, never a reply's."""

    peer_id: bytes
    address: Address
    public_key: bytes | None = None
    soft_timeout_s: float | None = None
    """SRTT + 4·RTTVAR; None: the lookup's."""
    linger_s: float | None = None
    """At most this instead of the lookup's; 0 for one that is silent already."""
    is_silent: bool = False
    """Has answered nothing for a while: asked only where others lack."""


@dataclass(frozen=True, slots=True)
class LookupConfig:
    """The limits of one lookup."""

    k: int = 20
    """How many of the closest are wanted; also how many candidates one reply may add."""
    alpha: int = 8
    """Requests in flight. Kademlia says 3, go-libp2p 10; on Mainline 4 and more give sub-second
    lookups, and k = 20 closest are asked in three waves instead of seven."""
    fruitless_max: int = 3
    """After so many replies in a row that bring nobody closer, all k are asked at once, as section
    2.3 of the paper has it: the neighbourhood is found."""
    beta: int = 3
    """How many of the closest must have answered for a refresh."""
    soft_timeout_s: float = 0.5
    """After it a request no longer takes a slot; its reply still counts."""
    hard_timeout_s: float = 2.0
    """After it a request has failed."""
    linger_s: float = 0.0
    """How long past its soft timeout a closer silent contact still holds up the end."""
    candidates_max: int = 500
    """The farthest unasked ones are forgotten beyond it, doubtful ones first."""
    requests_max: int = 200
    """Requests in all: a lookup ends whatever liars say."""
    addresses_max: int = 4
    """Addresses tried for one id: a liar's wrong one must not hide the right one."""
    addresses_heard_max: int = 8
    """Addresses of one id remembered to choose from: those that most tellers name go first."""
    block_contacts_max: int = 1
    """Candidates of one public address block that count while enough others are there."""
    block_failures_max: int = 2
    """From so many failures on a block's unasked candidates are doubtful, unless as many of the
    block answered, or more tellers name one."""
    tellers_max: int = 8
    """Tellers remembered of one candidate's address."""
    teller_failures_max: int = 3
    """From so many failures on what a teller alone names is doubtful, unless as many answered."""
    doubtful_requests_max: int = 8
    """Requests to doubtful candidates; they come after all others."""

    def __post_init__(self) -> None:
        assert min(self.k, self.alpha, self.beta, self.requests_max, self.addresses_max) >= 1
        assert self.fruitless_max >= 1
        assert min(self.block_contacts_max, self.block_failures_max, self.tellers_max) >= 1
        assert 0 < self.soft_timeout_s <= self.hard_timeout_s
        assert self.linger_s >= 0
        assert self.candidates_max >= self.k
        assert self.addresses_heard_max >= self.addresses_max


class Ask(msgspec.Struct, frozen=True, gc=False):
    """Send a request to this candidate now, then call next() again."""

    candidate: Candidate


class Wait(msgspec.Struct, frozen=True, gc=False):
    """Nothing to ask: call next() after a reply or a failure, or at this monotonic time."""

    until_s: float


class Done(msgspec.Struct, frozen=True, gc=False):
    """The lookup is over."""


Step = Ask | Wait | Done


class Standing(enum.Enum):
    """Where one candidate stands in the lookup."""

    HEARD = "heard"
    ASKED = "asked"
    LATE = "late"
    ANSWERED = "answered"
    DEAD = "dead"
