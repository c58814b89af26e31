"""A mailbox host that lies: a member of the network in this process, the sender a real one.

The host keeps mail as any other, but hands out whatever receipts the test gives it. Only the
recipient's own receipt for this very delivery may end it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from dht.node import DhtNode
from identity.address import Address
from identity.keys import Identity, show_peer_id
from identity.network import NetworkFile, parse_network_file
from identity.tls import make_tls
from queueing.envelope import OuterManifest
from queueing.mailbox_service import MailboxHooks, MailboxService
from queueing.receipt import Outcome, make_receipt
from queueing.spool import Spool
from queueing.spool_index import SpoolConfig
from rpc.caller import caller_of
from rpc.listener import RpcListener
from tests.support.deliveries import send, write_file
from tests.support.processes import PeerProcess, joined

FIELDS = (0, 16, 47, 48, 64, 96, 116, 147, 148, 149, 156, 157, 158, 200, -1)
"""One byte of each field at least: magic, ids, key, outcome, time, length, signature."""


class LyingSpool(Spool):
    """Keeps deliveries honestly, and answers for receipts with what it is told to."""

    to_give: deque[bytes]

    async def receipts(self, sender: bytes, delivery_ids: Sequence[bytes]) -> list[bytes]:
        """As many as are asked for: of more than that the sender would not even look at."""
        count = min(len(delivery_ids), len(self.to_give))
        return [self.to_give.popleft() for _ in range(count)]


@dataclasses.dataclass
class LyingHost:
    """The host in this process, and what it saw."""

    identity: Identity
    network_id: bytes
    spool: LyingSpool

    async def manifest_of(self, delivery: dict[str, Any]) -> OuterManifest:
        manifest = await self.spool.manifest(bytes.fromhex(delivery["delivery_id"]))
        assert manifest is not None, "the host has it"
        return manifest

    async def lie_to(self, sender: PeerProcess, receipts: Sequence[bytes]) -> list[str]:
        """Hand these out as the sender asks for receipts; return what its outbox says then."""
        self.spool.to_give.extend(receipts)
        states: list[str] = []
        while not states or self.spool.to_give:
            states = await asyncio.to_thread(_states, sender)
        return states


@asynccontextmanager
async def lying_host(folder: Path, file: NetworkFile) -> AsyncIterator[LyingHost]:
    identity, network = Identity.generate(), file.network
    async with AsyncExitStack() as closing:
        node = DhtNode(identity, network, nickname="liar")
        spool = LyingSpool(folder, network.network_id, SpoolConfig(), node.now_ms)
        spool.to_give = deque()
        closing.push_async_callback(spool.close)
        service = MailboxService(
            spool,
            identity,
            network.network_id,
            lambda context: caller_of(context, network).peer_id,
            MailboxHooks(
                accepts=lambda _sender, _recipient: True,
                on_held=lambda _recipient, _expires_ms: None,
                on_nudge=lambda _host: None,
                on_receipt=_not_ours,
            ),
            wall_ms=node.now_ms,
        )
        listener = RpcListener(make_tls(identity, network), network)
        listener.add(service.handler())
        port = await listener.start("127.0.0.1", 0)
        closing.push_async_callback(listener.stop)
        await node.listen("127.0.0.1", port)
        closing.push_async_callback(node.close)
        node.advertise([Address("127.0.0.1", port)])
        assert await node.bootstrap(file.bootstrap)
        yield LyingHost(identity, network.network_id, spool)


async def _not_ours(_receipt: bytes) -> bool:
    return False


async def test_no_receipt_but_the_recipients_own_for_this_delivery_ends_it(tmp_path: Path) -> None:
    with joined(tmp_path, "ada", "bob") as (ada, bob):
        file = parse_network_file((tmp_path / "network.json").read_bytes())
        assert await asyncio.to_thread(bob.terminate) == 0
        recipient = Identity.load_or_create(bob.home / "identity.key")
        async with lying_host(tmp_path / "liar", file) as host:
            source = write_file(tmp_path, "under dispute", 1000)
            one = await asyncio.to_thread(send, ada, source, bob.id)
            other = await asyncio.to_thread(send, ada, source, bob.id)
            assert one["held_by"] == other["held_by"] == [show_peer_id(host.identity.peer_id)]
            manifest = await host.manifest_of(one)
            genuine = receipt(recipient, host.network_id, manifest)
            lies = {
                "altered": [_altered(genuine, at) for at in FIELDS],
                "cut and long": [genuine[:-1], genuine + b"x", b"", genuine * 2],
                "by another key": [receipt(host.identity, host.network_id, manifest)],
                "of another network": [receipt(recipient, bytes(32), manifest)],
                "of a delivery that is not there": [
                    receipt(recipient, host.network_id, manifest, delivery_id=bytes(32))
                ],
                "the other's with this one's id": [
                    _other_id(receipt(recipient, host.network_id, await host.manifest_of(other)),
                              await host.manifest_of(other), manifest)
                ],
            }  # fmt: skip
            for what, receipts in lies.items():
                assert await host.lie_to(ada, receipts) == ["stored", "stored"], what
            status = (await asyncio.to_thread(ada.json, "status"))[0]
            # Three name a delivery that is not there, which is nothing to hold against anybody.
            assert status["drops"]["bad-receipts"] == sum(map(len, lies.values())) - 3

            # The receipt of the other delivery, untouched, ends the other alone.
            others = receipt(recipient, host.network_id, await host.manifest_of(other))
            assert await host.lie_to(ada, [others, others]) == ["stored", "delivered"]
            assert await host.lie_to(ada, [genuine]) == ["delivered", "delivered"]


def receipt(
    signer: Identity, network_id: bytes, manifest: OuterManifest, delivery_id: bytes | None = None
) -> bytes:
    return make_receipt(
        signer,
        network_id,
        delivery_id=delivery_id or manifest.delivery_id,
        seal_id=manifest.seal_id,
        content_id=bytes(32),
        sender_id=manifest.sender,
        outcome=Outcome.DELIVERED,
        at_ms=manifest.created_ms + 1,
    )


def _altered(data: bytes, at: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _other_id(data: bytes, own: OuterManifest, other: OuterManifest) -> bytes:
    assert data.count(own.delivery_id) == 1
    return data.replace(own.delivery_id, other.delivery_id)


def _states(peer: PeerProcess) -> list[str]:
    return [row["state"] for row in peer.json("outbox")]
