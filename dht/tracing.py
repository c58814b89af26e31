"""What one lookup did: its events as they happen, and a bounded account of them, hop by hop.

Owns the events, what they add up to, and the limits of that. Pure: the times are in the events.
Must not know how a lookup decides, nor how an account is shown.

A lookup that nobody watches makes no event. Reasons of refusal are the names of the counters that
count the same refusals for the whole node.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, assert_never

from dht.lookup import Candidate, PassedOver
from dht.records import Record
from dht.storage import entry_id_of
from identity.address import Address
from identity.keys import PEER_ID_BYTES

HOPS_MAX: Final = 256
"""Requests that are remembered; a lookup makes fewer (`LookupConfig.requests_max`)."""
NAMED_MAX: Final = 4_096
"""Contacts of which it is remembered who named them first."""
RECORDS_MAX: Final = 512
"""Records of which it is remembered who holds them."""


class Outcome(enum.StrEnum):
    """What became of one request."""

    ANSWERED = "answered"
    LATE = "late"
    """It answered when the lookup was over."""
    WAITING = "waiting"
    """It has not answered yet."""
    SILENT = "silent"
    """Nobody answered there, or not the peer that was asked for."""
    PASSED_OVER = "passed-over"
    """It was near enough, but was never asked."""
    BAD = "bad"
    """Its answer made no sense; it is quarantined for the rest of the lookup."""


@dataclass(frozen=True, slots=True)
class Began:
    """A lookup begins with these contacts of our own."""

    seeds: tuple[Candidate, ...]
    at_s: float


@dataclass(frozen=True, slots=True)
class Asked:
    """A request goes out."""

    candidate: Candidate
    at_s: float


@dataclass(frozen=True, slots=True)
class Answered:
    """A good answer came, with these believable contacts."""

    candidate: Candidate
    at_s: float
    named: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """A request came to nothing."""

    candidate: Candidate
    at_s: float
    outcome: Outcome
    text: str


@dataclass(frozen=True, slots=True)
class Held:
    """A record that passed every check came from this peer; None: from our own store."""

    teller: bytes | None
    record: Record


@dataclass(frozen=True, slots=True)
class Refused:
    """A record or a contact that this peer sent is not believed, or not wanted."""

    teller: bytes | None
    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The lookup is over; what comes now is late."""

    at_s: float
    closest: tuple[bytes, ...]
    """The closest that answered, closest first."""
    passed_over: tuple[tuple[Candidate, PassedOver], ...] = ()
    """Who was near enough and yet never asked."""


Event = Began | Asked | Answered | Failed | Held | Refused | Ended
Trace = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Hop:
    """One request of a lookup, or somebody who was passed over."""

    peer_id: bytes
    address: Address
    named_by: bytes | None
    """Who named it first; None where we knew it before."""
    asked_s: float
    """When, since the lookup began."""
    took_s: float | None
    outcome: Outcome
    text: str
    """What went wrong, if something did; why somebody was passed over."""
    contacts: int
    records: int
    """Good records that this peer sent, the same as others sent among them."""
    refused: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Copies:
    """One record in its newest version, and who sent it."""

    record: Record
    holders: tuple[bytes, ...]
    here: bool
    """Whether our own store has it."""
    outdated: tuple[bytes, ...]
    """Who sent an older version of it."""


@dataclass(frozen=True, slots=True)
class Account:
    """A whole lookup: hops in the order of their requests, records in that of their arrival.

    Those who were passed over come last.
    """

    hops: tuple[Hop, ...]
    copies: tuple[Copies, ...]
    closest: tuple[bytes, ...]
    took_s: float | None
    """From its begin to its end; None while it is not over."""
    forgotten: int
    """Events beyond the limits, which the account lacks."""


@dataclass(slots=True)
class _Request:
    asked_at: float
    ended_at: float | None = None
    outcome: Outcome = Outcome.WAITING
    text: str = ""
    contacts: int = 0


@dataclass(slots=True)
class _Sent:
    """What one peer sent, over all its pages."""

    records: int = 0
    refused: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Entry:
    """A record, and the newest sequence of it that each teller sent."""

    record: Record
    sequences: dict[bytes | None, int] = field(default_factory=dict)


