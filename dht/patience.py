"""How long to wait for whom: who answers how fast, and who is silent now.

Owns the waiting times and the memory of silent addresses. Pure: it is given the time, and asked
measured round trips. Must not know sockets, messages or tables.

Whoever waits is one thing, the request another: a request runs to its own timeout, and a late
answer always counts. Here it is only said when it is no longer worth a person's time to wait.
Nothing is known of a new peer, so that it has all the time there is; a known one has a few times
what its answers took; one that is silent already has hardly more than one round trip.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec

from dht.lookup import Candidate
from identity.address import Address

SILENT_MAX: Final = 1_024
"""Silent addresses remembered; the longest silent are forgotten first."""
SILENT_S: Final = 300.0
"""After it, an address that was never asked again counts as unknown."""
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


class Patience:
    """Waiting times, and the addresses that are silent.

    Inputs: `silent`, `answered`. Outputs: `is_silent`, `resend_s`, `wait_s`, `annotate`.
    Invariants: at most SILENT_MAX addresses; one that answers is silent no more; no waiting time
    is longer than that of a peer of which nothing is known.
    """

    def __init__(self, round_trip_bound: RoundTripBound) -> None:
        self._bound = round_trip_bound
        self._silent: OrderedDict[Address, float] = OrderedDict()

    def silent(self, address: Address, *, now: float) -> None:
        """Note that a request waits at an address for longer than its answers take."""
        self._silent[address] = now
        self._silent.move_to_end(address)
        while len(self._silent) > SILENT_MAX:
            self._silent.popitem(last=False)

    def answered(self, address: Address) -> None:
        """Note an answer from an address."""
        self._silent.pop(address, None)

    def is_silent(self, address: Address, *, now: float) -> bool:
        """Tell whether an address answered nothing since it was last asked."""
        since = self._silent.get(address)
        return since is not None and now - since <= SILENT_S

    def resend_s(self, peer_id: bytes | None, address: Address, *, unknown_s: float) -> float:
        """Return after which time a request is taken for lost and sent once more."""
        bound_s = self._bound(peer_id, address)
        return unknown_s if bound_s is None else min(max(bound_s, RESEND_MIN_S), unknown_s)

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
        """Tell a lookup that a silent candidate is asked, but not waited for."""
        if not self.is_silent(candidate.address, now=now):
            return candidate
        bound_s = self._bound(candidate.peer_id, candidate.address)
        soft_s = SILENT_SOFT_UNKNOWN_S if bound_s is None else max(bound_s, SILENT_SOFT_MIN_S)
        return msgspec.structs.replace(
            candidate, soft_timeout_s=min(soft_s, SILENT_SOFT_MAX_S), linger_s=0.0
        )
