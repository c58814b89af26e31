"""Receipts and promises: one signer, one delivery, no altered byte; and their golden bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queueing.errors import BadReceipt
from queueing.receipt import (
    REASON_BYTES_MAX,
    Outcome,
    check_promise,
    check_receipt,
    decode_receipt,
    make_promise,
    make_receipt,
)
from tests.queueing.letters import NETWORK_ID, identity

ALICE, BOB, EVE = identity("alice"), identity("bob"), identity("eve")
DELIVERY_ID, SEAL_ID, CONTENT_ID = b"d" * 32, b"s" * 16, b"c" * 32
AT_MS = 1_800_000_000_000


def _receipt(signer=BOB, outcome=Outcome.DELIVERED, reason="", network_id=NETWORK_ID) -> bytes:
    return make_receipt(
        signer, network_id, delivery_id=DELIVERY_ID, seal_id=SEAL_ID, content_id=CONTENT_ID,
        sender_id=ALICE.peer_id, outcome=outcome, at_ms=AT_MS, reason=reason,
    )  # fmt: skip


def _check(data: bytes, delivery_id: bytes = DELIVERY_ID):
    return check_receipt(data, NETWORK_ID, delivery_id=delivery_id, recipient_id=BOB.peer_id)


GOOD = _receipt(reason="no room")
PROMISE = make_promise(EVE, NETWORK_ID, delivery_id=DELIVERY_ID, made_ms=AT_MS, until_ms=AT_MS)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_good_receipt_says_what_was_signed(outcome: Outcome) -> None:
    receipt = _check(_receipt(outcome=outcome, reason="wörds"))
    assert (receipt.outcome, receipt.reason, receipt.at_ms) == (outcome, "wörds", AT_MS)
    assert (receipt.sender_id, receipt.recipient_id) == (ALICE.peer_id, BOB.peer_id)
    assert (receipt.seal_id, receipt.content_id) == (SEAL_ID, CONTENT_ID)


@given(at=st.integers(0, len(GOOD) - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_of_a_receipt_is_detected(at: int, bit: int) -> None:
    altered = bytearray(GOOD)
    altered[at] ^= 1 << bit
    with pytest.raises(BadReceipt):
        _check(bytes(altered))


@given(at=st.integers(0, len(PROMISE) - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_of_a_promise_is_detected(at: int, bit: int) -> None:
    altered = bytearray(PROMISE)
    altered[at] ^= 1 << bit
    with pytest.raises(BadReceipt):
        _check_promise(bytes(altered))


@given(data=st.binary(max_size=600))
def test_bytes_that_are_no_receipt_are_bad(data: bytes) -> None:
    with pytest.raises(BadReceipt):
        decode_receipt(data)
    with pytest.raises(BadReceipt):
        _check_promise(data)


def test_a_receipt_is_worth_nothing_for_another_delivery_signer_or_network() -> None:
    for data, delivery_id in (
        (GOOD, b"e" * 32),
        (_receipt(signer=EVE), DELIVERY_ID),
        (_receipt(network_id=b"another"), DELIVERY_ID),
    ):
        with pytest.raises(BadReceipt):
            _check(data, delivery_id)


@given(reason=st.text(max_size=400))
def test_a_long_reason_is_cut_between_characters(reason: str) -> None:
    kept = _check(_receipt(reason=reason)).reason
    assert len(kept.encode()) <= REASON_BYTES_MAX
    printable = reason.encode("utf-8", "replace").decode()
    assert printable.startswith(kept)


def test_a_promise_holds_for_its_keeper_and_delivery_only() -> None:
    assert _check_promise(PROMISE).until_ms == AT_MS
    with pytest.raises(BadReceipt):
        _check_promise(PROMISE, keeper_id=BOB.peer_id)
    with pytest.raises(BadReceipt):
        _check_promise(PROMISE, delivery_id=b"e" * 32)


def _check_promise(data: bytes, delivery_id=DELIVERY_ID, keeper_id=EVE.peer_id):
    return check_promise(data, NETWORK_ID, delivery_id=delivery_id, keeper_id=keeper_id)
