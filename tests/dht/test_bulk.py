"""Long sets over real gRPC between real nodes, with mutual TLS."""

import asyncio
import contextlib
import dataclasses

import grpc
import pytest

from dht.bulk import SERVICE
from dht.config import DhtConfig
from dht.errors import NoAnswer
from dht.limits import Limits, Rate
from dht.lookup import Candidate
from dht.node import bulk_handler
from dht.records import Kind, WordPayload, word_key
from dht.wire import FindRecords
from identity.address import Address
from identity.keys import Identity
from identity.tls import make_tls
from protos import dht_pb2
from rpc.channels import ChannelPool
from rpc.listener import RpcListener
from tests.dht.nodes import OPEN, address_of, entry, make_node, raw_socket

CONFIG = DhtConfig(handoff_s=0.02, pages_max=1, bulk_records_min=4)


@contextlib.asynccontextmanager
async def two_nodes_with_grpc(config=CONFIG):
    nodes, closers = [], []
    try:
        for number in range(2):
            identity = Identity.from_seed(bytes([number + 1]) * 32)
            tls = make_tls(identity, OPEN)
            node = make_node(identity=identity, config=config)
            port = await node.listen("127.0.0.1", 0)
            listener, pool = RpcListener(tls, OPEN), ChannelPool(tls, OPEN)
            listener.add(bulk_handler(node))
            assert await listener.start("127.0.0.1", port) == port
            node.use_grpc(pool.connect)
            nodes.append(node)
            closers += [node.close, pool.close, listener.stop]
        await nodes[1].bootstrap(entry(nodes[0]))
        yield nodes
    finally:
        for close in closers:
            await close()


def words(count):
    return [WordPayload("song", f"{number:03} song.txt", b"c" * 32, 1) for number in range(count)]


async def test_long_batch_is_stored_over_grpc_with_signed_acknowledgement_and_read_back():
    async with two_nodes_with_grpc() as nodes:
        before = nodes[1].counters()["datagrams-sent"]
        report = await nodes[1].publish(words(90))
        assert report.stored_on == (1,) * 90
        assert nodes[1].counters()["datagrams-sent"] - before < 10
        nodes[1].store._shelves.clear()
        key = word_key(OPEN.network_id, "song")
        assert len(await nodes[1].read(key, (Kind.WORD,))) == 90
        assert len(await nodes[1].read(key, (Kind.WORD,), words=("042",))) == 1


async def test_forged_bulk_acknowledgement_is_not_counted():
    async with two_nodes_with_grpc() as nodes:
        desk = nodes[0].engine.desk
        honest = desk.acknowledge
        desk.acknowledge = lambda encoded, stored, requester_id, message_id: honest(
            encoded, stored, b"r" * 20, message_id
        )
        report = await nodes[1].publish(words(8))
        assert report.stored_on == (0,) * 8


async def test_unreachable_bulk_service_is_no_answer():
    async with two_nodes_with_grpc() as nodes:
        with raw_socket() as nobody:
            address = Address(*nobody.getsockname())
            candidate = Candidate(b"p" * 20, address, b"k" * 32)
            bulk = nodes[0].engine.reader.bulk
            assert bulk is not None
            with pytest.raises(NoAnswer):
                async for _ in bulk.find(candidate, FindRecords(b"k" * 20, (3,)), 10):
                    pass


async def test_a_flood_of_bulk_reads_meets_the_limits_of_datagrams_and_others_are_served():
    limits = Limits(requests=Rate(0.001, 300.0), requests_all=Rate(0.001, 500.0))
    async with two_nodes_with_grpc(dataclasses.replace(CONFIG, limits=limits)) as nodes:
        storer, asker = nodes
        assert (await asker.publish(words(40))).stored_on == (1,) * 40
        candidate = Candidate(storer.peer_id, address_of(storer))
        body = FindRecords(word_key(OPEN.network_id, "song"), (int(Kind.WORD),))
        served = refused = 0
        for _ in range(40):
            try:
                read = [each async for each in asker.engine.reader.bulk.find(candidate, body, 100)]
            except NoAnswer:
                refused += 1
            else:
                served += 1
                assert len(read) == 40
        assert 20 < served <= 300 // 11, "each costs the 11 datagrams that would carry it"
        assert served + refused == 40
        assert storer.counters()["bulk-rate"] == refused
        other = b"o" * 20
        assert storer.engine.limits.answers(other, 100, 0, now=asyncio.get_running_loop().time())


async def test_malformed_bulk_requests_are_refused():
    async with two_nodes_with_grpc() as nodes:
        pool_connect = nodes[0]._connect
        channel = await pool_connect(nodes[1].peer_id, [Address("127.0.0.1", nodes[1].bound.port)])
        find = channel.unary_stream(f"/{SERVICE}/FindRecords")
        store = channel.unary_unary(f"/{SERVICE}/StoreRecords")
        bad_find = dht_pb2.FindRecordsRequest(key=b"short").SerializeToString()
        bad_store = dht_pb2.StoreRecordsRequest(message_id=b"m", records=[b"r"])
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async for _ in find(bad_find):
                pass
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await store(bad_store.SerializeToString())
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_long_batch_goes_in_datagrams_where_grpc_cannot_be_reached():
    async with two_nodes_with_grpc() as nodes:

        async def unreachable(peer_id, addresses):
            raise NoAnswer

        nodes[1].use_grpc(unreachable)
        report = await nodes[1].publish(words(30))
        assert report.stored_on == (1,) * 30
