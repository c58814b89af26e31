"""Messages on a broker must never change: they wait there for peers of another version."""

from blake3 import blake3

from queueing.envelope import OuterManifest, sign_manifest
from queueing.rabbitmq_messages import (
    CancelMail,
    ChunkMail,
    ClaimMail,
    ManifestMail,
    ReceiptMail,
    dead_queue,
    encode_mail,
    mail_queue,
    quorum_sign,
    receipts_queue,
    sign_cancel,
)
from tests.queueing.letters import HOUR_MS, NETWORK_ID, identity

AT_MS = 1_800_000_000_000
ALICE, BOB = identity("alice"), identity("bob")
MANIFEST = sign_manifest(
    ALICE,
    NETWORK_ID,
    OuterManifest(
        b"s" * 16, ALICE.public_key, BOB.peer_id, AT_MS, AT_MS + HOUR_MS, b"w" * 80,
        b"h" * 528, 512 * 1024, 4096, (b"d" * 32,),
    ),
)  # fmt: skip
DELIVERY = "34fcc6e56c7e8ad0ccf8691c76a60d2dd616b3359dec2bcdd3bc948e1f1e468b"


def test_queues_are_named_as_documented() -> None:
    network, peer = NETWORK_ID.hex()[:16], "PEER"
    network_id, own = NETWORK_ID, BOB.peer_id
    names = [mail_queue(network_id, own), receipts_queue(network_id, own)]
    assert [name.rpartition(".")[0] + f".{peer}" for name in names] == [
        f"shoal.{network}.mail.PEER",
        f"shoal.{network}.receipts.PEER",
    ]
    assert dead_queue(network_id) == f"shoal.{network}.dead"
    assert quorum_sign(network_id) == f"shoal.{network}.quorum"


def test_messages_are_laid_out_as_documented() -> None:
    encoded = encode_mail(ManifestMail(MANIFEST))
    assert encoded.headers == {"shoal": "manifest", "delivery": DELIVERY}
    assert encoded.body == MANIFEST.encoded
    encoded = encode_mail(ChunkMail(b"\1" * 32, 2, 3, b"sealed"))
    assert encoded.headers == {"shoal": "chunk", "delivery": "01" * 32, "index": 2, "count": 3}
    assert encoded.body == b"sealed"
    encoded = encode_mail(ReceiptMail(b"\1" * 32, b"receipt"))
    assert encoded.headers == {"shoal": "receipt", "delivery": "01" * 32}
    assert encoded.body == b"receipt"
    encoded = encode_mail(CancelMail(b"\1" * 32, b"c" * 64))
    assert encoded.headers == {"shoal": "cancel", "delivery": "01" * 32}
    assert encoded.body == b"c" * 64
    encoded = encode_mail(ClaimMail(MANIFEST, (b"a" * 20, b"b" * 20)))
    assert encoded.headers == {"shoal": "claim", "delivery": DELIVERY}
    assert encoded.body == b"\2" + b"a" * 20 + b"b" * 20 + MANIFEST.encoded


def test_the_order_to_drop_a_delivery_is_signed_as_documented() -> None:
    order = sign_cancel(ALICE, NETWORK_ID, b"\1" * 32)
    assert (
        blake3(order.signature).hexdigest()
        == "5d0c446b3334a8063500e314c8979892ffb8a3c42bb62471b54126921e950e29"
    )
