"""Bytes that must never change: peers of another version read them (docs/protocol/delivery.md)."""

from pathlib import Path

from blake3 import blake3

from protos import mailbox_pb2 as wire
from queueing.audit import proof_of
from queueing.envelope import OuterManifest, decode_manifest, open_chunk, open_letter, sign_manifest
from queueing.receipt import Outcome, check_receipt, make_promise, make_receipt
from queueing.receiver import push_delivery_id
from tests.queueing.letters import HOUR_MS, NETWORK_ID, content_id_of, identity

AT_MS = 1_800_000_000_000
ALICE, BOB = identity("alice"), identity("bob")


def test_a_letter_sealed_once_is_still_opened() -> None:
    text = Path(__file__).with_name("golden_letter.hex").read_text()
    encoded, sealed = (bytes.fromhex(part.replace("\n", "")) for part in text.split("\n\n"))
    manifest = decode_manifest(encoded)
    manifest.check(NETWORK_ID, AT_MS)
    assert manifest.delivery_id.hex() == (
        "5268a37d31993113543f1153ba37aef454b7c8de90ad2a00028feb12519f4832"
    )
    letter = open_letter(BOB, NETWORK_ID, manifest)
    assert open_chunk(letter, 0, sealed) == b"golden content"
    assert (letter.name, letter.content_id) == ("golden name.txt", content_id_of(b"golden content"))
    assert (letter.sender_id, letter.seal_id) == (ALICE.peer_id, b"g" * 16)


def test_the_outer_manifest_is_laid_out_as_documented() -> None:
    manifest = sign_manifest(
        ALICE,
        NETWORK_ID,
        OuterManifest(
            b"s" * 16, ALICE.public_key, BOB.peer_id, AT_MS, AT_MS + HOUR_MS, b"w" * 80,
            b"h" * 528, 512 * 1024, 4096, (b"d" * 32,),
        ),
    )  # fmt: skip
    fields = [
        b"shoal envelope 1", b"s" * 16, ALICE.public_key, BOB.peer_id, AT_MS.to_bytes(8, "big"),
        (AT_MS + HOUR_MS).to_bytes(8, "big"), b"w" * 80, b"h" * 528,
        (512 * 1024).to_bytes(4, "big"), (4096).to_bytes(8, "big"), (1).to_bytes(4, "big"),
        b"d" * 32,
    ]  # fmt: skip
    assert manifest.encoded[:-64] == b"".join(fields)
    assert (
        blake3(manifest.encoded).hexdigest()
        == "34fcc6e56c7e8ad0ccf8691c76a60d2dd616b3359dec2bcdd3bc948e1f1e468b"
    )


def test_a_receipt_is_laid_out_as_documented() -> None:
    receipt = make_receipt(
        BOB, NETWORK_ID, delivery_id=b"d" * 32, seal_id=b"s" * 16, content_id=b"c" * 32,
        sender_id=ALICE.peer_id, outcome=Outcome.REFUSED, at_ms=AT_MS, reason="no room",
    )  # fmt: skip
    fields = [
        b"shoal receipt 1\0", b"d" * 32, b"s" * 16, b"c" * 32, ALICE.peer_id, BOB.public_key,
        b"\x02", AT_MS.to_bytes(8, "big"), b"\x07", b"no room",
    ]  # fmt: skip
    assert receipt[:-64] == b"".join(fields)
    assert (
        blake3(receipt).hexdigest()
        == "93d2900a362cc057d1e69c07d055de72b5f0576b940b7689c2f47aaaab29700a"
    )
    checked = check_receipt(receipt, NETWORK_ID, delivery_id=b"d" * 32, recipient_id=BOB.peer_id)
    assert checked.reason == "no room"


def test_a_promise_is_laid_out_as_documented() -> None:
    promise = make_promise(
        BOB, NETWORK_ID, delivery_id=b"d" * 32, made_ms=AT_MS - 1, until_ms=AT_MS
    )
    assert promise[:-64] == (
        b"shoal promise 2\0" + b"d" * 32 + BOB.public_key
        + (AT_MS - 1).to_bytes(8, "big") + AT_MS.to_bytes(8, "big")
    )  # fmt: skip
    assert (
        blake3(promise).hexdigest()
        == "e978fb6ab857039407174d8c2adb880889fb9275c54c4df38f267542e8b8d0c5"
    )


def test_the_delivery_id_of_a_push_is_as_documented() -> None:
    delivery_id = push_delivery_id(ALICE.peer_id, BOB.peer_id, b"s" * 16, b"c" * 32)
    assert delivery_id.hex() == "bcd7de15112da8e35a7dae7a428a25991bc288f91cd7b273d689de9d721ae997"


def test_frames_are_laid_out_as_documented() -> None:
    frame = wire.Frame(index=3, offset=7, data=b"xyz")
    assert wire.DepositRequest(frame=frame).SerializeToString().hex() == "1209080310071a0378797a"
    assert wire.CollectReply(frame=frame).SerializeToString().hex() == "1209080310071a0378797a"
    missing = wire.DepositReply(missing=wire.Missing(bitmap=b"\x05"))
    assert missing.SerializeToString().hex() == "0a030a0105"


def test_a_proof_of_storage_is_made_as_documented() -> None:
    nonce, host, delivery = b"n" * 32, BOB.peer_id, b"d" * 32
    proof = proof_of(nonce, host, delivery, 7, b"sealed chunk")
    context = b"".join(
        len(part).to_bytes(4, "big") + part
        for part in (b"shoal/audit/1", nonce, host, delivery, b"\0\0\0\x07")
    )
    assert proof == blake3(b"sealed chunk", key=blake3(context).digest()).digest()
    assert proof.hex() == "695289b0b56426fa086e5f0aba5473d09436e4398a13200866ddad8a62ec2187"


def test_audits_farewells_and_moves_are_laid_out_as_documented() -> None:
    challenge = wire.Challenge(delivery_id=b"d" * 2, index=3)
    audit = wire.AuditRequest(nonce=b"n" * 2, challenges=[challenge])
    assert audit.SerializeToString().hex() == "0a026e6e12060a0264641003"
    answers = wire.AuditReply(
        answers=[
            wire.AuditAnswer(proof=b"p"),
            wire.AuditAnswer(receipt=b"r"),
            wire.AuditAnswer(gone=True),
        ]
    )
    assert answers.SerializeToString().hex() == "0a030a01700a031201720a021801"
    ended = wire.FarewellRequest(ended=[wire.Ended(delivery_id=b"d", receipt=b"r")])
    assert ended.SerializeToString().hex() == "0a060a0164120172"
    moved = wire.MovedRequest(moved=[wire.MovedDelivery(delivery_id=b"d", promise=b"p")])
    assert moved.SerializeToString().hex() == "0a060a0164120170"
    handed_over = wire.DepositRequest(manifest=b"m", handed_over=True)
    assert handed_over.SerializeToString().hex() == "0a016d1801"
