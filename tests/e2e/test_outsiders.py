"""Whoever is not a member: strangers, foreign keys, noise; and stock Kademlia nodes, who may."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from kademlia.network import Server
from kademlia.node import Node
from kademlia.routing import KBucket, RoutingTable

from dht.errors import DhtError
from dht.node import DhtNode
from identity.address import Address
from identity.keys import Identity
from identity.network import Network, parse_network_file
from identity.tls import make_tls
from peer.node import Peer, run_peer
from peer.options import JoinOptions
from rpc.channels import ChannelPool
from rpc.errors import ForeignNetwork, RpcError
from tests.support.processes import PeerProcess, joined

Peers = list[PeerProcess]
SERVICES = (
    "/shoal.v1.Transfer/Describe",
    "/shoal.v1.Transfer/Have",
    "/shoal.v1.Mailbox/Collect",
    "/shoal.v1.Dht/StoreRecords",
)


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    with joined(tmp_path_factory.mktemp("private"), "ada", "bob") as peers:
        (peers[0].folder / "treasure.txt").write_text("gold")
        peers[0].json("put", "treasure.txt")
        yield peers


@pytest.fixture(scope="module")
def open_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    with joined(tmp_path_factory.mktemp("open"), "ada", "bob", is_open=True) as peers:
        yield peers


def network_of(peers: Peers) -> Network:
    return parse_network_file((peers[0].folder.parent / "network.json").read_bytes()).network


def address_of(peer: PeerProcess) -> Address:
    return Address.parse(peer.address)


def drops_of(peer: PeerProcess) -> dict[str, int]:
    found: dict[str, int] = peer.json("status")[0]["drops"]
    return found


@contextlib.contextmanager
def listening_socket() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        yield udp


def answers(udp: socket.socket) -> list[bytes]:
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(udp.recv(65_536))
    return found


def still_works(asker: PeerProcess) -> None:
    """The whole way still works: a search and a get over both ports."""
    assert [hit["name"] for hit in asker.json("search", "treasure")] == ["treasure.txt"]
    [result] = asker.json("get", "treasure.txt", "--no-share", "--overwrite")
    assert Path(result["path"]).read_text() == "gold"


class Tap(asyncio.DatagramProtocol):
    """Hands datagrams on in both directions, and counts those that come back."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.asker: Any = None
        self.there: list[bytes] = []
        self.back: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, source: Any) -> None:
        if source == self.target:
            self.back.append(data)
            self.transport.sendto(data, self.asker)
        else:
            self.there.append(data)
            self.asker = source
            self.transport.sendto(data, self.target)


@contextlib.asynccontextmanager
async def tap(peer: PeerProcess) -> AsyncIterator[tuple[Tap, Address]]:
    loop = asyncio.get_running_loop()
    target = address_of(peer)
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: Tap((target.host, target.port)), local_addr=("127.0.0.1", 0)
    )
    try:
        yield protocol, Address("127.0.0.1", transport.get_extra_info("sockname")[1])
    finally:
        transport.close()


@pytest.mark.parametrize(
    "network",
    [Network("test", b"k" * 32), Network("test"), Network("other")],
    ids=["another key", "no key", "another name"],
)
async def test_peer_of_another_network_gets_not_one_datagram_of_answer(
    private: Peers, network: Network
) -> None:
    ada, bob = private
    before = await asyncio.to_thread(drops_of, ada)
    stranger = DhtNode(Identity.generate(), network, nickname="stranger")
    await stranger.listen("127.0.0.1", 0)
    try:
        async with tap(ada) as (tapped, address):
            assert await stranger.hello_address(address, timeout_s=1.0) is None
            assert tapped.there, "it did ask"
            assert tapped.back == []
    finally:
        await stranger.close()
    after = await asyncio.to_thread(drops_of, ada)
    assert after["sealed"] >= before.get("sealed", 0) + len(tapped.there)
    assert await asyncio.to_thread(bob.json, "peers")


async def test_member_does_get_answers_through_the_same_tap(private: Peers) -> None:
    """The test above can fail."""
    guest = DhtNode(Identity.generate(), network_of(private), nickname="guest")
    await guest.listen("127.0.0.1", 0)
    try:
        async with tap(private[0]) as (tapped, address):
            with contextlib.suppress(DhtError):
                await guest.hello_address(address, timeout_s=1.0)
            assert tapped.back
    finally:
        await guest.close()


@pytest.mark.parametrize("network", [Network("test", b"k" * 32), Network("test")])
async def test_peer_of_another_network_gets_no_rpc(private: Peers, network: Network) -> None:
    ada, _ = private
    identity = Identity.generate()
    pool = ChannelPool(make_tls(identity, network), network)
    try:
        with pytest.raises(ForeignNetwork):
            await pool.probe(address_of(ada))
        with pytest.raises(RpcError):
            await pool.connect(b"x" * 20, [address_of(ada)])
    finally:
        await pool.close()


