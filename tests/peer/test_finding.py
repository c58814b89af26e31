from collections.abc import Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from dht.records import ContentPayload, NamePayload, Payload, PeerPayload, Record
from identity.address import Address
from peer.finding import ADDRESSES_MAX, HOLDERS_MAX, Holder, Offer, merge_holders, offers_of
from tests.support.records import ALICE, BOB, CAROL, CONTENT_ID, NOW_MS, signed

OTHER_ID = b"\x34" * 32
HERE, THERE = Address("192.0.2.7", 4100), Address("192.0.2.8", 4100)
PEERS = {identity.peer_id: identity for identity in (ALICE, BOB, CAROL)}


def name(
    filename: str = "a.txt",
    content_id: bytes = CONTENT_ID,
    size_bytes: int = 7,
    addresses: Sequence[Address] = (),
) -> NamePayload:
    return NamePayload(filename, content_id, size_bytes, tuple(addresses))


def found(*claims: tuple[bytes, NamePayload]) -> list[tuple[Record, Payload]]:
    return [(signed(payload, identity=PEERS[peer]), payload) for peer, payload in claims]


A, B, C = PEERS


def test_one_content_of_two_holders_is_one_offer() -> None:
    (offer,) = offers_of(found((A, name()), (B, name())))
    assert (offer.name, offer.content_id, offer.size_bytes) == ("a.txt", CONTENT_ID, 7)
    assert {holder.peer_id for holder in offer.holders} == {A, B}


def test_content_with_most_holders_comes_first() -> None:
    offers = offers_of(
        found((A, name(content_id=CONTENT_ID)), (B, name(content_id=OTHER_ID)), (C, name()))
    )
    assert [len(offer.holders) for offer in offers] == [2, 1]
    assert offers[0].content_id == CONTENT_ID


def test_publisher_counts_once_and_keeps_its_first_addresses() -> None:
    (offer,) = offers_of(
        found((A, name()), (A, name(addresses=[HERE])), (A, name(addresses=[THERE])))
    )
    assert offer.holders == (Holder(A, (HERE,)),)


def test_size_is_what_most_holders_claim_and_one_liar_changes_nothing() -> None:
    lies = [(A, name(size_bytes=1)), (A, name(size_bytes=1)), (A, name(size_bytes=1))]
    (offer,) = offers_of(found(*lies, (B, name()), (C, name())))
    assert offer.size_bytes == 7


def test_records_of_other_kinds_are_no_offers() -> None:
    peer = PeerPayload("ada", (HERE,), b"\x44" * 32, NOW_MS)
    content = ContentPayload(CONTENT_ID, (HERE,))
    assert offers_of([(signed(each), each) for each in (peer, content)]) == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from([A, B, C]),
            st.builds(
                name,
                st.sampled_from(["a", "b"]),
                st.sampled_from([CONTENT_ID, OTHER_ID]),
                st.integers(0, 2),
            ),
        ),
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
def test_offers_say_the_same_in_whatever_order_honest_records_come(
    claims: list[tuple[bytes, NamePayload]], random: Random
) -> None:
    first: dict[tuple[bytes, str, bytes], tuple[bytes, NamePayload]] = {}
    honest = [each for each in claims if first.setdefault(_identity(each), each) is each]
    shuffled = random.sample(honest, len(honest))
    once, again = offers_of(found(*honest)), offers_of(found(*shuffled))
    assert [_said(offer) for offer in once] == [_said(offer) for offer in again]
    assert sum(len(offer.holders) for offer in once) == len(honest)


def _identity(claim: tuple[bytes, NamePayload]) -> tuple[bytes, str, bytes]:
    """What makes two records one: a storer keeps one of each publisher, name and content."""
    return claim[0], claim[1].filename, claim[1].content_id


def _said(offer: Offer) -> tuple[object, ...]:
    holders = frozenset(holder.peer_id for holder in offer.holders)
    return offer.name, offer.content_id, offer.size_bytes, holders


addresses = st.lists(st.builds(Address, st.just("192.0.2.1"), st.integers(1, 99)), max_size=20)
holders = st.lists(
    st.builds(Holder, st.binary(min_size=1, max_size=1), addresses.map(tuple)), max_size=100
)


@given(holders, holders)
def test_merged_holders_are_bounded_once_each_and_in_order(
    first: list[Holder], second: list[Holder]
) -> None:
    merged = merge_holders(first, second)
    ids = [holder.peer_id for holder in merged]
    expected = list(dict.fromkeys(each.peer_id for each in [*first, *second]))
    assert ids == expected[:HOLDERS_MAX]
    for holder in merged:
        given_addresses = [
            address
            for each in [*first, *second]
            if each.peer_id == holder.peer_id
            for address in each.addresses
        ]
        assert len(holder.addresses) <= ADDRESSES_MAX
        assert holder.addresses == tuple(dict.fromkeys(given_addresses))[:ADDRESSES_MAX]
    assert merge_holders(merged) == merged
