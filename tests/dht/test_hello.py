"""Hellos prove keys: only for this network, these nonces, these ids and the address dialled."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.hello import (
    ADVERTISED_MAX,
    NICKNAME_BYTES_MAX,
    UNKNOWN_ID,
    BadHello,
    Hello,
    HelloAnswer,
    HelloFault,
    SeenHellos,
    check_answer,
    check_hello,
    fit_nickname,
    make_answer,
    make_hello,
)
from identity.address import Address
from identity.keys import Identity
from identity.network import Network
from identity.signing import Purpose

ANN = Identity.from_seed(b"a" * 32)
BOB = Identity.from_seed(b"b" * 32)
EVE = Identity.from_seed(b"e" * 32)
NETWORK_ID = Network("class").network_id
BOBS_ADDRESS = Address("192.0.2.2", 4100)
ANNS_ADDRESS = Address("192.0.2.1", 4100)


def hello(**changes: Any) -> Hello:
    fields: dict[str, Any] = {
        "nonce": b"n" * 16,
        "dialled": BOBS_ADDRESS,
        "target_id": BOB.peer_id,
        "advertised": (ANNS_ADDRESS,),
        "nickname": "ann",
    }
    return make_hello(ANN, NETWORK_ID, **{**fields, **changes})


def answer(to: Hello, identity: Identity = BOB, network_id: bytes = NETWORK_ID) -> HelloAnswer:
    return make_answer(
        identity, network_id, to, nonce=b"m" * 16, observed=ANNS_ADDRESS, nickname="bob"
    )


def refused(check: Any, *arguments: Any) -> HelloFault:
    with pytest.raises(BadHello) as caught:
        check(*arguments)
    return caught.value.reason


def test_hello_and_answer_prove_both_ids() -> None:
    asked = hello()
    assert check_hello(asked, NETWORK_ID, BOB.peer_id) == ANN.peer_id
    assert check_answer(answer(asked), asked, NETWORK_ID, BOB.peer_id) == BOB.peer_id


def test_hello_to_an_unknown_peer_takes_anybodys_answer_and_says_whose() -> None:
    asked = hello(target_id=UNKNOWN_ID)
    assert check_hello(asked, NETWORK_ID, EVE.peer_id) == ANN.peer_id
    assert check_answer(answer(asked, EVE), asked, NETWORK_ID) == EVE.peer_id


def test_both_survive_the_codec() -> None:
    asked = hello()
    back = msgspec.msgpack.decode(msgspec.msgpack.encode(asked), type=Hello)
    assert check_hello(back, NETWORK_ID) == ANN.peer_id
    replied = msgspec.msgpack.decode(msgspec.msgpack.encode(answer(asked)), type=HelloAnswer)
    assert check_answer(replied, asked, NETWORK_ID, BOB.peer_id) == BOB.peer_id


@pytest.mark.parametrize(
    "change",
    [
        {"public_key": EVE.public_key},
        {"nonce": b"x" * 16},
        {"target_id": EVE.peer_id},
        {"dialled": "192.0.2.9:4100"},
        {"advertised": ()},
        {"advertised": (ANNS_ADDRESS, ANNS_ADDRESS)},
        {"nickname": "ann "},
        {"client": True},
        {"signature": bytes(64)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_of_a_hello_is_signed(change: dict[str, Any]) -> None:
    forged = msgspec.structs.replace(hello(), **change)
    assert refused(check_hello, forged, NETWORK_ID) is HelloFault.SIGNATURE


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": b"x" * 16},
        {"advertised": (BOBS_ADDRESS,)},
        {"nickname": "rob"},
        {"client": True},
        {"observed": BOBS_ADDRESS},
        {"signature": bytes(64)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_of_an_answer_is_signed(change: dict[str, Any]) -> None:
    asked = hello()
    forged = msgspec.structs.replace(answer(asked), **change)
    assert refused(check_answer, forged, asked, NETWORK_ID, BOB.peer_id) is HelloFault.SIGNATURE


@pytest.mark.parametrize(
    "other",
    [
        {"nonce": b"o" * 16},
        {"dialled": Address("192.0.2.3", 4100)},
    ],
    ids=["another nonce of ours", "another address dialled"],
)
def test_answer_to_another_hello_proves_nothing(other: dict[str, Any]) -> None:
    stolen = answer(hello(**other))
    assert refused(check_answer, stolen, hello(), NETWORK_ID) is HelloFault.SIGNATURE


def test_answer_given_to_somebody_else_proves_nothing_to_us() -> None:
    eves = make_hello(EVE, NETWORK_ID, nonce=b"n" * 16, dialled=BOBS_ADDRESS)
    asked = hello(target_id=UNKNOWN_ID)
    assert refused(check_answer, answer(eves), asked, NETWORK_ID) is HelloFault.SIGNATURE


def test_answer_of_another_peer_than_the_expected_is_refused() -> None:
    asked = hello(target_id=UNKNOWN_ID)
    replied = answer(asked, EVE)
    assert refused(check_answer, replied, asked, NETWORK_ID, BOB.peer_id) is HelloFault.WRONG_PEER
    aimed = hello()
    assert refused(check_answer, answer(aimed, EVE), aimed, NETWORK_ID) is HelloFault.WRONG_PEER


def test_hello_of_another_network_is_refused() -> None:
    other = Network("other").network_id
    assert refused(check_hello, hello(), other) is HelloFault.SIGNATURE
    asked = hello()
    foreign = answer(asked, network_id=other)
    assert refused(check_answer, foreign, asked, NETWORK_ID) is HelloFault.SIGNATURE


def test_signature_for_another_purpose_is_refused() -> None:
    asked = hello()
    body = b"whatever"
    forged = msgspec.structs.replace(
        asked, signature=ANN.sign(Purpose.HELLO_ANSWER, NETWORK_ID, body)
    )
    assert refused(check_hello, forged, NETWORK_ID) is HelloFault.SIGNATURE


def test_hello_for_another_peer_and_our_own_come_back_are_refused() -> None:
    assert refused(check_hello, hello(), NETWORK_ID, EVE.peer_id) is HelloFault.TARGET
    own = hello(target_id=UNKNOWN_ID)
    assert refused(check_hello, own, NETWORK_ID, ANN.peer_id) is HelloFault.OURSELVES
    assert refused(check_answer, answer(own, ANN), own, NETWORK_ID) is HelloFault.OURSELVES


@pytest.mark.parametrize(
    "change",
    [
        {"public_key": b"short"},
        {"nonce": b""},
        {"signature": b""},
        {"target_id": b"x"},
        {"nickname": "é" * NICKNAME_BYTES_MAX},
        {"dialled": "h" * 1000},
        {"advertised": (ANNS_ADDRESS,) * (ADVERTISED_MAX + 1)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_hello_out_of_shape_is_refused_before_any_signature_is_checked(
    change: dict[str, Any],
) -> None:
    assert (
        refused(check_hello, msgspec.structs.replace(hello(), **change), NETWORK_ID)
        is HelloFault.SHAPE
    )


@given(st.binary(max_size=300))
def test_random_bytes_never_decode_to_a_sound_hello(data: bytes) -> None:
    try:
        decoded = msgspec.msgpack.decode(data, type=Hello)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return
    with pytest.raises(BadHello):
        check_hello(decoded, NETWORK_ID)


@given(st.text(max_size=200))
def test_nickname_is_cut_at_a_character_to_what_the_check_takes(nickname: str) -> None:
    cut = fit_nickname(nickname)
    assert len(cut.encode()) <= NICKNAME_BYTES_MAX
    assert fit_nickname(cut) == cut
    check_hello(hello(nickname=nickname), NETWORK_ID)


def test_largest_hello_leaves_room_in_a_datagram() -> None:
    largest = hello(
        nickname="x" * NICKNAME_BYTES_MAX,
        advertised=[Address("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", 65535)] * ADVERTISED_MAX,
        dialled=Address("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", 65535),
    )
    assert len(msgspec.msgpack.encode(largest)) < 600


def test_replayed_hello_is_told_from_a_new_one_and_memory_is_bounded() -> None:
    seen = SeenHellos(hellos_max=3)
    assert seen.first_time(ANN.peer_id, b"1")
    assert not seen.first_time(ANN.peer_id, b"1")
    assert seen.first_time(BOB.peer_id, b"1"), "another peer's nonce is its own"
    for number in range(10):
        assert seen.first_time(EVE.peer_id, bytes([number]))
    assert len(seen) == 3
