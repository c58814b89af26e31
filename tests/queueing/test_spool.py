"""The spool keeps the contract, and what only a spool promises."""

import contextlib
import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from queueing.errors import BadEnvelope, BadReceipt, MailboxFull, StorageFailed, TooLarge
from queueing.receipt import Outcome
from queueing.spool import Spool
from queueing.spool_index import SpoolConfig
from tests.queueing.contract import StoreContract
from tests.queueing.letters import (
    HOUR_MS,
    NAME,
    NETWORK_ID,
    collect_all,
    content_id_of,
    content_of,
    identity,
    read_content,
    receipt_for,
    seal,
)

MIB = 1024 * 1024
START_MS = 1_800_000_000_000
SMALL = SpoolConfig(sender_limit_bytes=4 * MIB, delivery_bytes_max=6 * MIB)


class SpoolBed:
    """One spool that all peers of a test use."""

    resumes = True
    checks_deposits = True
    checks_chunks = True
    cancels = True
    full_at_bytes = 4 * MIB
    errors = frozenset({TooLarge, StorageFailed})

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wall_ms = START_MS
        self.spool: Spool | None = None

    async def store_of(self, _identity) -> Spool:
        if self.spool is None or self.spool.is_closed:
            self.spool = await Spool.open(
                self.folder, NETWORK_ID, wall_ms=lambda: self.wall_ms, config=SMALL
            )
        return self.spool

    async def second_store_of(self, identity) -> Spool:
        return await self.store_of(identity)  # a folder is one process's alone

    @contextlib.asynccontextmanager
    async def failing(self, error, identity) -> AsyncIterator[tuple[Spool, int]]:
        spool = await self.store_of(identity)
        if error is TooLarge:
            yield spool, SMALL.delivery_bytes_max
            return
        sealed = self.folder / "sealed"
        sealed.rename(self.folder / "away")
        yield spool, 1000
        (self.folder / "away").rename(sealed)

    async def crash(self) -> None:
        """Leave everything as it lies on disk and open it anew."""
        assert self.spool is not None
        await self.spool.close()

    def now_ms(self) -> int:
        return self.wall_ms

    async def pass_time(self, until_ms: int) -> None:
        self.wall_ms = until_ms + 1


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[SpoolBed]:
    made = SpoolBed(tmp_path / "spool")
    yield made
    if made.spool is not None:
        await made.spool.close()


class TestSpoolKeepsTheContract(StoreContract):
    """Every test of the suite, on a spool."""


ALICE, BOB = identity("alice"), identity("bob")


def _sealed(content: bytes, **options):
    options = {"created_ms": START_MS, "expires_ms": START_MS + HOUR_MS, **options}
    return seal(ALICE, BOB, content, **options)


async def test_leftovers_of_a_crash_are_swept(bed: SpoolBed) -> None:
    await (await bed.store_of(ALICE)).deposit(*_sealed(b"kept"))
    await bed.crash()
    (bed.folder / "staging" / "half sealed").write_bytes(b"x")
    (bed.folder / "sealed" / ("ab" * 32)).write_bytes(b"x")
    (bed.folder / "sealed" / ("cd" * 32 + ".partial")).write_bytes(b"x")
    store = await bed.store_of(ALICE)
    assert len(list((bed.folder / "sealed").iterdir())) == 1
    assert list((bed.folder / "staging").iterdir()) == []
    (delivery,) = await collect_all(store, BOB)
    assert await read_content(delivery, BOB) == b"kept"


async def test_a_crash_between_rename_and_row_is_healed(bed: SpoolBed) -> None:
    manifest, source = _sealed(content_of(2 * MIB))
    store = await bed.store_of(ALICE)
    for index in await store.begin(manifest):
        await store.put(manifest, index, await source.read(index))
    whole = bed.folder / "sealed" / manifest.delivery_id.hex()
    whole.with_name(whole.name + ".partial").rename(whole)
    await bed.crash()
    store = await bed.store_of(ALICE)
    assert await collect_all(store, BOB) == []
    assert await store.begin(manifest) == [], "all chunks are there"
    await store.finish(manifest)
    assert len(await collect_all(store, BOB)) == 1


