"""Whatever is thrown at a node from many addresses: its tables end, and each drop is counted."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import random
import re
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from pathlib import Path

import msgspec

from dht import wire
from dht.errors import RecordFault
from dht.hello import HelloFault
from dht.limits import Limits, Rate
from dht.node import DhtNode
from dht.records import ContentPayload, encode_record, sign_record
from dht.storage import StorageLimits, Verdict
from identity.address import Address
from identity.keys import Identity
from tests.dht.nodes import CONFIG, make_node
from tests.dht.sink import Sink, bodies, drop_count, hello_for, token_for

PLENTY = Rate(1e9, 1e9)
NO_LIMITS = Limits(PLENTY, PLENTY, PLENTY, PLENTY, PLENTY, PLENTY, PLENTY, PLENTY, PLENTY, PLENTY)
"""So that the tables behind the limits are reached."""
SIGNERS = 1_200
"""More than the tables that need a signed hello hold."""
CONTAINERS = (dict, list, set, deque, OrderedDict, Counter)


def sizes(root: object) -> dict[str, int]:
    """The length of each container that hangs on an object of dht, by its path."""
    found: dict[str, int] = {}
    seen: set[int] = set()

    def walk(thing: object, path: str) -> None:
        if id(thing) in seen:
            return
        seen.add(id(thing))
        if isinstance(thing, CONTAINERS):
            kind = path
            found[kind] = found.get(kind, 0) + len(thing)
            values = thing.values() if isinstance(thing, dict) else thing
            for value in list(values):
                walk(value, f"{path}[]")
        elif type(thing).__module__.startswith("dht."):
            for name, value in attributes(thing):
                walk(value, f"{path}.{name}")

    walk(root, "engine")
    return found


def attributes(thing: object) -> Iterator[tuple[str, object]]:
    names = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    names += list(getattr(thing, "__dict__", {}))
    for name in names:
        if hasattr(thing, name):
            yield name, getattr(thing, name)


class Flood:
    """Each kind of input from an address of its own, for ever new senders."""

    def __init__(self, node: DhtNode) -> None:
        self.node = node
        self.rng = random.Random(5)
        self.signers = [Identity.from_seed(n.to_bytes(32, "big")) for n in range(1, SIGNERS + 1)]
        self.count = 0

    def address(self) -> Address:
        self.count += 1
        host = f"{11 + self.count % 80}.{self.rng.randrange(256)}.{self.rng.randrange(256)}.9"
        return Address(host, 1 + self.rng.randrange(65_000))

    def hand(self, data: bytes, source: Address) -> None:
        self.node.engine.protocol.datagram_received(data, (source.host, source.port))

    def of_each_kind(self, number: int) -> None:
        """One datagram of each kind; all but the hello's signature is made for the occasion."""
        node, rng = self.node, self.rng
        signer = self.signers[number % SIGNERS]
        record = self.record(signer, number)
        for call, body in bodies(rng, rng.randbytes(20), record).items():
            stranger, source = rng.randbytes(20), self.address()
            token = token_for(node, source, stranger)
            self.call(call, wire.Sender(stranger, token), body, source)
            self.call(call, wire.Sender(stranger, rng.randbytes(17)), body, self.address())
        source = self.address()
        said = hello_for(node, signer, rng)
        self.call(wire.Call.HELLO, wire.Sender(signer.peer_id, b"", said), b"\x90", source)
        for stock, arguments in (
            (wire.Call.PING, (rng.randbytes(20),)),
            (wire.Call.FIND_NODE, (rng.randbytes(20), rng.randbytes(20))),
            (wire.Call.STORE, (rng.randbytes(20), rng.randbytes(20), b"v")),
            (wire.Call.STUN, ()),
        ):
            self.hand(wire.pack_stock_call(rng.randbytes(20), stock, *arguments), self.address())
        self.hand(wire.pack_reply(rng.randbytes(20), wire.Status.OK, None), self.address())
        self.hand(rng.randbytes(rng.randrange(80)), self.address())
        self.hand(
            wire.pack_frame(
                wire.FrameKind.REQUEST,
                rng.randbytes(20),
                msgspec.msgpack.encode([f"call{number}", []]),
            ),
            self.address(),
        )

    def call(self, call: wire.Call, sender: wire.Sender, body: bytes, source: Address) -> None:
        self.hand(wire.pack_call(self.rng.randbytes(20), call, sender, body, 1_200), source)

    def record(self, signer: Identity, number: int) -> bytes:
        now_ms = self.node.now_ms()
        payload = ContentPayload(number.to_bytes(32, "big"))
        return encode_record(
            sign_record(
                signer, self.node.network.network_id, payload, sequence=now_ms, issued_ms=now_ms
            )
        )


