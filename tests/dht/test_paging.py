"""Sets that are longer than a datagram, read page by page from real storers."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest

from dht.config import DhtConfig
from dht.contacts import Contact
from dht.node import DhtNode
from dht.paging import FULL_READS_MIN
from dht.patience import Patience
from dht.records import (
    ContentPayload,
    Kind,
    Payload,
    Record,
    WordPayload,
    content_key,
    sign_record,
    word_key,
)
from dht.storage import RecordStore, Verdict
from identity.keys import Identity
from tests.dht.nodes import CONTENT_ID, OPEN, entry, make_node, nodes_of, until

WHALE = word_key(OPEN.network_id, "whale")


def whales(count: int) -> list[WordPayload]:
    return [WordPayload("whale", f"whale {each}.txt", CONTENT_ID, 7) for each in range(count)]


@contextlib.asynccontextmanager
async def reader_of(nodes: Sequence[DhtNode]) -> AsyncIterator[tuple[DhtNode, Counter[bytes]]]:
    """A client, which holds no copy of its own, and the pages it asks each peer for."""
    node = make_node(config=DhtConfig(client=True))
    await node.listen("127.0.0.1", 0)
    pages: Counter[bytes] = Counter()
    try:
        await node.bootstrap(entry(nodes[0]))
        find = node.engine.caller.find

        async def counted(candidate, body):  # type: ignore[no-untyped-def]
            pages[candidate.peer_id] += body.cursor != b""
            return await find(candidate, body)

        node.engine.caller.find = counted  # type: ignore[method-assign]
        node.engine.caller.find_soon = lambda *_: False  # type: ignore[method-assign]
        yield node, pages
    finally:
        await node.close()


async def read(node: DhtNode, limit: int = 300) -> list[tuple[Record, Payload]]:
    return await node.read(WHALE, (Kind.WORD,), limit=limit)


async def test_a_long_set_is_read_to_its_end_where_there_is_no_grpc() -> None:
    async with nodes_of(3) as nodes:
        await nodes[0].publish(whales(80))
        async with reader_of(nodes) as (reader, _):
            assert len(await read(reader)) == 80
            assert len(await read(reader, limit=50)) == 50


async def test_a_few_storers_are_read_to_the_end_and_the_others_not_for_nothing() -> None:
    async with nodes_of(8) as nodes:
        await nodes[0].publish(whales(40))
        async with reader_of(nodes) as (reader, pages):
            assert len(await read(reader)) == 40
            followed = [peer_id for peer_id, count in pages.items() if count > 1]
            assert 1 <= len(followed) <= FULL_READS_MIN


async def test_what_few_storers_withhold_is_read_from_one_that_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The honest one answers last here; on a busy machine the reader would not wait so long.
    monkeypatch.setattr(Contact, "soft_timeout_s", lambda _: 2.0)
    monkeypatch.setattr(Patience, "expected_s", lambda _, *, at_most_s: 2.0)
    async with nodes_of(1 + FULL_READS_MIN) as nodes:
        honest, *liars = nodes
        await honest.publish(whales(40))
        for liar in liars:  # each tells of a set of its own, to its end, and of nothing else
            tell_of_bait(liar)
        async with reader_of(nodes) as (reader, pages):
            find = reader.engine.caller.find

            async def liars_first(candidate, body):  # type: ignore[no-untyped-def]
                if candidate.peer_id == honest.peer_id and body.kinds:
                    await until(lambda: all(pages[each.peer_id] > 1 for each in liars))
                return await find(candidate, body)

            reader.engine.caller.find = liars_first  # type: ignore[method-assign]
            found = {payload.filename for _, payload in await read(reader)}
            assert {each.filename for each in whales(40)} <= found


def tell_of_bait(node: DhtNode) -> None:
    """Let a storer answer from another store than its own."""
    store = RecordStore(OPEN.network_id)
    identity, now_ms = Identity.generate(), node.now_ms()
    for number in range(12):
        payload = WordPayload("whale", f"whale bait {number}.txt", CONTENT_ID, 7)
        record = sign_record(identity, OPEN.network_id, payload, sequence=now_ms, issued_ms=now_ms)
        assert store.store(record, now_ms=now_ms).verdict is Verdict.OK
    node.store.find = store.find  # type: ignore[method-assign]


@pytest.mark.parametrize("count", [1, 5])
async def test_a_set_of_other_kinds_is_read_alike(count: int) -> None:
    async with nodes_of(count + 1) as nodes:
        for node in nodes:
            await node.publish([ContentPayload(CONTENT_ID)])
        async with reader_of(nodes) as (reader, _):
            key = content_key(OPEN.network_id, CONTENT_ID)
            assert len(await reader.read(key, (Kind.CONTENT,))) == count + 1
