"""The desk: a broker's mail behind the Mailbox service, for peers that have no account there.

Owns what an operator's peer does between the two: an index of the deliveries that it answers for,
the files of those not yet on the broker, and the forwarding. A `KeptMail`. Must not know gRPC, the
DHT or pika.

A deposit is held, and promised, once it is durable in this folder; the broker gets it right after,
and its file goes when the broker has confirmed all. So a broker that is down or blocked delays
nobody and loses nothing: what it does not take stays here, is handed out from here, and is tried
again. Whoever asks for mail has the recipient's queue drained first, so that what others left
there over AMQP is handed out too. What a chunk is asked for that lies on the broker (by its
recipient, or by the sender's audit) is taken off it into the staging folder, on this disk.

A recipient that has an account collects from the broker itself; then a chunk asked for here is in
neither place, and the delivery is forgotten, so that a sender that still needs it deposits again.
"""

import asyncio
import contextlib
import dataclasses
import random
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from queueing.envelope import OuterManifest, decode_manifest
from queueing.errors import (
    BadEnvelope,
    BadReceipt,
    Blocked,
    Expired,
    MailboxFull,
    QueueError,
    Unavailable,
)
from queueing.kept import KeptChunks, KeptMail
from queueing.kept_folder import KeptFolder
from queueing.ledger import unusable
from queueing.rabbitmq import RabbitStore
from queueing.receipt import check_receipt
from queueing.spool_index import Row, SpoolConfig, Stage
from queueing.store import Usage

LOOK_AGAIN_S = 1.0
"""A queue is looked at for a caller at most so often, however often it asks."""
CALLERS_MAX = 4096
"""Callers of whom that is remembered."""
FORWARD_RETRY_S = 1.0
FORWARD_RETRY_MAX_S = 60.0
EXPIRE_S = 60.0
_OWN_POSITIONS = 2**40
"""Positions of this peer's own letters, which lie in its spool, begin here."""
WHAT = "the mailbox's folder"


