"""Sending a file or folder to one peer, and the views of inbox and outbox.

Owns the order of the ways: straight to the recipient while it is there, else the queue, else
mailboxes, else the sender's own spool. Must not know how any of them works.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import grpc

from dht.records import PeerPayload
from identity.errors import ShoalError
from identity.keys import show_peer_id
from peer.config import DeliveryMeans
from peer.core import Core
from peer.errors import (
    BadInput,
    InboxFull,
    NotFound,
    NotPermitted,
    QueueUnavailable,
    RecipientAway,
    TimedOut,
)
from peer.inbox import Inbox
from peer.mail import Mail
from peer.outgoing import Outgoing
from peer.reporting import Reporter
from peer.sharing import check_source
from peer.views import InboxView, OutboxView, SentView, StatusView, utc_text
from queueing.courier import Sent
from queueing.envelope import LIFETIME_MAX_MS
from queueing.journal import OutboxRow
from queueing.receiver import push_delivery_id
from queueing.states import State, is_end
from queueing.store import StoreKind
from transfer.errors import PushFailed, ReceiverFull, Refused
from transfer.names import check_name
from transfer.push import PushConfig, PushOffer

DELIVERY_PREFIX_MIN = 8
CONNECT_TIMEOUT_S = 4.0
AWAY_S = 5.0
"""For so long one command does not dial a recipient again that it found away."""
EXPIRY_MARGIN_S = 0.05
OUTBOX_POLL_S = 2.0
DIRECT = "direct"
_KIND_OF = {
    DeliveryMeans.QUEUE: StoreKind.RABBITMQ,
    DeliveryMeans.MAILBOX: StoreKind.MAILBOX,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Letter:
    """One file or folder on its way to one peer."""

    content: Outgoing
    recipient: bytes
    seal_id: bytes
    expires_ms: int


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """How somebody wants things sent."""

    expires_s: int | None = None
    """None: as configured."""
    wait: bool = False
    """For the receipt."""
    via: Sequence[str] = ()
    """The only ways allowed; all when empty."""


class Sending:
    """`put --to`, `inbox`, `outbox` and `outbox cancel`."""

    def __init__(self, core: Core, mail: Mail, inbox: Inbox) -> None:
        self._core = core
        self._mail = mail
        self._inbox = inbox

    async def put_all_to(
        self,
        paths: Sequence[Path],
        name: str | None,
        recipient: bytes,
        reporter: Reporter,
        terms: Terms,
    ) -> None:
        """Send files in turn; who was found away is not dialled anew for each of them."""
        dial_at = 0.0
        for path in paths:
            dials = time.monotonic() >= dial_at
            is_there = await self.put_to(path, name, recipient, reporter, terms, dials=dials)
            if dials and not is_there:
                dial_at = time.monotonic() + AWAY_S

    async def put_to(
        self,
        path: Path,
        name: str | None,
        recipient: bytes,
        reporter: Reporter,
        terms: Terms,
        *,
        dials: bool,
    ) -> bool:
        """Send one file or folder, straight to the recipient only if it `dials`.

        Reports a SentView, and returns whether the recipient was there.
        """
        if recipient == self._core.identity.peer_id:
            raise BadInput("that is this peer itself", hint="name another peer with --to")
        letter = await self._letter(path, name, recipient, terms.expires_s)
        may_dial = dials and (not terms.via or DIRECT in terms.via)
        channel = await self._channel(recipient) if may_dial else None
        row: OutboxRow | None = None
        if channel is not None:
            letter = await _hashed(letter, reporter)
            row = await self._push(channel, letter, reporter)
        if row is None:
            _raise_if_direct_only(terms.via)
            row = await self._leave(letter, reporter, terms.via)
        if terms.wait:
            row = await self._ended(row)
        await reporter.result(sent_view(row))
        _raise_unless_good(row)
        return channel is not None

    async def _letter(
        self,
        path: Path,
        name: str | None,
        recipient: bytes,
        expires_s: int | None,
    ) -> Letter:
        shown = check_name(unicodedata.normalize("NFC", path.name if name is None else name))
        check_source(path)
        life_ms = (expires_s or self._core.config.delivery.expires_s) * 1000
        if not 0 < life_ms < LIFETIME_MAX_MS:
            days = LIFETIME_MAX_MS // 86_400_000
            raise BadInput(f"--expires must be less than {days} days", hint="such as 7d or 12h")
        return Letter(
            await Outgoing.at(path, shown),
            recipient,
            secrets.token_bytes(16),
            self._core.dht.now_ms() + life_ms,
        )

    async def _ended(self, row: OutboxRow) -> OutboxRow:
        """Wait for the receipt; the expiry is noticed when it comes, not at the next pass."""
        courier = self._mail.courier
        left_s = (row.expires_ms - self._core.dht.now_ms()) / 1000
        try:
            async with asyncio.timeout(max(left_s, 0.0) + EXPIRY_MARGIN_S):
                return await courier.wait_until_ended(row.delivery_id)
        except TimeoutError:
            await courier.expire()
            return await courier.wait_until_ended(row.delivery_id)

    # Straight to the recipient

    async def _push(
        self, channel: grpc.aio.Channel, letter: Letter, reporter: Reporter
    ) -> OutboxRow | None:
        """Push to a recipient who is there; None when the connection broke."""
        content = letter.content
        offer = PushOffer(letter.seal_id, content.name, content.manifest, letter.expires_ms)
        config = PushConfig(pace=self._core.paces.mail.up)
        async with reporter.progressing() as tell:
            try:
                receipt = await content.push(channel, offer, tell, config)
            except Refused as error:
                raise NotPermitted(str(error), hint=error.hint) from error
            except ReceiverFull as error:
                raise InboxFull(str(error), hint=error.hint) from error
            except PushFailed:
                return None
        return await self._mail.courier.sent_directly(
            name=content.name,
            content_id=offer.content_id,
            size=offer.size_bytes,
            recipient=letter.recipient,
            seal_id=letter.seal_id,
            delivery_id=push_delivery_id(
                self._core.identity.peer_id,
                letter.recipient,
                letter.seal_id,
                offer.content_id,
            ),
            expires_ms=letter.expires_ms,
            receipt=receipt,
            files=None if content.folder is None else content.folder.files,
        )

    async def _channel(self, recipient: bytes) -> grpc.aio.Channel | None:
        try:
            return await self._core.connect(recipient, timeout_s=CONNECT_TIMEOUT_S)
        except ShoalError:
            return None

    # For a recipient that is away

    async def _leave(self, letter: Letter, reporter: Reporter, via: Sequence[str]) -> OutboxRow:
        self._check_means(via)
        sealing_key = await self._sealing_key(letter.recipient)
        if letter.content.is_folder:  # a file is hashed while it is sealed
            letter = await _hashed(letter, reporter)
        content = letter.content
        async with reporter.progressing() as tell:
            sent = await self._mail.courier.send(
                content.source(tell),
                name=content.name,
                content_id=content.sealed_id(tell),
                size=content.sealed_bytes,
                recipient=letter.recipient,
                recipient_sealing_key=sealing_key,
                expires_ms=letter.expires_ms,
                seal_id=letter.seal_id,
                only=[_KIND_OF[each] for each in DeliveryMeans if each in via] if via else None,
                folder=content.folder,
            )
        self._mail.lies_here(letter.recipient, letter.expires_ms)
        if sent.row.state is State.SPOOLED:
            await self._explain_spooled(sent, reporter, via)
        return sent.row

    def _check_means(self, via: Sequence[str]) -> None:
        queue = self._mail.allows(DeliveryMeans.QUEUE, via)
        if (
            queue
            and not self._mail.allows(DeliveryMeans.MAILBOX, via)
            and (self._mail.queue_store is None)
        ):
            raise QueueUnavailable("no queue is configured, and no other means is allowed")

    async def _explain_spooled(self, sent: Sent, reporter: Reporter, via: Sequence[str]) -> None:
        what = "file" if sent.row.files is None else "folder"
        queue_failed = [e for kind, e in sent.failures if kind is StoreKind.RABBITMQ]
        if queue_failed and not self._mail.allows(DeliveryMeans.MAILBOX, via):
            raise QueueUnavailable(f"{queue_failed[-1]} (the {what} is kept here and tried again)")
        why = f" ({sent.failures[-1][1]})" if sent.failures else ""
        await reporter.note(
            f"nobody can keep the {what} at present{why}; it stays here until somebody can",
            hint="keep this peer running, or run `shoal join` again later",
        )

    async def _sealing_key(self, recipient: bytes) -> bytes:
        found = await self._core.dht.find_peer(recipient)
        if found is None:
            raise NotFound(
                f"no peer {show_peer_id(recipient)} is known in this network",
                hint="it must have joined once in the last 30 days",
            )
        payload: PeerPayload = found.payload
        return payload.sealing_key

    # Views

    async def counts(self) -> tuple[int, int]:
        """Return how many deliveries are under way, and how many files came in."""
        rows = await self._mail.courier.rows()
        return sum(not is_end(row.state) for row in rows), len(self._inbox.journal.all())

    async def told_by_status(self, status: StatusView) -> StatusView:
        """Return the status with what only stores can tell: they are asked in their threads."""
        waiting, received = await self.counts()
        return dataclasses.replace(
            status,
            outbox_open=waiting,
            inbox=received,
            mail=await self._mail.figures(),
            hosts_noted=await self._mail.hosts_noted(),
        )

    def inbox(self) -> list[InboxView]:
        """Return the complete files that came in."""
        return [
            InboxView(
                delivery_id=row.delivery_id.hex(),
                name=row.name,
                from_=show_peer_id(row.sender),
                size=row.size_bytes,
                path=row.path,
                state="received",
                files=row.files,
            )
            for row in self._inbox.journal.all()
        ]

    async def outbox(self) -> list[OutboxView]:
        """Return the deliveries of this peer, after asking for receipts."""
        await self._poll_briefly()
        await self._mail.courier.expire()
        return [
            OutboxView(
                delivery_id=row.delivery_id.hex(),
                name=row.name,
                to=show_peer_id(row.recipient),
                state=row.state,
                held_by=row.held_by,
                expires=utc_text(row.expires_ms),
                size=row.size,
                files=row.files,
            )
            for row in await self._mail.courier.rows()
        ]

    async def _poll_briefly(self) -> None:
        try:
            async with asyncio.timeout(OUTBOX_POLL_S):
                await self._mail.courier.poll_receipts()
        except TimeoutError:
            return

    async def cancel(self, text: str) -> SentView:
        """Take back a delivery named by its id or eight or more characters of it."""
        wanted = text.lower()
        rows = await self._mail.courier.rows()
        matching = [row for row in rows if row.delivery_id.hex().startswith(wanted)]
        if len(wanted) < DELIVERY_PREFIX_MIN or not matching:
            raise NotFound(
                f"no delivery begins with {text!r}", hint="`shoal outbox` lists the deliveries"
            )
        if len(matching) > 1:
            raise BadInput(f"{text!r} means {len(matching)} deliveries", hint="give more of the id")
        return sent_view(await self._mail.courier.cancel(matching[0].delivery_id))


async def _hashed(letter: Letter, reporter: Reporter) -> Letter:
    async with reporter.progressing() as tell:
        return dataclasses.replace(letter, content=await letter.content.hash(tell))


def _raise_if_direct_only(via: Sequence[str]) -> None:
    if via and set(via) == {DIRECT}:
        raise RecipientAway


def sent_view(row: OutboxRow) -> SentView:
    """Show a delivery as the result of `put --to`."""
    return SentView(
        delivery_id=row.delivery_id.hex(),
        name=row.name,
        state=row.state,
        held_by=row.held_by,
        expires=utc_text(row.expires_ms),
        to=show_peer_id(row.recipient),
        size=row.size,
        files=row.files,
    )


def _raise_unless_good(row: OutboxRow) -> None:
    match row.state:
        case State.REFUSED:
            raise NotPermitted(f"the recipient refused {row.name!r}: {row.reason}")
        case State.EXPIRED:
            raise TimedOut(f"{row.name!r} expired before the recipient came")
        case State.CANCELLED:
            raise BadInput(f"{row.name!r} was cancelled")
        case State.SPOOLED | State.STORED | State.DELIVERED:
            return
