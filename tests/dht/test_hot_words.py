"""Words in more names than a key has room for, in networks of real nodes with small caps."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from dht import wire
from dht.heat import Heat
from dht.node import DhtNode
from dht.payloads import WORD_SHARDS
from dht.records import WordPayload, in_shard, word_key
from dht.storage import StorageLimits
from tests.dht.nodes import CONTENT_ID, OPEN, entry, file_payloads, make_node, nodes_of

SMALL = StorageLimits(key_records_max=16)
"""Two records a publisher under a key, where nobody has a public address."""
WHALE = word_key(OPEN.network_id, "whale")


@contextlib.asynccontextmanager
async def small_nodes(count: int) -> AsyncIterator[list[DhtNode]]:
    nodes = [make_node(limits=SMALL, nickname=f"n{number}") for number in range(count)]
    try:
        for node in nodes:
            await node.listen("127.0.0.1", 0)
            if node is not nodes[0]:
                await node.bootstrap(entry(nodes[0]))
        yield nodes
    finally:
        await asyncio.gather(*(node.close() for node in nodes))


def names(count: int, form: str = "whale n{}.txt") -> list[str]:
    return [form.format(number) for number in range(count)]


async def publish(node: DhtNode, filenames: list[str]) -> None:
    report = await node.publish([each for name in filenames for each in file_payloads(name)])
    assert report.stored_on_min >= 1, "a word without room is stored in its shard"


async def found_by(node: DhtNode, *words: str) -> set[str]:
    return {hit.filename for hit in await node.search(words, 300)}


def asked_keys(node: DhtNode) -> Counter[bytes]:
    """Count what a node asks for, by key, from now on."""
    asked: Counter[bytes] = Counter()
    find = node.engine.caller.find

    async def counted(candidate, body):  # type: ignore[no-untyped-def]
        asked[body.key] += 1
        return await find(candidate, body)

    node.engine.caller.find = counted  # type: ignore[method-assign]
    node.engine.caller.find_soon = lambda *_: False  # type: ignore[method-assign]
    return asked


def shard_keys(word: str) -> set[bytes]:
    return {word_key(OPEN.network_id, word, shard) for shard in range(1, WORD_SHARDS + 1)}


async def test_every_name_is_found_by_a_word_that_many_publish_beyond_its_cap() -> None:
    async with small_nodes(5) as nodes:
        wanted: set[str] = set()
        for number, node in enumerate(nodes):
            mine = names(6, f"whale p{number}n{{}}.txt")
            await publish(node, mine)
            wanted |= set(mine)
        for node in nodes:
            assert node.store.heat_of(WHALE, now_ms=node.now_ms()) is Heat.HOT
            assert await found_by(node, "whale") == wanted
        assert await found_by(nodes[0], "whale", "p3n5") == {"whale p3n5.txt"}


async def test_a_hot_word_costs_one_read_more_beside_a_cool_word_and_shards_without_one() -> None:
    async with small_nodes(4) as nodes:
        await publish(nodes[0], names(5, "whale n{}.txt"))
        asked = asked_keys(nodes[1])
        assert await found_by(nodes[1], "whale", "n4") == {"whale n4.txt"}
        assert asked.keys() == {WHALE, word_key(OPEN.network_id, "n4")}
        asked.clear()
        assert len(await found_by(nodes[1], "whale")) == 5
        assert asked.keys() == {WHALE} | shard_keys("whale")
        asked.clear()
        assert await found_by(nodes[1], "n3") == {"whale n3.txt"}
        assert asked.keys() == {word_key(OPEN.network_id, "n3")}, "the common case is one lookup"


async def test_a_long_name_under_a_hot_word_is_found_by_words_that_are_not_indexed() -> None:
    async with small_nodes(3) as nodes:
        long = "whale xa xb xc xd xe xf xg z.txt"
        await publish(nodes[0], names(2))
        await publish(nodes[0], [long])
        assert await found_by(nodes[1], "whale", "z") == {long}


async def test_a_withdrawn_name_is_gone_from_its_shard_too() -> None:
    async with small_nodes(3) as nodes:
        await publish(nodes[0], names(5))
        await nodes[0].withdraw(file_payloads("whale n4.txt"))
        assert await found_by(nodes[1], "whale") == set(names(4))
        assert await found_by(nodes[1], "n4") == set()
        await nodes[0].withdraw_all()
        assert await found_by(nodes[1], "whale") == set()


async def test_a_peer_alone_finds_all_its_names_and_publishes_them_when_somebody_comes() -> None:
    async with small_nodes(1) as [alone]:
        await alone.publish([each for name in names(5) for each in file_payloads(name)])
        assert await found_by(alone, "whale") == set(names(5))
        other = make_node(limits=SMALL)
        await other.listen("127.0.0.1", 0)
        try:
            await other.bootstrap(entry(alone))
            async with asyncio.timeout(10.0):  # it is all on its way by itself
                while await found_by(other, "whale") != set(names(5)):  # noqa: ASYNC110 - poll
                    await asyncio.sleep(0.02)
        finally:
            await other.close()


async def test_one_storer_that_lies_about_heat_costs_nobody_a_read() -> None:
    async with small_nodes(6) as nodes:
        await publish(nodes[0], names(2))
        desk = nodes[3].engine.desk
        honest = desk.find

        def lie(*arguments):  # type: ignore[no-untyped-def]
            found = honest(*arguments)
            return wire.FoundRecords(found.records, found.cursor, found.contacts, 2)

        desk.find = lie  # type: ignore[method-assign]
        asked = asked_keys(nodes[1])
        assert await found_by(nodes[1], "whale") == set(names(2))
        assert asked.keys() == {WHALE}


async def test_a_set_of_more_than_three_hundred_is_read_page_by_page_up_to_the_limit() -> None:
    async with nodes_of(3) as nodes:
        for number, node in enumerate(nodes[:2]):
            payloads = [
                WordPayload("whale", f"whale p{number}n{each}.txt", CONTENT_ID, 7)
                for each in range(200)
            ]
            await node.publish(payloads)
        hits = await nodes[2].search(["whale"], 300)
        assert len({hit.filename for hit in hits}) == len(hits) == 300
        assert len(await nodes[2].search(["whale"], 50)) == 50
        assert len(await nodes[2].search(["whale", "p1n7"], 50)) == 1


async def test_a_prefix_is_filtered_by_storer_and_reader() -> None:
    async with small_nodes(3) as nodes:
        await publish(nodes[0], ["whale song.txt", "whale sonar.txt"])
        assert await found_by(nodes[1], "whale", "son*") == {"whale song.txt", "whale sonar.txt"}
        assert await found_by(nodes[1], "whale", "song*") == {"whale song.txt"}
        assert await found_by(nodes[1], "whale", "on*") == set()
        for node in nodes:
            page = node.store.find(WHALE, now_ms=node.now_ms(), prefix="sona")
            assert len(page.records) == 1


def test_a_shard_is_a_place_of_its_own() -> None:
    payload = in_shard(WordPayload("whale", "whale.txt", CONTENT_ID, 7))
    assert word_key(OPEN.network_id, "whale", payload.shard) in shard_keys("whale")
