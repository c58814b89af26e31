"""From verified records to what a person chooses among: offers of contents and their holders.

Owns grouping and ranking. Pure: it is given records that the DHT has checked. Must not know how
they were read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from dht.records import NamePayload, Payload, Record
from identity.address import Address

HOLDERS_MAX = 64
ADDRESSES_MAX = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Holder:
    """A peer that says it has a content; the addresses are hints and may be empty."""

    peer_id: bytes
    addresses: tuple[Address, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Offer:
    """One content under one name, and who says that it has it."""

    name: str
    content_id: bytes
    size_bytes: int
    holders: tuple[Holder, ...]


def offers_of(found: Iterable[tuple[Record, Payload]]) -> list[Offer]:
    """Group `name` records into offers: most holders first, then by name and id.

    A publisher counts once an offer, whatever it publishes. Sizes are claims: where holders
    differ, the size that most of them name wins (the manifest decides at the download).
    """
    holders: dict[tuple[str, bytes], dict[bytes, tuple[Address, ...]]] = {}
    sizes: dict[tuple[str, bytes], list[int]] = {}
    for record, payload in found:
        if not isinstance(payload, NamePayload):
            continue
        offer = (payload.filename, payload.content_id)
        known = holders.setdefault(offer, {})
        if record.publisher not in known:
            sizes.setdefault(offer, []).append(payload.size_bytes)
        known[record.publisher] = known.get(record.publisher) or payload.addresses
    offers = [
        Offer(
            name,
            content_id,
            max(sorted(set(sizes[name, content_id])), key=sizes[name, content_id].count),
            _holders(known),
        )
        for (name, content_id), known in holders.items()
    ]
    return sorted(offers, key=lambda offer: (-len(offer.holders), offer.name, offer.content_id))


def merge_holders(*groups: Sequence[Holder]) -> tuple[Holder, ...]:
    """Join holders by id: all addresses of all groups, in order, bounded."""
    known: dict[bytes, tuple[Address, ...]] = {}
    for holder in (holder for group in groups for holder in group):
        joined = dict.fromkeys((*known.get(holder.peer_id, ()), *holder.addresses))
        known[holder.peer_id] = tuple(joined)[:ADDRESSES_MAX]
    return _holders(known)


def _holders(known: dict[bytes, tuple[Address, ...]]) -> tuple[Holder, ...]:
    return tuple(Holder(peer_id, addresses) for peer_id, addresses in known.items())[:HOLDERS_MAX]
