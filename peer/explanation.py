"""What a traced lookup came to: the account of the DHT as views that a person can read.

Owns what is counted, in which order records stand, and how many are shown. Pure: it is given the
account, what was found out of the publishers, and who goes by which nickname. Must not know how
the lookup was made nor how the views are drawn.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import assert_never

from dht.records import (
    ContentPayload,
    Kind,
    MailPayload,
    NamePayload,
    Payload,
    PeerPayload,
    WordPayload,
    decode_payload,
)
from dht.tracing import Account, Copies, Hop, Outcome, shared_bits
from identity.address import Address
from identity.keys import show_peer_id
from peer.views import ExplainView, HopView, RecordView, utc_text
from transfer.manifest import show_content_id

RECORDS_SHOWN_MAX = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """What is looked up: the person's words, and the key, kinds and words of the read."""

    what: str
    kind: str
    key: bytes
    kinds: tuple[Kind, ...]
    words: tuple[str, ...] = ()
    prefix: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Reach:
    """Whether a publisher answers, where, and if not, why."""

    reachable: bool
    address: Address | None = None
    trouble: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Surroundings:
    """What the account alone does not say."""

    own_id: bytes | None
    """None where we store nothing, so that we are none of the closest."""
    k: int
    nicknames: Mapping[bytes, str]
    hot: bool = False
    """Whether the storers of a word agree that it is hot."""


def places_of(account: Account, key: bytes, around: Surroundings) -> dict[bytes, int]:
    """Number the k closest that answered, ourselves counted, from 1 on."""
    target = int.from_bytes(key, "big")
    near = {*account.closest, *([] if around.own_id is None else [around.own_id])}
    ordered = sorted(near, key=lambda peer_id: int.from_bytes(peer_id, "big") ^ target)
    return {peer_id: place for place, peer_id in enumerate(ordered[: around.k], 1)}


def hop_views(account: Account, key: bytes, around: Surroundings) -> list[HopView]:
    """Show each request of the lookup, in the order in which they were made."""
    places = places_of(account, key, around)
    return [
        _hop_view(number, hop, key, places.get(hop.peer_id), around)
        for number, hop in enumerate(account.hops, 1)
    ]


def explain_view(
    question: Question, account: Account, around: Surroundings, reached: Mapping[bytes, Reach]
) -> ExplainView:
    """Sum up the lookup: live records first, those on most of the closest before others."""
    places = places_of(account, question.key, around)
    records = [_record_view(each, places, around, reached) for each in account.copies]
    records.sort(key=lambda each: (each.withdrawn, -each.on_closest, each.name, each.publisher))
    outcomes = Counter(hop.outcome for hop in account.hops)
    rejected: Counter[str] = Counter()
    for hop in account.hops:
        rejected.update(hop.refused)
    return ExplainView(
        what=question.what,
        kind=question.kind,
        key=question.key.hex(),
        found=sum(not each.withdrawn for each in records),
        asked=len(account.hops) - outcomes[Outcome.PASSED_OVER],
        answered=outcomes[Outcome.ANSWERED],
        closest=len(places),
        took_ms=_ms(account.took_s or 0.0),
        own_place=None if around.own_id is None else places.get(around.own_id),
        records=tuple(records[:RECORDS_SHOWN_MAX]),
        rejected=dict(rejected),
        silent=outcomes[Outcome.SILENT] + outcomes[Outcome.WAITING],
        late=outcomes[Outcome.LATE],
        bad=outcomes[Outcome.BAD],
        passed_over=outcomes[Outcome.PASSED_OVER],
        hot=around.hot,
        forgotten=account.forgotten,
    )


def publishers_of(copies: Sequence[Copies]) -> dict[bytes, tuple[Address, ...]]:
    """List who published live records, in order, with the addresses that these tell."""
    publishers: dict[bytes, tuple[Address, ...]] = {}
    for each in copies:
        if not each.record.withdrawn:
            told = _addresses(decode_payload(each.record.kind, each.record.payload))
            known = publishers.get(each.record.publisher, ())
            publishers[each.record.publisher] = tuple(dict.fromkeys((*known, *told)))
    return publishers


def _hop_view(
    number: int, hop: Hop, key: bytes, place: int | None, around: Surroundings
) -> HopView:
    answered = hop.outcome in (Outcome.ANSWERED, Outcome.LATE)
    return HopView(
        hop=number,
        id=show_peer_id(hop.peer_id),
        address=str(hop.address),
        shared_bits=shared_bits(hop.peer_id, key),
        place=place if answered else None,
        named_by=None if hop.named_by is None else show_peer_id(hop.named_by),
        took_ms=None if hop.took_s is None else _ms(hop.took_s),
        outcome=hop.outcome,
        records=hop.records,
        contacts=hop.contacts,
        rejected=hop.refused,
        asked_ms=_ms(hop.asked_s),
        nickname=around.nicknames.get(hop.peer_id, ""),
        text=hop.text,
    )


def _record_view(
    copies: Copies,
    places: Mapping[bytes, int],
    around: Surroundings,
    reached: Mapping[bytes, Reach],
) -> RecordView:
    record = copies.record
    payload = decode_payload(record.kind, record.payload)
    name, content_id, size_bytes = _told(payload)
    holders = [*copies.holders, *([around.own_id] if copies.here and around.own_id else [])]
    reach = None if record.withdrawn else reached.get(record.publisher)
    told = _addresses(payload)
    address = reach.address if reach is not None and reach.address else (*told, None)[0]
    return RecordView(
        name=name,
        content_id=None if content_id is None else show_content_id(content_id),
        size=None if record.withdrawn else size_bytes,
        publisher=show_peer_id(record.publisher),
        expires=utc_text(record.expires_ms),
        on_closest=sum(peer_id in places for peer_id in holders),
        reachable=None if reach is None else reach.reachable,
        address=None if address is None else str(address),
        nickname=around.nicknames.get(record.publisher, ""),
        issued=utc_text(record.issued_ms),
        withdrawn=record.withdrawn,
        outdated_on=len(copies.outdated),
        held_by=tuple(show_peer_id(peer_id) for peer_id in holders),
        trouble="" if reach is None else reach.trouble,
    )


def _told(payload: Payload) -> tuple[str, bytes | None, int | None]:
    """The name, content and size that a record tells, as far as its kind does."""
    match payload:
        case NamePayload() | WordPayload():
            return payload.filename, payload.content_id, payload.size_bytes
        case ContentPayload():
            return "", payload.content_id, None
        case PeerPayload():
            return payload.nickname, None, None
        case MailPayload():
            return "", None, None
        case _:
            assert_never(payload)


def _addresses(payload: Payload) -> tuple[Address, ...]:
    return () if isinstance(payload, WordPayload) else payload.addresses


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
