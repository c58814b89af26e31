"""Address tokens: good for one peer at one address, for ten minutes at most."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dht.tokens import TOKEN_BYTES, TOKEN_LIFE_S, AddressTokens

SECRET = bytes(range(32))
PEER = bytes(20)

times = st.floats(0, 1e9, allow_nan=False)


@given(times, st.floats(0, TOKEN_LIFE_S / 2))
def test_token_holds_at_its_address_for_half_its_life_at_least(now: float, later_s: float) -> None:
    tokens = AddressTokens(SECRET)
    token = tokens.make("192.0.2.1", 4100, PEER, now)
    assert len(token) == TOKEN_BYTES
    assert tokens.valid(token, "192.0.2.1", 4100, PEER, now + later_s)


@given(times, st.floats(TOKEN_LIFE_S, 1e6))
def test_token_never_outlives_its_life(now: float, later_s: float) -> None:
    tokens = AddressTokens(SECRET)
    token = tokens.make("192.0.2.1", 4100, PEER, now)
    # One more second: the sum of two floats may fall short of the life.
    assert not tokens.valid(token, "192.0.2.1", 4100, PEER, now + later_s + 1)


def test_token_of_the_same_epoch_number_much_later_is_void() -> None:
    tokens = AddressTokens(SECRET)
    token = tokens.make("192.0.2.1", 4100, PEER, 0.0)
    wrapped = 256 * TOKEN_LIFE_S / 2
    assert tokens.make("192.0.2.1", 4100, PEER, wrapped)[0] == token[0]
    assert not tokens.valid(token, "192.0.2.1", 4100, PEER, wrapped)


def test_token_is_void_for_another_host_port_peer_or_secret() -> None:
    tokens = AddressTokens(SECRET)
    token = tokens.make("192.0.2.1", 4100, PEER, 1.0)
    assert not tokens.valid(token, "192.0.2.2", 4100, PEER, 1.0)
    assert not tokens.valid(token, "192.0.2.1", 4101, PEER, 1.0)
    assert not tokens.valid(token, "192.0.2.1", 4100, b"x" * 20, 1.0)
    assert not AddressTokens(b"y" * 32).valid(token, "192.0.2.1", 4100, PEER, 1.0)


@given(st.binary(max_size=40), times)
def test_bytes_that_nobody_made_are_never_valid(token: bytes, now: float) -> None:
    assert not AddressTokens(SECRET).valid(token, "192.0.2.1", 4100, PEER, now)


@given(st.integers(0, TOKEN_BYTES * 8 - 1))
def test_one_flipped_bit_voids_a_token(bit: int) -> None:
    tokens = AddressTokens(SECRET)
    token = bytearray(tokens.make("192.0.2.1", 4100, PEER, 1.0))
    token[bit // 8] ^= 1 << bit % 8
    assert not tokens.valid(bytes(token), "192.0.2.1", 4100, PEER, 1.0)
