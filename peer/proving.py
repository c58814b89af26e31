"""Who of the holders of some offers is there: a thin shell around the ranking of peer.finding.

Owns whom a ranking asks, where, and for how long. A holder that answered us lately is not asked;
any other is greeted where it last was, or at the addresses of its records. A hello proves a peer
and its address. Must not know words, contents or channels.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import OrderedDict
from collections.abc import Sequence

from dht.node import ContactView, DhtNode
from dht.records import Kind, PeerPayload, peer_key
from identity.address import Address
from peer.finding import Holder, Offer, ranked, worth_asking

ASK_MIN_S = 0.1
ASK_MAX_S = 0.5
"""Holders are waited for as long as the search itself took, within these bounds."""
LATELY_S = 60.0
"""A holder that answered so lately counts as there."""
SILENT_S = 60.0
"""A holder that did not prove itself is not asked again for so long."""
SILENT_MAX = 1_024
HINTS_MAX = 4


class Proving:
    """Rank offers by the holders that prove themselves."""

    def __init__(self, dht: DhtNode, rng: random.Random | None = None) -> None:
        self._dht = dht
        self._rng = rng or random.Random()
        self._silent: OrderedDict[bytes, float] = OrderedDict()

    async def rank(self, offers: Sequence[Offer], *, took_s: float) -> list[Offer]:
        """Order offers, best first; `took_s` is how long they took to be found."""
        proofs = self._known(offers)
        first = ranked(offers, proofs)
        unproven = [each for each in worth_asking(first, proofs, self._rng) if self._may_ask(each)]
        if not unproven:
            return first
        await self._ask(unproven, proofs, min(max(took_s, ASK_MIN_S), ASK_MAX_S))
        return ranked(offers, proofs)

    def _known(self, offers: Sequence[Offer]) -> dict[bytes, Address]:
        """Tell where the holders are that answered us lately; we ourselves are here."""
        here = self._dht.observed_address() or self._dht.bound
        proofs: dict[bytes, Address] = {self._dht.peer_id: here}
        for holder in (holder for offer in offers for holder in offer.holders):
            contact = self._dht.contact(holder.peer_id)
            if contact is not None and _answered_lately(contact):
                proofs.setdefault(holder.peer_id, contact.address)
        return proofs

    def _may_ask(self, holder: Holder) -> bool:
        silent_since = self._silent.get(holder.peer_id)
        return silent_since is None or time.monotonic() - silent_since >= SILENT_S

    async def _ask(
        self, holders: Sequence[Holder], proofs: dict[bytes, Address], at_most_s: float
    ) -> None:
        """Ask all at once and add who proves itself in time to the proofs."""

        async def ask(holder: Holder) -> None:
            address = await self._greet(holder)
            if address is not None:
                proofs[holder.peer_id] = address

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most_s), asyncio.TaskGroup() as group:
                for holder in holders:
                    group.create_task(ask(holder))
        for holder in holders:
            if holder.peer_id not in proofs:
                self._note_silent(holder.peer_id)

    def _note_silent(self, peer_id: bytes) -> None:
        self._silent[peer_id] = time.monotonic()
        self._silent.move_to_end(peer_id)
        while len(self._silent) > SILENT_MAX:
            self._silent.popitem(last=False)

    async def _greet(self, holder: Holder) -> Address | None:
        """Ask a holder where it last answered, or else where its records say that it is."""
        contact = self._dht.contact(holder.peer_id)
        if contact is not None and contact.alive:
            await self._dht.check([holder.peer_id], timeout_s=ASK_MAX_S)
            contact = self._dht.contact(holder.peer_id)
            if contact is not None and _answered_lately(contact):
                return contact.address
        addresses = holder.addresses or await self._published(holder.peer_id)
        for address in self._dht.usable(addresses)[:HINTS_MAX]:
            met = await self._dht.hello_address(address, timeout_s=ASK_MAX_S)
            if met is not None and met.peer_id == holder.peer_id:
                return met.address
        return None

    async def _published(self, peer_id: bytes) -> tuple[Address, ...]:
        """Read where a peer says it is; the first record of its own that comes in will do."""
        key = peer_key(self._dht.network.network_id, peer_id)
        async with contextlib.aclosing(self._dht.read_stream(key, (Kind.PEER,))) as hits:
            async for record, payload in hits:
                if record.publisher == peer_id and isinstance(payload, PeerPayload):
                    return payload.addresses
        return ()


def _answered_lately(contact: ContactView) -> bool:
    heard_s_ago = contact.last_seen_s_ago
    return contact.alive and heard_s_ago is not None and heard_s_ago <= LATELY_S
