"""The contract suite can fail: it finds a store that acks before fsync or ignores duplicates."""

import copy
import inspect
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from _pytest.outcomes import Failed, Skipped

from queueing.errors import BadEnvelope, MailboxFull, UnknownDelivery
from queueing.store import DepositReceipt, StoreKind, Usage
from tests.queueing.contract import StoreContract
from tests.queueing.letters import NETWORK_ID, fresh_identity

LIMIT_BYTES = 4 * 1024 * 1024


@dataclass
class Disk:
    """What a store has: `written` survives a crash, `cached` does not."""

    written: list = field(default_factory=list)
    receipts: dict = field(default_factory=dict)
    ended: set = field(default_factory=set)
    partial: dict = field(default_factory=dict)


@dataclass
class ToyBed:
    """A store in memory that is right unless it is given defects."""

    syncs_before_it_promises: bool = True
    knows_duplicates: bool = True
    disk: Disk = field(default_factory=Disk)
    synced: Disk = field(default_factory=Disk)
    wall_ms: int = 1_800_000_000_000

    resumes = True
    checks_deposits = True
    checks_chunks = True
    cancels = True
    full_at_bytes: int | None = LIMIT_BYTES
    errors = frozenset()

    async def store_of(self, _identity) -> "ToyStore":
        return ToyStore(self)

    async def second_store_of(self, _identity) -> "ToyStore":
        return ToyStore(self)

    def failing(self, error, _identity):
        raise AssertionError(f"it never raises {error}")

    async def crash(self) -> None:
        self.disk = copy.copy(self.synced)

    def sync(self) -> None:
        self.synced = Disk(
            list(self.disk.written), dict(self.disk.receipts), set(self.disk.ended), {}
        )

    def now_ms(self) -> int:
        return self.wall_ms

    async def pass_time(self, until_ms: int) -> None:
        self.wall_ms = until_ms + 1


class ToyStore:
    kind = StoreKind.SPOOL

    def __init__(self, bed: ToyBed) -> None:
        self.bed = bed

    async def deposit(self, manifest, chunks) -> DepositReceipt:
        bed, disk = self.bed, self.bed.disk
        manifest.check(NETWORK_ID, bed.wall_ms)
        if (await self.usage()).bytes + manifest.sealed_bytes > LIMIT_BYTES:
            raise MailboxFull
        known = {each.delivery_id for each, _chunks in disk.written}
        if manifest.delivery_id not in known or not bed.knows_duplicates:
            partial = disk.partial.setdefault(manifest.delivery_id, {})
            for index in range(manifest.count):
                if index not in partial:
                    sealed = await chunks.read(index)
                    if not manifest.chunk_is_good(index, sealed):
                        raise BadEnvelope
                    partial[index] = sealed
            disk.written.append((manifest, partial))
        if bed.syncs_before_it_promises:
            bed.sync()
        return DepositReceipt(self.kind, (), manifest.expires_ms)

    async def collect(self, recipient) -> AsyncIterator["ToyDelivery"]:
        for manifest, chunks in list(self.bed.disk.written):
            over = manifest.expires_ms <= self.bed.wall_ms
            if manifest.recipient == recipient and not over:
                yield ToyDelivery(self.bed, manifest, chunks)

    async def receipts(self, sender, delivery_ids):
        kept = self.bed.disk.receipts
        return [kept[each] for each in delivery_ids if each in kept]

    async def cancel(self, manifest) -> bool:
        return self.bed_end(manifest)

    async def usage(self) -> Usage:
        written = self.bed.disk.written
        size = sum(manifest.sealed_bytes for manifest, _chunks in written)
        return Usage(len(written), size, LIMIT_BYTES)

    async def close(self) -> None:
        pass

    def bed_end(self, manifest) -> bool:
        return end(self.bed, manifest)


@dataclass
class ToyDelivery:
    bed: ToyBed
    manifest: object
    kept: dict

    async def chunks(self, start=0):
        for index in range(start, len(self.kept)):
            yield index, self.kept[index]

    async def ack(self, receipt) -> None:
        self.bed.disk.receipts[self.manifest.delivery_id] = receipt
        end(self.bed, self.manifest)

    async def reject(self, _reason, receipt) -> None:
        if receipt is not None:
            await self.ack(receipt)
        end(self.bed, self.manifest)


def end(bed: ToyBed, manifest) -> bool:
    """Let go of one copy."""
    for at, (kept, _chunks) in enumerate(bed.disk.written):
        if kept.delivery_id == manifest.delivery_id:
            del bed.disk.written[at]
            if bed.syncs_before_it_promises:
                bed.sync()
            return True
    return False


async def _failures(**defects) -> set[str]:
    failed = set()
    suite = StoreContract()
    for name, test in inspect.getmembers(suite, inspect.iscoroutinefunction):
        wanted = inspect.signature(test).parameters
        given = {
            "bed": ToyBed(**defects), "alice": fresh_identity(), "bob": fresh_identity()
        }  # fmt: skip
        try:
            await test(**{each: given[each] for each in wanted})
        except (AssertionError, ValueError, Failed, Skipped, UnknownDelivery):
            failed.add(name)
    return failed


async def test_a_store_without_defects_passes_the_suite() -> None:
    assert await _failures() == set()


async def test_a_store_that_acks_before_fsync_fails_the_suite() -> None:
    assert await _failures(syncs_before_it_promises=False) == {
        "test_a_crash_after_the_deposit_loses_nothing",
        "test_a_delivery_without_ack_comes_again",
    }


async def test_a_store_that_ignores_duplicates_fails_the_suite() -> None:
    failed = await _failures(knows_duplicates=False)
    assert failed == {"test_a_second_deposit_changes_nothing"}


async def test_both_defects_together_fail_the_suite() -> None:
    failed = await _failures(syncs_before_it_promises=False, knows_duplicates=False)
    assert len(failed) == 3


def test_the_suite_is_not_empty() -> None:
    assert len(inspect.getmembers(StoreContract, inspect.iscoroutinefunction)) >= 20
