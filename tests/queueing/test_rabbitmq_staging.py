import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from queueing.envelope import OuterManifest
from queueing.errors import BadEnvelope, MailboxFull
from queueing.rabbitmq_messages import (
    CancelMail,
    ChunkMail,
    Mail,
    ManifestMail,
    ReceiptMail,
    sign_cancel,
)
from queueing.rabbitmq_staging import (
    ORPHAN_LIFE_MS,
    RECEIPTS_A_DELIVERY_MAX,
    Staging,
    Verdict,
)
from tests.queueing.rabbit_mail import HOUR_MS, Parties, SealedChunks, now_ms


class Desk:
    """A staging folder and what comes into it."""

    def __init__(self, folder: Path, limit_bytes: int = 1 << 30) -> None:
        self.folder = folder
        self.parties = Parties()
        self.limit_bytes = limit_bytes
        self.reopen()

    def reopen(self) -> None:
        if hasattr(self, "staging"):
            self.staging.close()
        self.staging = Staging(
            self.folder / "staging", self.parties.network_id, limit_bytes=self.limit_bytes
        )

    def seal(self, size: int = 1_200_000) -> tuple[OuterManifest, list[Mail]]:
        manifest, chunks = self.parties.seal(self.folder, size=size)
        return manifest, mails(manifest, chunks)

    def accept(self, *batch: Mail | None, now: int | None = None) -> list[Verdict]:
        return self.staging.accept(
            batch,
            self.parties.recipient.peer_id,
            now_ms=now or now_ms(),
            grace_ms=HOUR_MS,
        )

    def waiting(self, now: int | None = None) -> list[bytes]:
        found = self.staging.waiting(self.parties.recipient.peer_id, now_ms=now or now_ms())
        return [manifest.delivery_id for manifest in found]

    def files(self) -> list[Path]:
        return sorted((self.folder / "staging").glob("*.mail"))


def mails(manifest: OuterManifest, chunks: SealedChunks) -> list[Mail]:
    return [
        ManifestMail(manifest),
        *(
            ChunkMail(manifest.delivery_id, index, manifest.count, sealed)
            for index, sealed in chunks.chunks.items()
        ),
    ]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.staging.close()


@pytest.mark.parametrize("seed", range(5))
def test_chunks_in_any_order_and_twice_make_the_delivery_once(desk: Desk, seed: int) -> None:
    manifest, mail = desk.seal()
    chunks = mail[1:] * 2
    random.Random(seed).shuffle(chunks)
    desk.accept(mail[0])
    for chunk in chunks:
        assert desk.accept(chunk) == [Verdict.KEPT]
        desk.reopen()
    assert desk.waiting() == [manifest.delivery_id]
    read = [desk.staging.read(manifest, index) for index in range(manifest.count)]
    assert all(manifest.chunk_is_good(index, sealed) for index, sealed in enumerate(read))


@pytest.mark.parametrize("seed", range(5))
def test_manifest_may_come_after_its_chunks_and_forged_ones_stand_in_nobodys_way(
    desk: Desk, seed: int
) -> None:
    manifest, mail = desk.seal()
    forged = [ChunkMail(manifest.delivery_id, index, 3, b"forged") for index in range(3)]
    misplaced = replace(mail[1], index=2)  # type: ignore[type-var]
    batch = [*mail, *forged, misplaced]
    random.Random(seed).shuffle(batch)
    for each in batch:
        desk.accept(each)
        desk.reopen()
    assert desk.waiting() == [manifest.delivery_id]
    read = [desk.staging.read(manifest, index) for index in range(manifest.count)]
    assert all(manifest.chunk_is_good(index, sealed) for index, sealed in enumerate(read))
    assert [(what, count) for what, count, _ in desk.staging.poison()] == [("chunk", 4)]
    assert desk.staging.room_bytes() == desk.limit_bytes - desk.staging.usage()[1]


