"""What strangers and liars get: a counted drop, never more bytes than they sent, never a crash."""

import asyncio
import random

import msgspec
import pytest

from dht import wire
from dht.hello import UNKNOWN_ID, make_hello
from dht.records import ContentPayload, NamePayload, encode_record, sign_record
from dht.seal import SESSION_BYTES, sealer_of
from identity.address import Address
from identity.keys import Identity
from identity.network import Network
from identity.signing import Purpose
from tests.dht.nodes import (
    CONTENT_ID,
    OPEN,
    PRIVATE,
    address_of,
    entry,
    file_payloads,
    make_node,
    nodes_of,
    raw_socket,
    received,
    until,
)

ASKER = Identity.from_seed(b"a" * 32)
DAY_MS = 24 * 3_600_000
ROOM = wire.DATAGRAM_BYTES_MAX


def hello_to(node, identity=ASKER, network=OPEN, purpose=None, nonce=b"n" * 16, **changes):
    """A hello as identity would make it, then changed."""
    target_id = changes.pop("target_id", UNKNOWN_ID)
    hello = make_hello(
        identity, network.network_id, nonce=nonce, dialled=address_of(node), target_id=target_id
    )
    if purpose is not None:
        signature = identity.sign(purpose, network.network_id, b"whatever")
        changes["signature"] = signature
    return msgspec.structs.replace(hello, **changes)


def call(name, *, peer_id=ASKER.peer_id, token=b"", hello=None, body=b"\x90", size=ROOM):
    sender = wire.Sender(peer_id, token, hello)
    return wire.pack_call(random.randbytes(20), name, sender, body, size)


def find_body(key=b"k" * 20):
    return wire.pack_body(wire.FindRecords(key, (1, 2, 3, 4, 5)))


async def settled(node):
    """Return once the node has read everything that was sent to it before: sockets are queues."""
    with raw_socket() as marker:
        seen = node.counters()["datagrams-received"]
        marker.sendto(b"", ("127.0.0.1", node.bound.port))
        await until(lambda: node.counters()["datagrams-received"] > seen)
        drops = node.counters().get("malformed", 0) + node.counters().get("sealed", 0)
        marker.sendto(b"", ("127.0.0.1", node.bound.port))
        await until(
            lambda: node.counters().get("malformed", 0) + node.counters().get("sealed", 0) > drops
        )


async def send(node, *datagrams):
    """Send datagrams from one stranger and return what came back."""
    with raw_socket() as udp:
        for data in datagrams:
            udp.sendto(data, ("127.0.0.1", node.bound.port))
        await settled(node)
        return received(udp)


async def proof_for(node, udp, identity=ASKER):
    """Say a proper hello from a raw socket and return the reply's proof."""
    hello = hello_to(node, identity, nonce=random.randbytes(16))
    data = call(wire.Call.HELLO, peer_id=identity.peer_id, hello=hello)
    udp.sendto(data, ("127.0.0.1", node.bound.port))
    await settled(node)
    [reply] = received(udp)
    proof = wire.read_reply(wire.split_frame(reply).value).proof
    assert proof is not None
    return proof


async def test_two_thousand_random_and_mutated_datagrams_are_drops_and_nothing_escapes():
    rng = random.Random(7)
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    async with nodes_of(2) as nodes:
        good = [
            call(wire.Call.FIND_RECORDS, hello=hello_to(nodes[0]), body=find_body(), size=300),
            call(wire.Call.STORE_RECORDS, token=b"t" * 17, body=b"\x91\x91\xc4\x01r", size=0),
            wire.pack_stock_call(b"m" * 20, wire.Call.FIND_NODE, b"i" * 20, b"k" * 20),
            wire.pack_reply(b"m" * 20, wire.Status.OK, None),
        ]
        with raw_socket() as udp:
            for number in range(2_000):
                if number % 2:
                    data = rng.randbytes(rng.randrange(0, 1_300))
                else:
                    mutated = bytearray(rng.choice(good))
                    for _ in range(rng.randrange(1, 4)):
                        mutated[rng.randrange(len(mutated))] = rng.randrange(256)
                    data = bytes(mutated)
                udp.sendto(data, ("127.0.0.1", nodes[0].bound.port))
                if number % 100 == 99:
                    await settled(nodes[0])
        await nodes[1].publish(file_payloads())
        assert len(await nodes[0].find_content(CONTENT_ID)) == 1
        assert nodes[0].counters()["malformed"] > 900
        assert not errors


