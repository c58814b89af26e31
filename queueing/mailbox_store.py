"""The mailbox backend: mail kept by other peers, as one `PendingStore`.

Owns the policy: which hosts get a copy, when a delivery counts as stored, and how several hosts'
copies become one delivery again. Must not know the DHT: hosts come from a `HostFinder`.

A deposit goes to `copies_wanted` hosts, best candidates first; it is stored once `copies_needed`
of them have fsynced and signed their promise, or all that exist where these are fewer. Hosts whose
promise stands are not asked again: a deposit of the same delivery makes up what is missing. Any one
host may be dead or lie: every manifest and chunk is checked, and the next host is asked; whether
promises are kept is the caretaker's to find out.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from identity.keys import Identity, show_peer_id
from queueing.envelope import OuterManifest
from queueing.errors import (
    BadEnvelope,
    Expired,
    MailboxFull,
    NoMailbox,
    QueueError,
    Refused,
    TooLarge,
    Unavailable,
    UnknownDelivery,
)
from queueing.mailbox_client import Connect, Host, Listed, MailboxClient
from queueing.mailbox_wire import IDS_MAX
from queueing.placements import PlacementBook
from queueing.shared_chunks import SharedChunks
from queueing.store import ChunkSource, DepositReceipt, StoreKind, Usage
from rpc.pace import BothWays

_Answer = TypeVar("_Answer")


class HostFinder(Protocol):
    """Finds peers that keep mail; the peer implements it over the DHT."""

    async def hosts_near(self, recipient: bytes) -> Sequence[Host]:
        """Return live peers that offer a mailbox, the best for this recipient first."""
        ...

    async def hosts_with_mail(self, recipient: bytes) -> Sequence[Host]:
        """Return peers that say they keep mail for this recipient (`mail` records)."""
        ...

    async def locate(self, peer_id: bytes) -> Host | None:
        """Return where a host is now; None when nobody knows."""
        ...


@dataclass(frozen=True, slots=True)
class MailboxStoreConfig:
    """How many hosts keep a delivery."""

    copies_wanted: int = 3
    copies_needed: int = 2
    candidates_max: int = 12
    """Hosts tried for one deposit."""
    straggler_grace_s: float = 3.0
    """How long copies beyond `copies_needed` are waited for, or as long as those took."""
    hosts_asked_max: int = 32
    """Hosts asked for mail in one collection."""
    calls_max: int = 8
    """Calls under way at once."""

    def __post_init__(self) -> None:
        assert 0 < self.copies_needed <= self.copies_wanted <= self.candidates_max


class MailboxStore:
    """A `PendingStore` at other peers."""

    kind = StoreKind.MAILBOX

    def __init__(
        self,
        connect: Connect,
        finder: HostFinder,
        placements: PlacementBook,
        network_id: bytes,
        identity: Identity,
        *,
        wall_ms: Callable[[], int],
        config: MailboxStoreConfig = MailboxStoreConfig(),
        pace: BothWays | None = None,
    ) -> None:
        self._client = MailboxClient(connect, network_id, pace)
        self._finder = finder
        self._placements = placements
        self._network_id = network_id
        self._own_id = identity.peer_id
        self._wall_ms = wall_ms
        self._config = config
        self._calls = asyncio.Semaphore(config.calls_max)
        self.bad_manifests = 0
        """Deliveries that some host listed and no host could hand out."""

    async def deposit(self, manifest: OuterManifest, chunks: ChunkSource) -> DepositReceipt:
        """Place the copies that are missing; see the module's docstring."""
        keepers = await self._placements.keepers(manifest.delivery_id)
        failures: list[QueueError] = []
        if len(keepers) < self._config.copies_wanted:
            candidates = deque(await self._candidates(manifest, keepers))
            if not candidates and not keepers:
                raise NoMailbox
            shared = SharedChunks(chunks)
            keepers += await self._place(manifest, shared, candidates, failures, len(keepers))
        if not keepers:
            raise _worst(failures)
        held_by = tuple(show_peer_id(peer_id) for peer_id in sorted(keepers))
        return DepositReceipt(self.kind, held_by, manifest.expires_ms)

    async def _place(
        self,
        manifest: OuterManifest,
        chunks: ChunkSource,
        candidates: deque[Host],
        failures: list[QueueError],
        have: int,
    ) -> list[bytes]:
        """Deposit at candidates until there are enough copies; return who promised."""
        promised: list[bytes] = []

        async def place_one() -> None:
            while candidates:
                host = candidates.popleft()
                try:
                    await self._deposit_at(host, manifest, chunks)
                except QueueError as error:
                    failures.append(error)
                else:
                    promised.append(host.peer_id)
                    return

        config = self._config
        begun_s = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            pending = {
                group.create_task(place_one()) for _copy in range(config.copies_wanted - have)
            }
            while pending and have + len(promised) < config.copies_needed:
                _done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if pending:
                took_s = asyncio.get_running_loop().time() - begun_s
                grace_s = max(config.straggler_grace_s, took_s)
                _done, pending = await asyncio.wait(pending, timeout=grace_s)
            for straggler in pending:
                straggler.cancel()
        return promised

    async def _deposit_at(self, host: Host, manifest: OuterManifest, chunks: ChunkSource) -> None:
        """Deposit at one host. It is entered first: it may have all though its answer is lost."""
        book, delivery_id = self._placements, manifest.delivery_id
        await book.intend(delivery_id, host.peer_id, manifest.expires_ms)
        try:
            kept = await self._client.deposit(host, manifest, chunks)
        except (MailboxFull, NoMailbox, Refused, TooLarge):
            await book.forget(delivery_id, host.peer_id)
            raise
        await book.promise(delivery_id, host.peer_id, manifest.expires_ms, kept.signed)

    async def collect(self, recipient: bytes) -> AsyncIterator["MailboxDelivery"]:
        """Yield what waits for us at any host, each delivery once."""
        assert recipient == self._own_id, "hosts hand mail to the caller only"
        keepers: dict[bytes, list[Host]] = {}
        created_ms: dict[bytes, int] = {}
        hosts = await self._finder.hosts_with_mail(recipient)
        for host, listed_there in await self._ask_all(hosts):
            for listed in listed_there:
                keepers.setdefault(listed.delivery_id, []).append(host)
                created_ms.setdefault(listed.delivery_id, listed.created_ms)
        for delivery_id in sorted(keepers, key=lambda each: (created_ms[each], each)):
            manifest = await self._manifest(delivery_id, keepers[delivery_id])
            if manifest is not None:
                yield MailboxDelivery(self._client, manifest, keepers[delivery_id])

    async def receipts(self, sender: bytes, delivery_ids: Sequence[bytes]) -> list[bytes]:
        """Ask the hosts of these deliveries for receipts."""
        assert sender == self._own_id, "hosts answer the caller only"
        ids_of: dict[bytes, list[bytes]] = {}
        for delivery_id in delivery_ids:
            for host_id in await self._placements.hosts_of(delivery_id):
                ids_of.setdefault(host_id, []).append(delivery_id)

        async def ask(host_id: bytes) -> list[bytes]:
            found: list[bytes] = []
            host = await self._finder.locate(host_id)
            wanted = ids_of[host_id] if host is not None else []
            for start in range(0, len(wanted), IDS_MAX):
                assert host is not None
                async with self._calls:
                    page = wanted[start : start + IDS_MAX]
                    found += await self._client.receipts(host, page)
            return found

        answers = await _gather({host_id: ask(host_id) for host_id in ids_of})
        return list(dict.fromkeys(receipt for found in answers.values() for receipt in found))

    async def cancel(self, manifest: OuterManifest) -> bool:
        """Take a delivery back from all its hosts; True when any still had it."""

        async def ask(host_id: bytes) -> bool:
            host = await self._finder.locate(host_id)
            if host is None:
                return False  # the caretaker tells it later
            dropped = knows = True
            async with self._calls:
                try:
                    dropped = await self._client.cancel(host, manifest.delivery_id)
                except UnknownDelivery:
                    dropped = knows = False
            if dropped or not knows:  # else it may have the receipt
                await self._placements.forget(manifest.delivery_id, host_id)
            return dropped

        hosts = await self._placements.hosts_of(manifest.delivery_id)
        return any((await _gather({host_id: ask(host_id) for host_id in hosts})).values())

    async def usage(self) -> Usage:
        """Add up what we use of the hosts that keep mail from us."""

        async def ask(host_id: bytes) -> Usage:
            host = await self._finder.locate(host_id)
            if host is None:
                return Usage(0, 0, 0)
            async with self._calls:
                return await self._client.usage(host)

        hosts = (await self._placements.hosts())[: self._config.hosts_asked_max]
        answers = (await _gather({host_id: ask(host_id) for host_id in hosts})).values()
        return Usage(
            sum(usage.deliveries for usage in answers),
            sum(usage.bytes for usage in answers),
            sum(usage.limit_bytes for usage in answers),
        )

    async def close(self) -> None:
        """Nothing is kept open here: the channels belong to the pool."""

    async def _candidates(self, manifest: OuterManifest, keepers: Sequence[bytes]) -> list[Host]:
        """Return hosts to try: those that may have a part already first, then the nearest."""
        begun = await self._placements.hosts_of(manifest.delivery_id)
        located = [
            await self._finder.locate(host_id) for host_id in begun if host_id not in keepers
        ]
        candidates = {host.peer_id: host for host in located if host is not None}
        for host in await self._finder.hosts_near(manifest.recipient):
            candidates.setdefault(host.peer_id, host)
        shunned = await self._placements.shunned(self._wall_ms())
        excluded = {self._own_id, manifest.recipient, *keepers, *shunned}
        usable = [host for host in candidates.values() if host.peer_id not in excluded]
        return usable[: self._config.candidates_max]

    async def _ask_all(self, hosts: Sequence[Host]) -> list[tuple[Host, list[Listed]]]:
        async def ask(host: Host) -> list[Listed]:
            async with self._calls:
                return await self._client.waiting(host)

        asked = {
            host.peer_id: host
            for host in hosts[: self._config.hosts_asked_max]
            if host.peer_id != self._own_id
        }
        answers = await _gather({host_id: ask(host) for host_id, host in asked.items()})
        return [(asked[host_id], listed) for host_id, listed in answers.items()]

    async def _manifest(self, delivery_id: bytes, hosts: Sequence[Host]) -> OuterManifest | None:
        for host in hosts:
            try:
                manifest = await self._client.manifest(host, delivery_id)
                manifest.check(self._network_id, self._wall_ms())
            except Expired:
                return None
            except QueueError:
                continue
            if manifest.recipient == self._own_id:
                return manifest
        self.bad_manifests += 1
        return None


