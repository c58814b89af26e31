"""Sealed datagrams: members read each other; outsiders, echoes and replays are counted drops."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dht.seal import (
    REPLAY_WINDOW,
    SEAL_OVERHEAD_BYTES,
    SESSION_BYTES,
    DatagramSealer,
    PlainSealer,
    sealer_of,
)
from identity.network import Network

NETWORK = Network("class", b"k" * 32)


def sealer(name: int, network: Network = NETWORK, *, sessions_max: int = 64) -> DatagramSealer:
    return DatagramSealer(network, bytes([name]) * SESSION_BYTES, sessions_max=sessions_max)


@given(st.binary(max_size=1200))
def test_member_opens_what_a_member_sealed(data: bytes) -> None:
    sealed = sealer(1).seal(data)
    assert len(sealed) == len(data) + SEAL_OVERHEAD_BYTES
    assert sealer(2).open(sealed) == data


def test_equal_datagrams_never_look_equal() -> None:
    ann = sealer(1)
    assert ann.seal(b"same") != ann.seal(b"same")


def test_sealed_layout_is_the_documented_one() -> None:
    ann = sealer(1)
    ann.seal(b"")
    sealed = ann.seal(b"hello")
    assert sealed[:25] == b"\x01" + b"\x01" * 16 + (1).to_bytes(8, "big")
    assert sealed.hex() == GOLDEN, "the wire format changed"


def test_datagram_of_another_network_key_is_dropped_and_counted() -> None:
    ann = sealer(1)
    for other in (Network("class", b"x" * 32), Network("other", b"x" * 32)):
        assert ann.open(sealer(2, other).seal(b"hello")) is None
    assert ann.drops == {"forged": 2}


@given(st.data())
def test_any_changed_byte_makes_a_datagram_a_drop(data: st.DataObject) -> None:
    sealed = bytearray(sealer(1).seal(b"hello"))
    position = data.draw(st.integers(0, len(sealed) - 1))
    sealed[position] ^= data.draw(st.integers(1, 255))
    bob = sealer(2)
    assert bob.open(bytes(sealed)) is None
    assert sum(bob.drops.values()) == 1


@given(st.binary(max_size=200))
def test_random_bytes_are_a_counted_drop_and_leave_no_session(data: bytes) -> None:
    bob = sealer(2)
    assert bob.open(data) is None
    assert sum(bob.drops.values()) == 1
    assert len(bob) == 0


def test_our_own_datagram_come_back_is_dropped() -> None:
    ann = sealer(1)
    assert ann.open(ann.seal(b"hello")) is None
    assert ann.drops == {"own": 1}


def test_replayed_datagram_is_dropped() -> None:
    ann, bob = sealer(1), sealer(2)
    sealed = ann.seal(b"hello")
    assert bob.open(sealed) == b"hello"
    assert bob.open(sealed) is None
    assert bob.drops == {"replayed": 1}


@given(st.permutations(range(80)), st.lists(st.integers(0, 79), max_size=40))
def test_each_datagram_opens_once_in_any_order(order: list[int], again: list[int]) -> None:
    ann, bob = sealer(1), sealer(2)
    sealed = [ann.seal(bytes([number])) for number in range(80)]
    for number in order:
        assert bob.open(sealed[number]) == bytes([number])
    for number in again:
        assert bob.open(sealed[number]) is None


def test_datagram_older_than_the_window_is_dropped_and_one_inside_it_is_not() -> None:
    ann, bob = sealer(1), sealer(2)
    sealed = [ann.seal(b"") for _ in range(REPLAY_WINDOW + 1)]
    assert bob.open(sealed[-1]) == b""
    assert bob.open(sealed[0]) is None
    assert bob.open(sealed[1]) == b""


def test_jump_beyond_the_window_forgets_nothing_that_could_be_replayed() -> None:
    ann, bob = sealer(1), sealer(2)
    first = ann.seal(b"first")
    assert bob.open(first) == b"first"
    ann._counter = 10 * REPLAY_WINDOW
    assert bob.open(ann.seal(b"far")) == b"far"
    assert bob.open(first) is None


def test_forged_datagrams_evict_no_good_session() -> None:
    ann, bob = sealer(1), sealer(2, sessions_max=4)
    first = ann.seal(b"first")
    bob.open(first)
    outsider = Network("class", b"x" * 32)
    for name in range(10, 60):
        bob.open(sealer(name, outsider).seal(b"flood"))
    assert len(bob) == 1
    assert bob.open(first) is None, "the session and its replay window are still known"
    assert bob.drops["replayed"] == 1


def test_forged_datagram_in_a_known_session_does_not_move_its_window() -> None:
    ann, bob = sealer(1), sealer(2)
    bob.open(ann.seal(b"first"))
    forged = bytearray(ann.seal(b"second"))
    forged[17:25] = (2**64 - 1).to_bytes(8, "big")
    assert bob.open(bytes(forged)) is None
    assert bob.open(ann.seal(b"third")) == b"third"


def test_sessions_are_bounded_and_the_longest_silent_goes_first() -> None:
    bob = sealer(0, sessions_max=2)
    ann, cid, dan = sealer(1), sealer(2), sealer(3)
    first = ann.seal(b"1")
    bob.open(first)
    for member in (cid, ann, dan):
        bob.open(member.seal(b"x"))
    assert len(bob) == 2
    assert bob.open(first) is None


def test_open_network_passes_datagrams_through() -> None:
    plain = sealer_of(Network("open"), bytes(16))
    assert isinstance(plain, PlainSealer)
    assert plain.open(plain.seal(b"hello")) == b"hello"
    assert plain.overhead_bytes == 0
    assert sealer_of(NETWORK, bytes(16)).overhead_bytes == SEAL_OVERHEAD_BYTES


GOLDEN = (
    "01010101010101010101010101010101010000000000000001e1ff3d156f5ed881966795a10313a33d4637ca5e69"
)
