"""Members of one network inside the test's process: real DHT nodes and databases, no services."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from dht.config import DhtConfig
from dht.node import DhtNode
from identity.address import Address
from identity.network import BootstrapNode, Network, NetworkFile
from peer.background import Background
from peer.config import Config
from peer.core import Core
from peer.fetching import Fetching
from peer.home import Home
from peer.memory import DhtMemory
from peer.serving import Offered
from peer.sharing import Sharing
from rpc.caller import caller_of
from rpc.listener import RpcListener
from transfer.service import ServiceConfig, TransferService

NETWORK = Network("peer-tests", b"p" * 32)
QUICK = DhtConfig(handoff_s=0.02, bootstrap_retry_min_s=0.1, flush_s=0.1)


@contextlib.asynccontextmanager
async def cores_of(folder: Path, *nicknames: str) -> AsyncIterator[list[Core]]:
    """Run a core for each nickname; all joined through the first."""
    cores: list[Core] = []
    try:
        for nickname in nicknames:
            cores.append(await _core(folder / nickname, nickname))
            if len(cores) > 1:
                await cores[-1].dht.bootstrap([BootstrapNode(address_of(cores[0]))])
        yield cores
    finally:
        for core in cores:
            await core.close()


def address_of(core: Core) -> Address:
    return Address("127.0.0.1", core.dht.bound.port)


async def _core(folder: Path, nickname: str) -> Core:
    home = Home(folder)
    home.ensure()
    core = Core.of_peer(home, Config(), NetworkFile(NETWORK, ()), nickname)
    core.dht = DhtNode(
        core.identity,
        NETWORK,
        nickname=nickname,
        config=QUICK,
        persistence=DhtMemory(core.database),
    )
    await core.dht.listen("127.0.0.1", 0)
    core.dht.advertise([address_of(core)])
    return core


@contextlib.asynccontextmanager
async def serving(core: Core, upload_bytes_per_s: int | None = None) -> AsyncIterator[Sharing]:
    """Let others fetch what this core shares."""
    sharing = Sharing(core)
    sharing.advertise([address_of(core)])
    background = Background()
    service = TransferService(
        Offered(core.catalog, Fetching(core), sharing, background),
        lambda context: caller_of(context, NETWORK),
        config=ServiceConfig(upload_bytes_per_s=upload_bytes_per_s),
    )
    listener = RpcListener(core.tls, NETWORK)
    listener.add(service.handler())
    await listener.start("127.0.0.1", core.dht.bound.port)
    try:
        yield sharing
    finally:
        await listener.stop(0.1)
        await background.close()


class Heard:
    """What a command said."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    async def emit(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def of(self, kind: str) -> list[Any]:
        return [event.get(kind, event) for event in self.events if event["event"] == kind]
