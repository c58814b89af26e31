"""No address that has not shown a token gets more bytes than it sent, whatever it sends."""

from __future__ import annotations

import asyncio
import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dht import wire
from dht.limits import Limits, Rate
from dht.node import DhtNode
from dht.records import encode_record
from identity.address import Address
from identity.keys import Identity
from identity.network import Network
from tests.dht.nodes import (
    CONFIG,
    OPEN,
    PRIVATE,
    file_payloads,
    nodes_of,
)
from tests.dht.sink import Sink, bodies, drop_count, hello_for, token_for

ASKER = Identity.from_seed(b"a" * 32)
OTHER = Identity.from_seed(b"o" * 32)
SOURCES = [
    Address("127.0.0.1", 9),
    Address("192.168.1.2", 4100),
    Address("8.8.8.8", 4100),
    Address("2001:4860:4860::8888", 4100),
]


async def full_node(nodes: list[DhtNode]) -> bytes:
    """Let the first node know contacts and records, and say much of itself; return a busy key."""
    shared = [file_payloads("whale song.txt", bytes([number]) * 32) for number in range(40)]
    await nodes[1].publish([payload for payloads in shared for payload in payloads])
    ones = [Address(f"2001:db8:aaaa:bbbb:cccc:dddd:eeee:{n:x}", 65_535) for n in range(4)]
    nodes[0].advertise(ones)
    records = list(nodes[0].store.records())
    return max({each.key for each in records}, key=lambda k: sum(r.key == k for r in records))


def bad_token(kind: str, node: DhtNode, address: Address, rng: random.Random) -> bytes:
    match kind:
        case "none":
            return b""
        case "random":
            return rng.randbytes(17)
        case "other-port":
            return token_for(node, Address(address.host, address.port + 1), ASKER.peer_id)
        case "other-peer":
            return token_for(node, address, OTHER.peer_id)
        case _:
            token = bytearray(token_for(node, address, ASKER.peer_id))
            token[rng.randrange(len(token))] ^= 1 << rng.randrange(8)
            return bytes(token)


@pytest.mark.parametrize("network", [OPEN, PRIVATE], ids=["open", "private"])
def test_reply_without_a_valid_token_is_never_larger_than_its_request(network: Network) -> None:
    with asyncio.Runner() as runner:
        context = nodes_of(6, network)
        nodes = runner.run(context.__aenter__())
        node = nodes[0]
        key = runner.run(full_node(nodes))
        record = next(iter(nodes[1].store.records()))
        sink = Sink(node)
        seen = {"replies": 0, "longest": 0}

        async def send(
            call: wire.Call, source: Address, token: str, hello: str, size: int, seed: int
        ) -> None:
            rng = random.Random(seed)
            said = None if hello == "none" else hello_for(node, ASKER, rng)
            if hello == "of-another":
                said = hello_for(node, OTHER, rng)
            sender = wire.Sender(ASKER.peer_id, bad_token(token, node, source, rng), said)
            body = bodies(rng, key, encode_record(record))[call]
            data = wire.pack_call(rng.randbytes(20), call, sender, body, size)
            sink.sent.clear()
            before = drop_count(node)
            _hand(node, data, source)
            sent_bytes = sum(len(each) for each, _ in sink.sent)
            overhead_bytes = node.engine.protocol._sealer.overhead_bytes  # of the request, too
            assert sent_bytes <= len(data) + overhead_bytes
            assert all(to == source for _, to in sink.sent)
            assert sink.sent or drop_count(node) > before, "no answer and no count"
            seen["replies"] += len(sink.sent)
            seen["longest"] = max(seen["longest"], sent_bytes)

        @settings(max_examples=250, deadline=None)
        @given(
            call=st.sampled_from(sorted(wire.OUR_CALLS)),
            source=st.sampled_from(SOURCES),
            token=st.sampled_from(["none", "random", "other-port", "other-peer", "bit"]),
            hello=st.sampled_from(["none", "sound", "of-another"]),
            size=st.integers(0, wire.DATAGRAM_BYTES_MAX),
            seed=st.integers(0, 2**32),
        )
        def check(
            call: wire.Call, source: Address, token: str, hello: str, size: int, seed: int
        ) -> None:
            runner.run(send(call, source, token, hello, size, seed))

        runner.run(send(wire.Call.FIND_RECORDS, SOURCES[0], "none", "sound", 1_159, 1))
        check()
        assert seen["replies"] > 50
        assert seen["longest"] > 600, "large requests had large answers"
        runner.run(context.__aexit__(None, None, None))


def _hand(node: DhtNode, plain: bytes, source: Address) -> None:
    """Hand in a datagram as a member of the network would have sealed it."""
    node.engine.protocol._sealer.open = lambda data: data  # type: ignore[method-assign]
    node.engine.protocol.datagram_received(plain, (source.host, source.port))


async def test_stock_answers_are_bounded_in_bytes_for_each_source_and_for_all() -> None:
    limits = Limits(stock_bytes_all=Rate(2_000.0, 50_000.0))
    async with nodes_of(2, config=dataclasses.replace(CONFIG, limits=limits)) as nodes:
        node = nodes[0]
        sink = Sink(node)
        began = asyncio.get_running_loop().time()
        for number in range(4_000):
            data = wire.pack_stock_call(
                number.to_bytes(20, "big"), wire.Call.FIND_NODE, b"i" * 20, b"k" * 20
            )
            host = f"8.{number % 250}.{number % 7}.1"
            node.engine.protocol.datagram_received(data, (host, 4100))
        passed_s = asyncio.get_running_loop().time() - began
        answers = [data for data, _ in sink.sent if data[0] == wire.FrameKind.RESPONSE]
        everything = sum(map(len, answers))
        bound = limits.stock_bytes_all
        assert 40_000 < everything <= bound.burst_max + bound.rate_hz * passed_s
        assert node.engine.drops["stock-bytes"] > 0
        pings = [to for data, to in sink.sent if data[0] == wire.FrameKind.REQUEST]
        assert len(pings) <= 32, "strangers are pinged back a few at a time"


async def test_private_network_answers_no_stock_call() -> None:
    async with nodes_of(2, PRIVATE) as [node, _]:
        sink = Sink(node)
        data = wire.pack_stock_call(b"m" * 20, wire.Call.FIND_NODE, b"i" * 20, b"k" * 20)
        _hand(node, data, SOURCES[0])
        assert sink.sent == []
        assert node.engine.drops["stock-call"] == 1
