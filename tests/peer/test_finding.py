from collections.abc import Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from dht.records import ContentPayload, NamePayload, Payload, PeerPayload, Record
from identity.address import Address
from peer.finding import (
    ADDRESSES_MAX,
    HOLDERS_ASKED_MAX,
    HOLDERS_MAX,
    OFFERS_ASKED_MAX,
    Holder,
    Offer,
    merge_holders,
    offers_of,
    ranked,
    standing,
    worth_asking,
)
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


def offered(content_id: bytes, *peer_ids: bytes) -> Offer:
    return Offer("a.txt", content_id, 7, tuple(Holder(each, ()) for each in peer_ids))


def peers(count: int, first: int = 0) -> list[bytes]:
    return [number.to_bytes(20) for number in range(first, first + count)]


def test_machine_with_a_hundred_keys_ranks_below_three_real_holders() -> None:
    many, real = peers(100), peers(3, first=100)
    proofs = {each: Address("8.8.4.4", 4100 + number) for number, each in enumerate(many)}
    proofs |= {each: Address(f"9.9.{number}.9", 4100) for number, each in enumerate(real)}
    fake, wanted = offered(CONTENT_ID, *many), offered(OTHER_ID, *real)
    assert (standing(fake, proofs), standing(wanted, proofs)) == (1, 3)
    assert ranked([fake, wanted], proofs) == [wanted, fake]
    assert ranked([wanted, fake], {}) == [fake, wanted], "unproven, all there is are claims"


def test_each_peer_counts_where_addresses_are_no_public_ones() -> None:
    for host in ("127.0.0.1", "192.168.1.7", "fd00::7"):
        proofs = {each: Address(host, 4100 + number) for number, each in enumerate(peers(4))}
        assert standing(offered(CONTENT_ID, *peers(4)), proofs) == 4


def test_one_proven_holder_outranks_any_number_that_only_say_so() -> None:
    proven, claimed = offered(OTHER_ID, *peers(1)), offered(CONTENT_ID, *peers(50, first=1))
    proofs = {peers(1)[0]: Address("8.8.8.8", 4100)}
    assert ranked([claimed, proven], proofs)[0] == proven


public_addresses = st.builds(
    lambda net, host: Address(f"9.9.{net}.{host}", 4100), st.integers(0, 9), st.integers(1, 9)
)
worlds = st.tuples(
    st.lists(st.sets(st.integers(0, 30), min_size=1, max_size=12), min_size=1, max_size=6),
    st.dictionaries(st.integers(0, 30).map(lambda n: n.to_bytes(20)), public_addresses),
).map(
    lambda drawn: (
        [
            offered(bytes([number]) * 32, *(each.to_bytes(20) for each in sorted(holders)))
            for number, holders in enumerate(drawn[0])
        ],
        drawn[1],
    )
)


@given(worlds, st.data())
def test_a_proven_holder_more_never_lowers_an_offer_and_its_block_counts_once(
    world: tuple[list[Offer], dict[bytes, Address]], data: st.DataObject
) -> None:
    offers, proofs = world
    offer = data.draw(st.sampled_from(offers))
    place = [each.content_id for each in ranked(offers, proofs)].index(offer.content_id)
    newcomer = Holder(b"n" * 20, ())
    address = data.draw(public_addresses)
    more = Offer(offer.name, offer.content_id, 7, (*offer.holders, newcomer))
    others = [each for each in offers if each is not offer]
    proofs_after = {**proofs, newcomer.peer_id: address}
    after = [each.content_id for each in ranked([*others, more], proofs_after)]
    assert after.index(offer.content_id) <= place
    blocks = {proofs[each.peer_id].block for each in offer.holders if each.peer_id in proofs}
    grew = standing(more, proofs_after) - standing(offer, proofs)
    assert grew == (address.block not in blocks)


@given(worlds, st.randoms(use_true_random=False))
def test_ranking_loses_nobody_and_does_not_hang_on_the_order_it_is_given(
    world: tuple[list[Offer], dict[bytes, Address]], rng: Random
) -> None:
    offers, proofs = world
    shuffled = rng.sample(offers, len(offers))
    assert ranked(shuffled, proofs) == ranked(offers, proofs)
    for offer in ranked(offers, proofs):
        [before] = [each for each in offers if each.content_id == offer.content_id]
        assert sorted(h.peer_id for h in offer.holders) == sorted(h.peer_id for h in before.holders)
        proven = [holder.peer_id in proofs for holder in offer.holders]
        assert proven == sorted(proven, reverse=True)


@given(worlds, st.randoms(use_true_random=False))
def test_who_is_asked_is_unproven_bounded_and_shared_out_among_the_offers(
    world: tuple[list[Offer], dict[bytes, Address]], rng: Random
) -> None:
    offers, proofs = world
    asked = [each.peer_id for each in worth_asking(offers, proofs, rng)]
    assert len(set(asked)) == len(asked) <= HOLDERS_ASKED_MAX
    assert not set(asked) & proofs.keys()
    unproven = [{h.peer_id for h in offer.holders} - proofs.keys() for offer in offers]
    if len(offers) == 1:
        assert asked == []
    elif len(set().union(*unproven)) <= HOLDERS_ASKED_MAX:
        assert set(asked) == set().union(*unproven)
    else:
        assert all(each & set(asked) for each in unproven if each)


def test_a_crowd_of_claims_takes_no_turn_from_the_offers_below_it() -> None:
    offers = [offered(CONTENT_ID, *peers(500)), offered(OTHER_ID, *peers(3, first=500))]
    asked = {each.peer_id for each in worth_asking(offers, {}, Random(1))}
    assert len(asked) == HOLDERS_ASKED_MAX
    assert set(peers(3, first=500)) <= asked
    many = [offered(bytes([number]) * 32, *peers(1, first=number)) for number in range(60)]
    assert {h.peer_id for h in worth_asking(many, {}, Random(1))} == set(peers(OFFERS_ASKED_MAX))
