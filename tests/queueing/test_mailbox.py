"""The mailbox keeps the contract, with three hosts in real processes over mutual TLS."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from queueing.errors import NoMailbox, Unavailable
from queueing.mailbox_store import MailboxStoreConfig
from tests.queueing.contract import StoreContract
from tests.queueing.hosts import HostProcess, MailboxBed, start_all, wall_ms
from tests.queueing.letters import (
    HOUR_MS,
    NAME,
    collect_all,
    content_of,
    fresh_identity,
    read_content,
    receipt_for,
    seal,
)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory) -> Iterator[list[HostProcess]]:
    folder = tmp_path_factory.mktemp("hosts")
    made = [HostProcess(folder / f"host{n}", f"host {n}") for n in range(3)]
    start_all(made)
    yield made
    for each in made:
        each.kill()


@pytest.fixture
async def bed(hosts: list[HostProcess], tmp_path: Path) -> AsyncIterator[MailboxBed]:
    made = MailboxBed(tmp_path, hosts)
    async with made.closing:
        yield made
    start_all(hosts)


class TestMailboxKeepsTheContract(StoreContract):
    """Every test of the suite, at three hosts."""


def _sealed(sender, recipient, content: bytes, **options):
    now_ms = wall_ms()
    return seal(sender, recipient, content, created_ms=now_ms, expires_ms=now_ms + HOUR_MS)


async def test_a_deposit_is_kept_by_three_hosts(bed: MailboxBed) -> None:
    alice, bob = fresh_identity(), fresh_identity()
    kept = await (await bed.store_of(alice)).deposit(*_sealed(alice, bob, b"content"))
    assert len(set(kept.held_by)) == 3


async def test_one_live_host_is_enough_when_no_other_exists(bed: MailboxBed) -> None:
    alice, bob = fresh_identity(), fresh_identity()
    bed.hosts[0].kill()
    bed.hosts[1].kill()
    kept = await (await bed.store_of(alice)).deposit(*_sealed(alice, bob, b"content"))
    assert len(kept.held_by) == 1


async def test_without_hosts_there_is_no_mailbox(bed: MailboxBed) -> None:
    alice, bob = fresh_identity(), fresh_identity()
    store = await bed.new_store(alice, [])
    with pytest.raises(NoMailbox):
        await store.deposit(*_sealed(alice, bob, b"content"))


async def test_with_all_hosts_dead_the_store_is_unavailable(bed: MailboxBed) -> None:
    alice, bob = fresh_identity(), fresh_identity()
    for each in bed.hosts:
        each.kill()
    with pytest.raises(Unavailable):
        await (await bed.store_of(alice)).deposit(*_sealed(alice, bob, b"content"))


async def test_one_delivery_at_three_hosts_comes_once_and_is_settled_at_all(
    bed: MailboxBed,
) -> None:
    alice, bob = fresh_identity(), fresh_identity()
    manifest, source = _sealed(alice, bob, b"content")
    await (await bed.store_of(alice)).deposit(manifest, source)
    (delivery,) = await collect_all(await bed.store_of(bob), bob)
    await delivery.ack(receipt_for(bob, manifest))
    for each in bed.hosts:
        alone = await bed.new_store(bob, [each])
        assert await collect_all(alone, bob) == []


async def test_a_host_that_dies_midway_costs_nothing(bed: MailboxBed) -> None:
    alice, bob = fresh_identity(), fresh_identity()
    content = content_of(6 * 1024 * 1024)
    manifest, source = _sealed(alice, bob, content)
    await (await bed.store_of(alice)).deposit(manifest, source)
    (delivery,) = await collect_all(await bed.store_of(bob), bob)
    received = []
    async for chunk in delivery.chunks():
        received.append(chunk)
        if len(received) == 2:
            bed.hosts[0].kill()
    assert received == list(enumerate(source.chunks))


async def test_a_host_with_damaged_chunks_is_passed_over(bed: MailboxBed) -> None:
    alice, bob = fresh_identity(), fresh_identity()
    content = content_of(2 * 1024 * 1024)
    manifest, source = _sealed(alice, bob, content)
    await (await bed.store_of(alice)).deposit(manifest, source)
    stored = bed.hosts[0].folder / "sealed" / manifest.delivery_id.hex()
    damaged = bytearray(stored.read_bytes())
    damaged[700_000] ^= 1
    stored.write_bytes(damaged)
    (delivery,) = await collect_all(await bed.store_of(bob), bob)
    assert await read_content(delivery, bob) == content


async def test_what_the_hosts_stored_holds_neither_name_nor_content(bed: MailboxBed) -> None:
    alice, bob = fresh_identity(), fresh_identity()
    content = b"a sentence that nobody else may read. " * 5000
    await (await bed.store_of(alice)).deposit(*_sealed(alice, bob, content))
    for each in bed.hosts:
        stored = b"".join(
            path.read_bytes() for path in sorted(each.folder.rglob("*")) if path.is_file()
        )
        assert len(stored) > len(content)
        for secret in (NAME.encode(), b"unmistakable", content[:20]):
            assert secret not in stored


async def test_a_copy_that_went_is_placed_again(bed: MailboxBed) -> None:
    alice, bob = fresh_identity(), fresh_identity()
    manifest, source = _sealed(alice, bob, b"content")
    store = await bed.new_store(alice, bed.hosts, MailboxStoreConfig(straggler_grace_s=0.1))
    bed.hosts[2].kill()
    first = await store.deposit(manifest, source)
    assert len(first.held_by) == 2
    start_all(bed.hosts)
    second = await store.deposit(manifest, source)
    assert len(second.held_by) == 3
    assert source.reads == 2, "one chunk, read once for all hosts of a deposit"
