"""How long to wait for whom: who answers how fast, and who is silent now.

Owns the waiting times, the round trips of late, and the memory of silent addresses. Pure: it is
given the time, and asked measured round trips. Must not know sockets, messages or tables.

Whoever waits is one thing, the request another: a request runs to its own timeout, and a late
answer always counts. Here it is only said when it is no longer worth a person's time to wait.
Nothing is known of a new peer, so that it has all the time there is; a known one has a few times
what its answers took; one that is silent already has hardly more than one round trip.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from dht.lookup import Candidate
from identity.address import Address

SILENT_MAX: Final = 1_024
"""Silent addresses remembered; the longest silent are forgotten first."""
SILENT_S: Final = 300.0
"""After it, an address that was never asked again counts as unknown."""
SILENT_SENDS_MIN: Final = 2
"""From so many requests without an answer on, a lookup asks elsewhere first."""
ROUND_TRIPS_MAX: Final = 128
"""The last round trips remembered: what may be expected of a peer that we do not know."""
ROUND_TRIPS_MIN: Final = 8
"""Before so many are known, nothing is expected."""
EXPECTED_SHARE: Final = 0.9
EXPECTED_MARGIN: Final = 1.25
"""An unknown peer is expected within so many times the round trip of nine peers in ten."""
EXPECTED_MIN_S: Final = 0.1
RESEND_MIN_S: Final = 0.15
WAIT_MIN_S: Final = 0.5
"""A live peer may be busy for a moment, however fast it usually is."""
WAIT_BOUNDS: Final = 3.0
"""Waits are this often the longest round trip to be expected: one lost datagram is no silence."""
SILENT_WAIT_MIN_S: Final = 0.3
SILENT_WAIT_UNKNOWN_S: Final = 0.6
SILENT_SOFT_MIN_S: Final = 0.025
"""The same in a lookup, which has others to ask."""
SILENT_SOFT_UNKNOWN_S: Final = 0.1
SILENT_SOFT_MAX_S: Final = 1.0

RoundTripBound = Callable[[bytes | None, Address], float | None]
"""SRTT + 4·RTTVAR of a peer at an address; None where nothing is measured."""


@dataclass(frozen=True, slots=True)
class _Silence:
    since: float
    """When it was last asked in vain."""
    sends: int


class Patience:
    """Waiting times, and the addresses that are silent.

    Inputs: `silent`, `answered`. Outputs: `is_silent`, `resend_s`, `wait_s`, `expected_s`,
    `annotate`.
    Invariants: at most SILENT_MAX addresses and ROUND_TRIPS_MAX round trips; an address that
    answers is silent no more; no waiting time is longer than that of a peer of which nothing is
    known.
    """

    def __init__(self, round_trip_bound: RoundTripBound) -> None:
        self._bound = round_trip_bound
        self._silent: OrderedDict[Address, _Silence] = OrderedDict()
        self._round_trips: deque[float] = deque(maxlen=ROUND_TRIPS_MAX)
        self._expected_s: float | None = None

    def silent(self, address: Address, *, now: float) -> None:
        """Note that a request waits at an address for longer than its answers take."""
        known = self._silence(address, now)
        self._silent[address] = _Silence(now, 1 if known is None else known.sends + 1)
        self._silent.move_to_end(address)
        while len(self._silent) > SILENT_MAX:
            self._silent.popitem(last=False)

    def answered(self, address: Address, rtt_s: float | None = None) -> None:
        """Note an answer from an address, and how long it took."""
        self._silent.pop(address, None)
        if rtt_s is not None:
            self._round_trips.append(rtt_s)
            self._expected_s = None

    def expected_s(self, *, at_most_s: float) -> float:
        """Return within which time a peer of which nothing is known answers, if it lives.

        Taken from the last round trips to anybody: what is asked of a lookup's candidates, which
        are spread over the network as those were.
        """
        if len(self._round_trips) < ROUND_TRIPS_MIN:
            return at_most_s
        if self._expected_s is None:
            ordered = sorted(self._round_trips)
            usual_s = ordered[math.ceil(EXPECTED_SHARE * len(ordered)) - 1]
            self._expected_s = max(EXPECTED_MARGIN * usual_s, EXPECTED_MIN_S)
        return min(self._expected_s, at_most_s)

    def is_silent(self, address: Address, *, now: float) -> bool:
        """Tell whether an address answered nothing since it was last asked."""
        return self._silence(address, now) is not None

    def _silence(self, address: Address, now: float) -> _Silence | None:
        known = self._silent.get(address)
        return None if known is None or now - known.since > SILENT_S else known

    def resend_s(self, peer_id: bytes | None, address: Address, *, unknown_s: float) -> float:
        """Return after which time a request is taken for lost and sent once more."""
        bound_s = self._bound(peer_id, address)
        if bound_s is None:
            bound_s = self.expected_s(at_most_s=unknown_s)
        return min(max(bound_s, RESEND_MIN_S), unknown_s)

    def wait_s(
        self, peer_id: bytes | None, address: Address, *, at_most_s: float, now: float
    ) -> float:
        """Return how long an answer is worth waiting for."""
        bound_s = self._bound(peer_id, address)
        if self.is_silent(address, now=now):
            wait_s = SILENT_WAIT_UNKNOWN_S if bound_s is None else max(bound_s, SILENT_WAIT_MIN_S)
        else:
            wait_s = at_most_s if bound_s is None else max(WAIT_BOUNDS * bound_s, WAIT_MIN_S)
        return min(wait_s, at_most_s)

    def annotate(self, candidate: Candidate, *, now: float) -> Candidate:
        """Tell a lookup that a silent candidate is not waited for, or asked where others lack."""
        silence = self._silence(candidate.address, now)
        if silence is None:
            return candidate
        bound_s = self._bound(candidate.peer_id, candidate.address)
        soft_s = SILENT_SOFT_UNKNOWN_S if bound_s is None else max(bound_s, SILENT_SOFT_MIN_S)
        return msgspec.structs.replace(
            candidate,
            soft_timeout_s=min(soft_s, SILENT_SOFT_MAX_S),
            linger_s=0.0,
            is_silent=silence.sends >= SILENT_SENDS_MIN,
        )