async def test_a_delivery_that_lacks_a_chunk_is_never_held(bed: SpoolBed) -> None:
    manifest, source = _sealed(content_of(2 * MIB))
    store = await bed.store_of(ALICE)
    missing = await store.begin(manifest)
    for index in missing[1:]:
        await store.put(manifest, index, await source.read(index))
    with pytest.raises(BadEnvelope):
        await store.finish(manifest)
    assert await collect_all(store, BOB) == []
    assert await store.begin(manifest) == [0]


async def test_a_row_whose_file_is_gone_is_forgotten(bed: SpoolBed) -> None:
    manifest, source = _sealed(b"content")
    await (await bed.store_of(ALICE)).deposit(manifest, source)
    await bed.crash()
    (bed.folder / "sealed" / manifest.delivery_id.hex()).unlink()
    store = await bed.store_of(ALICE)
    assert await collect_all(store, BOB) == []
    await store.deposit(manifest, source)
    assert len(await collect_all(store, BOB)) == 1


async def test_only_the_recipients_own_receipt_settles(bed: SpoolBed) -> None:
    manifest, source = _sealed(b"content")
    other, _source = _sealed(b"other")
    store = await bed.store_of(ALICE)
    await store.deposit(manifest, source)
    (delivery,) = await collect_all(store, BOB)
    good = receipt_for(BOB, manifest)
    altered = good[:-1] + bytes([good[-1] ^ 1])
    for forged in (altered, receipt_for(ALICE, manifest), receipt_for(BOB, other), b""):
        with pytest.raises(BadReceipt):
            await delivery.ack(forged)
    assert len(await collect_all(store, BOB)) == 1
    assert await store.receipts(ALICE.peer_id, [manifest.delivery_id]) == []


async def test_a_settled_delivery_is_not_taken_again(bed: SpoolBed) -> None:
    manifest, source = _sealed(b"content")
    store = await bed.store_of(ALICE)
    await store.deposit(manifest, source)
    await store.settle(manifest.delivery_id, receipt_for(BOB, manifest, Outcome.DELIVERED))
    await store.deposit(manifest, source)
    assert await collect_all(store, BOB) == []
    assert list((bed.folder / "sealed").iterdir()) == []


async def test_expiry_frees_rows_files_and_room(bed: SpoolBed) -> None:
    manifest, source = _sealed(b"content")
    store = await bed.store_of(ALICE)
    await store.deposit(manifest, source)
    bed.wall_ms = manifest.expires_ms
    assert await store.expire() == 1
    assert (await store.usage()).bytes == 0
    assert list((bed.folder / "sealed").iterdir()) == []


async def test_an_abandoned_deposit_gives_its_room_back(bed: SpoolBed) -> None:
    manifest, _source = _sealed(content_of(3 * MIB), expires_ms=START_MS + 100 * HOUR_MS)
    store = await bed.store_of(ALICE)
    await store.begin(manifest)
    assert (await store.usage()).bytes > 3 * MIB
    bed.wall_ms += SMALL.partial_lifetime_ms
    assert await store.expire() == 1
    assert (await store.usage()).bytes == 0


