"""Mailbox hosts as real processes, and the store of a peer that uses them."""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from console.stage import free_port
from identity.address import Address
from identity.keys import Identity, parse_peer_id
from identity.tls import make_tls
from queueing.errors import NoMailbox, QueueError, TooLarge, Unavailable
from queueing.journal import Journal
from queueing.mailbox_client import Host
from queueing.mailbox_store import MailboxStore, MailboxStoreConfig
from rpc.channels import ChannelPool
from tests.queueing.letters import NETWORK, NETWORK_ID

SCRIPT = Path(__file__).with_name("mailbox_host.py")
SENDER_LIMIT_BYTES = 8 * 1024 * 1024
DELIVERY_BYTES_MAX = 9 * 1024 * 1024


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class HostProcess:
    """One host; `kill` and `start` are a crash and a restart in the same folder and port."""

    folder: Path
    seed: str
    port: int = 0
    peer_id: bytes = b""
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the process; `wait_ready` returns when it serves."""
        arguments = [self.folder, self.seed, self.port, SENDER_LIMIT_BYTES, DELIVERY_BYTES_MAX]
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_ready(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        peer_id, port = self.process.stdout.readline().split()
        self.peer_id, self.port = parse_peer_id(peer_id), int(port)

    def kill(self) -> None:
        if self.process is not None:
            with self.process:
                self.process.kill()
            self.process = None

    @property
    def host(self) -> Host:
        return Host(self.peer_id, (Address("127.0.0.1", self.port),))


@dataclass
class ListedHosts:
    """A `HostFinder` over a fixed list."""

    hosts: list[HostProcess]

    async def hosts_near(self, recipient: bytes) -> Sequence[Host]:
        return [each.host for each in self.hosts]

    async def hosts_with_mail(self, recipient: bytes) -> Sequence[Host]:
        return [each.host for each in self.hosts]

    async def locate(self, peer_id: bytes) -> Host | None:
        return next((each.host for each in self.hosts if each.peer_id == peer_id), None)


@dataclass
class MailboxBed:
    """Three hosts, and any number of peers with channels and journals of their own."""

    folder: Path
    hosts: list[HostProcess]
    stores: dict[bytes, MailboxStore] = field(default_factory=dict)
    closing: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    resumes = True
    checks_deposits = True
    checks_chunks = True
    cancels = True
    full_at_bytes: int | None = SENDER_LIMIT_BYTES
    errors = frozenset({NoMailbox, TooLarge, Unavailable})

    async def store_of(self, identity: Identity) -> MailboxStore:
        if identity.peer_id not in self.stores:
            self.stores[identity.peer_id] = await self.new_store(identity, self.hosts)
        return self.stores[identity.peer_id]

    async def second_store_of(self, identity: Identity) -> MailboxStore:
        return await self.new_store(identity, self.hosts)

    @contextlib.asynccontextmanager
    async def failing(
        self, error: type[QueueError], identity: Identity
    ) -> AsyncIterator[tuple[MailboxStore, int]]:
        if error is NoMailbox:
            yield await self.new_store(identity, []), 1000
        elif error is TooLarge:
            yield await self.store_of(identity), DELIVERY_BYTES_MAX
        else:
            nobody = HostProcess(self.folder, "nobody", free_port(), bytes(20))
            yield await self.new_store(identity, [nobody]), 1000

    async def new_store(
        self,
        identity: Identity,
        hosts: list[HostProcess],
        config: MailboxStoreConfig = MailboxStoreConfig(),  # noqa: B008 - frozen
    ) -> MailboxStore:
        pool = ChannelPool(make_tls(identity, NETWORK), NETWORK)
        self.closing.push_async_callback(pool.close)
        journal = await Journal.open(self.folder / f"{identity.peer_id.hex()}-{id(pool)}.db")
        self.closing.push_async_callback(journal.close)
        return MailboxStore(
            lambda peer_id, addresses: pool.connect(peer_id, addresses, timeout_s=3.0),
            ListedHosts(hosts), journal.placements, NETWORK_ID, identity, wall_ms=wall_ms,
            config=config,
        )  # fmt: skip

    async def crash(self) -> None:
        for each in self.hosts:
            each.kill()
        start_all(self.hosts)

    def now_ms(self) -> int:
        return wall_ms()

    async def pass_time(self, until_ms: int) -> None:
        await asyncio.sleep(max(0, until_ms + 1 - wall_ms()) / 1000)


def start_all(hosts: list[HostProcess]) -> None:
    """Start those that do not run, all at once."""
    starting = [each for each in hosts if each.process is None]
    for each in starting:
        each.start()
    for each in starting:
        each.wait_ready()