async def test_outsider_of_a_private_network_gets_not_one_datagram():
    other = Network("test-private", b"x" * 32)
    async with nodes_of(2, PRIVATE) as [node, _]:
        outsider = sealer_of(other, random.randbytes(SESSION_BYTES))
        answers = await send(
            node,
            call(wire.Call.HELLO, hello=hello_to(node)),
            call(wire.Call.HELLO, hello=hello_to(node, network=PRIVATE)),
            wire.pack_stock_call(b"m" * 20, wire.Call.PING, b"i" * 20),
            outsider.seal(call(wire.Call.HELLO, hello=hello_to(node, network=other), size=1_159)),
            random.randbytes(1_200),
        )
        assert answers == []
        assert node.counters()["sealed"] >= 5


async def test_replayed_sealed_datagram_gets_no_second_answer():
    async with nodes_of(1, PRIVATE) as [node]:
        member = sealer_of(PRIVATE, random.randbytes(SESSION_BYTES))
        data = member.seal(call(wire.Call.HELLO, hello=hello_to(node, network=PRIVATE), size=1_159))
        assert len(data) == ROOM
        assert [len(each) <= ROOM for each in await send(node, data, data)] == [True]
        assert node.counters()["seal-replayed"] == 1


async def test_member_without_the_network_key_of_another_network_is_not_answered_when_open():
    async with nodes_of(1) as [node]:
        foreign = hello_to(node, network=Network("another"))
        assert await send(node, call(wire.Call.HELLO, hello=foreign)) == []
        assert node.counters()["hello-signature"] == 1


@pytest.mark.parametrize("size", [0, 200, 400, 600, 900, 1_200])
async def test_without_a_valid_token_no_reply_is_larger_than_its_request(size):
    async with nodes_of(12) as nodes:
        await nodes[1].publish(file_payloads())
        node = nodes[0]
        # Our answer to a hello is now longer than the shortest hello.
        node.advertise(
            [Address(f"2001:db8:aaaa:bbbb:cccc:dddd:eeee:{n:x}", 65_535) for n in range(4)]
        )
        key = next(iter(node.store.records())).key
        requests = [
            call(name, hello=hello, body=body, size=size)
            for name, body in [
                (wire.Call.FIND_RECORDS, find_body(key)),
                (wire.Call.HELLO, b"\x90"),
                (wire.Call.STORE_RECORDS, b"\x91\x91\xc4\x01r"),
            ]
            for hello in (None, hello_to(node, nonce=random.randbytes(16)))
        ]
        for request in requests:
            for reply in await send(node, request):
                assert len(reply) <= len(request)


async def test_token_is_void_at_another_port_and_for_another_peer():
    async with nodes_of(1) as [node]:
        with raw_socket() as udp:
            proof = await proof_for(node, udp)
        good = call(wire.Call.FIND_RECORDS, token=proof.token, body=find_body(), size=0)
        [reply] = await send(node, good)
        assert wire.read_reply(wire.split_frame(reply).value).status is wire.Status.TOKEN
        with raw_socket() as udp:
            proof = await proof_for(node, udp)
            other = call(wire.Call.HELLO, peer_id=b"o" * 20, token=proof.token, size=0)
            udp.sendto(other, ("127.0.0.1", node.bound.port))
            await settled(node)
            [reply] = received(udp)
            assert wire.read_reply(wire.split_frame(reply).value).status is wire.Status.TOKEN


