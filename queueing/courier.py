"""The courier: brings deliveries from the sender's disk to the recipient's, and receipts back.

Owns the order of the steps, so that a crash between any two loses nothing and doubles nothing:
- Sending: seal into the spool -> journal -> deposit -> journal. The copy in the spool stays until
  the recipient's checked receipt, the expiry or a cancel.
- Receiving (`queueing.receiver`): verify -> the inbox writes, fsyncs, renames -> journal -> ack.

Knows only `PendingStore`s, best first; must not know how they work, nor the DHT, nor files of the
recipient. What becomes of copies at mailboxes it hears from a caretaker. Time and randomness are
given. Nothing here runs by itself but `run`.
"""

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from identity.keys import Identity
from queueing.caretaker import AuditResult, Copies
from queueing.envelope import ContentHasher, Source, known_id
from queueing.errors import (
    BadReceipt,
    Expired,
    NotCancellable,
    QueueError,
    UnknownDelivery,
)
from queueing.journal import Journal, OutboxRow
from queueing.receipt import Outcome, Receipt, check_receipt, decode_receipt
from queueing.receiver import Receiver, ReceiveResult
from queueing.spool import Spool
from queueing.states import Event, State, advance, is_end
from queueing.store import PendingStore, StoreKind

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class CourierConfig:
    """How often a courier tries."""

    pause_s: float = 0.5
    """At least between two passes, however often it is woken."""
    hurry_ms: int = 5_000
    """At least between two tries of everything spooled that waking brings."""
    tick_s: float = 30.0
    """Between two passes of `run`; `wake` makes one at once."""
    mailboxes_ms: int = 30 * 60 * 1000
    """Between two unasked questions to mailboxes: a host that has mail for us nudges us."""
    mailboxes_retry_ms: int = 60_000
    """The same after a question that failed."""
    retry_base_ms: int = 15_000
    """First pause after a failed deposit; doubles, with jitter."""
    retry_max_ms: int = 15 * 60 * 1000
    recount_ms: int = 30 * 60 * 1000
    """How often the copies of a stored delivery are counted, and missing ones placed."""
    keep_ended_ms: int = 7 * 24 * 3600 * 1000
    """Ended deliveries stay in the outbox for so long after their expiry."""


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """What a person is told of a folder that is sent: its stream is longer than its files."""

    files: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a `send`."""

    row: OutboxRow
    failures: tuple[tuple[StoreKind, QueueError], ...]
    """Why stores that come before the one that took it (or all) did not."""


class Caretaking(Protocol):
    """Looks after copies at mailboxes (`queueing.caretaker.Caretaker`)."""

    async def audit(self) -> AuditResult:
        """Audit hosts whose time has come."""
        ...

    async def copies(self, delivery_id: bytes) -> Copies:
        """Return who keeps a delivery, as far as is known."""
        ...

    async def tell_ends(self) -> None:
        """Tell hosts of deliveries that have ended."""
        ...


class Courier:
    """Sends, receives and keeps books; one per peer."""

    def __init__(
        self,
        identity: Identity,
        network_id: bytes,
        spool: Spool,
        journal: Journal,
        stores: Sequence[PendingStore],
        receiver: Receiver,
        *,
        wall_ms: Callable[[], int],
        caretaker: Caretaking | None = None,
        rng: random.Random | None = None,
        on_change: Callable[[OutboxRow], None] = lambda _row: None,
        config: CourierConfig = CourierConfig(),
    ) -> None:
        self._identity = identity
        self._network_id = network_id
        self._spool = spool
        self._journal = journal
        self._stores = tuple(stores)
        self._receiver = receiver
        self._wall_ms = wall_ms
        self._caretaker = caretaker
        self._rng = rng or random.Random()
        self._on_change = on_change
        self._config = config
        self._awake = asyncio.Event()
        self._collect = False
        self._ask_mailboxes_ms = 0
        self._changed = asyncio.Condition()
        self._depositing: set[bytes] = set()
        self._hurried_ms = 0
        self.failed_passes = 0
        """Passes of `run` that ended early, since the disk failed."""
        self.bad_receipts = 0
        """Receipts that did not verify; each left its delivery as it was."""

    async def send(
        self,
        source: Source,
        *,
        name: str,
        content_id: bytes | ContentHasher,
        size: int,
        recipient: bytes,
        recipient_sealing_key: bytes,
        expires_ms: int,
        seal_id: bytes | None = None,
        only: Collection[StoreKind] | None = None,
        folder: FolderFacts | None = None,
    ) -> Sent:
        """Seal a file, or a folder's stream, and deposit it with the best store that takes it.

        The row is `stored`, or `spooled` when no store took it: then it is tried again. Give the
        `seal_id` of a push that broke off, so that the recipient takes the file once. Where `only`
        names backends, no other gets it, now or later; the recipient may still collect it here.
        Errors: TooLarge, MailboxFull (own disk), SourceChanged, OSError for the source.
        """
        manifest = await self._spool.seal(
            self._identity, recipient, recipient_sealing_key, source, name, content_id, size,
            expires_ms=expires_ms, seal_id=seal_id or secrets.token_bytes(16),
            is_folder=folder is not None,
        )  # fmt: skip
        row = OutboxRow(
            manifest.delivery_id, manifest.seal_id, name, recipient, known_id(content_id),
            size if folder is None else folder.size_bytes,
            State.SPOOLED, StoreKind.SPOOL, (), manifest.created_ms, expires_ms,
            only=None if only is None else tuple(sorted(only)),
            files=None if folder is None else folder.files,
        )  # fmt: skip
        await self._journal.add(row)
        return await self._deposit(row, is_fresh=True)

    async def sent_directly(
        self, *, name: str, content_id: bytes, size: int, recipient: bytes, seal_id: bytes,
        delivery_id: bytes, expires_ms: int, receipt: bytes, files: int | None = None,
    ) -> OutboxRow:  # fmt: skip
        """Enter a delivery that was pushed straight to the recipient; BadReceipt."""
        checked = check_receipt(
            receipt, self._network_id, delivery_id=delivery_id, recipient_id=recipient
        )
        row = OutboxRow(
            delivery_id, seal_id, name, recipient, content_id, size, State.SPOOLED,
            StoreKind.SPOOL, (), self._wall_ms(), expires_ms, files=files,
        )  # fmt: skip
        row = replace(row, state=advance(row.state, _event(checked)), reason=checked.reason)
        await self._journal.add(row)
        await self._tell(row)
        return row

    async def rows(self) -> list[OutboxRow]:
        """Return the outbox, oldest first."""
        return await self._journal.rows()

    async def wait_until_ended(self, delivery_id: bytes) -> OutboxRow:
        """Wait for the end of a delivery; UnknownDelivery."""
        async with self._changed:
            while not is_end((row := await self._row(delivery_id)).state):
                await self._changed.wait()
            return row

    async def cancel(self, delivery_id: bytes) -> OutboxRow:
        """Take a delivery back; NotCancellable when it has ended, UnknownDelivery."""
        await self._poll([await self._row(delivery_id)])  # it may be delivered already
        row = await self._row(delivery_id)
        if is_end(row.state):
            raise NotCancellable(f"the delivery is already {row.state}")
        manifest = await self._spool.manifest(delivery_id)
        row = await self._advance(row, Event.CANCEL)
        if manifest is not None:
            for store in self._stores:
                await _tolerantly(store.cancel(manifest))
            await self._spool.drop(delivery_id)
        return row

    async def take_receipt(self, data: bytes) -> bool:
        """Take a receipt from wherever it came; True when it is for a delivery of ours.

        One that does not verify is counted and changes nothing.
        """
        try:
            receipt = decode_receipt(data)
            row = await self._journal.get(receipt.delivery_id)
            if row is None:
                return False
            check_receipt(
                data, self._network_id, delivery_id=row.delivery_id, recipient_id=row.recipient
            )
        except BadReceipt:
            self.bad_receipts += 1
            return False
        if not is_end(row.state):
            row = replace(row, reason=receipt.reason)
            await self._advance(row, _event(receipt))
            await _tolerantly(self._spool.settle(row.delivery_id, data))
        return True

    async def poll_receipts(self) -> None:
        """Ask every store for the receipts of deliveries under way."""
        await self._poll(await self._under_way())

    async def receive_all(self) -> ReceiveResult:
        """Collect what waits at every store into the inbox."""
        return await self._receiver.receive_all(self._stores)

    async def return_receipts(self) -> None:
        """Hand due receipts directly to their senders, where these can be reached."""
        await self._receiver.return_receipts(self._pause_ms)

    async def retry(self, *, hurried: bool = False) -> None:
        """Deposit what is still spooled and due for another try, or all of it when `hurried`."""
        now_ms = self._wall_ms()
        due_ms = None if hurried else now_ms
        for row in await self._journal.rows(State.SPOOLED, next_try_before_ms=due_ms):
            if row.expires_ms > now_ms:
                await self._deposit(row)

    async def tend(self) -> None:
        """Have hosts of stored mail audited, make up for copies that went, and tell of ends."""
        if self._caretaker is None:
            return
        result = await self._caretaker.audit()
        for receipt in result.receipts:
            await self.take_receipt(receipt)
        due = await self._journal.rows(State.STORED, next_try_before_ms=self._wall_ms())
        for delivery_id in result.lost.union(row.delivery_id for row in due):
            await self.recount(delivery_id)
        await self._caretaker.tell_ends()

    async def recount(self, delivery_id: bytes) -> None:
        """Note who keeps a stored delivery now, and place the copies that are missing."""
        row = await self._journal.get(delivery_id)
        if self._caretaker is None or row is None or row.state is not State.STORED:
            return
        if row.kind is not StoreKind.MAILBOX:
            await self._journal.update(row, self._wall_ms() + self._config.recount_ms)
            return
        copies = await self._caretaker.copies(delivery_id)
        if not copies.held_by:
            lost = replace(row, kind=StoreKind.SPOOL, held_by=())
            await self._deposit(await self._advance(lost, Event.LOST))
            return
        counted = replace(row, held_by=(*copies.held_by, *_claims(row)))
        kept = await self._journal.update(counted, self._wall_ms() + self._config.recount_ms)
        if kept and counted != row:
            await self._tell(counted)
        if copies.are_short:
            await self._deposit(counted, only=StoreKind.MAILBOX)

    async def expire(self) -> None:
        """End what has expired and forget what is old."""
        now_ms = self._wall_ms()
        for row in await self._journal.expired(now_ms):
            await self._advance(row, Event.EXPIRY)
            await self._spool.drop(row.delivery_id)
        await self._spool.expire()
        await self._journal.prune(now_ms, self._config.keep_ended_ms)

    async def recover(self) -> None:
        """Put right what a crash left between two steps; call it once before `run`."""
        for delivery_id in await self._spool.held_ids(self._identity.peer_id):
            row = await self._journal.get(delivery_id)
            if row is None or is_end(row.state):  # sealed but never entered, or ended but kept
                await self._spool.drop(delivery_id)

    def wake(self, *, collect: bool = True) -> None:
        """Make `run` do a pass now; `collect` when mail may wait for us at a mailbox."""
        self._collect = self._collect or collect
        self._awake.set()

    async def run(self) -> None:
        """Receive, poll, retry, refresh and expire until cancelled."""
        while True:
            hurried = self._awake.is_set()
            self._awake.clear()
            try:
                await self._pass(hurried=hurried)
            except QueueError:  # a full disk, say: nothing is lost, and the next pass tries again
                self.failed_passes += 1
            await asyncio.sleep(self._config.pause_s)
            try:
                async with asyncio.timeout(self._config.tick_s):
                    await self._awake.wait()
            except TimeoutError:
                continue

    async def _pass(self, *, hurried: bool) -> None:
        asked = await self._receive_due()
        # Before the expiry: a receipt that is there still counts.
        await self._poll(await self._under_way(), everywhere=hurried or asked)
        await self.return_receipts()
        await self.expire()
        now_ms = self._wall_ms()
        hurried = hurried and now_ms - self._hurried_ms >= self._config.hurry_ms
        if hurried:
            self._hurried_ms = now_ms
        await self.retry(hurried=hurried)
        await self.tend()

    async def _deposit(
        self, row: OutboxRow, only: StoreKind | None = None, *, is_fresh: bool = False
    ) -> Sent:
        failures: list[tuple[StoreKind, QueueError]] = []
        manifest = await self._spool.manifest(row.delivery_id)
        if manifest is None or row.delivery_id in self._depositing:
            return Sent(row, ())
        self._depositing.add(row.delivery_id)
        try:
            for store in self._stores:
                allowed = row.only is None or store.kind in row.only
                if not allowed or only not in (None, store.kind):
                    continue
                try:
                    chunks = self._spool.source(manifest, is_fresh=is_fresh)
                    kept = await store.deposit(manifest, chunks)
                except QueueError as error:
                    # A keeper's clock may be wrong, or its word: our own clock says what is over.
                    if isinstance(error, Expired) and row.expires_ms <= self._wall_ms():
                        return Sent(await self._advance(row, Event.EXPIRY), tuple(failures))
                    failures.append((store.kind, error))
                    continue
                held_by = kept.held_by if only is None else (*kept.held_by, *_claims(row))
                stored = replace(row, kind=kept.kind, held_by=held_by, reason="", attempts=0)
                recount_ms = self._wall_ms() + self._config.recount_ms
                row = await self._advance(stored, Event.DEPOSITED, next_try_ms=recount_ms)
                if row.state is State.CANCELLED:  # while it was being deposited
                    await _tolerantly(store.cancel(manifest))
                return Sent(row, tuple(failures))
        finally:
            self._depositing.discard(row.delivery_id)
        return Sent(await self._note_failure(row, failures), tuple(failures))

    async def _note_failure(
        self, row: OutboxRow, failures: Sequence[tuple[StoreKind, QueueError]]
    ) -> OutboxRow:
        current = await self._row(row.delivery_id)
        if current.state is not State.SPOOLED:  # a stored one stays: its hosts may only be away
            return current
        reason = str(failures[-1][1]) if failures else ""
        row = replace(current, attempts=current.attempts + 1, reason=reason)
        next_try_ms = self._wall_ms() + self._pause_ms(row.attempts)
        kept = await self._journal.update(row, next_try_ms)
        return row if kept else await self._row(row.delivery_id)

    async def _receive_due(self) -> bool:
        """Collect from queues each time, from mailboxes when there is a reason or it is long ago.

        Returns whether mailboxes were asked: it means a lookup in the DHT, and an idle peer is to
        send next to nothing.
        """
        now_ms = self._wall_ms()
        ask = self._collect or now_ms >= self._ask_mailboxes_ms
        self._collect = False
        result = await self._receiver.receive_all(self._stores if ask else self._queues())
        if ask:
            config = self._config
            pause_ms = config.mailboxes_retry_ms if result.failures else config.mailboxes_ms
            self._ask_mailboxes_ms = now_ms + pause_ms
        return ask

    def _queues(self) -> list[PendingStore]:
        return [store for store in self._stores if store.kind is not StoreKind.MAILBOX]

    async def _under_way(self) -> list[OutboxRow]:
        return await self._journal.rows(State.SPOOLED, State.STORED)

    async def _poll(self, rows: Sequence[OutboxRow], *, everywhere: bool = True) -> None:
        delivery_ids = [row.delivery_id for row in rows if not is_end(row.state)]
        if not delivery_ids:
            return
        # The own spool too: a recipient may have collected straight from the sender.
        for store in (self._spool, *(self._stores if everywhere else self._queues())):
            found = await _tolerantly(store.receipts(self._identity.peer_id, delivery_ids))
            for receipt in found or ():
                await self.take_receipt(receipt)

    async def _advance(self, row: OutboxRow, event: Event, next_try_ms: int = 0) -> OutboxRow:
        current = await self._row(row.delivery_id)  # it may have ended while we waited
        if is_end(current.state):
            return current
        row = replace(row, state=advance(current.state, event))
        if not await self._journal.update(row, next_try_ms):
            return await self._row(row.delivery_id)
        await self._tell(row)
        return row

    async def _tell(self, row: OutboxRow) -> None:
        self._on_change(row)
        async with self._changed:
            self._changed.notify_all()

    async def _row(self, delivery_id: bytes) -> OutboxRow:
        row = await self._journal.get(delivery_id)
        if row is None:
            raise UnknownDelivery
        return row

    def _pause_ms(self, attempts: int) -> int:
        pause_ms = min(self._config.retry_base_ms << min(attempts, 16), self._config.retry_max_ms)
        return round(pause_ms * self._rng.uniform(0.5, 1.0))


def _claims(row: OutboxRow) -> tuple[str, ...]:
    """Name the broker where it has a claim: that stays there, whoever keeps the copies now."""
    return tuple(keeper for keeper in row.held_by if keeper == StoreKind.RABBITMQ)


def _event(receipt: Receipt) -> Event:
    match receipt.outcome:
        case Outcome.DELIVERED:
            return Event.RECEIPT_DELIVERED
        case Outcome.REFUSED:
            return Event.RECEIPT_REFUSED


async def _tolerantly(call: Awaitable[_Answer]) -> _Answer | None:
    """Await a call to one of several stores; None when that one fails."""
    try:
        return await call
    except QueueError:
        return None
