import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.keys import Identity
from queueing.rabbitmq_messages import (
    EXPIRATION_MAX_MS,
    CancelMail,
    ChunkMail,
    Mail,
    ManifestMail,
    ReceiptMail,
    cancel_is_good,
    decode_mail,
    encode_mail,
    expiration,
    mail_queue,
    receipts_queue,
    sign_cancel,
)
from tests.queueing.rabbit_mail import Parties

ID = bytes(range(32))


@pytest.mark.parametrize(
    "mail",
    [ChunkMail(ID, 0, 1, b"x"), ChunkMail(ID, 16_383, 16_384, b""), CancelMail(ID, b"s" * 64),
     ReceiptMail(ID, b"receipt")],
)  # fmt: skip
def test_mail_comes_back_as_it_was_sent(mail: Mail) -> None:
    encoded = encode_mail(mail)
    assert decode_mail(encoded.headers, encoded.body) == mail


def test_manifest_is_taken_only_under_its_own_delivery_id(tmp_path: Path) -> None:
    manifest, _ = Parties().seal(tmp_path, size=10)
    encoded = encode_mail(ManifestMail(manifest))
    assert decode_mail(encoded.headers, encoded.body) == ManifestMail(manifest)
    assert decode_mail(encoded.headers | {"delivery": ID.hex()}, encoded.body) is None


headers = st.dictionaries(
    st.sampled_from(["shoal", "delivery", "index", "count", "other"]),
    st.sampled_from([ID.hex(), "manifest", "chunk", "cancel", "receipt"])
    | st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=70)
    | st.binary(max_size=70)
    | st.lists(st.integers()),
)


@given(headers=st.none() | headers, body=st.binary(max_size=400))
def test_no_message_from_outside_raises(headers: dict[str, Any] | None, body: bytes) -> None:
    mail = decode_mail(headers, body)
    assert mail is None or isinstance(mail, ChunkMail | CancelMail | ReceiptMail)


@pytest.mark.parametrize("place", [(-1, 1), (1, 1), (0, 16_385), (True, 2), ("0", "1"), (0, None)])
def test_chunk_without_a_sound_place_is_no_mail(place: tuple[Any, Any]) -> None:
    index, count = place
    named = {"shoal": "chunk", "delivery": ID.hex(), "index": index, "count": count}
    assert decode_mail(named, b"x") is None


def test_cancel_counts_only_from_the_sender_for_this_delivery_in_this_network(
    tmp_path: Path,
) -> None:
    parties = Parties()
    manifest, _ = parties.seal(tmp_path, size=10)
    order = sign_cancel(parties.sender, parties.network_id, manifest.delivery_id)
    assert cancel_is_good(order, parties.network_id, manifest)
    stranger = sign_cancel(Identity.generate(), parties.network_id, manifest.delivery_id)
    assert not cancel_is_good(stranger, parties.network_id, manifest)
    assert not cancel_is_good(order, b"\0" * 32, manifest)
    assert not cancel_is_good(dataclasses.replace(order, delivery_id=ID), b"\0" * 32, manifest)


def test_signature_of_an_envelope_is_no_cancel(tmp_path: Path) -> None:
    parties = Parties()
    manifest, _ = parties.seal(tmp_path, size=10)
    forged = CancelMail(manifest.delivery_id, manifest.signature)
    assert not cancel_is_good(forged, parties.network_id, manifest)


def test_queues_are_named_by_network_and_peer() -> None:
    identity = Identity.from_seed(b"\7" * 32)
    mail, receipts = mail_queue(ID, identity.peer_id), receipts_queue(ID, identity.peer_id)
    assert mail.startswith("shoal.0001020304050607.mail.")
    assert receipts.startswith("shoal.0001020304050607.receipts.")
    assert mail.rpartition(".")[2] == receipts.rpartition(".")[2]
    assert mail != mail_queue(bytes(32), identity.peer_id)


@pytest.mark.parametrize(
    ("left_ms", "text"), [(1, "1"), (-5, "0"), (2**40, str(EXPIRATION_MAX_MS))]
)
def test_expiration_stays_within_what_brokers_take(left_ms: int, text: str) -> None:
    assert expiration(10_000 + left_ms, 10_000) == text