@pytest.mark.parametrize("shown", ["foreign certificate", "no certificate", "member's"])
async def test_call_without_a_certificate_of_the_network_reaches_no_service(
    private: Peers, shown: str
) -> None:
    ada, bob = private
    leaf = await _leaf_of(address_of(ada))
    foreign = Network("test", b"k" * 32)
    own = make_tls(Identity.generate(), foreign if shown[0] == "f" else network_of(private))
    pair = (None, None) if shown[0] == "n" else (own.private_key_pem, own.certificate_pem)
    credentials = grpc.ssl_channel_credentials(leaf, *pair)
    name = f"{ada.id}.shoal"
    options = [("grpc.ssl_target_name_override", name), ("grpc.enable_http_proxy", 0)]
    async with grpc.aio.secure_channel(ada.address, credentials, options) as channel:
        for method in SERVICES:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary(method)(b"", timeout=5)
            is_cut = refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert is_cut == (shown != "member's"), (method, refused.value.code())
    await asyncio.to_thread(still_works, bob)


async def _leaf_of(address: Address) -> bytes:
    """The leaf that a listener shows before it has seen ours."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
    return ssl.DER_cert_to_PEM_cert(der).encode()


def test_noise_on_both_ports_is_counted_and_harms_nobody(private: Peers) -> None:
    ada, bob = private
    address = address_of(ada)
    before = drops_of(ada)
    with listening_socket() as udp:
        for size in (0, 1, 20, 21, 24, 60, 200, 1199, 1200, 1201, 9000):
            for _ in range(20):
                udp.sendto(os.urandom(size), (address.host, address.port))
        for size in (0, 1, 100, 100_000):
            with (
                contextlib.suppress(OSError),
                socket.create_connection((address.host, address.port), timeout=5) as stream,
            ):
                stream.sendall(os.urandom(size))
                stream.shutdown(socket.SHUT_WR)
        still_works(bob)
        assert answers(udp) == []
    after = drops_of(ada)
    dropped = after["sealed"] - before.get("sealed", 0)
    assert dropped >= 10 * 20  # an empty datagram may be none at all
    assert ada.json("status")[0]["pid"] == ada.pid


def test_connections_that_say_nothing_do_not_keep_members_out(private: Peers) -> None:
    ada, bob = private
    address = address_of(ada)
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(socket.create_connection((address.host, address.port), timeout=5))
        still_works(bob)


def test_stock_server_bootstraps_through_a_peer_and_keeps_it(open_network: Peers) -> None:
    ada, bob = open_network

    async def run() -> None:
        server = Server()
        with listening_socket() as udp:
            port = udp.getsockname()[1]
        await server.listen(port, interface="127.0.0.1")
        try:
            address = address_of(ada)
            found = await server.bootstrap([(address.host, address.port)])
            assert {node.port for node in found} == {address.port, address_of(bob).port}
            assert await server.set("colour", "green")
            await server.get("nothing there")
            routed = {n.port for b in server.protocol.router.buckets for n in b.get_nodes()}
            assert routed == {address.port, address_of(bob).port}
        finally:
            server.stop()

    asyncio.run(run())
    (ada.folder / "after.txt").write_text("still fine")
    assert ada.json("put", "after.txt")[0]["stored_on"] == 1  # bob; never the stock node
    assert [hit["name"] for hit in bob.json("search", "after")] == ["after.txt"]
    assert [peer["id"] for peer in ada.json("peers")] == [bob.id]


def test_random_bytes_harm_no_open_network_either(open_network: Peers) -> None:
    ada, bob = open_network
    address = address_of(ada)
    with listening_socket() as udp:
        for size in (1, 21, 22, 40, 200, 1200):
            for kind in (b"\x00", b"\x01", b"\x02"):
                data = kind + os.urandom(size)
                udp.sendto(data, (address.host, address.port))
        assert bob.json("peers")[0]["state"] == "active"
        assert sum(map(len, answers(udp))) <= 18 * 1200
    assert ada.json("status")[0]["pid"] == ada.pid


async def test_running_peer_keeps_kademlia_nodes_in_kademlia_buckets(
    open_network: Peers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer that `shoal join` runs, in this process, joined to one that is a process."""
    running: list[Peer] = []
    start = Peer.start

    async def note_and_start(self: Peer) -> None:
        running.append(self)
        await start(self)

    monkeypatch.setattr(Peer, "start", note_and_start)
    observer = QuietObserver()
    options = JoinOptions(
        home=tmp_path / "home",
        network_file=open_network[0].folder.parent / "network.json",
        listen=Address("127.0.0.1", 0),
        nickname="inside",
    )
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        ending = group.create_task(run_peer(options, observer))
        await observer.is_ready.wait()
        table = running[0].core.dht.engine.protocol.router
        assert isinstance(table, RoutingTable)
        assert type(table) is not RoutingTable
        assert all(isinstance(bucket, KBucket) for bucket in table.buckets)
        assert all(type(bucket) is not KBucket for bucket in table.buckets)
        held = [node for bucket in table.buckets for node in bucket.get_nodes()]
        assert len(held) >= 2
        assert all(isinstance(node, Node) for node in held)
        observer.leaving.set()
    assert ending.result() == 0


class QuietObserver:
    """Hears of a peer and shows nothing."""

    is_watched = False

    def __init__(self) -> None:
        self.leaving = asyncio.Event()
        self.is_ready = asyncio.Event()

    def watch(self, snapshot: object) -> None:
        pass

    def ready(self, peer_id: str, address: str, invite: str | None) -> None:
        self.is_ready.set()

    def note(self, text: str, hint: str = "") -> None:
        pass