async def test_bad_hellos_are_counted_drops():
    stranger = Identity.from_seed(b"z" * 32)
    async with nodes_of(1) as [node]:
        good = hello_to(node)
        altered = msgspec.structs.replace(good, nickname="mallory")
        answers = await send(
            node,
            call(wire.Call.HELLO, hello=altered),
            call(wire.Call.HELLO, hello=hello_to(node, purpose=Purpose.RECORD)),
            call(wire.Call.HELLO, hello=hello_to(node, target_id=b"t" * 20)),
            call(wire.Call.HELLO, hello=good, peer_id=stranger.peer_id),
        )
        assert answers == []
        counters = node.counters()
        assert counters["hello-signature"] == 2
        assert counters["hello-target"] == 1
        assert counters["hello-sender"] == 1
        assert len(await send(node, call(wire.Call.HELLO, hello=good))) == 1
        assert await send(node, call(wire.Call.HELLO, hello=good)) == []
        assert node.counters()["hello-replayed"] == 1
        assert len(node.engine.table) == 0, "a hello alone admits nobody"


def record_of(payload, issued_ms, *, identity=ASKER, network=OPEN, **changes) -> bytes:
    record = sign_record(
        identity, network.network_id, payload, sequence=issued_ms, issued_ms=issued_ms
    )
    return encode_record(msgspec.structs.replace(record, **changes))


async def test_bad_records_are_refused_with_a_verdict_and_counted():
    async with nodes_of(1) as [node]:
        now_ms = node.now_ms()
        payload = ContentPayload(CONTENT_ID)
        foreign_purpose = ASKER.sign(Purpose.LETTER, OPEN.network_id, b"x")
        cases = {
            "ok": record_of(payload, now_ms),
            "bad-signature": record_of(payload, now_ms + 1, signature=b"s" * 64),
            "bad-purpose": record_of(payload, now_ms + 2, signature=foreign_purpose),
            "bad-key": record_of(payload, now_ms + 3, key=b"k" * 20),
            "bad-network": record_of(payload, now_ms + 4, network=Network("another")),
            "bad-bytes": b"\x00\x01",
            "stale": record_of(payload, now_ms - 1),
            "clock-ahead": record_of(ContentPayload(b"a" * 32), now_ms + DAY_MS),
            "clock-expired": record_of(ContentPayload(b"e" * 32), now_ms - 2 * DAY_MS),
        }
        with raw_socket() as udp:
            proof = await proof_for(node, udp)
            for name, data in cases.items():
                body = wire.pack_body(wire.StoreRecords((data,)))
                request = call(wire.Call.STORE_RECORDS, token=proof.token, body=body, size=0)
                udp.sendto(request, ("127.0.0.1", node.bound.port))
                await settled(node)
                replies = [each for each in received(udp) if each[0] == 1]
                reply = wire.read_reply(wire.split_frame(replies[0]).value)
                [line] = wire.read_stored(reply.body).verdicts
                expected = {"ok": 0, "stale": 1, "clock": 3, "bad": 4}[name.split("-")[0]]
                assert line.verdict == expected, name
        assert len(node.store) == 1
        assert node.counters()["store-bad-signature"] == 2


async def test_reader_drops_what_a_lying_storer_serves():
    async with nodes_of(3) as nodes:
        await nodes[1].publish(file_payloads())
        honest = nodes[2].engine.desk.find

        def lying(body, asker_id, asker_host, room_bytes):
            found = honest(body, asker_id, asker_host, room_bytes)
            now_ms = nodes[2].now_ms()
            forged = record_of(NamePayload("forged", CONTENT_ID, 1), now_ms, signature=b"s" * 64)
            unasked = record_of(NamePayload("unasked", CONTENT_ID, 1), now_ms)
            return wire.FoundRecords((forged, unasked, b"junk"), b"", found.contacts)

        nodes[2].engine.desk.find = lying
        found = await nodes[0].find_name("blue whale song.txt")
        assert [each.publisher for each in found] == [nodes[1].peer_id]
        counters = nodes[0].counters()
        assert counters["record-unasked"] >= 1
        assert counters["record-malformed"] >= 1


@pytest.mark.parametrize("lie", ["signature", "other-records", "other-message", "other-asker"])
async def test_forged_acknowledgement_is_not_counted(lie):
    async with nodes_of(3) as nodes:
        desk = nodes[2].engine.desk
        honest = desk.acknowledge

        def lying(encoded, stored, requester_id, message_id):
            match lie:
                case "signature":
                    answer = honest(encoded, stored, requester_id, message_id)
                    return msgspec.structs.replace(answer, signature=b"s" * 64)
                case "other-records":
                    encoded = [each + b"x" for each in encoded]
                case "other-message":
                    message_id = b"m" * 20
                case _:
                    requester_id = b"r" * 20
            return honest(encoded, stored, requester_id, message_id)

        desk.acknowledge = lying
        report = await nodes[1].publish(file_payloads())
        assert set(report.stored_on) == {1}, (report, nodes[0].counters(), nodes[1].counters())