async def test_no_table_grows_for_ever_under_a_flood_of_each_kind_of_input() -> None:
    config = dataclasses.replace(
        CONFIG, limits=NO_LIMITS, greetings_max=10_000, call_timeout_s=0.1, resend_s=0.09
    )
    node = make_node(config=config, limits=StorageLimits(records_max=300))
    await node.listen("127.0.0.1", 0)
    sink = Sink(node)
    flood = Flood(node)

    async def run(count: int) -> dict[str, int]:
        for number in range(count):
            flood.of_each_kind(flood.count)
            sink.sent.clear()
            if number % 50 == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(0.3)  # the calls that it provoked have failed
        return sizes(node.engine)

    first = await run(560)
    second = await run(560)
    drops = {path for path in second if path.endswith("drops")}
    assert drops
    assert sum(second[path] for path in drops) < 100, "names of counters are ours"
    assert sum(first.values()) > 4_000, "the flood got somewhere"
    for path, length in second.items():
        assert length <= 4_200 or length <= first[path] * 1.02, (path, first.get(path), length)
    assert sum(second.values()) < 60_000
    assert drop_count(node) > 3_000
    await node.close()


# Counters


ROOT = Path(__file__).resolve().parents[2]


def counters_in_the_code() -> set[str]:
    """Every reason that some module of dht counts, f-strings spelled out."""
    names: set[str] = set()
    for path in (ROOT / "dht").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Subscript(value=ast.Attribute(attr="drops" | "_drops"), slice=reason):
                    names |= spelled_out(reason)
                case ast.Call(func=ast.Name(id="Dropped"), args=[reason]):
                    names |= spelled_out(reason)
                case ast.Call(func=ast.Attribute(attr="_refuse" | "_bad"), args=[reason, *_]):
                    names |= spelled_out(reason)
    return names


def spelled_out(reason: ast.expr) -> set[str]:
    families = {
        "hello-": [each.value for each in HelloFault],
        "answer-": [each.value for each in HelloFault],
        "record-": [each.value for each in RecordFault],
        "ack-": [each.name.lower() for each in Verdict],
    }
    match reason:
        case ast.Constant(value=str() as name):
            return {name}
        case ast.JoinedStr(values=[ast.Constant(value=str() as head), *_]):
            return {head + tail for tail in families[head]}
        case _:
            return set()  # a name that is handed through


def test_document_names_each_counter_of_the_code_and_no_other() -> None:
    text = (ROOT / "docs/protocol/wire.md").read_text().split("## Dropped and counted")[1]
    told = set(re.findall(r"`([a-z-]+)`", text)) - {"shoal status"}
    assert told == counters_in_the_code()


async def test_each_datagram_is_answered_or_counted() -> None:
    node = make_node(limits=StorageLimits(records_max=300))
    await node.listen("127.0.0.1", 0)
    sink = Sink(node)
    flood = Flood(node)
    hand = flood.hand

    def checked(data: bytes, source: Address) -> None:
        sink.sent.clear()
        before = drop_count(node)
        hand(data, source)
        assert sink.sent or drop_count(node) > before, data

    flood.hand = checked  # type: ignore[method-assign]
    for number in range(150):
        flood.of_each_kind(number)
    await node.close()
