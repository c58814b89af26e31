"""The parts that a running peer and a short-lived client have in common, built in one place.

Owns their construction and their end: identity, network, database, DHT node, channels. Must not
know services, shares or mail.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import grpc

from dht.config import DhtConfig
from dht.node import DhtNode
from dht.storage import StorageLimits
from identity.address import Address
from identity.keys import Identity
from identity.network import NetworkFile
from identity.tls import TlsMaterial, load_or_create_tls, make_tls
from peer.catalog import Catalog
from peer.config import Config
from peer.contacts import Contacts
from peer.database import Database
from peer.finding import Holder, merge_holders
from peer.home import Home
from peer.memory import DhtMemory
from peer.paces import Paces, rpc_limits
from peer.reaching import whereabouts
from rpc.channels import ChannelPool
from rpc.errors import RpcError
from rpc.listener import RpcListener

CONNECT_TIMEOUT_S = 5.0


@dataclasses.dataclass(slots=True)
class Core:
    """One member of a network, without any service of its own."""

    home: Home
    config: Config
    file: NetworkFile
    identity: Identity
    tls: TlsMaterial
    database: Database
    catalog: Catalog
    contacts: Contacts
    dht: DhtNode
    channels: ChannelPool
    paces: Paces
    """Bytes a second to others and from others."""

    @classmethod
    def of_peer(
        cls,
        home: Home,
        config: Config,
        file: NetworkFile,
        nickname: str,
        records: StorageLimits | None = None,
    ) -> Core:
        """Build the core of a running peer: the home's key, certificate and memory."""
        identity = Identity.load_or_create(home.key_path)
        tls = load_or_create_tls(home.path, identity, file.network)
        database = Database(home.db_path)
        dht = DhtNode(
            identity,
            file.network,
            nickname=nickname,
            persistence=DhtMemory(database),
            limits=records,
        )
        core = cls._with(home, config, file, identity, tls, database, dht)
        dht.use_tcp(core.listens)
        return core

    @classmethod
    def of_client(cls, home: Home, config: Config, file: NetworkFile) -> Core:
        """Build the core of a short-lived client: a key of the moment, in nobody's table."""
        identity = Identity.generate()
        tls = make_tls(identity, file.network)
        database = Database(home.db_path)
        dht = DhtNode(identity, file.network, nickname="client", config=DhtConfig(client=True))
        return cls._with(home, config, file, identity, tls, database, dht)

    @classmethod
    def _with(
        cls,
        home: Home,
        config: Config,
        file: NetworkFile,
        identity: Identity,
        tls: TlsMaterial,
        database: Database,
        dht: DhtNode,
    ) -> Core:
        channels = ChannelPool(tls, file.network, rpc_limits(config.transfer))
        dht.use_grpc(channels.connect)
        return cls(
            home=home,
            config=config,
            file=file,
            identity=identity,
            tls=tls,
            database=database,
            catalog=Catalog(database),
            contacts=Contacts(database),
            dht=dht,
            channels=channels,
            paces=Paces.of(config.transfer),
        )

    def listener(self) -> RpcListener:
        """Return a listener as this peer is known and limited."""
        return RpcListener(self.tls, self.file.network, rpc_limits(self.config.transfer))

    async def close(self) -> None:
        """End channels, the DHT node and the database, in this order."""
        await self.channels.close()
        await self.dht.close()
        self.database.close()

    # Reaching peers

    async def listens(self, peer_id: bytes, address: Address) -> bool:
        """Tell whether this very peer takes TLS connections at an address."""
        try:
            return await self.channels.probe(address) == peer_id
        except RpcError:
            return False

    async def locate(self, peer_id: bytes, hints: Sequence[Address] = ()) -> tuple[Address, ...]:
        """Return the address at which this very peer answers now, or nothing.

        Ourselves we reach where the hints say.
        """
        if peer_id == self.identity.peer_id:
            return tuple(hints)
        found = await whereabouts(self.dht, peer_id, hints)
        return () if found is None else (found,)

    async def connect(
        self,
        peer_id: bytes,
        addresses: Sequence[Address] = (),
        *,
        timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> grpc.aio.Channel:
        """Return a channel to a peer; raises RpcError (Unreachable, ForeignNetwork, WrongPeer).

        A contact may have moved since it last answered: where it cannot be reached, it is sought
        once more elsewhere.
        """
        located = await self.locate(peer_id, addresses)
        try:
            return await self.channels.connect(peer_id, located, timeout_s=timeout_s)
        except RpcError:
            if not located or peer_id == self.identity.peer_id:
                raise
            found = await whereabouts(self.dht, peer_id, addresses, avoid=located)
            if found is None:
                raise
        return await self.channels.connect(peer_id, [found], timeout_s=timeout_s)

    async def holders_of_content(self, content_id: bytes) -> tuple[Holder, ...]:
        """Ask the DHT who has a content."""
        found = await self.dht.find_content(content_id)
        return merge_holders(
            [Holder(item.record.publisher, item.payload.addresses) for item in found]
        )
