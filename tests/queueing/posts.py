"""Two peers' couriers with a store between them that can be cut off, and a clock of the test's."""

import random
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from identity.errors import ShoalError
from identity.keys import Identity
from queueing.courier import Courier, CourierConfig
from queueing.envelope import Letter
from queueing.errors import (
    MailboxFull,
    Refused,
    Unavailable,
)
from queueing.journal import Journal
from queueing.receiver import Receiver
from queueing.spool import Spool
from queueing.store import StoreKind
from tests.queueing.letters import (
    NETWORK_ID,
    identity,
)

START_MS = 1_800_000_000_000
ALICE, BOB, EVE = identity("alice"), identity("bob"), identity("eve")


@dataclass
class Clock:
    now_ms: int = START_MS

    def __call__(self) -> int:
        return self.now_ms


class FolderFile:
    def __init__(self, inbox: "FolderInbox", letter: Letter) -> None:
        self.inbox, self.letter = inbox, letter
        key = (letter.sender_id + letter.seal_id).hex()
        self.partial, self.final = inbox.folder / f"{key}.part", inbox.folder / key
        done = self.final.exists()
        self.committed_bytes = letter.size if done else 0

    async def write(self, offset: int, data: bytes) -> None:
        if self.inbox.break_at is not None and offset >= self.inbox.break_at:
            raise MailboxFull("no room")
        mode = "r+b" if self.partial.exists() else "wb"
        with self.partial.open(mode) as file:
            file.seek(offset)
            file.write(data)

    async def finish(self) -> str:
        if not self.final.exists():
            if not self.partial.exists():
                self.partial.touch()
            self.partial.rename(self.final)
            self.inbox.finished.append(self.letter.name)
        if self.inbox.crash_after_rename:
            raise Unavailable("crash")
        return str(self.final)

    async def abort(self) -> None:
        self.inbox.aborted += 1


class FolderInbox:
    """An inbox as the peer has one: it knows finished letters by sender and seal id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.finished: list[str] = []
        self.refuse = ""
        self.break_at: int | None = None
        self.crash_after_rename = False
        self.aborted = 0

    async def begin(self, letter: Letter) -> FolderFile:
        if self.refuse:
            raise Refused(self.refuse)
        return FolderFile(self, letter)


class Switchable:
    """A store that can be cut off."""

    kind = StoreKind.MAILBOX

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.reachable = True
        self.deposits = 0

    async def after_deposit(self) -> None:
        """Let a test step in before the sender hears of the deposit."""

    async def deposit(self, manifest, chunks):
        self.check()
        self.deposits += 1
        kept = await self.spool.deposit(manifest, chunks)
        await self.after_deposit()
        return type(kept)(self.kind, ("a host",), kept.expires_ms)

    async def collect(self, recipient):
        self.check()
        async for delivery in self.spool.collect(recipient):
            yield delivery

    async def receipts(self, sender, delivery_ids):
        self.check()
        return await self.spool.receipts(sender, delivery_ids)

    async def cancel(self, manifest):
        self.check()
        return await self.spool.cancel(manifest)

    async def usage(self):
        return await self.spool.usage()

    async def close(self):
        pass

    def check(self) -> None:
        if not self.reachable:
            raise Unavailable


@dataclass
class Post:
    """One peer's courier and all that it uses."""

    own: Identity
    courier: Courier
    receiver: Receiver
    spool: Spool
    journal: Journal
    inbox: FolderInbox
    folder: Path


@dataclass
class World:
    """Two peers, a store between them, a clock, and direct delivery of receipts."""

    folder: Path
    clock: Clock
    store: Switchable
    closing: AsyncExitStack
    posts: dict[bytes, Post] = field(default_factory=dict)
    direct: bool = False
    """Whether peers reach each other for receipts."""

    async def post(self, own: Identity, *, again: bool = False) -> Post:
        """Start a peer, or start it again as after a crash."""
        name = own.peer_id.hex()[:8]
        inbox = self.posts[own.peer_id].inbox if again else FolderInbox(self.folder / f"in-{name}")
        spool = await Spool.open(self.folder / f"spool-{name}", NETWORK_ID, wall_ms=self.clock)
        journal = await Journal.open(self.folder / f"{name}.db")
        self.closing.push_async_callback(spool.close)
        self.closing.push_async_callback(journal.close)
        receiver = Receiver(own, NETWORK_ID, journal, inbox, self.hand_over, wall_ms=self.clock)
        courier = Courier(
            own, NETWORK_ID, spool, journal, [self.store], receiver, wall_ms=self.clock,
            rng=random.Random(1), config=CourierConfig(tick_s=0.01, pause_s=0.001),
        )  # fmt: skip
        made = Post(own, courier, receiver, spool, journal, inbox, self.folder)
        self.posts[own.peer_id] = made
        return made

    async def hand_over(self, sender: bytes, receipt: bytes) -> bool:
        if not self.direct:
            raise ShoalError("not reachable")
        return await self.posts[sender].courier.take_receipt(receipt)
