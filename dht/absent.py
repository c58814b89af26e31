"""Whom we miss: contacts and bootstrap nodes that fell silent, and when to ask for them again.

Owns the list of the absent and how often each is asked. Pure: it is given the time and a
random.Random. Must not know sockets, messages or the routing table.

When a network is cut in two, each side drops the other from its tables, and after the cut nobody
would ask anybody of the other side again: two networks for ever. So whoever falls silent is asked
again, soon at first and then twice as rarely each time: after a cut, about as late as it was long.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from identity.address import Address

JITTER = 0.2
"""How far a wait may be off, either way: those who were cut off together do not ask together."""


class Absentee(msgspec.Struct, frozen=True):
    """Somebody to ask for at an address; without an id, whoever is there."""

    address: Address
    peer_id: bytes | None = None


@dataclass(slots=True)
class _Wait:
    absentee: Absentee
    wait_s: float
    due: float


class Absent:
    """Remember who is missed, and say whom to ask when.

    Inputs: `missed`, `back`, `left`. Outputs: `due`, `next_due`.
    Invariants: one entry an address; at most `absent_max`, the longest missed are forgotten first;
    two questions at one address are at least `retry_min_s` apart, less the jitter, and at most
    `retry_max_s`, plus the jitter; being missed again changes nothing.
    """

    def __init__(
        self, rng: random.Random, *, absent_max: int, retry_min_s: float, retry_max_s: float
    ) -> None:
        assert absent_max >= 1
        assert 0 < retry_min_s <= retry_max_s
        self._rng = rng
        self._absent_max = absent_max
        self._retry_min_s = retry_min_s
        self._retry_max_s = retry_max_s
        self._waits: OrderedDict[Address, _Wait] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waits)

    def missed(self, absentee: Absentee, now: float) -> bool:
        """Note that nobody answers there; True when that is news."""
        if absentee.address in self._waits:
            return False
        wait = _Wait(absentee, self._retry_min_s, now)
        self._schedule(wait, now)
        self._waits[absentee.address] = wait
        while len(self._waits) > self._absent_max:
            self._waits.popitem(last=False)
        return True

    def back(self, address: Address) -> None:
        """Note an answer from an address."""
        self._waits.pop(address, None)

    def left(self, peer_id: bytes) -> None:
        """Ask for a peer no more: it took its leave, or is known to be elsewhere."""
        gone = [key for key, wait in self._waits.items() if wait.absentee.peer_id == peer_id]
        for address in gone:
            del self._waits[address]

    def due(self, now: float, limit: int) -> list[Absentee]:
        """Return whom to ask now, the longest due first; each is due again twice as late."""
        ready = sorted(
            (wait for wait in self._waits.values() if wait.due <= now), key=lambda wait: wait.due
        )
        for wait in ready[:limit]:
            wait.wait_s = min(2 * wait.wait_s, self._retry_max_s)
            self._schedule(wait, now)
        return [wait.absentee for wait in ready[:limit]]

    def next_due(self) -> float | None:
        """Return when somebody is due next; None while nobody is missed."""
        return min((wait.due for wait in self._waits.values()), default=None)

    def _schedule(self, wait: _Wait, now: float) -> None:
        wait.due = now + wait.wait_s * self._rng.uniform(1 - JITTER, 1 + JITTER)
