import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.signing import Purpose, verify
from tests.support.identities import identity, network

NETWORK = network().network_id
OTHER_NETWORK = network(private=False).network_id


@given(st.sampled_from(Purpose), st.binary(max_size=200))
def test_a_signature_holds_for_its_own_purpose_only(purpose: Purpose, body: bytes) -> None:
    signer = identity(1)
    signature = signer.sign(purpose, NETWORK, body)
    holding = [p for p in Purpose if verify(signer.public_key, signature, p, NETWORK, body)]
    assert holding == [purpose]


@given(st.binary(max_size=100), st.integers(0, 10_000))
def test_one_altered_bit_breaks_a_signature(body: bytes, position: int) -> None:
    signature = bytearray(identity(1).sign(Purpose.RECORD, NETWORK, body))
    signature[position // 8 % 64] ^= 1 << position % 8
    assert not verify(identity(1).public_key, bytes(signature), Purpose.RECORD, NETWORK, body)


def test_a_signature_is_worth_nothing_elsewhere() -> None:
    signature = identity(1).sign(Purpose.HELLO, NETWORK, b"body")
    assert verify(identity(1).public_key, signature, Purpose.HELLO, NETWORK, b"body")
    assert not verify(identity(1).public_key, signature, Purpose.HELLO, OTHER_NETWORK, b"body")
    assert not verify(identity(2).public_key, signature, Purpose.HELLO, NETWORK, b"body")
    assert not verify(identity(1).public_key, signature, Purpose.HELLO, NETWORK, b"body.")


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_malformed_keys_and_signatures_are_false(public_key: bytes, signature: bytes) -> None:
    assert not verify(public_key, signature, Purpose.RECORD, NETWORK, b"")


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_key_of_another_length_is_false(length: int) -> None:
    signature = identity(1).sign(Purpose.RECORD, NETWORK, b"")
    assert not verify(bytes(length), signature, Purpose.RECORD, NETWORK, b"")