class Recorder:
    """Add up the events of one lookup; it is itself the `Trace` that hears them.

    Invariants: at most HOPS_MAX hops, NAMED_MAX namings, RECORDS_MAX records; what is beyond is
    counted. A peer holds a record in one version at a time: the newest that it sent.
    """

    def __init__(self) -> None:
        self._requests: dict[tuple[bytes, Address], _Request] = {}
        self._named: dict[tuple[bytes, Address], bytes | None] = {}
        self._sent: dict[bytes | None, _Sent] = {}
        self._entries: dict[bytes, _Entry] = {}
        self._began_at: float | None = None
        self._ended: Ended | None = None
        self._forgotten = 0

    @property
    def is_settled(self) -> bool:
        """Whether the lookup is over and each request has come to an end."""
        waits = any(each.outcome is Outcome.WAITING for each in self._requests.values())
        return self._ended is not None and not waits

    def __call__(self, event: Event) -> None:
        match event:
            case Began():
                self._began_at = event.at_s
                self._name(event.seeds, None)
            case Asked():
                self._ask(event)
            case Answered():
                self._answer(event)
            case Failed():
                self._end(event.candidate, event.at_s, event.outcome, event.text)
            case Held():
                self._hold(event)
            case Refused():
                self._sent_by(event.teller).refused[event.reason] += 1
            case Ended():
                self._ended = event
            case _:
                assert_never(event)

    def account(self) -> Account:
        """Return all that has happened so far."""
        ended = self._ended
        began_at = self._began_at or 0.0
        return Account(
            (
                *(self._hop(place, each, began_at) for place, each in self._requests.items()),
                *self._passed_over(),
            ),
            tuple(_copies(entry) for entry in self._entries.values()),
            () if ended is None else ended.closest,
            None if ended is None else ended.at_s - began_at,
            self._forgotten,
        )

    def _ask(self, event: Asked) -> None:
        if len(self._requests) >= HOPS_MAX:
            self._forgotten += 1
            return
        self._requests[_place(event.candidate)] = _Request(event.at_s)

    def _answer(self, event: Answered) -> None:
        is_late = self._ended is not None
        outcome = Outcome.LATE if is_late else Outcome.ANSWERED
        request = self._end(event.candidate, event.at_s, outcome, "")
        if request is not None:
            request.contacts = len(event.named)
        self._name(event.named, event.candidate.peer_id)

    def _name(self, candidates: Sequence[Candidate], teller: bytes | None) -> None:
        for candidate in candidates:
            if len(self._named) >= NAMED_MAX:
                self._forgotten += 1
                return
            self._named.setdefault(_place(candidate), teller)

    def _end(
        self, candidate: Candidate, at_s: float, outcome: Outcome, text: str
    ) -> _Request | None:
        request = self._requests.get(_place(candidate))
        if request is not None:
            request.ended_at, request.outcome, request.text = at_s, outcome, text
        return request

    def _hold(self, event: Held) -> None:
        self._sent_by(event.teller).records += 1
        entry_id = entry_id_of(event.record)
        entry = self._entries.get(entry_id)
        if entry is None:
            if len(self._entries) >= RECORDS_MAX:
                self._forgotten += 1
                return
            entry = self._entries[entry_id] = _Entry(event.record)
        sequence = event.record.sequence
        if sequence > entry.record.sequence:
            entry.record = event.record
        entry.sequences[event.teller] = max(sequence, entry.sequences.get(event.teller, 0))

    def _sent_by(self, teller: bytes | None) -> _Sent:
        """The tellers are those who were asked, so that they are as few."""
        return self._sent.setdefault(teller, _Sent())

    def _passed_over(self) -> list[Hop]:
        """Show who was never asked; they are as many as the lookup's candidates at most."""
        passed = () if self._ended is None else self._ended.passed_over
        return [
            Hop(
                candidate.peer_id,
                candidate.address,
                self._named.get(_place(candidate)),
                asked_s=0.0,
                took_s=None,
                outcome=Outcome.PASSED_OVER,
                text=why,
                contacts=0,
                records=0,
                refused={},
            )
            for candidate, why in passed[:HOPS_MAX]
        ]

    def _hop(self, place: tuple[bytes, Address], request: _Request, began_at: float) -> Hop:
        peer_id, address = place
        ended, asked_at = request.ended_at, request.asked_at
        # What a peer sent stands at the request that it answered, not at a wrong address of it.
        answers = request.outcome in (Outcome.ANSWERED, Outcome.LATE)
        sent = self._sent.get(peer_id, _Sent()) if answers else _Sent()
        return Hop(
            peer_id,
            address,
            self._named.get(place),
            asked_at - began_at,
            None if ended is None else ended - asked_at,
            request.outcome,
            request.text,
            request.contacts,
            sent.records,
            dict(sent.refused),
        )


def shared_bits(one: bytes, other: bytes) -> int:
    """Count the leading bits that two ids or keys share: how near they are, 160 for the same."""
    assert len(one) == len(other) == PEER_ID_BYTES
    distance = int.from_bytes(one, "big") ^ int.from_bytes(other, "big")
    return PEER_ID_BYTES * 8 - distance.bit_length()


def _place(candidate: Candidate) -> tuple[bytes, Address]:
    return candidate.peer_id, candidate.address


def _copies(entry: _Entry) -> Copies:
    newest = entry.record.sequence
    others = {teller: each for teller, each in entry.sequences.items() if teller is not None}
    return Copies(
        entry.record,
        tuple(teller for teller, sequence in others.items() if sequence == newest),
        entry.sequences.get(None) == newest,
        tuple(teller for teller, sequence in others.items() if sequence < newest),
    )