async def test_answer_from_another_address_is_not_believed():
    async with nodes_of(1) as [node]:
        with raw_socket() as asked, raw_socket() as liar:
            task = asyncio.create_task(
                node.hello_address(Address(*asked.getsockname()), timeout_s=0.3)
            )
            requests: list[bytes] = []
            await until(lambda: bool(requests) or bool(requests.extend(received(asked))))
            message_id = requests[0][1:21]
            reply = wire.pack_reply(message_id, wire.Status.OK, None)
            liar.sendto(reply, ("127.0.0.1", node.bound.port))
            await until(lambda: node.counters().get("wrong-address", 0) == 1)
            liar.sendto(
                wire.pack_reply(b"u" * 20, wire.Status.OK, None), ("127.0.0.1", node.bound.port)
            )
            await until(lambda: node.counters().get("unasked", 0) == 1)
            assert await task is None


async def test_cancelled_call_and_a_late_answer_break_nothing():
    async with nodes_of(1) as [node]:
        with raw_socket() as asked:
            task = asyncio.create_task(node.engine.caller.hello(Address(*asked.getsockname())))
            requests: list[bytes] = []
            await until(lambda: bool(requests) or bool(requests.extend(received(asked))))
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            late = wire.pack_reply(requests[0][1:21], wire.Status.OK, None)
            asked.sendto(late, ("127.0.0.1", node.bound.port))
            await until(lambda: node.counters().get("unasked", 0) == 1)


async def test_misspelt_method_is_an_attribute_error():
    async with nodes_of(1) as [node]:
        with pytest.raises(AttributeError, match="find_nodes"):
            node.engine.protocol.find_nodes(("127.0.0.1", 1))


async def test_flood_of_hellos_from_one_source_is_limited():
    async with nodes_of(1) as [node]:
        burst = int(node.config.limits.hellos.burst_max)
        with raw_socket() as udp:
            for number in range(burst + 50):
                hello = hello_to(node, nonce=number.to_bytes(16, "big"), signature=b"s" * 64)
                udp.sendto(call(wire.Call.HELLO, hello=hello), ("127.0.0.1", node.bound.port))
                if number % 50 == 49:
                    await settled(node)
        assert node.counters()["hello-rate"] >= 20


async def test_loopback_contacts_are_not_told_to_strangers_from_afar():
    async with nodes_of(3) as nodes:
        desk = nodes[0].engine.desk
        body = wire.FindRecords(b"k" * 20)
        near = desk.find(body, b"a" * 20, "127.0.0.1", 1_000)
        far = desk.find(body, b"a" * 20, "192.168.7.7", 1_000)
        assert len(near.contacts) == 2
        assert far.contacts == ()
        nodes[1].advertise([Address("192.168.7.1", 4100)])
        await nodes[0].hello_address(address_of(nodes[1]))
        far = desk.find(body, b"a" * 20, "192.168.7.7", 1_000)
        assert [each[20:25] for each in far.contacts] == [bytes([4, 192, 168, 7, 1])]


async def test_records_of_long_names_travel_page_by_page():
    async with nodes_of(2) as nodes:
        names = [f"{number:02} song " + "\u00fc" * 120 for number in range(12)]
        assert all(len(name.encode()) <= 255 for name in names)
        for number, name in enumerate(names):
            await nodes[1].publish(file_payloads(name, bytes([number]) * 32))
        nodes[0].store._shelves.clear()
        hits = await nodes[0].search(["song"], limit=50)
        assert [hit.filename for hit in hits] == names


async def test_joining_takes_few_datagrams():
    async with nodes_of(2) as nodes:
        late = make_node()
        await late.listen("127.0.0.1", 0)
        try:
            await late.bootstrap(entry(nodes[0]))
            await until(lambda: len(nodes[1].engine.table) == 2)
            assert late.counters()["datagrams-sent"] < 20
        finally:
            await late.close()
