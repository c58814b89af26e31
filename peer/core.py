"""The parts that a running peer and a short-lived client have in common, built in one place.

Owns their construction and their end: identity, network, database, DHT node, channels. Must not
know services, shares or mail.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

import grpc

from dht.config import DhtConfig
from dht.node import DhtNode
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
from rpc.channels import ChannelPool

HELLO_TIMEOUT_S = 1.5
AWAY_HELLO_TIMEOUT_S = 0.5
CONNECT_TIMEOUT_S = 5.0
HINTS_MAX = 8


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

    @classmethod
    def of_peer(cls, home: Home, config: Config, file: NetworkFile, nickname: str) -> Core:
        """Build the core of a running peer: the home's key, certificate and memory."""
        identity = Identity.load_or_create(home.key_path)
        tls = load_or_create_tls(home.path, identity, file.network)
        database = Database(home.db_path)
        dht = DhtNode(identity, file.network, nickname=nickname, persistence=DhtMemory(database))
        return cls._with(home, config, file, identity, tls, database, dht)

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
        channels = ChannelPool(tls, file.network)
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
        )

    async def close(self) -> None:
        """End channels, the DHT node and the database, in this order."""
        await self.channels.close()
        await self.dht.close()
        self.database.close()

    # Reaching peers

    async def locate(self, peer_id: bytes, hints: Sequence[Address] = ()) -> tuple[Address, ...]:
        """Return the addresses at which this very peer answered a hello, the best first.

        Addresses in records are hints from others: none is dialled over TCP before the peer has
        proved over UDP that it is there, so that records cannot turn us against a third party.
        """
        if peer_id == self.identity.peer_id:
            return tuple(hints)
        for contact in self.dht.contacts():
            if contact.peer_id == peer_id and contact.alive:
                return (contact.address,)
        tried: set[Address] = set()
        found = await self._greet(peer_id, hints, tried)
        if not found:
            published = await self.dht.find_peer(peer_id)
            if published is not None:
                # A peer that took its leave may be back, but is not worth a long wait.
                is_away = published.payload.here_until_ms <= self.dht.now_ms()
                timeout_s = AWAY_HELLO_TIMEOUT_S if is_away else HELLO_TIMEOUT_S
                found = await self._greet(peer_id, published.payload.addresses, tried, timeout_s)
        return found

    async def connect(
        self,
        peer_id: bytes,
        addresses: Sequence[Address] = (),
        *,
        timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> grpc.aio.Channel:
        """Return a channel to a peer; raises RpcError (Unreachable, ForeignNetwork, WrongPeer)."""
        located = await self.locate(peer_id, addresses)
        return await self.channels.connect(peer_id, located, timeout_s=timeout_s)

    async def holders_of_content(self, content_id: bytes) -> tuple[Holder, ...]:
        """Ask the DHT who has a content."""
        found = await self.dht.find_content(content_id)
        return merge_holders(
            [Holder(item.record.publisher, item.payload.addresses) for item in found]
        )

    async def _greet(
        self,
        peer_id: bytes,
        hints: Sequence[Address],
        tried: set[Address],
        timeout_s: float = HELLO_TIMEOUT_S,
    ) -> tuple[Address, ...]:
        fresh = [hint for hint in dict.fromkeys(hints) if hint not in tried][:HINTS_MAX]
        tried.update(fresh)
        if not fresh:
            return ()

        async def greet(address: Address) -> Address | None:
            contact = await self.dht.hello_address(address, timeout_s=timeout_s)
            return address if contact is not None and contact.peer_id == peer_id else None

        greetings = [asyncio.ensure_future(greet(address)) for address in fresh]
        try:
            for next_done in asyncio.as_completed(greetings):
                address = await next_done
                if address is not None:
                    return (address,)
            return ()
        finally:
            for greeting in greetings:
                greeting.cancel()
            await asyncio.gather(*greetings, return_exceptions=True)