def test_chunks_that_nobody_announces_are_bounded_and_poison_in_the_end(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queueing.rabbitmq_staging.ORPHANS_BYTES_MAX", 2_000)
    stray = [ChunkMail(bytes([n]) * 32, 0, 1, bytes([n]) * 900) for n in range(3)]
    assert desk.accept(*stray) == [Verdict.KEPT, Verdict.KEPT, Verdict.POISON]
    desk.staging.expire(now_ms=now_ms() + ORPHAN_LIFE_MS)
    assert [(what, count) for what, count, _ in desk.staging.poison()] == [("chunk", 3)]
    assert desk.staging.room_bytes() == desk.limit_bytes


def test_nothing_is_handed_out_before_the_last_chunk(desk: Desk) -> None:
    manifest, mail = desk.seal()
    desk.accept(*mail[:-1])
    assert desk.waiting() == []
    desk.accept(mail[-1])
    assert desk.waiting() == [manifest.delivery_id]


def test_incomplete_delivery_holds_up_nobody(desk: Desk) -> None:
    _, torn = desk.seal()
    whole, mail = desk.seal()
    desk.accept(*torn[:-1], *mail)
    assert desk.waiting() == [whole.delivery_id]


def test_settled_delivery_never_comes_back(desk: Desk) -> None:
    manifest, mail = desk.seal()
    desk.accept(*mail)
    assert desk.staging.settle(manifest.delivery_id)
    assert not desk.staging.settle(manifest.delivery_id)
    desk.reopen()
    assert desk.accept(*mail) == [Verdict.KEPT] * len(mail)
    assert desk.waiting() == []
    assert desk.files() == []


def test_malformed_damaged_and_forged_mail_is_poison(desk: Desk) -> None:
    manifest, mail = desk.seal()
    foreign, _ = Parties().seal(desk.folder)
    damaged = ChunkMail(manifest.delivery_id, 0, manifest.count, b"damaged")
    desk.accept(mail[0])
    batch = (None, damaged, ManifestMail(foreign), mail[1])
    assert desk.accept(*batch) == [Verdict.POISON] * 3 + [Verdict.KEPT]


def test_mail_for_somebody_else_is_poison(desk: Desk) -> None:
    manifest, mail = desk.seal()
    verdicts = desk.staging.accept(mail, b"\0" * 20, now_ms=now_ms(), grace_ms=0)
    assert verdicts[0] is Verdict.POISON
    assert manifest.delivery_id not in desk.waiting()


def test_cancel_of_the_sender_removes_a_whole_delivery(desk: Desk) -> None:
    manifest, mail = desk.seal()
    parties = desk.parties
    forged = sign_cancel(parties.recipient, parties.network_id, manifest.delivery_id)
    desk.accept(*mail)
    assert desk.accept(forged) == [Verdict.POISON]
    assert desk.waiting() == [manifest.delivery_id]
    order = sign_cancel(parties.sender, parties.network_id, manifest.delivery_id)
    assert desk.accept(order, *mail, CancelMail(b"\0" * 32, b"s" * 64)) == [Verdict.KEPT] * (
        len(mail) + 2
    )
    assert desk.waiting() == []
    assert desk.files() == []


def test_full_folder_leaves_mail_on_the_broker_until_there_is_room(tmp_path: Path) -> None:
    desk = Desk(tmp_path, limit_bytes=2_000_000)
    first, first_mail = desk.seal()
    second, second_mail = desk.seal()
    desk.accept(*first_mail)
    verdicts = desk.accept(*second_mail)
    assert Verdict.NO_ROOM in verdicts
    rest = verdicts[verdicts.index(Verdict.NO_ROOM) :]
    assert set(rest) == {Verdict.NO_ROOM}
    desk.staging.settle(first.delivery_id)
    assert desk.accept(*second_mail) == [Verdict.KEPT] * len(second_mail)
    assert desk.waiting() == [second.delivery_id]
    desk.staging.close()


def test_expired_mail_is_forgotten_with_its_file(desk: Desk) -> None:
    manifest, mail = desk.seal()
    desk.accept(*mail)
    later = manifest.expires_ms + 1
    assert desk.waiting(now=later) == []
    desk.staging.expire(now_ms=later)
    assert desk.files() == []
    assert desk.accept(*mail[:1], now=later) == [Verdict.KEPT]
    assert desk.waiting() == []


def test_forged_receipts_leave_room_for_the_true_one_within_a_bound(desk: Desk) -> None:
    delivery_id = b"\5" * 32
    desk.accept(*(ReceiptMail(delivery_id, bytes([n])) for n in range(RECEIPTS_A_DELIVERY_MAX)))
    assert desk.accept(ReceiptMail(delivery_id, b"one too many")) == [Verdict.POISON]
    desk.reopen()
    assert len(desk.staging.receipts([delivery_id])) == RECEIPTS_A_DELIVERY_MAX
    assert desk.staging.receipts([b"\6" * 32]) == []


def test_chunk_that_rots_on_disk_is_noticed(desk: Desk) -> None:
    manifest, mail = desk.seal()
    desk.accept(*mail)
    (file,) = desk.files()
    file.write_bytes(b"\0" * file.stat().st_size)
    with pytest.raises(BadEnvelope):
        desk.staging.read(manifest, 0)


def test_batch_that_fails_halfway_leaves_no_trace(desk: Desk) -> None:
    _, mail = desk.seal()
    desk.accept(mail[0])
    broken = ChunkMail(mail[1].delivery_id, 0, 3, mail[1].sealed)  # type: ignore[union-attr]
    original = desk.staging._write

    def fail(rows: object) -> None:
        original(rows)  # type: ignore[arg-type]
        raise OSError(28, "No space left on device")

    desk.staging._write = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(MailboxFull):
        desk.accept(broken)
    desk.reopen()
    desk.accept(*mail[2:])
    assert desk.waiting() == []  # the chunk of the failed batch was not counted as kept
