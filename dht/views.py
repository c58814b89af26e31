"""What a node shows of itself to the rest of the peer: contacts, finds, search hits.

Owns typed results. Must not know how they were found.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from dht.collecting import Hit
from dht.contacts import Contact
from dht.records import NamePayload, Payload, Record, WordPayload
from dht.words import Query, matches
from identity.address import Address

FoundPayload = TypeVar("FoundPayload", bound=Payload)


@dataclass(frozen=True, slots=True)
class ContactView:
    """One peer that proved itself to us at some time."""

    peer_id: bytes
    public_key: bytes | None
    nickname: str
    address: Address
    last_seen_s_ago: float | None
    rtt_s: float | None
    alive: bool
    """It answered when last asked, and has not taken its leave since."""
    client: bool
    is_passing: bool = False
    """A client of the moment, which nobody has to know; one that runs on advertises an address."""


@dataclass(frozen=True, slots=True)
class Found(Generic[FoundPayload]):
    """A verified record, its payload and who signed it."""

    publisher: bytes
    payload: FoundPayload
    record: Record


@dataclass(frozen=True, slots=True)
class SearchHit:
    """One content under one filename, and who offers it."""

    filename: str
    content_id: bytes
    size_bytes: int
    holders: tuple[bytes, ...]
    """Peer ids, most recently published first."""


def found_of(hits: Iterable[Hit], kind: type[FoundPayload]) -> list[Found[FoundPayload]]:
    """Keep the hits whose payload is of one kind."""
    return [
        Found(record.publisher, payload, record)
        for record, payload in hits
        if isinstance(payload, kind)
    ]


def search_hits(hits: Iterable[Hit], query: Query, limit: int) -> list[SearchHit]:
    """Group hits by filename and content; most holders first, then by name.

    A storer may not have filtered: names that do not match are left out here as well.
    """
    groups: dict[tuple[str, bytes], list[tuple[bytes, int]]] = {}
    for record, payload in hits:
        match payload:
            case WordPayload() | NamePayload() if matches(
                payload.filename, query.words, query.prefix
            ):
                name = unicodedata.normalize("NFC", payload.filename)
                holders = groups.setdefault((name, payload.content_id), [])
                if all(record.publisher != holder for holder, _ in holders):
                    holders.append((record.publisher, payload.size_bytes))
            case _:
                continue
    found = [
        SearchHit(name, content_id, _majority([size for _, size in holders]), _ids(holders))
        for (name, content_id), holders in groups.items()
    ]
    found.sort(key=lambda hit: (-len(hit.holders), hit.filename, hit.content_id))
    return found[:limit]


def contact_view(contact: Contact, *, alive: bool, now: float) -> ContactView:
    """Show one contact."""
    return ContactView(
        contact.peer_id,
        contact.public_key,
        contact.nickname,
        contact.address,
        None if contact.last_seen is None else max(0.0, now - contact.last_seen),
        contact.rtt_s,
        alive and contact.failures == 0,
        contact.client,
        contact.client and contact.advertised is None,
    )


def _majority(sizes: Sequence[int]) -> int:
    """The size that most holders state; the manifest decides in the end."""
    return max(sorted(set(sizes)), key=sizes.count)


def _ids(holders: Sequence[tuple[bytes, int]]) -> tuple[bytes, ...]:
    return tuple(holder for holder, _ in holders)
