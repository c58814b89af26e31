"""From verified records to what a person chooses among: offers of contents and their holders.

Owns grouping and ranking. Pure: it is given records that the DHT has checked, and at which address
which holder proved itself. Must not know how records were read or holders asked.

A record says that somebody has a content; anybody can sign a hundred such records with a hundred
keys. So offers rank by holders that proved themselves, and of these each public address block
counts once: addresses cost more than keys. On private and loopback addresses every peer counts, or
a classroom would be one holder.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Mapping, Sequence

from dht.records import NamePayload, Payload, Record
from identity.address import Address

HOLDERS_MAX = 64
ADDRESSES_MAX = 8
OFFERS_ASKED_MAX = 20
"""Offers whose holders are worth asking; those further down stay below them."""
HOLDERS_ASKED_MAX = 32
"""Holders asked for one ranking, over all offers."""

Proofs = Mapping[bytes, Address]
"""Where peers proved themselves, by peer id."""


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
    """Group `name` records into offers: most said holders first, then by name and id.

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
    return ranked(offers, {})


def standing(offer: Offer, proofs: Proofs) -> int:
    """Count an offer's holders that proved themselves, those in one public address block once."""
    proven = [holder.peer_id for holder in offer.holders if holder.peer_id in proofs]
    return len({proofs[peer_id].block or peer_id for peer_id in proven})


def ranked(offers: Iterable[Offer], proofs: Proofs) -> list[Offer]:
    """Order offers: by standing, then by how many say that they hold them, then by name and id.

    Within an offer the holders that proved themselves come first.
    """
    sorted_offers = sorted(
        offers,
        key=lambda offer: (
            -standing(offer, proofs),
            -len(offer.holders),
            offer.name,
            offer.content_id,
        ),
    )
    return [_proven_first(offer, proofs) for offer in sorted_offers]


def worth_asking(offers: Sequence[Offer], proofs: Proofs, rng: random.Random) -> list[Holder]:
    """Choose the holders whose proof may change the order of ranked offers.

    One of each offer, then a second of each, and so on, up to HOLDERS_ASKED_MAX; drawn at random,
    so that nobody can publish himself into being asked instead of others. None where there is
    nothing to order.
    """
    if len(offers) < 2:
        return []
    waiting = [
        [holder for holder in offer.holders if holder.peer_id not in proofs]
        for offer in offers[:OFFERS_ASKED_MAX]
    ]
    for holders in waiting:
        rng.shuffle(holders)
    chosen: dict[bytes, Holder] = {}
    for turn in range(max((len(holders) for holders in waiting), default=0)):
        for holders in waiting:
            if len(chosen) == HOLDERS_ASKED_MAX:
                return list(chosen.values())
            if turn < len(holders):
                chosen.setdefault(holders[turn].peer_id, holders[turn])
    return list(chosen.values())


def _proven_first(offer: Offer, proofs: Proofs) -> Offer:
    holders = sorted(offer.holders, key=lambda holder: holder.peer_id not in proofs)
    return dataclasses.replace(offer, holders=tuple(holders))


def merge_holders(*groups: Sequence[Holder]) -> tuple[Holder, ...]:
    """Join holders by id: all addresses of all groups, in order, bounded."""
    known: dict[bytes, tuple[Address, ...]] = {}
    for holder in (holder for group in groups for holder in group):
        joined = dict.fromkeys((*known.get(holder.peer_id, ()), *holder.addresses))
        known[holder.peer_id] = tuple(joined)[:ADDRESSES_MAX]
    return _holders(known)


def _holders(known: dict[bytes, tuple[Address, ...]]) -> tuple[Holder, ...]:
    return tuple(Holder(peer_id, addresses) for peer_id, addresses in known.items())[:HOLDERS_MAX]
