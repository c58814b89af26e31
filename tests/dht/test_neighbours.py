"""Records move with the neighbourhood of their key: whoever goes is replaced as a storer."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest

from dht.lookup import LookupConfig
from dht.node import DhtNode
from dht.records import ContentPayload
from dht.routing import TableConfig
from identity.address import Address
from tests.dht.nodes import CONFIG, address_of, nodes_of, until

COPIES = 2
IMPATIENT = replace(
    CONFIG,
    lookup=LookupConfig(k=COPIES),
    table=TableConfig(failures_max=1, failures_replaced_max=1, failure_spacing_s=0.0),
    resend_s=0.5,
    call_timeout_s=1.5,  # a busy machine answers within it, and one test waits it out
)
PAYLOADS = [ContentPayload(number.to_bytes(32, "big")) for number in range(30)]


def copies(nodes: Sequence[DhtNode]) -> Counter[bytes]:
    return Counter(key for node in nodes for key in set(node.store.keys()))


@pytest.mark.parametrize("says_farewell", [False, True])
async def test_storer_that_goes_is_replaced_and_no_expiry_grows(says_farewell: bool) -> None:
    async with nodes_of(8, config=IMPATIENT) as nodes:
        for node in nodes:
            for other in nodes:
                await node.hello_address(address_of(other))
        assert all(len(node.engine.table) == 7 for node in nodes)
        owner, gone, *others = nodes
        await owner.publish(PAYLOADS)
        left = [owner, *others]
        expiries = {each.key: each.expires_ms for node in nodes for each in node.store.records()}
        held = set(gone.store.keys())
        assert held, "it stores something by chance: one key in four"
        if says_farewell:
            for node in left:
                node.engine.membership.on_farewell(gone.peer_id)
        await gone.close()
        if not says_farewell:
            for node in left:
                await node.check([gone.peer_id], timeout_s=0.1)
        await until(lambda: min(copies(left)[key] for key in held) >= COPIES)
        for node in left:
            for record in node.store.records():
                assert record.expires_ms == expiries[record.key]
        assert sum(copies(left).values()) <= 4 * COPIES * len(PAYLOADS), "no flood"


async def test_token_that_ran_out_costs_no_refused_round() -> None:
    async with nodes_of(2) as nodes:
        await until(lambda: all(len(node.engine.table) == 1 for node in nodes))
        asker = nodes[0]
        caller = asker.engine.caller

        async def cost() -> int:
            before = asker.counters()["datagrams-sent"]
            await asker.check()
            return asker.counters()["datagrams-sent"] - before

        assert await cost() == 1
        for address, session in list(caller._sessions.items()):
            caller._sessions[address] = msgspec.structs.replace(session, since=-1e9)
        assert await cost() == 1, "a hello at once"


async def test_contact_that_asks_us_is_heard_and_a_stranger_in_its_place_is_not() -> None:
    async with nodes_of(2) as nodes:
        await until(lambda: all(len(node.engine.table) == 1 for node in nodes))
        table = nodes[0].engine.table
        known = table.contact(nodes[1].peer_id)
        assert known is not None
        known.last_heard = None
        table.heard(known.peer_id, replace_port(known.address), 5.0)
        assert known.last_heard is None
        await nodes[1].check()
        assert known.last_heard is not None


def replace_port(address: Address) -> Address:
    return Address(address.host, address.port % 65_535 + 1)