class BrokerDesk(KeptFolder):
    """Keeps others' mail on a broker; build it with `BrokerDesk.open`."""

    def __init__(
        self,
        folder: Path,
        network_id: bytes,
        broker: RabbitStore,
        own: KeptMail,
        config: SpoolConfig,
        wall_ms: Callable[[], int],
    ) -> None:
        super().__init__(folder, "desk.db", network_id, config, wall_ms, what=WHAT)
        self._broker = broker
        self._own = own
        held, on_broker = self._swept()
        # Ids in the order in which they came; what is held and not in here is on the broker.
        self._here: dict[bytes, None] = dict.fromkeys(
            each for each in held if each not in on_broker
        )
        self._work = asyncio.Event()
        self._looked_s: OrderedDict[tuple[str, bytes], float] = OrderedDict()
        self._random = random.Random()
        self.forwarded = 0
        self.forward_failures = 0

    @classmethod
    async def open(
        cls,
        folder: Path,
        network_id: bytes,
        broker: RabbitStore,
        own: KeptMail,
        *,
        config: SpoolConfig,
        wall_ms: Callable[[], int],
    ) -> "BrokerDesk":
        """Open or create the desk's folder; `own` keeps the letters of this peer itself.

        StorageFailed where its index is damaged or the disk is full.
        """
        try:
            return await asyncio.to_thread(cls, folder, network_id, broker, own, config, wall_ms)
        except sqlite3.Error as error:
            raise unusable(f"{WHAT} {folder}", folder, error) from error

    # KeptMail: the end of a deposit

    async def finish(self, manifest: OuterManifest) -> None:
        """Make a delivery durable here; the broker gets it next."""
        if await self._hold(manifest):
            self._here[manifest.delivery_id] = None
            self._work.set()

    # KeptMail: what is here

    async def row(self, delivery_id: bytes) -> Row | None:
        """Return what is known of a delivery."""
        row = await self._in_index(self._index.get, delivery_id)
        return row if row is not None else await self._own.row(delivery_id)

    async def waiting(self, recipient: bytes, after: int, limit: int) -> list[Row]:
        """Return one page of whole deliveries for a recipient, the broker's queue included."""
        if after == 0 and await self._may_look("mail", recipient):
            with contextlib.suppress(QueueError):  # what is known without the broker is told
                await self._take_in(recipient)
        rows: list[Row] = []
        if after < _OWN_POSITIONS:
            now_ms = self._wall_ms()
            rows = await self._in_index(self._index.waiting, recipient, after, limit, now_ms)
        if len(rows) < limit:
            after_own = max(0, after - _OWN_POSITIONS)
            own = await self._own.waiting(recipient, after_own, limit - len(rows))
            rows += [
                dataclasses.replace(row, position=row.position + _OWN_POSITIONS) for row in own
            ]
        return rows

    async def manifest(self, delivery_id: bytes) -> OuterManifest | None:
        """Return the outer manifest of a delivery that is held."""
        encoded = await self._in_index(self._index.manifest_bytes, delivery_id)
        if encoded is None:
            return await self._own.manifest(delivery_id)
        return decode_manifest(encoded)

    async def read(self, manifest: OuterManifest, index: int) -> bytes:
        """Return one checked chunk, taken off the broker where it is there."""
        delivery_id = manifest.delivery_id
        if await self._in_index(self._index.get, delivery_id) is None:
            return await self._own.read(manifest, index)
        if delivery_id in self._here:
            with contextlib.suppress(BadEnvelope):  # it went to the broker just now
                return await self._on_files(self._files.read, manifest, index)
        sealed = await self._broker.staged(manifest, index)
        if sealed is None:
            if not await self._broker.bring(manifest.recipient):
                raise MailboxFull("the folder for collected mail is full")
            sealed = await self._broker.staged(manifest, index)
        if sealed is None:
            if delivery_id not in self._here:
                await self._in_index(self._index.forget, delivery_id)
            raise BadEnvelope("the broker no longer has the delivery")
        return sealed

    async def receipts(self, sender: bytes, delivery_ids: Sequence[bytes]) -> list[bytes]:
        """Return the receipts for a sender's deliveries, those on the broker included."""
        found, open_ids = await self._receipts_here(sender, delivery_ids)
        if open_ids and await self._may_look("receipts", sender):
            with contextlib.suppress(QueueError):
                for receipt in await self._broker.bring_receipts(sender, open_ids):
                    await self._settle_by(receipt, open_ids)
                found, _ = await self._receipts_here(sender, delivery_ids)
        return found + await self._own.receipts(sender, delivery_ids)

    async def usage(self, sender: bytes | None = None) -> Usage:
        """Return what is kept for all, or for one sender."""
        return await self._in_index(self._index.usage, sender)

    async def recipients(self) -> dict[bytes, int]:
        """Return for whom mail waits, each with its latest expiry: what `mail` records say."""
        return await self._in_index(self._index.recipients, self._wall_ms())

    # KeptMail: ends

    async def settle(self, delivery_id: bytes, receipt: bytes) -> None:
        """Keep the recipient's receipt and let go of the chunks; BadReceipt, UnknownDelivery.

        A sender that left the delivery on the broker itself gets the receipt there, first.
        """
        row = await self._in_index(self._index.get, delivery_id)
        if row is None:
            await self._own.settle(delivery_id, receipt)
            return
        check_receipt(
            receipt, self._network_id, delivery_id=delivery_id, recipient_id=row.recipient
        )
        manifest = await self.manifest(delivery_id)
        if manifest is not None and await self._came_over_amqp(delivery_id):
            await self._broker.send_receipt(manifest, receipt)
        await self._in_index(self._index.settle, delivery_id, receipt)
        await self._let_go(delivery_id)

    async def drop(self, delivery_id: bytes) -> bool:
        """Let go of a delivery for good; False when it was not here any more."""
        if await self._in_index(self._index.get, delivery_id) is None:
            return await self._own.drop(delivery_id)
        dropped = await self._in_index(self._index.drop, delivery_id)
        await self._let_go(delivery_id)
        return dropped

    async def expire(self) -> None:
        """Forget what has expired."""
        for delivery_id in await self._in_index(self._index.expire, self._wall_ms()):
            await self._let_go(delivery_id)

    async def close(self) -> None:
        """Close the index; the broker's store is its owner's to close."""
        await self._close()

    # Forwarding

    async def run(self) -> None:
        """Forward what comes in, until cancelled; a silent broker is tried ever more rarely."""
        pause_s = FORWARD_RETRY_S
        while True:
            self._work.clear()
            await self.expire()
            if await self.forward_all():
                pause_s = FORWARD_RETRY_S
                wait_s = EXPIRE_S
            else:
                wait_s = self._random.uniform(pause_s / 2, pause_s)
                pause_s = min(2 * pause_s, FORWARD_RETRY_MAX_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._work.wait()

    async def forward_all(self) -> bool:
        """Bring all that is here to the broker; False when something has to be tried again."""
        done = True
        for delivery_id in list(self._here):
            try:
                await self._forward(delivery_id)
            except (Unavailable, Blocked):
                self.forward_failures += 1
                return False
            except QueueError:  # this one only: the recipient's queue is full, say
                self.forward_failures += 1
                done = False
        return done

    async def _forward(self, delivery_id: bytes) -> None:
        encoded = await self._in_index(self._index.manifest_bytes, delivery_id)
        if encoded is None:  # settled or dropped meanwhile
            await self._let_go(delivery_id)
            return
        manifest = decode_manifest(encoded)
        with contextlib.suppress(Expired):
            await self._broker.deposit(manifest, KeptChunks(self.read, manifest))
            self.forwarded += 1
        self._here.pop(delivery_id, None)
        await self._on_files(self._files.delete, delivery_id)

    # What lies on the broker

    async def _take_in(self, recipient: bytes) -> None:
        """Drain a queue, and answer for what others left in it."""
        await self._broker.bring(recipient)
        for manifest in await self._broker.staged_for(recipient):
            row = await self._in_index(self._index.get, manifest.delivery_id)
            if row is None:
                now_ms = self._wall_ms()
                await self._in_index(self._index.begin, manifest, now_ms, own=True)
                await self._in_index(self._index.hold, manifest.delivery_id)
            elif row.stage in (Stage.SETTLED, Stage.DROPPED):
                await self._broker.let_go(manifest.delivery_id)

    async def _receipts_here(
        self, sender: bytes, delivery_ids: Sequence[bytes]
    ) -> tuple[list[bytes], list[bytes]]:
        """Return the receipts that are here, and the ids that still wait for one on the broker."""
        found: list[bytes] = []
        open_ids: list[bytes] = []
        for delivery_id in delivery_ids:
            receipt = await self._in_index(self._index.receipt, sender, delivery_id)
            if receipt is not None:
                found.append(receipt)
                continue
            row = await self._in_index(self._index.get, delivery_id)
            if row is not None and row.sender == sender and row.stage is Stage.HELD:
                open_ids.append(delivery_id)
        return found, open_ids

    async def _settle_by(self, receipt: bytes, delivery_ids: Sequence[bytes]) -> None:
        """Settle whichever delivery a receipt from the broker is for; forgeries settle none."""
        for delivery_id in delivery_ids:
            row = await self._in_index(self._index.get, delivery_id)
            if row is None:
                continue
            with contextlib.suppress(BadReceipt):
                check_receipt(
                    receipt, self._network_id, delivery_id=delivery_id, recipient_id=row.recipient
                )
                await self._in_index(self._index.settle, delivery_id, receipt)
                await self._let_go(delivery_id)

    async def _came_over_amqp(self, delivery_id: bytes) -> bool:
        return delivery_id not in self._here and not await self._broker.was_sent(delivery_id)

    async def _let_go(self, delivery_id: bytes) -> None:
        self._here.pop(delivery_id, None)
        await self._on_files(self._files.delete, delivery_id)
        await self._broker.let_go(delivery_id)

    async def _may_look(self, what: str, caller: bytes) -> bool:
        """Wait for the next time that the broker may be asked for a caller.

        False when somebody waits for that time already: that look comes later than this question,
        so that nothing is missed. No question is just dropped: it may be the last for a long time.
        """
        now_s = asyncio.get_running_loop().time()
        key = (what, caller)
        looked_s = self._looked_s.get(key, now_s - LOOK_AGAIN_S)
        if looked_s > now_s:
            return False
        turn_s = max(now_s, looked_s + LOOK_AGAIN_S)
        self._looked_s[key] = turn_s
        self._looked_s.move_to_end(key)
        while len(self._looked_s) > CALLERS_MAX:
            self._looked_s.popitem(last=False)
        await asyncio.sleep(turn_s - now_s)
        return True