class MailboxDelivery:
    """One delivery that one or more hosts keep for us."""

    def __init__(
        self, client: MailboxClient, manifest: OuterManifest, hosts: Sequence[Host]
    ) -> None:
        self._client = client
        self._hosts = hosts
        self.manifest = manifest

    async def chunks(self, start: int = 0) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (index, sealed chunk) in order; falls over to the next host when one fails."""
        wanted = start
        failure: QueueError = Unavailable()
        for host in self._hosts:
            if wanted == self.manifest.count:
                return
            try:
                async with aclosing(self._client.chunks(host, self.manifest, wanted)) as stream:
                    async for index, sealed in stream:
                        wanted = index + 1
                        yield index, sealed
            except QueueError as error:
                failure = error
        if wanted < self.manifest.count:
            raise Unavailable(f"no host hands out the whole delivery: {failure}")

    async def ack(self, receipt: bytes) -> None:
        """Hand the receipt to every host; Unavailable when none took it."""
        await self._settle(receipt)

    async def reject(self, reason: str, receipt: bytes | None) -> None:  # noqa: ARG002
        """Let every host drop the delivery; a receipt tells the sender why."""
        await self._settle(receipt or b"")

    async def _settle(self, receipt: bytes) -> None:
        async def settle(host: Host) -> bool:
            # A host that dropped it meanwhile has nothing left to settle.
            with contextlib.suppress(UnknownDelivery):
                await self._client.settle(host, self.manifest.delivery_id, receipt)
            return True

        answers = await _gather({host.peer_id: settle(host) for host in self._hosts})
        if not answers:
            raise Unavailable("no host took the receipt")


async def _gather(
    questions: Mapping[bytes, Coroutine[Any, Any, _Answer]],
) -> dict[bytes, _Answer]:
    """Ask all at once and return the answers of those that did not fail, in the order given."""
    answers: dict[bytes, _Answer] = {}

    async def ask(host_id: bytes, question: Coroutine[Any, Any, _Answer]) -> None:
        with contextlib.suppress(QueueError):
            answers[host_id] = await question

    async with asyncio.TaskGroup() as group:
        for host_id, question in questions.items():
            group.create_task(ask(host_id, question))
    return {host_id: answers[host_id] for host_id in questions if host_id in answers}


def _worst(failures: Sequence[QueueError]) -> QueueError:
    """Return the failure that says most about why no host took a delivery."""
    for kind in (BadEnvelope, Expired, TooLarge, MailboxFull, Refused, Unavailable):
        for failure in failures:
            if isinstance(failure, kind):
                return failure
    return NoMailbox()
