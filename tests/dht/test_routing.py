"""The routing table: true k closest, proven contacts only, patient eviction, injected time."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kademlia.node import Node
from kademlia.routing import KBucket, RoutingTable

from dht.hints import pack_contact
from dht.routing import (
    Admission,
    Contact,
    StockContacts,
    Table,
    TableConfig,
    contacts_from_rows,
)
from identity.address import Address
from identity.keys import Identity

OWN_ID = bytes(20)
FAR = 0x80
"""The first byte of ids in the half of the id space that is not ours: one bucket from the start."""


def peer_id(first_byte: int, number: int) -> bytes:
    return bytes([first_byte]) + number.to_bytes(19, "big")


def contact(
    peer: bytes, number: int = 1, *, host: str = "10.0.0.1", client: bool = False
) -> Contact:
    return Contact(peer, Address(host, 1000 + number), client=client)


def full_bucket_table(k: int = 4) -> Table:
    """Return a table whose far bucket is full: our half split off, the far one does not split."""
    table = Table(OWN_ID, TableConfig(k=k, split_bits=1), now=0.0)
    for number in range(k):
        assert table.proven(contact(peer_id(FAR, number), number), 1.0) is Admission.ADMITTED
    for number in range(k):
        table.proven(contact(peer_id(0x40, number), number), 1.0)
    assert table.proven(contact(peer_id(FAR, 99), 99), 2.0) is Admission.WAITING
    return table


def test_a_joining_peer_looks_around_where_it_knows_few_and_not_in_its_own_part() -> None:
    table = Table(OWN_ID, TableConfig(k=4, split_bits=1), now=0.0)
    assert [*table.sparse_ids(random.Random(1))] == [], "one bucket, our own"
    table.proven(contact(peer_id(FAR, 1)), 1.0)
    for number in range(5):
        table.proven(contact(peer_id(0x10, number), number), 1.0)
    wanted = table.sparse_ids(random.Random(1))
    assert next(wanted)[0] & 0x80, "the farthest half first"
    for number in range(2):
        table.proven(contact(peer_id(0x40, number), number), 1.0)
    assert all(not each[0] & 0xC0 for each in wanted), "what has filled up meanwhile is left out"


def test_buckets_and_contacts_are_those_of_the_kademlia_package() -> None:
    table = full_bucket_table()
    assert isinstance(table, RoutingTable)
    assert all(isinstance(bucket, KBucket) for bucket in table.buckets)
    assert len(table.buckets) > 1
    assert all(isinstance(node, Node) for node in table.contacts())
    assert tuple(table.contacts()[0]) == (
        table.contacts()[0].id,
        "10.0.0.1",
        table.contacts()[0].port,
    )


ids = st.binary(min_size=20, max_size=20)
# Ids near ours too: only they split buckets deeply.
near_ids = st.integers(0, 2**24).map(lambda number: number.to_bytes(20, "big"))
mixed_ids = st.one_of(ids, near_ids)
moves = st.lists(
    st.tuples(
        st.sampled_from(["proven", "proven", "proven", "failed", "left", "client"]),
        st.integers(0, 59),
        st.sampled_from(["10.0.0.1", "8.8.8.1", "8.8.8.2", "9.9.9.9"]),
    ),
    max_size=120,
)


@given(st.lists(mixed_ids, min_size=60, max_size=60, unique=True), moves, st.integers(2, 5))
def test_any_history_leaves_the_invariants_whole(
    peers: list[bytes], history: list[tuple[str, int, str]], k: int
) -> None:
    table = Table(OWN_ID, TableConfig(k=k), now=0.0)
    for now, (move, which, host) in enumerate(history):
        match move:
            case "proven":
                table.proven(contact(peers[which], which, host=host), float(now))
            case "failed":
                table.failed(peers[which], float(now))
            case "left":
                table.left(peers[which])
            case _:
                table.proven(contact(peers[which], which, client=True), float(now))
        table.validate_state()


@given(st.lists(mixed_ids, max_size=150, unique=True), mixed_ids, st.integers(1, 25))
def test_closest_are_the_true_k_closest_of_all_contacts(
    peers: list[bytes], key: bytes, k: int
) -> None:
    table = Table(OWN_ID, TableConfig(k=5), now=0.0)
    for number, peer in enumerate(peers):
        table.proven(contact(peer, number), 1.0)
    target = int.from_bytes(key, "big")
    expected = sorted(table.contacts(), key=lambda node: node.long_id ^ target)[:k]
    assert table.closest(key, k) == expected
    if expected:
        assert expected[0] not in table.closest(key, k, exclude=expected[0].id)


@given(mixed_ids)
def test_each_id_has_the_one_bucket_whose_bounds_hold_it(wanted: bytes) -> None:
    table = full_bucket_table()
    bounds = [bound for bucket in table.buckets for bound in bucket.range]
    for long_id in (int.from_bytes(wanted, "big"), *bounds):
        node = Node(long_id.to_bytes(20, "big"))
        bucket = table.buckets[table.get_bucket_for(node)]
        assert bucket.range[0] <= node.long_id <= bucket.range[1]


def test_we_ourselves_and_clients_are_never_admitted() -> None:
    table = Table(OWN_ID, now=0.0)
    assert table.proven(contact(OWN_ID), 1.0) is Admission.REFUSED
    assert table.proven(contact(peer_id(FAR, 1), client=True), 1.0) is Admission.REFUSED
    table.proven(contact(peer_id(FAR, 2)), 1.0)
    assert table.proven(contact(peer_id(FAR, 2), client=True), 2.0) is Admission.REFUSED
    assert table.contacts() == []


def test_contact_back_on_a_new_address_replaces_the_old_one_at_once() -> None:
    table = Table(OWN_ID, now=0.0)
    first = contact(peer_id(FAR, 1), 1)
    first.observe_rtt(0.2)
    table.proven(first, 1.0)
    assert table.proven(contact(first.id, 2), 2.0) is Admission.MOVED
    kept = table.contact(first.id)
    assert kept is not None
    assert kept.address == Address("10.0.0.1", 1002)
    assert kept.rtt_s is None, "the round trip was another path's"
    assert len(table) == 1


def test_contact_stays_after_one_failure_and_goes_after_three() -> None:
    table = Table(OWN_ID, now=0.0)
    peer = peer_id(FAR, 1)
    table.proven(contact(peer), 0.0)
    assert table.failed(peer, 10.0) is None
    assert table.failed(peer, 20.0) is None
    assert table.contact(peer) is not None
    evicted = table.failed(peer, 30.0)
    assert evicted is not None
    assert evicted.id == peer
    assert table.contact(peer) is None
    assert [gone.id for gone in table.departed()] == [peer]


def test_answer_between_failures_clears_them() -> None:
    table = Table(OWN_ID, now=0.0)
    peer = peer_id(FAR, 1)
    table.proven(contact(peer), 0.0)
    for now in (10.0, 20.0):
        table.failed(peer, now)
    assert table.answered(peer, Address("10.0.0.1", 1001), 25.0, 0.01)
    for now in (30.0, 40.0):
        assert table.failed(peer, now) is None
    assert table.contact(peer) is not None


def test_burst_of_failures_at_one_moment_counts_once() -> None:
    table = Table(OWN_ID, now=0.0)
    peer = peer_id(FAR, 1)
    table.proven(contact(peer), 0.0)
    for _ in range(10):
        table.failed(peer, 10.0)
    assert table.contact(peer) is not None


def test_waiting_replacement_takes_the_place_after_two_failures() -> None:
    table = full_bucket_table()
    failing = peer_id(FAR, 0)
    assert table.failed(failing, 10.0) is None
    assert table.contact(failing) is not None
    assert table.failed(failing, 20.0) is not None
    assert table.contact(failing) is None
    assert table.contact(peer_id(FAR, 99)) is not None


def test_newly_proven_contact_replaces_one_that_failed_twice_already() -> None:
    table = full_bucket_table()
    bucket = table.buckets[-1]
    bucket.replacement_nodes.clear()
    failing = peer_id(FAR, 0)
    table.failed(failing, 10.0)
    table.failed(failing, 20.0)
    assert table.contact(failing) is not None
    assert table.proven(contact(peer_id(FAR, 50), 50), 21.0) is Admission.ADMITTED
    assert table.contact(failing) is None


def test_answer_from_another_address_is_no_proof() -> None:
    table = Table(OWN_ID, now=0.0)
    peer = peer_id(FAR, 1)
    table.proven(contact(peer), 0.0)
    assert not table.answered(peer, Address("10.0.0.1", 9), 5.0)
    known = table.contact(peer)
    assert known is not None
    assert known.last_seen == 0.0


def test_public_address_block_has_two_places_in_a_bucket_and_a_private_one_any() -> None:
    table = Table(OWN_ID, now=0.0)
    public = [
        table.proven(contact(peer_id(FAR, number), number, host=f"8.8.8.{number}"), 1.0)
        for number in range(1, 5)
    ]
    assert public == [Admission.ADMITTED] * 2 + [Admission.CROWDED] * 2
    private = [
        table.proven(contact(peer_id(FAR, 100 + number), number, host="127.0.0.1"), 1.0)
        for number in range(10)
    ]
    assert set(private) == {Admission.ADMITTED}


def test_replacement_of_a_crowded_block_lets_the_next_one_move_up() -> None:
    table = Table(OWN_ID, TableConfig(k=3, split_bits=1), now=0.0)
    for number, host in enumerate(["8.8.8.1", "8.8.8.2", "9.9.9.9"]):
        table.proven(contact(peer_id(FAR, number), number, host=host), 1.0)
    table.proven(contact(peer_id(0x01, 1)), 1.0)
    table.proven(contact(peer_id(FAR, 50), 50, host="10.0.0.5"), 2.0)
    table.proven(contact(peer_id(FAR, 51), 51, host="8.8.8.3"), 3.0)
    table.left(peer_id(FAR, 2))
    table.validate_state()
    assert table.contact(peer_id(FAR, 50)) is not None
    assert table.contact(peer_id(FAR, 51)) is None


def test_contact_that_moves_into_a_crowded_block_loses_its_place() -> None:
    table = Table(OWN_ID, now=0.0)
    for number, host in enumerate(["8.8.8.1", "8.8.8.2", "9.9.9.9"]):
        table.proven(contact(peer_id(FAR, number), number, host=host), 1.0)
    moved = contact(peer_id(FAR, 2), 2, host="8.8.8.3")
    assert table.proven(moved, 2.0) is Admission.CROWDED
    assert table.contact(moved.id) is None
    within = contact(peer_id(FAR, 1), 1, host="8.8.8.9")
    assert table.proven(within, 2.0) is Admission.MOVED


def test_only_our_own_lookups_keep_a_bucket_fresh() -> None:
    table = full_bucket_table()
    assert table.stale_buckets(3599.0) == []
    table.proven(contact(peer_id(FAR, 1), 1), 3599.0)
    table.closest(peer_id(FAR, 1), 3)
    assert len(table.stale_buckets(3600.0)) == len(table.buckets)
    table.looked_up(peer_id(FAR, 77), 3600.0)
    assert table.buckets[-1] not in table.stale_buckets(3600.0)
    assert len(table.stale_buckets(3600.0)) == len(table.buckets) - 1


def test_refresh_ids_lie_in_the_stale_buckets_and_repeat_with_the_seed() -> None:
    table = full_bucket_table()
    refresh = table.refresh_ids(4000.0, random.Random(7))
    assert refresh == table.refresh_ids(4000.0, random.Random(7))
    for found, bucket in zip(refresh, table.stale_buckets(4000.0), strict=True):
        assert bucket.range[0] <= int.from_bytes(found, "big") <= bucket.range[1]


def test_failing_contacts_can_be_left_out_of_what_others_are_told() -> None:
    table = Table(OWN_ID, now=0.0)
    table.proven(contact(peer_id(FAR, 1), 1), 0.0)
    table.proven(contact(peer_id(FAR, 2), 2), 0.0)
    table.failed(peer_id(FAR, 1), 10.0)
    told = table.closest(peer_id(FAR, 1), 5, failures_max=0)
    assert [node.id for node in told] == [peer_id(FAR, 2)]


def test_stock_ways_in_that_spawn_tasks_or_read_the_clock_are_shut() -> None:
    table = Table(OWN_ID, now=0.0)
    with pytest.raises(TypeError):
        table.add_contact(Node(peer_id(FAR, 1), "127.0.0.1", 1))
    with pytest.raises(TypeError):
        table.lonely_buckets()


def test_remembered_contacts_return_unproven_and_bad_rows_are_left_out() -> None:
    identity = Identity.generate()
    table = Table(OWN_ID, now=0.0)
    table.proven(
        Contact(
            identity.peer_id,
            Address("127.0.0.1", 4100),
            public_key=identity.public_key,
            nickname="ann",
        ),
        100.0,
    )
    rows = table.rows(160.0, 1_000_000)
    assert [row.last_seen_ms for row in rows] == [1_000_000 - 60_000]
    broken = [
        type(rows[0])(rows[0].peer_id, b"other key", rows[0].address, "", 0),
        type(rows[0])(rows[0].peer_id, rows[0].public_key, "no address", "", 0),
    ]
    (back,) = contacts_from_rows([*broken, *rows])
    assert (back.id, back.address, back.nickname) == (
        identity.peer_id,
        Address("127.0.0.1", 4100),
        "ann",
    )
    assert back.last_seen is None


def test_departed_contacts_are_bounded_and_remembered_until_they_return() -> None:
    table = Table(OWN_ID, TableConfig(departed_max=3), now=0.0)
    for number in range(6):
        table.proven(contact(peer_id(FAR, number), number), 0.0)
        table.left(peer_id(FAR, number))
    assert [gone.id for gone in table.departed()] == [peer_id(FAR, number) for number in (3, 4, 5)]
    table.proven(contact(peer_id(FAR, 4), 4), 1.0)
    assert peer_id(FAR, 4) not in [gone.id for gone in table.departed()]


def test_table_stops_splitting_at_its_size_limit() -> None:
    table = Table(OWN_ID, TableConfig(k=2, contacts_max=10), now=0.0)
    buckets_at_limit = 0
    for number in range(1, 2000):
        table.proven(contact(number.to_bytes(20, "big"), number), 1.0)
        if len(table) >= 10:
            buckets_at_limit = buckets_at_limit or len(table.buckets)
            assert len(table.buckets) == buckets_at_limit
    assert len(table) <= 2 * buckets_at_limit
    table.validate_state()


def test_soft_timeout_follows_the_measured_round_trips_within_bounds() -> None:
    known = contact(peer_id(FAR, 1))
    assert known.soft_timeout_s() == 0.5
    for _ in range(50):
        known.observe_rtt(0.1)
    assert 0.1 <= known.soft_timeout_s() < 0.2
    for _ in range(50):
        known.observe_rtt(0.0001)
    assert known.soft_timeout_s() == 0.05
    for _ in range(50):
        known.observe_rtt(9.0)
    assert known.soft_timeout_s() == 1.0


def test_oldest_beside_names_the_longest_silent_contact_of_the_bucket() -> None:
    table = full_bucket_table()
    for number in (0, 1, 3):
        table.proven(contact(peer_id(FAR, number), number), 50.0)
    oldest = table.oldest_beside(peer_id(FAR, 99))
    assert oldest is not None
    assert oldest.id == peer_id(FAR, 2)


def test_stock_contacts_are_bounded_fresh_and_closest_first() -> None:
    stock = StockContacts(stock_contacts_max=3, fresh_s=100.0)
    for number in range(5):
        stock.seen(peer_id(FAR, number), "127.0.0.1", number + 1, float(number))
    assert len(stock) == 3
    assert peer_id(FAR, 0) not in stock
    stock.seen(peer_id(FAR, 2), "127.0.0.1", 77, 90.0)
    assert [node.port for node in stock.closest(peer_id(FAR, 2), 3, 100.0)] == [77, 4, 5]
    assert [node.port for node in stock.closest(peer_id(FAR, 2), 3, 150.0)] == [77]
    assert stock.closest(peer_id(FAR, 2), 3, 150.0, exclude=peer_id(FAR, 2)) == []
    stock.failed(peer_id(FAR, 2))
    assert len(stock) == 2


def test_contact_that_moved_is_told_at_its_new_address_only() -> None:
    table = Table(OWN_ID, now=0.0)
    wanted, old, new = peer_id(FAR, 1), Address("127.0.0.1", 4100), Address("10.0.0.9", 4200)
    table.proven(Contact(wanted, old, advertised=Address("10.0.0.1", 4100)), 1.0)
    known = table.contact(wanted)
    assert known is not None
    assert known.told_near == pack_contact(wanted, old)
    assert known.told_far == pack_contact(wanted, Address("10.0.0.1", 4100))
    table.proven(Contact(wanted, new, advertised=None), 2.0)
    assert known.address == new
    assert known.told_near == known.told_far == pack_contact(wanted, new)


def test_closest_are_spread_over_blocks_for_what_others_are_told_and_given() -> None:
    table = Table(OWN_ID, TableConfig(k=20, block_contacts_max=5), now=0.0)
    for number in range(5):
        table.proven(contact(peer_id(FAR, number), number, host=f"8.8.8.{number}"), 1.0)
    for number in range(5, 8):
        table.proven(contact(peer_id(FAR, number), number, host=f"9.9.{number}.1"), 1.0)
    told = [each.port - 1000 for each in table.closest_spread(peer_id(FAR, 0), 4)]
    assert told == [0, 5, 6, 7], "one of the crowded block"
    told = [each.port - 1000 for each in table.closest_spread(peer_id(FAR, 0), 6)]
    assert told == [0, 1, 2, 5, 6, 7], "others of it where there are no more blocks"
    assert [each.port - 1000 for each in table.closest(peer_id(FAR, 0), 4)] == [0, 1, 2, 3]


@given(st.lists(mixed_ids, max_size=80, unique=True), mixed_ids, st.integers(1, 25))
def test_private_contacts_are_chosen_by_distance_alone(
    peers: list[bytes], key: bytes, k: int
) -> None:
    table = Table(OWN_ID, TableConfig(k=5), now=0.0)
    for number, peer in enumerate(peers):
        table.proven(contact(peer, number), 1.0)
    assert table.closest_spread(key, k) == table.closest(key, k)


MOVES = ["proven", "moved", "failed", "left", "answered"]
model_moves = st.lists(
    st.tuples(
        st.sampled_from(["proven", "moved", "failed", "left", "answered"]), st.integers(0, 9)
    ),
    max_size=150,
)


@given(st.lists(mixed_ids, min_size=10, max_size=10, unique=True), model_moves)
def test_table_with_room_holds_exactly_whom_a_plain_model_holds(
    peers: list[bytes], history: list[tuple[str, int]]
) -> None:
    config = TableConfig(failures_max=3)
    table = Table(OWN_ID, config, now=0.0)
    ports: dict[bytes, int] = {}
    failures: dict[bytes, int] = {}
    for step, (move, which) in enumerate(history):
        now, peer = 10.0 * step, peers[which]
        if peer == OWN_ID:
            continue
        match move:
            case "proven" | "moved":
                ports[peer] = which if move == "proven" else 100 + step
                failures[peer] = 0
                table.proven(contact(peer, ports[peer]), now)
            case "failed":
                failures[peer] = failures.get(peer, 0) + 1
                table.failed(peer, now)
                if failures[peer] >= config.failures_max:
                    ports.pop(peer, None)
            case "left":
                table.left(peer)
                ports.pop(peer, None)
            case _:
                good = table.answered(peer, Address("10.0.0.1", 1000 + ports.get(peer, 0)), now)
                assert good == (peer in ports)
                failures[peer] = 0 if good else failures.get(peer, 0)
        if peer not in ports:
            failures[peer] = 0
        assert {each.id: each.port - 1000 for each in table.contacts()} == ports