@pytest.mark.parametrize(
    ("config", "error"),
    [
        (SpoolConfig(limit_bytes=2 * MIB, delivery_bytes_max=2 * MIB), MailboxFull),
        (SpoolConfig(recipient_limit_bytes=2 * MIB), MailboxFull),
        (SpoolConfig(deliveries_max=1), MailboxFull),
        (SpoolConfig(delivery_bytes_max=MIB), TooLarge),
        (SpoolConfig(disk_floor_bytes=2**60), MailboxFull),
    ],
)
async def test_every_limit_holds(tmp_path: Path, config: SpoolConfig, error) -> None:
    store = await Spool.open(tmp_path, NETWORK_ID, wall_ms=lambda: START_MS, config=config)
    try:
        room_for = 1 if error is MailboxFull and config.disk_floor_bytes < 2**60 else 0
        for seed in range(room_for):
            await store.deposit(*_sealed(content_of(3 * MIB // 2, seed)))
        with pytest.raises(error):
            await store.deposit(*_sealed(content_of(3 * MIB // 2, seed=9)))
    finally:
        await store.close()


async def test_sealing_into_the_spool_holds_it_durably(bed: SpoolBed, tmp_path: Path) -> None:
    content = content_of(MIB + 1)
    path = tmp_path / "source"
    path.write_bytes(content)
    store = await bed.store_of(ALICE)
    manifest = await store.seal(
        ALICE, BOB.peer_id, BOB.sealing_public_key, path, NAME, content_id_of(content),
        len(content), expires_ms=START_MS + HOUR_MS, seal_id=b"s" * 16,
    )  # fmt: skip
    await bed.crash()
    (delivery,) = await collect_all(await bed.store_of(ALICE), BOB)
    assert delivery.manifest == manifest
    assert await read_content(delivery, BOB) == content


async def test_ones_own_mail_has_no_quota(bed: SpoolBed, tmp_path: Path) -> None:
    content = content_of(SMALL.sender_limit_bytes + 1)
    path = tmp_path / "source"
    path.write_bytes(content)
    store = await bed.store_of(ALICE)
    await store.seal(
        ALICE, BOB.peer_id, BOB.sealing_public_key, path, NAME, content_id_of(content),
        len(content), expires_ms=START_MS + HOUR_MS, seal_id=b"s" * 16,
    )  # fmt: skip
    assert len(await collect_all(store, BOB)) == 1


async def test_a_full_disk_is_said_and_loses_nothing(
    bed: SpoolBed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await bed.store_of(ALICE)
    await store.deposit(*_sealed(b"kept"))
    manifest, source = _sealed(content_of(MIB))

    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", full)
        with pytest.raises(MailboxFull):
            await store.deposit(manifest, source)
        patch.setattr("os.fsync", full)
        path = tmp_path / "source"
        path.write_bytes(b"content")
        with pytest.raises(MailboxFull):
            await store.seal(
                ALICE, BOB.peer_id, BOB.sealing_public_key, path, NAME, bytes(32), 7,
                expires_ms=START_MS + HOUR_MS, seal_id=b"s" * 16,
            )  # fmt: skip
    assert list((bed.folder / "staging").iterdir()) == []
    (delivery,) = await collect_all(store, BOB)
    assert await read_content(delivery, BOB) == b"kept"
    await store.deposit(manifest, source)
    assert len(await collect_all(store, BOB)) == 2


async def test_what_lies_on_disk_holds_neither_name_nor_content(bed: SpoolBed) -> None:
    content = b"a sentence that nobody else may read. " * 5000
    await (await bed.store_of(ALICE)).deposit(*_sealed(content))
    await bed.crash()
    stored = b"".join(path.read_bytes() for path in sorted(bed.folder.rglob("*")) if path.is_file())
    assert len(stored) > len(content)
    for secret in (NAME.encode(), b"unmistakable", content[:20], content_id_of(content)):
        assert secret not in stored


async def test_a_delivery_is_not_read_again_before_it_is_held(
    bed: SpoolBed, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, source = _sealed(content_of(2 * MIB))
    store = await bed.store_of(ALICE)
    missing = await store.begin(manifest)
    monkeypatch.setattr("queueing.spool_files.SpoolFiles._look", None)
    for index in missing:
        await store.put(manifest, index, await source.read(index))
    await store.finish(manifest)
    assert len(await collect_all(store, BOB)) == 1


async def test_a_file_that_lost_its_end_is_not_held_though_all_was_written(bed: SpoolBed) -> None:
    manifest, source = _sealed(content_of(2 * MIB))
    store = await bed.store_of(ALICE)
    for index in await store.begin(manifest):
        await store.put(manifest, index, await source.read(index))
    partial = bed.folder / "sealed" / (manifest.delivery_id.hex() + ".partial")
    partial.write_bytes(partial.read_bytes()[:-1])
    with pytest.raises(BadEnvelope):
        await store.finish(manifest)
    assert await collect_all(store, BOB) == []
