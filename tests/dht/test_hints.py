"""Which addresses are told, believed and packed; rates; clocks; acknowledgements."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht import acks, wire
from dht.clock import AGREEMENT_MS, OFFSET_MIN_MS, SAMPLES_MAX, ClockWatch
from dht.errors import BadAnswer, BadMessage
from dht.hints import (
    Scope,
    address_to_tell,
    is_believable,
    pack_contact,
    plain_host,
    scope_of,
    unpack_contact,
)
from dht.limits import Rate, RateLimit, source_of
from dht.storage import Stored, Verdict
from identity.address import Address
from identity.keys import Identity

LOCAL = Address("127.0.0.1", 4100)
LAN = Address("192.168.1.5", 4100)
PUBLIC = Address("8.8.8.8", 4100)
ips = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)


@pytest.mark.parametrize(
    ("host", "scope"),
    [
        ("127.0.0.1", Scope.LOOPBACK),
        ("::1", Scope.LOOPBACK),
        ("::ffff:127.0.0.1", Scope.LOOPBACK),
        ("10.1.2.3", Scope.PRIVATE),
        ("fd00::1", Scope.PRIVATE),
        ("8.8.8.8", Scope.PUBLIC),
        ("169.254.1.1", Scope.UNUSABLE),
        ("fe80::1", Scope.UNUSABLE),
        ("0.0.0.0", Scope.UNUSABLE),
        ("0.1.2.3", Scope.UNUSABLE),
        ("::", Scope.UNUSABLE),
        ("224.0.0.1", Scope.UNUSABLE),
        ("255.255.255.255", Scope.UNUSABLE),
        ("example.org", Scope.UNUSABLE),
    ],
)
def test_scope_of_each_sort_of_host(host, scope):
    assert scope_of(host) is scope


def test_loopback_contact_is_told_to_loopback_askers_alone():
    assert address_to_tell(LOCAL, LAN, asker_is_near=True) == LOCAL
    assert address_to_tell(LOCAL, LAN, asker_is_near=False) == LAN
    assert address_to_tell(LOCAL, LOCAL, asker_is_near=False) is None
    assert address_to_tell(LOCAL, None, asker_is_near=False) is None
    assert address_to_tell(PUBLIC, LOCAL, asker_is_near=False) == PUBLIC


def test_stranger_cannot_send_us_to_our_loopback():
    assert not is_believable(LOCAL.host, "8.8.8.8")
    assert not is_believable(LOCAL.host, "192.168.1.9")
    assert is_believable(LOCAL.host, "127.0.0.1")
    assert is_believable(LAN.host, "8.8.8.8")
    assert not is_believable("169.254.0.1", "127.0.0.1")


@given(host=ips, port=st.integers(1, 65_535), peer_id=st.binary(min_size=20, max_size=20))
def test_compact_contact_round_trips(host, port, peer_id):
    packed = pack_contact(peer_id, Address(host, port))
    assert packed is not None
    assert len(packed) in (27, 39)
    candidate = unpack_contact(packed)
    assert (candidate.peer_id, candidate.address.port) == (peer_id, port)
    assert candidate.address.host == plain_host(host)


@given(data=st.binary(max_size=60))
def test_arbitrary_bytes_are_a_contact_or_a_bad_message(data):
    try:
        candidate = unpack_contact(data)
    except BadMessage:
        return
    assert len(data) in (27, 39)
    assert candidate.address.port > 0


def test_rate_limit_allows_a_burst_then_the_rate_and_bounds_its_memory():
    limit = RateLimit(Rate(2.0, 3.0), sources_max=4)
    assert [limit.allows("a", now=0.0) for _ in range(4)] == [True, True, True, False]
    assert limit.allows("b", now=0.0)
    assert limit.allows("a", now=0.5)
    assert not limit.allows("a", now=0.5)
    for number in range(10):
        limit.allows(str(number), now=1.0)
    assert len(limit) == 4


def test_peers_on_one_machine_are_sources_of_their_own_and_public_ones_share_a_block():
    assert source_of(LOCAL) != source_of(Address("127.0.0.1", 4101))
    assert source_of(PUBLIC) == source_of(Address("8.8.8.9", 5000))


@given(
    samples=st.lists(st.integers(-(10**9), 10**9), max_size=100),
    seed=st.integers(0, 1000),
)
def test_clock_is_corrected_only_when_three_and_a_majority_agree(samples, seed):
    watch = ClockWatch()
    rng = random.Random(seed)
    for sample in samples:
        watch.heard(rng.randbytes(20), sample)
    kept = samples[-SAMPLES_MAX:]
    if watch.offset_ms:
        near = [each for each in kept if abs(each - watch.offset_ms) <= AGREEMENT_MS]
        assert len(near) >= 3
        assert 2 * len(near) > len(kept)
        assert abs(watch.offset_ms) >= OFFSET_MIN_MS


def test_three_contacts_two_hours_away_correct_the_clock_and_one_peer_counts_once():
    watch = ClockWatch()
    for _ in range(9):
        watch.heard(b"a" * 20, 7_200_000)
    assert watch.offset_ms == 0
    watch.heard(b"b" * 20, 7_200_500)
    watch.heard(b"c" * 20, 7_199_500)
    assert watch.offset_ms == 7_200_000


STORER = Identity.from_seed(b"1" * 32)
ASKER = Identity.from_seed(b"2" * 32).peer_id
STORED = [Stored(Verdict.OK), Stored(Verdict.STALE, sequence=9)]
RECORDS = [b"one", b"two"]


def acknowledge(**changes):
    arguments = {
        "requester_id": ASKER,
        "message_id": b"m" * 20,
        "encoded": RECORDS,
        "stored": STORED,
    } | changes
    identity = arguments.pop("identity", STORER)
    network_id = arguments.pop("network_id", b"n" * 32)
    return acks.sign(identity, network_id, **arguments)


def check(answer):
    return acks.check(
        answer,
        storer_key=STORER.public_key,
        requester_id=ASKER,
        message_id=b"m" * 20,
        encoded=RECORDS,
        network_id=b"n" * 32,
    )


def test_acknowledgement_tells_each_verdict():
    receipt = check(acknowledge())
    assert receipt.storer_id == STORER.peer_id
    assert list(receipt.stored) == STORED


@pytest.mark.parametrize(
    "changes",
    [
        {"identity": Identity.from_seed(b"3" * 32)},
        {"network_id": b"x" * 32},
        {"requester_id": b"x" * 20},
        {"message_id": b"x" * 20},
        {"encoded": [b"one", b"TWO"]},
        {"stored": [Stored(Verdict.OK)], "encoded": [b"one"]},
    ],
)
def test_acknowledgement_of_anything_else_proves_nothing(changes):
    with pytest.raises(BadAnswer):
        check(acknowledge(**changes))


def test_altered_verdict_breaks_the_acknowledgement():
    answer = acknowledge()
    altered = (wire.VerdictLine(0), wire.VerdictLine(0))
    with pytest.raises(BadAnswer):
        check(wire.StoredRecords(altered, answer.signature))


def test_verdict_of_a_later_version_counts_as_not_stored():
    assert acks._verdict(77) is Verdict.BAD
