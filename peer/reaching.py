"""Where one peer is now: the address at which it answers.

Owns the order in which hints are tried. Addresses in records are hints from others: none is dialled
over TCP before the peer has proved over UDP that it is there, so that records cannot turn us
against a third party. Must not know channels.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Coroutine, Iterable, Sequence
from typing import Any

from dht.node import DhtNode
from identity.address import Address

FRESH_S = 2.0
"""A contact heard of so lately is there: one command asks once, not at each of its steps."""
CHECK_TIMEOUT_S = 1.5
HELLO_TIMEOUT_S = 1.5
AWAY_HELLO_TIMEOUT_S = 0.5
RECORD_AFTER_S = 0.15
"""The contact and the hints may be silent for so long before the peer's record is read."""
HINTS_MAX = 8


async def whereabouts(
    dht: DhtNode, peer_id: bytes, hints: Sequence[Address] = (), *, avoid: Collection[Address] = ()
) -> Address | None:
    """Return an address at which this very peer answers now; None when it is not found.

    The contact is asked first, and the hints beside it, then what the peer's own record says; all
    that is not in `avoid`.
    """
    contact = dht.contact(peer_id)
    if contact is not None and contact.alive and contact.address not in avoid:
        heard_s_ago = contact.last_seen_s_ago
        if (math.inf if heard_s_ago is None else heard_s_ago) <= FRESH_S:
            return contact.address
    search = _Search(dht, peer_id, avoid)
    near = asyncio.ensure_future(_first([search.contact(), search.greet(hints)]))
    return await _first([near, search.published(near)])


class _Search:
    """One search; greets no address twice."""

    def __init__(self, dht: DhtNode, peer_id: bytes, avoid: Collection[Address]) -> None:
        self._dht = dht
        self._peer_id = peer_id
        self._tried = set(avoid)

    async def contact(self) -> Address | None:
        """Ask the peer where it was last."""
        contact = self._dht.contact(self._peer_id)
        if contact is None or contact.address in self._tried:
            return None
        self._tried.add(contact.address)
        await self._dht.check([self._peer_id], timeout_s=CHECK_TIMEOUT_S)
        contact = self._dht.contact(self._peer_id)
        return contact.address if contact is not None and contact.alive else None

    async def greet(
        self, hints: Iterable[Address], timeout_s: float = HELLO_TIMEOUT_S
    ) -> Address | None:
        """Greet all hints that are new and usable, at once."""
        new = [each for each in dict.fromkeys(hints) if each not in self._tried]
        fresh = self._dht.usable(new)[:HINTS_MAX]
        self._tried.update(fresh)

        async def greet(address: Address) -> Address | None:
            met = await self._dht.hello_address(address, timeout_s=timeout_s, is_hint=True)
            return address if met is not None and met.peer_id == self._peer_id else None

        return await _first([greet(address) for address in fresh])

    async def published(self, near: asyncio.Future[Address | None]) -> Address | None:
        """Greet what the peer's record says, once it is worth reading."""
        await asyncio.wait([near], timeout=RECORD_AFTER_S)
        if near.done() and near.result() is not None:
            return None
        published = await self._dht.find_peer(self._peer_id)
        if published is None:
            return None
        # A peer that took its leave may be back, but is not worth a long wait.
        is_away = published.payload.here_until_ms <= self._dht.now_ms()
        timeout_s = AWAY_HELLO_TIMEOUT_S if is_away else HELLO_TIMEOUT_S
        return await self.greet(published.payload.addresses, timeout_s)


async def _first(
    attempts: Sequence[Coroutine[Any, Any, Address | None] | asyncio.Future[Address | None]],
) -> Address | None:
    """Run all attempts at once; the first address that is found ends the others."""
    tasks = [asyncio.ensure_future(attempt) for attempt in attempts]
    try:
        for done in asyncio.as_completed(tasks):
            address = await done
            if address is not None:
                return address
        return None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
